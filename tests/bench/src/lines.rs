//! The lines of a watch.

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::time::Duration;

/// How long to wait for one event. No measure of speed.
const LIMIT: Duration = Duration::from_secs(60);

/// A watch's body, line by line.
#[derive(Debug)]
pub(crate) struct Lines {
    body: Incoming,
    buffer: BytesMut,
    /// Up to here the buffer has no end of line.
    searched: usize,
}

impl Lines {
    /// Reads from the body.
    pub(crate) fn of(body: Incoming) -> Self {
        Self { body, buffer: BytesMut::new(), searched: 0 }
    }

    /// The next line; `None` when the stream ended.
    ///
    /// # Errors
    /// The connection failed.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.buffer[self.searched..]) {
                let line = self.buffer.split_to(self.searched + end + 1).freeze();
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            if let Some(data) = frame?.data_ref() {
                self.buffer.extend_from_slice(data);
            }
        }
    }

    /// Waits for an event whose object satisfies the condition; gives that object.
    ///
    /// # Errors
    /// The time is up, the stream ended or told of an error, or a line is no JSON.
    pub(crate) async fn wait_for(
        &mut self,
        what: &str,
        condition: impl Fn(&str, &serde_json::Value) -> bool,
    ) -> anyhow::Result<serde_json::Value> {
        let waiting = tokio::time::timeout(LIMIT, self.find(what, condition));
        waiting.await.with_context(|| format!("{what}: nothing after {LIMIT:?}"))?
    }

    async fn find(
        &mut self,
        what: &str,
        condition: impl Fn(&str, &serde_json::Value) -> bool,
    ) -> anyhow::Result<serde_json::Value> {
        while let Some(line) = self.next().await? {
            let mut event: serde_json::Value = serde_json::from_slice(&line)?;
            let object = event["object"].take();
            let kind = event["type"].as_str().unwrap_or_default();
            anyhow::ensure!(kind != "ERROR", "{what}: the watch failed: {object}");
            if condition(kind, &object) {
                return Ok(object);
            }
        }
        anyhow::bail!("{what}: the watch ended")
    }
}
