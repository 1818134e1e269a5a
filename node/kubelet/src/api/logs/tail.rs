//! The end of a log: where its last lines begin, and what they say.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::format::{Formatter, LogOptions};

const BLOCK: u64 = 64 << 10;

/// The offset from which on the file has `lines` line ends, or 0.
pub(super) fn start_of_last(file: &File, lines: u64) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    if lines == 0 {
        return Ok(end);
    }
    let mut buffer = vec![0; usize::try_from(BLOCK).unwrap_or(1)];
    let mut seen = 0;
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        let part = &mut buffer[..usize::try_from(end - start).unwrap_or(0)];
        file.read_exact_at(part, start)?;
        for (at, _) in part.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            seen += 1;
            // The end of the line before the first one wanted.
            if seen > lines {
                return Ok(start + at as u64 + 1);
            }
        }
        end = start;
    }
    Ok(0)
}

/// The text of the last `lines` entries of a log, no more than its last `bytes` bytes.
pub(crate) fn last_of_log(log: &Path, lines: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let mut file = File::open(log)?;
    file.seek(SeekFrom::Start(start_of_last(&file, lines)?))?;
    let (mut entries, mut text) = (Vec::new(), Vec::new());
    file.read_to_end(&mut entries)?;
    let mut formatter = Formatter::new(&LogOptions::default());
    entries.split(|byte| *byte == b'\n').for_each(|entry| formatter.line(entry, &mut text));
    text.drain(..text.len().saturating_sub(bytes));
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn lines_are_counted_from_the_end() {
        let long = "x".repeat(usize::try_from(BLOCK).unwrap() + 10);
        for (text, lines, want) in [
            ("a\nb\nc\n", 1, "c\n"),
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc\n", 3, "a\nb\nc\n"),
            ("a\nb\nc\n", 9, "a\nb\nc\n"),
            ("a\nb\n", 0, ""),
            ("", 3, ""),
            (&format!("a\n{long}\nb\n"), 2, &format!("{long}\nb\n")),
        ] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            let start = usize::try_from(start_of_last(&file, lines).unwrap()).unwrap();
            assert_eq!(&text[start..], want, "{lines}");
        }
    }
}
