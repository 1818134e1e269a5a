//! Network namespaces that a test makes and removes.

use crate::process::output;
use std::path::PathBuf;
use std::process::Command;

/// A network namespace, removed when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace with its loopback up.
    ///
    /// # Errors
    /// `ip` says why not.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        output(Command::new("ip").args(["netns", "add", name]))?;
        let namespace = Self { name: name.to_owned() };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs `ip` inside.
    ///
    /// # Errors
    /// `ip` says why not.
    pub fn ip(&self, args: &[&str]) -> anyhow::Result<String> {
        output(Command::new("ip").args(["-n", &self.name]).args(args))
    }

    /// A command inside. Only the network is entered: `ip netns exec` would hide the control groups and BPF pins.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Joins two namespaces by a veth pair called `eth0` on both sides, with an address each.
    ///
    /// # Errors
    /// `ip` says why not.
    pub fn join(&self, address: &str, other: &Self, other_address: &str) -> anyhow::Result<()> {
        self.ip(&["link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &other.name])?;
        for (namespace, address) in [(self, address), (other, other_address)] {
            namespace.ip(&["address", "add", address, "dev", "eth0"])?;
            namespace.ip(&["link", "set", "eth0", "up"])?;
        }
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = output(Command::new("ip").args(["netns", "delete", &self.name])) {
            eprintln!("network namespace {} stays behind: {error:#}", self.name);
        }
    }
}
