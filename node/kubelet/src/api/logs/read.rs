//! Reads a log file, and goes on reading it and its successors while the container runs.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, SeekFrom};
use tokio::sync::mpsc;

use super::format::{Formatter, LogOptions};
use super::tail::start_of_last;
use crate::inotify::Watch;

/// A chunk of the file, and about what is sent at once.
const CHUNK: usize = 64 << 10;
/// A line longer than this is sent as it is, without waiting for its end.
const LINE_MAX: usize = 16 << 20;

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("log {path}: {source}")]
pub(in crate::api) struct ReadError {
    path: PathBuf,
    source: io::Error,
}

/// A log, open where reading begins.
#[derive(Debug)]
pub(in crate::api) struct LogReader {
    path: PathBuf,
    file: tokio::fs::File,
    inode: u64,
    watch: Option<Watch>,
    formatter: Formatter,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
}

enum Step {
    Going,
    Over,
}

impl LogReader {
    /// Opens the log; the watch for `follow` is there before anything is read, so that nothing is missed.
    pub(in crate::api) async fn open(path: &Path, options: &LogOptions) -> Result<LogReader, ReadError> {
        let failed = |source| ReadError { path: path.to_owned(), source };
        let directory = path.parent().unwrap_or(Path::new("/"));
        let watch = if options.follow { Some(Watch::new(directory).map_err(failed)?) } else { None };
        let (at, tail) = (path.to_owned(), options.tail_lines);
        let opened = tokio::task::spawn_blocking(move || {
            let file = File::open(at)?;
            let start = tail.map_or(Ok(0), |lines| start_of_last(&file, lines))?;
            Ok::<_, io::Error>((file.metadata()?.ino(), file, start))
        });
        let (inode, file, start) = opened.await.map_err(|error| failed(io::Error::other(error)))?.map_err(failed)?;
        let mut file = tokio::fs::File::from_std(file);
        file.seek(SeekFrom::Start(start)).await.map_err(failed)?;
        let formatter = Formatter::new(options);
        Ok(LogReader { path: path.to_owned(), file, inode, watch, formatter, rest: Vec::new() })
    }

    /// Sends the log until its end (or, following, until `exited` and everything is read), or until nobody listens.
    pub(in crate::api) async fn send(
        mut self,
        out: mpsc::Sender<Bytes>,
        exited: impl Future<Output = ()>,
    ) -> Result<(), ReadError> {
        let path = self.path.clone();
        self.run(&out, exited).await.map_err(|source| ReadError { path, source })
    }

    async fn run(&mut self, out: &mpsc::Sender<Bytes>, exited: impl Future<Output = ()>) -> io::Result<()> {
        tokio::pin!(exited);
        let mut over = false;
        loop {
            if let Step::Over = self.drain(out).await? {
                return Ok(());
            }
            if let Some((file, inode)) = self.successor().await? {
                // The last lines may have gone to the old file after its end was seen.
                if let Step::Over = self.drain(out).await? {
                    return Ok(());
                }
                (self.file, self.inode) = (file, inode);
                self.rest.clear();
                continue;
            }
            let Some(watch) = self.watch.as_ref().filter(|_| !over) else { return Ok(()) };
            tokio::select! {
                changed = watch.changed() => changed?,
                // One more look at the file, then it is whole.
                () = &mut exited => over = true,
                () = out.closed() => return Ok(()),
            }
        }
    }

    /// Reads to the end of the file.
    async fn drain(&mut self, out: &mpsc::Sender<Bytes>) -> io::Result<Step> {
        let mut buffer = vec![0; CHUNK];
        loop {
            if self.formatter.full() {
                return Ok(Step::Over);
            }
            let count = self.file.read(&mut buffer).await?;
            if count == 0 {
                return Ok(Step::Going);
            }
            let text = self.format(&buffer[..count]);
            if !text.is_empty() && out.send(text.into()).await.is_err() {
                return Ok(Step::Over);
            }
        }
    }

    fn format(&mut self, chunk: &[u8]) -> Vec<u8> {
        let mut text = Vec::with_capacity(chunk.len());
        let mut lines = chunk.split_inclusive(|byte| *byte == b'\n');
        for line in &mut lines {
            match line.strip_suffix(b"\n") {
                Some(line) if self.rest.is_empty() => self.formatter.line(line, &mut text),
                Some(line) => {
                    self.rest.extend_from_slice(line);
                    self.formatter.line(&self.rest, &mut text);
                    self.rest.clear();
                }
                None => self.rest.extend_from_slice(line),
            }
        }
        if self.rest.len() > LINE_MAX {
            self.formatter.line(&self.rest, &mut text);
            self.rest.clear();
        }
        text
    }

    /// The file that has the name now, if it is another one: the log was rotated.
    async fn successor(&self) -> io::Result<Option<(tokio::fs::File, u64)>> {
        if self.watch.is_none() {
            return Ok(None);
        }
        let file = match tokio::fs::File::open(&self.path).await {
            Ok(file) => file,
            // Renamed, and the new one not yet made: its making wakes us.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let inode = file.metadata().await?.ino();
        Ok((inode != self.inode).then_some((file, inode)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write as _;
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    fn append(path: &Path, text: &str) {
        let line = format!("2026-01-01T00:00:01Z stdout F {text}\n");
        OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(line.as_bytes()).unwrap();
    }

    async fn next(receiver: &mut mpsc::Receiver<Bytes>) -> Option<String> {
        let got = tokio::time::timeout(Duration::from_secs(10), receiver.recv()).await.expect("in time");
        got.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_log_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        ["a", "b", "c"].iter().for_each(|text| append(&path, text));
        for (tail_lines, want) in [(None, Some("a\nb\nc\n")), (Some(2), Some("b\nc\n")), (Some(0), None)] {
            let options = LogOptions { tail_lines, ..Default::default() };
            let (sender, mut receiver) = mpsc::channel(4);
            let reader = LogReader::open(&path, &options).await.unwrap();
            reader.send(sender, std::future::pending()).await.unwrap();
            assert_eq!(next(&mut receiver).await.as_deref(), want, "{tail_lines:?}");
        }
        assert!(LogReader::open(&dir.path().join("none"), &LogOptions::default()).await.is_err());
    }

    #[tokio::test]
    async fn a_log_is_followed_over_rotation_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        append(&path, "a");
        let options = LogOptions { follow: true, ..Default::default() };
        let (sender, mut receiver) = mpsc::channel(4);
        let (exit, exited) = oneshot::channel::<()>();
        let reader = LogReader::open(&path, &options).await.unwrap();
        let task = tokio::spawn(reader.send(sender, async { exited.await.unwrap() }));
        assert_eq!(next(&mut receiver).await.as_deref(), Some("a\n"));
        append(&path, "b");
        assert_eq!(next(&mut receiver).await.as_deref(), Some("b\n"));
        let old = dir.path().join("0.log.20260101");
        fs::rename(&path, &old).unwrap();
        append(&old, "late");
        assert_eq!(next(&mut receiver).await.as_deref(), Some("late\n"));
        append(&path, "new");
        assert_eq!(next(&mut receiver).await.as_deref(), Some("new\n"));
        exit.send(()).unwrap();
        assert_eq!(next(&mut receiver).await, None);
        task.await.unwrap().unwrap();
    }
}
