//! A set of numbers to hand out: a bitmap.

use rand::RngExt;

/// The numbers from 0 to `size`, each free or taken. Numbers chosen here come from above `reserved` while there are any,
/// so that those below are left for users who choose for themselves.
pub(super) struct Pool {
    words: Vec<u64>,
    size: usize,
    reserved: usize,
}

impl Pool {
    pub(super) fn new(size: usize, reserved: usize) -> Self {
        Self { words: vec![0; size.div_ceil(64)], size, reserved: reserved.min(size) }
    }

    /// Takes a given number; false where it is taken. It must be below the size.
    pub(super) fn take(&mut self, number: usize) -> bool {
        let free = !self.is_taken(number);
        self.words[number / 64] |= 1 << (number % 64);
        free
    }

    pub(super) fn is_taken(&self, number: usize) -> bool {
        self.words[number / 64] & (1 << (number % 64)) != 0
    }

    pub(super) fn release(&mut self, number: usize) {
        self.words[number / 64] &= !(1 << (number % 64));
    }

    /// Takes any free number.
    pub(super) fn take_any(&mut self) -> Option<usize> {
        let number = self.free_in(self.reserved, self.size).or_else(|| self.free_in(0, self.reserved))?;
        self.take(number);
        Some(number)
    }

    fn free_in(&self, from: usize, to: usize) -> Option<usize> {
        if from >= to {
            return None;
        }
        let start = rand::rng().random_range(from..to);
        (start..to).chain(from..start).find(|number| !self.is_taken(*number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_out_each_number_once() {
        let mut pool = Pool::new(100, 30);
        assert!(pool.take(40) && !pool.take(40));
        let high: Vec<_> = (0..69).filter_map(|_| pool.take_any()).collect();
        assert!(high.len() == 69 && high.iter().all(|number| (30..100).contains(number) && *number != 40));
        let low: Vec<_> = std::iter::from_fn(|| pool.take_any()).collect();
        assert_eq!(low.len(), 30);
        pool.release(7);
        assert_eq!(pool.take_any(), Some(7));
    }
}
