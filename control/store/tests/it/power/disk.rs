//! What a disk may hold after a power cut.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::vfs::{Op, What};

/// A disk that sector by sector keeps what it likes of what was not synced.
#[derive(Default)]
pub(super) struct Disk {
    files: BTreeMap<Arc<str>, File>,
}

#[derive(Default)]
struct File {
    /// What is safe; none where the file itself is not.
    synced: Option<Vec<u8>>,
    /// What was done since.
    pending: Vec<What>,
}

/// Writes are whole below this size.
const SECTOR: usize = 512;

impl Disk {
    /// One more operation.
    pub(super) fn apply(&mut self, op: &Op) {
        if matches!(op.what, What::SyncDirectory) {
            return self.files.values_mut().for_each(File::keep_deletions);
        }
        let file = self.files.entry(op.file.clone()).or_default();
        match &op.what {
            What::Sync => {
                let mut content = file.synced.take();
                file.pending.drain(..).for_each(|what| perform(&what, &mut content));
                // The first sync of a file syncs its name as well.
                file.synced = Some(content.unwrap_or_default());
            }
            What::Delete { durable: true } => *file = File::default(),
            what => file.pending.push(what.clone()),
        }
    }

    /// Leaves in the directory what there is after a power cut now. Of what was not synced, `keeps` says what was written.
    pub(super) fn cut(&self, directory: &Path, mut keeps: impl FnMut() -> bool) {
        for (name, file) in &self.files {
            let mut content = file.synced.clone();
            for what in &file.pending {
                match what {
                    // What follows is about another file of that name.
                    What::Delete { .. } if !keeps() => break,
                    What::Write { at, bytes } => {
                        for (number, sector) in bytes.chunks(SECTOR).enumerate() {
                            if keeps() {
                                put(&mut content, at + number * SECTOR, sector);
                            }
                        }
                    }
                    What::Truncate { .. } if !keeps() => {}
                    what => perform(what, &mut content),
                }
            }
            if let Some(content) = content {
                fs::write(directory.join(&**name), content).unwrap();
            }
        }
    }
}

impl File {
    fn keep_deletions(&mut self) {
        let deletion = |what: &What| matches!(what, What::Delete { .. });
        if let Some(last) = self.pending.iter().rposition(deletion) {
            self.pending.drain(..=last);
            self.synced = None;
        }
    }
}

fn perform(what: &What, content: &mut Option<Vec<u8>>) {
    match what {
        What::Write { at, bytes } => put(content, *at, bytes),
        What::Truncate { size } => content.get_or_insert_default().resize(*size, 0),
        What::Delete { .. } => *content = None,
        What::Sync | What::SyncDirectory => {}
    }
}

fn put(content: &mut Option<Vec<u8>>, at: usize, bytes: &[u8]) {
    let content = content.get_or_insert_default();
    if content.len() < at + bytes.len() {
        content.resize(at + bytes.len(), 0);
    }
    content[at..at + bytes.len()].copy_from_slice(bytes);
}
