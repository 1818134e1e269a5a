//! Which slots of a backend array are taken.

use std::collections::BTreeMap;

/// Free runs of slots, joined where they touch. First fit: extents are small and live long.
#[derive(Debug)]
pub(crate) struct Extents {
    free: BTreeMap<u32, u32>,
}

impl Extents {
    /// All of `size` slots free.
    pub(crate) fn new(size: u32) -> Self {
        Self { free: if size == 0 { BTreeMap::new() } else { BTreeMap::from([(0, size)]) } }
    }

    /// Takes `count` slots in a row, if there are that many. Nothing takes no room.
    pub(crate) fn take(&mut self, count: u32) -> Option<u32> {
        if count == 0 {
            return Some(0);
        }
        let (&base, &length) = self.free.iter().find(|(_, length)| **length >= count)?;
        self.free.remove(&base);
        if length > count {
            self.free.insert(base + count, length - count);
        }
        Some(base)
    }

    /// Takes what is free of the given run: one that was found in the kernel.
    pub(crate) fn claim(&mut self, base: u32, count: u32) {
        let end = base.saturating_add(count);
        let overlapping: Vec<(u32, u32)> =
            self.free.range(..end).filter(|(start, length)| **start + **length > base).map(|(s, l)| (*s, *l)).collect();
        for (start, length) in overlapping {
            self.free.remove(&start);
            if start < base {
                self.free.insert(start, base - start);
            }
            if start + length > end {
                self.free.insert(end, start + length - end);
            }
        }
    }

    /// Gives slots back.
    pub(crate) fn give(&mut self, base: u32, count: u32) {
        if count == 0 {
            return;
        }
        let (mut base, mut count) = (base, count);
        if let Some((&before, &length)) = self.free.range(..base).next_back()
            && before + length == base
        {
            self.free.remove(&before);
            base = before;
            count += length;
        }
        if let Some(length) = self.free.remove(&(base + count)) {
            count += length;
        }
        self.free.insert(base, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_and_joins() {
        let mut extents = Extents::new(10);
        assert_eq!(extents.take(4), Some(0));
        assert_eq!(extents.take(4), Some(4));
        assert_eq!(extents.take(4), None);
        assert_eq!(extents.take(0), Some(0));
        extents.give(0, 4);
        assert_eq!(extents.take(2), Some(0));
        extents.give(4, 4);
        // 2..10 is one run again.
        assert_eq!(extents.take(8), Some(2));
        assert_eq!(extents.take(1), None);
    }

    #[test]
    fn claims_what_the_kernel_uses() {
        let mut extents = Extents::new(10);
        extents.claim(2, 3);
        extents.claim(4, 2); // overlaps: as two frontends of one service do
        assert_eq!(extents.free, BTreeMap::from([(0, 2), (6, 4)]));
        extents.claim(0, 10);
        assert_eq!(extents.free, BTreeMap::new());
    }
}
