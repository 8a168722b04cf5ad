//! The check that decoding returns the key and the value that were encoded.

use crate::codec::fingerprint::fingerprint;
use serde::Serialize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Largest size in bytes of encodings that are always checked. A check takes about as long as the encoding, and
/// far less than the call to Redis that follows.
const ALWAYS_CHECKED_SIZE: usize = 4 << 10;

/// Number of the first values that are checked whatever their size.
const INITIAL_CHECKS: u64 = 8;

/// The round-trip checks of one cache or one snapshot.
#[derive(Debug, Default)]
pub(crate) struct RoundTripCheck {
    /// Number of values that were encoded.
    encoded: AtomicU64,
    /// `true` once a value has failed. From then on all values are checked.
    has_failed: AtomicBool,
}

impl RoundTripCheck {
    /// Counts an encoding of `size` bytes. Returns `true` if it is to be checked.
    fn is_due(&self, size: usize) -> bool {
        let number = self.encoded.fetch_add(1, Relaxed) + 1;
        size <= ALWAYS_CHECKED_SIZE
            || number <= INITIAL_CHECKS
            || number.is_power_of_two()
            || self.has_failed.load(Relaxed)
    }

    /// Checks that `decode` returns the key and the value that were encoded in `size` bytes. Returns `true` without a
    /// check for most of the larger encodings.
    pub(crate) fn passes<K: Eq, V: Serialize>(
        &self,
        (key, value): (&K, &V),
        size: usize,
        decode: impl FnOnce() -> Option<(K, V)>,
    ) -> bool {
        if !self.is_due(size) {
            return true;
        }
        let is_same = |(other_key, other): (K, V)| {
            other_key == *key && fingerprint(&other) == fingerprint(value)
        };
        let passes = decode().is_some_and(is_same);
        if !passes {
            self.has_failed.store(true, Relaxed);
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_values_powers_of_two_and_small_values_are_checked() {
        let check = RoundTripCheck::default();
        let due = |size| check.is_due(size);
        let large = ALWAYS_CHECKED_SIZE + 1;
        let checked: Vec<u64> = (1..=100).filter(|_| due(large)).collect();
        assert_eq!(checked, [1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64]);
        assert!(due(ALWAYS_CHECKED_SIZE) && !due(large));
    }

    #[test]
    fn every_value_is_checked_after_a_failure() {
        let check = RoundTripCheck::default();
        let large = ALWAYS_CHECKED_SIZE + 1;
        assert!(check.passes((&1, &2), large, || Some((1, 2))));
        assert!(!check.passes((&1, &2), large, || Some((1, 3))));
        assert!(!check.passes((&1, &2), large, || Some((2, 2))));
        assert!(!check.passes((&1, &2), large, || None::<(i32, i32)>));
        assert!((0..100).all(|_| check.is_due(large)));
    }
}
