//! The size that a reply is expected to have.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The size that a reply is expected to have, in bytes, learned from the latest replies.
pub(super) struct ExpectedSize(AtomicUsize);

impl ExpectedSize {
    pub(super) fn new(bytes: usize) -> Self {
        Self(AtomicUsize::new(bytes))
    }

    /// Returns the expected size in bytes.
    pub(super) fn get(&self) -> usize {
        self.0.load(Relaxed)
    }

    /// Moves the expectation an eighth of the way to the size of a smaller reply, and half of the way to that of a
    /// larger one, because expecting too little costs more than expecting too much.
    pub(super) fn note(&self, bytes: usize) {
        let expected = self.get();
        let next = if bytes > expected {
            expected + (bytes - expected).div_ceil(2)
        } else {
            expected - (expected - bytes) / 8
        };
        if next != expected {
            self.0.store(next, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expected_size_follows_larger_replies_faster_than_smaller_ones() {
        let size = ExpectedSize::new(4_096);
        (0..100).for_each(|_| size.note(100));
        assert!((100..110).contains(&size.get()), "{}", size.get());
        (0..5).for_each(|_| size.note(10_000));
        assert!(size.get() > 9_000);
    }
}
