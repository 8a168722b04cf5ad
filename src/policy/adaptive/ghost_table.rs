//! A table of evicted keys: a fingerprint, the tick of the last request and the class of each.

use crate::policy::adaptive::state::{CLASS_BITS, Class};
use crate::policy::spread;
use crate::storage::allocated::AllocatedBytes;

/// The number of keys in a bucket.
const WAYS: usize = 8;
/// The number of remembered keys for each entry, in percent. With 200, the hit ratio was 0.1 points lower.
const GHOST_PERCENT: usize = 250;

const TICK_BITS: u32 = 10;
const TICK_MASK: u32 = (1 << TICK_BITS) - 1;

/// The keys that were evicted last, in buckets of eight, each of which is a queue of its own.
///
/// A key takes four bytes: 16 bits of its hash, 10 bits of the tick, which is enough for 64 times the capacity, and its
/// class. One lookup in eight thousand finds a key that was not added.
#[derive(Default)]
pub(super) struct GhostTable {
    buckets: Box<[Bucket]>,
}

/// The keys of a bucket, the latest first.
#[derive(Clone, Copy, Default)]
#[repr(align(32))]
struct Bucket {
    /// A part of each hash, or 0 for no key.
    fingerprints: [u16; WAYS],
    /// The ticks and classes.
    requests: [u16; WAYS],
}

/// A key that was found.
#[derive(Debug, PartialEq)]
pub(super) struct Ghost {
    /// The number of ticks since its last request.
    pub(super) age: u32,
    pub(super) class: Class,
}

impl GhostTable {
    /// Removes all keys, and sets their number for `entries` entries.
    pub(super) fn resize(&mut self, entries: usize) {
        let keys = entries * GHOST_PERCENT / 100;
        self.buckets = vec![Bucket::default(); keys.div_ceil(WAYS)].into();
    }

    /// Returns the bucket of a hash, and the fingerprint of the hash, which is not 0. Returns `None` if there are no
    /// buckets.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation)]
    fn location(&mut self, hash: u32) -> Option<(&mut Bucket, u16)> {
        let spread = spread(hash);
        let bucket = ((spread >> 32) * self.buckets.len() as u64) >> 32;
        let fingerprint = (spread >> 16) as u16 | 1;
        Some((self.buckets.get_mut(bucket as usize)?, fingerprint))
    }

    /// Adds a key as the latest of its bucket. `tick` is that of its last request.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation)] // The tick and the class have 15 bits.
    pub(super) fn add(&mut self, hash: u32, tick: u32, class: Class) {
        if let Some((bucket, fingerprint)) = self.location(hash) {
            // All eight keys move at once, and the oldest is overwritten.
            bucket.fingerprints.rotate_right(1);
            bucket.fingerprints[0] = fingerprint;
            bucket.requests.rotate_right(1);
            bucket.requests[0] = (((tick & TICK_MASK) << CLASS_BITS) | class.bits()) as u16;
        }
    }

    /// Removes a key, and returns what is remembered about it.
    #[inline(always)]
    pub(super) fn take(&mut self, hash: u32, tick: u32) -> Option<Ghost> {
        let (bucket, fingerprint) = self.location(hash)?;
        // Most keys are not in their bucket. This check has no branches and compares all eight ways at once.
        let matches = bucket
            .fingerprints
            .map(|other| u8::from(other == fingerprint));
        if u64::from_ne_bytes(matches) == 0 {
            return None;
        }
        bucket.take(fingerprint, tick)
    }
}

impl Bucket {
    /// Removes the key with a fingerprint.
    #[inline(never)]
    fn take(&mut self, fingerprint: u16, tick: u32) -> Option<Ghost> {
        let way = self
            .fingerprints
            .iter()
            .position(|&other| other == fingerprint)?;
        let found = u32::from(self.requests[way]);
        self.fingerprints.copy_within(way + 1.., way);
        self.requests.copy_within(way + 1.., way);
        self.fingerprints[WAYS - 1] = 0;
        Some(Ghost {
            age: tick.wrapping_sub(found >> CLASS_BITS) & TICK_MASK,
            class: Class::from_bits(found),
        })
    }
}

impl AllocatedBytes for GhostTable {
    fn allocated_bytes(&self) -> usize {
        self.buckets.allocated_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::hash;

    #[test]
    fn latest_keys_are_found_once_with_their_age_and_class() {
        let mut ghosts = GhostTable::default();
        ghosts.add(7, 0, Class::FIRST);
        assert_eq!(ghosts.take(7, 0), None);
        ghosts.resize(1_000);
        for n in 0..10_000 {
            ghosts.add(hash(n), n, Class::from_bits(n));
        }
        let mut count = |range: std::ops::Range<u32>| {
            let found = range.clone().filter(|&n| {
                let expected = Ghost {
                    age: (10_000 - n) % 1_024,
                    class: Class::from_bits(n),
                };
                ghosts.take(hash(n), 10_000) == Some(expected)
            });
            found.count() * 100 / range.len()
        };
        assert!(count(9_000..10_000) > 95);
        assert!(count(0..5_000) < 2);
        assert!(count(9_000..10_000) < 2, "each is found once");
    }
}
