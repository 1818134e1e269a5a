//! Objects in another encoding, kept for who asks next: each change is encoded once, however many watch it.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use bytes::Bytes;

use super::budget::Budget;
use super::entry::Entry;
use crate::hub::lock;

/// The part of the budget that forms may take: they are remade in microseconds, while a watcher whose events are gone has to list
/// again.
pub(super) const SHARE: usize = 4;
/// Dead entries are looked for when so many forms were made, or twice as many as were alive the last time.
const SWEEP: usize = 256;

/// An object in another encoding. Its bytes are the budget's until it is dropped.
#[derive(Debug)]
pub(super) struct Form {
    bytes: Bytes,
    budget: Arc<Budget>,
}

impl Drop for Form {
    fn drop(&mut self) {
        self.budget.give_back_form(self.bytes.len());
    }
}

/// Who has a form, the oldest first.
#[derive(Default)]
pub(super) struct Forms {
    made: VecDeque<Weak<Entry>>,
    sweep_at: usize,
}

impl Forms {
    fn add(&mut self, entry: &Arc<Entry>) {
        self.made.push_back(Arc::downgrade(entry));
        if self.made.len() >= self.sweep_at.max(SWEEP) {
            self.made.retain(|entry| entry.strong_count() > 0);
            self.sweep_at = 2 * self.made.len();
        }
    }
}

impl Budget {
    /// An entry's other form: the one that is kept, or what `make` makes, which is kept while there is room. There is one other
    /// encoding, so that an entry has one form.
    pub fn form<E>(self: &Arc<Self>, entry: &Arc<Entry>, make: impl FnOnce() -> Result<Bytes, E>) -> Result<Bytes, E> {
        let bytes = {
            let mut kept = lock(&entry.form);
            if let Some(form) = &*kept {
                return Ok(form.bytes.clone());
            }
            let bytes = make()?;
            self.take_form(bytes.len());
            *kept = Some(Form { bytes: bytes.clone(), budget: self.clone() });
            bytes
        };
        lock(self.forms()).add(entry);
        self.forget_forms();
        Ok(bytes)
    }

    /// Forgets the oldest forms until their share is kept.
    fn forget_forms(&self) {
        while self.forms_exceeded() {
            let Some(oldest) = lock(self.forms()).made.pop_front() else { return };
            // Dropped outside the lock, and only the form: the object stays.
            let form = oldest.upgrade().and_then(|entry| lock(&entry.form).take());
            drop(form);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::{Extractor, Selectable};
    use super::*;
    use crate::api::KeyValue;

    fn entry(number: u64) -> Arc<Entry> {
        let extract: Extractor = Arc::new(|_: &[u8]| Selectable::default());
        let key = format!("/registry/core/pods/d/{number}").into();
        let stored = KeyValue {
            key,
            value: Bytes::from_static(br#"{"metadata":{}}"#),
            create_revision: number,
            mod_revision: number,
        };
        Arc::new(Entry::new(&stored, &Arc::from([]), &extract))
    }

    fn made(size: usize) -> Result<Bytes, ()> {
        Ok(vec![0; size].into())
    }

    #[test]
    fn a_form_is_made_once() {
        let budget = Budget::new(4000);
        let entry = entry(1);
        assert_eq!(budget.form(&entry, || Err(())), Err(()));
        assert_eq!(budget.form(&entry, || made(100)).map(|form| form.len()), Ok(100));
        assert_eq!(budget.form(&entry, || Err(())).map(|form| form.len()), Ok(100));
        assert_eq!(budget.used(), 100);
        drop(entry);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn the_oldest_forms_go_first() {
        let budget = Budget::new(4000);
        let entries: Vec<_> = (1..=3).map(entry).collect();
        for entry in &entries {
            budget.form(entry, || made(400)).unwrap();
        }
        // A quarter of the budget holds two.
        assert_eq!(budget.used(), 800);
        assert_eq!(budget.form(&entries[2], || Err(())).map(|form| form.len()), Ok(400));
        assert_eq!(budget.form(&entries[0], || Err(())), Err(()));
        // What is too large for all is made and not kept.
        assert_eq!(budget.form(&entries[0], || made(1001)).map(|form| form.len()), Ok(1001));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn those_who_are_gone_are_forgotten() {
        let budget = Budget::new(1 << 30);
        for number in 0..10 * SWEEP as u64 {
            budget.form(&entry(number), || made(1)).unwrap();
        }
        assert_eq!(budget.used(), 0);
        assert!(lock(budget.forms()).made.len() <= SWEEP);
    }
}
