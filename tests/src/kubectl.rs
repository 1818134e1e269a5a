//! The real kubectl, in a cluster's network namespace.

use crate::namespace::Namespace;
use crate::process::{self, Child};
use anyhow::{Context, bail};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long one kubectl may take before the test fails.
const LIMIT: Duration = Duration::from_secs(120);

/// A kubectl to use: versions differ in their streaming protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KubectlVersion {
    /// The one on the path.
    Default,
    /// SPDY streams.
    V1_27,
    /// WebSocket streams.
    V1_33,
}

/// What a finished kubectl left.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit code; -1 where a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// kubectl with a cluster's kubeconfig.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    netns: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    pub(crate) fn new(namespace: &Namespace, kubeconfig: &Path) -> Self {
        Self { program: "kubectl".into(), netns: namespace.path(), kubeconfig: kubeconfig.to_owned() }
    }

    /// The same with another kubectl.
    ///
    /// # Errors
    /// That version does not lie beside the kubectl on the path.
    pub fn version(&self, version: KubectlVersion) -> anyhow::Result<Self> {
        let name = match version {
            KubectlVersion::Default => return Ok(self.clone()),
            KubectlVersion::V1_27 => "kubectl.1.27",
            KubectlVersion::V1_33 => "kubectl.1.33",
        };
        let default = process::find("kubectl").context("kubectl is not on the path")?;
        let program = default.canonicalize()?.with_file_name(name);
        if !program.is_file() {
            bail!("{} is not there", program.display());
        }
        Ok(Self { program, ..self.clone() })
    }

    /// The command, not yet run.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.netns.display()))
            .arg("--")
            .arg(&self.program)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(args);
        command
    }

    /// Runs to the end, with text for its standard input.
    ///
    /// # Errors
    /// kubectl cannot be run or takes too long. A failure of kubectl itself is in the output.
    pub fn run_with(&self, args: &[&str], input: &str) -> anyhow::Result<Output> {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Child::spawn(&mut command)?;
        let pipes = child.inner();
        let (stdin, stdout, stderr) = (pipes.stdin.take(), pipes.stdout.take(), pipes.stderr.take());
        std::thread::scope(|scope| {
            let write = scope.spawn(move || stdin.map(|mut pipe| pipe.write_all(input.as_bytes())));
            let out = scope.spawn(move || stdout.map(std::io::read_to_string));
            let err = scope.spawn(move || stderr.map(std::io::read_to_string));
            let status = child.wait(LIMIT).with_context(|| format!("kubectl {args:?}"));
            drop(child);
            // A kubectl that ended without reading its input is no failure of the test.
            drop(write.join());
            let text = |handle: std::thread::ScopedJoinHandle<'_, Option<std::io::Result<String>>>| {
                handle.join().ok().flatten().and_then(Result::ok).unwrap_or_default()
            };
            Ok(Output { stdout: text(out), stderr: text(err), code: status?.code().unwrap_or(-1) })
        })
    }

    /// Runs to the end; its standard output.
    ///
    /// # Errors
    /// kubectl failed; the message has what it said.
    pub fn run(&self, args: &[&str]) -> anyhow::Result<String> {
        self.run_with(args, "").and_then(|output| output.ok(args))
    }

    /// `kubectl apply -f -`.
    ///
    /// # Errors
    /// kubectl failed; the message has what it said.
    pub fn apply(&self, manifest: &str) -> anyhow::Result<String> {
        let args = ["apply", "-f", "-"];
        self.run_with(&args, manifest).and_then(|output| output.ok(&args))
    }

    /// An object as JSON.
    ///
    /// # Errors
    /// kubectl failed, or what it printed is no JSON.
    pub fn json(&self, args: &[&str]) -> anyhow::Result<serde_json::Value> {
        let args: Vec<&str> = args.iter().copied().chain(["-o", "json"]).collect();
        Ok(serde_json::from_str(&self.run(&args)?)?)
    }

    /// Waits, by watching, for a condition as `kubectl wait` takes it: `kubectl.wait("pod/web", "condition=Ready")`.
    ///
    /// # Errors
    /// The deadline passed.
    pub fn wait(&self, what: &str, condition: &str) -> anyhow::Result<()> {
        self.run(&["wait", what, &format!("--for={condition}"), "--timeout=90s"]).map(drop)
    }

    /// Starts a kubectl that runs on, with pipes on all three streams.
    ///
    /// # Errors
    /// kubectl cannot be run.
    pub fn spawn(&self, args: &[&str]) -> anyhow::Result<Child> {
        let mut command = self.command(args);
        Child::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()))
    }
}

impl Output {
    /// Its standard output, if it succeeded.
    ///
    /// # Errors
    /// It did not; the message has its words and what it said.
    pub fn ok(self, args: &[&str]) -> anyhow::Result<String> {
        if self.code != 0 {
            bail!("kubectl {} ended with {}: {}{}", args.join(" "), self.code, self.stdout, self.stderr.trim());
        }
        Ok(self.stdout)
    }
}
