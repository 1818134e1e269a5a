//! A tar writer that leaves out everything that differs from run to run: times, owners, order.

use std::collections::BTreeMap;

/// Entries by path; parents are added, order is by path.
#[derive(Debug, Default)]
pub(super) struct Tar {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
enum Entry {
    Dir { mode: u32 },
    File { mode: u32, data: Vec<u8> },
    Link { target: String },
}

impl Tar {
    pub(super) fn file(&mut self, path: &str, mode: u32, data: Vec<u8>) {
        self.add(path, Entry::File { mode, data });
    }

    pub(super) fn dir(&mut self, path: &str, mode: u32) {
        self.add(path, Entry::Dir { mode });
    }

    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.add(path, Entry::Link { target: target.into() });
    }

    fn add(&mut self, path: &str, entry: Entry) {
        let path = path.trim_matches('/');
        for (at, _) in path.match_indices('/') {
            self.entries.entry(format!("{}/", &path[..at])).or_insert(Entry::Dir { mode: 0o755 });
        }
        let slash = if matches!(entry, Entry::Dir { .. }) { "/" } else { "" };
        self.entries.insert(format!("{path}{slash}"), entry);
    }

    pub(super) fn finish(self) -> Vec<u8> {
        let mut out = Vec::new();
        for (path, entry) in &self.entries {
            match entry {
                Entry::Dir { mode } => out.extend(header(path, *mode, 0, b'5', "")),
                Entry::Link { target } => out.extend(header(path, 0o777, 0, b'2', target)),
                Entry::File { mode, data } => {
                    out.extend(header(path, *mode, data.len(), b'0', ""));
                    out.extend_from_slice(data);
                    out.resize(out.len().next_multiple_of(512), 0);
                }
            }
        }
        out.resize(out.len() + 1024, 0);
        out
    }
}

fn header(path: &str, mode: u32, size: usize, kind: u8, target: &str) -> [u8; 512] {
    assert!(path.len() < 100 && target.len() < 100, "{path}: paths of images are short");
    let mut block = [0u8; 512];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, path);
    put(100, &format!("{mode:07o}"));
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{size:011o}"));
    put(136, "00000000000");
    put(148, "        ");
    put(157, target);
    put(257, "ustar\u{0}00");
    block[156] = kind;
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}
