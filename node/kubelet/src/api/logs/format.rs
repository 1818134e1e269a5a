//! `2026-01-02T03:04:05.000000006Z stdout F text`: one entry a line, P for a part of a longer line.

use jiff::Timestamp;

/// Which output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::api) enum StreamFilter {
    #[default]
    All,
    Stdout,
    Stderr,
}

/// What the caller wants of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::api) struct LogOptions {
    pub(in crate::api) follow: bool,
    pub(in crate::api) timestamps: bool,
    pub(in crate::api) tail_lines: Option<u64>,
    pub(in crate::api) since: Option<Timestamp>,
    pub(in crate::api) limit_bytes: Option<u64>,
    pub(in crate::api) stream: StreamFilter,
}

/// One line of the file.
#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    time: &'a [u8],
    stdout: bool,
    partial: bool,
    text: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = parts.next()?;
    let stdout = match parts.next()? {
        b"stdout" => true,
        b"stderr" => false,
        _ => return None,
    };
    // Tags may be many, separated by colons; the first says whether the line is whole.
    let partial = match parts.next()?.split(|byte| *byte == b':').next()? {
        b"F" => false,
        b"P" => true,
        _ => return None,
    };
    Some(Entry { time, stdout, partial, text: parts.next().unwrap_or_default() })
}

/// Turns lines of the file into what the caller reads.
#[derive(Debug)]
pub(super) struct Formatter {
    options: LogOptions,
    /// What may still be written.
    remaining: u64,
    /// The next entry begins a line, per output.
    fresh: [bool; 2],
}

impl Formatter {
    pub(super) fn new(options: &LogOptions) -> Self {
        let remaining = options.limit_bytes.unwrap_or(u64::MAX);
        Formatter { options: options.clone(), remaining, fresh: [true; 2] }
    }

    /// Nothing more may be written.
    pub(super) fn full(&self) -> bool {
        self.remaining == 0
    }

    /// Appends one line (without its end) to `out`. Lines that are not CRI's are left out, as upstream does.
    pub(super) fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(entry) = parse(line) else { return };
        let wanted = match self.options.stream {
            StreamFilter::All => true,
            StreamFilter::Stdout => entry.stdout,
            StreamFilter::Stderr => !entry.stdout,
        };
        let fresh = std::mem::replace(&mut self.fresh[usize::from(entry.stdout)], !entry.partial);
        if !wanted || !self.recent(entry.time) {
            return;
        }
        let start = out.len();
        if self.options.timestamps && fresh {
            out.extend_from_slice(entry.time);
            out.push(b' ');
        }
        out.extend_from_slice(entry.text);
        if !entry.partial {
            out.push(b'\n');
        }
        let room = usize::try_from(self.remaining).unwrap_or(usize::MAX);
        out.truncate(out.len().min(start.saturating_add(room)));
        self.remaining -= (out.len() - start) as u64;
    }

    fn recent(&self, time: &[u8]) -> bool {
        let Some(since) = self.options.since else { return true };
        let time = std::str::from_utf8(time).ok().and_then(|text| text.parse::<Timestamp>().ok());
        time.is_some_and(|time| time >= since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:01Z stdout F one\n2026-01-01T00:00:02Z stderr P tw\n\
        2026-01-01T00:00:02Z stderr F o\nnot cri\n2026-01-01T00:00:03.5Z stdout F \n2026-01-01T00:00:04Z stdout F:x a b\n";

    fn read(options: &LogOptions) -> String {
        let (mut formatter, mut out) = (Formatter::new(options), Vec::new());
        LOG.lines().for_each(|line| formatter.line(line.as_bytes(), &mut out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn options_choose() {
        let base = LogOptions::default;
        let since = |text: &str| LogOptions { since: Some(text.parse().unwrap()), ..base() };
        for (options, want) in [
            (base(), "one\ntwo\n\na b\n"),
            (LogOptions { stream: StreamFilter::Stdout, ..base() }, "one\n\na b\n"),
            (LogOptions { stream: StreamFilter::Stderr, ..base() }, "two\n"),
            (since("2026-01-01T00:00:03.5Z"), "\na b\n"),
            (since("2027-01-01T00:00:00Z"), ""),
            (LogOptions { limit_bytes: Some(6), ..base() }, "one\ntw"),
            (LogOptions { limit_bytes: Some(0), ..base() }, ""),
            (
                LogOptions { timestamps: true, ..base() },
                "2026-01-01T00:00:01Z one\n2026-01-01T00:00:02Z two\n2026-01-01T00:00:03.5Z \n2026-01-01T00:00:04Z a b\n",
            ),
        ] {
            assert_eq!(read(&options), want, "{options:?}");
        }
    }
}
