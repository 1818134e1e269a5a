//! Requests that do not stop while something happens to the cluster, and what became of them.

use crate::kubectl::Kubectl;
use crate::process::{Child, Lines};
use anyhow::Context;
use std::time::Duration;

/// How long the client may take until its first answer, and to sum up.
const LIMIT: Duration = Duration::from_secs(60);

/// A client in a pod that asks again and again, counting answers and failures. Its loop is bounded by the client itself.
#[derive(Debug)]
pub struct Traffic {
    child: Child,
    lines: Lines,
}

impl Traffic {
    /// Starts asking the URL from the pod, and waits for the first answer.
    ///
    /// # Errors
    /// No answer comes.
    pub fn start(kubectl: &Kubectl, pod: &str, url: &str) -> anyhow::Result<Self> {
        let mut child = kubectl.spawn(&["exec", "-i", pod, "--", "fetch", "--count", url])?;
        let output = child.inner().stdout.take().context("the output was piped")?;
        let lines = Lines::of(output);
        lines.wait_for("started", LIMIT)?;
        Ok(Self { child, lines })
    }

    /// Stops asking; how many requests were answered and how many failed.
    ///
    /// # Errors
    /// The client did not sum up: its connection broke. What failed until then is in the message.
    pub fn stop(mut self) -> anyhow::Result<(u32, u32)> {
        drop(self.child.inner().stdin.take());
        let line = self.lines.wait_for("ok ", LIMIT)?;
        let words: Vec<&str> = line.split(' ').collect();
        self.child.wait(LIMIT)?;
        Ok((words[1].parse()?, words[3].parse()?))
    }
}
