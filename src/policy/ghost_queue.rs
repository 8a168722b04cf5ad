//! An approximate queue of recently evicted keys, as fingerprints.

use crate::policy::spread;
use crate::storage::allocated::AllocatedBytes;

/// The number of keys in a bucket.
const WAYS: usize = 8;
/// The highest number of ticks for which a key is remembered, which is the resolution of its age.
const MAX_TICKS: u32 = 1_000;

/// A queue of the keys that were added last, in buckets of eight keys, each of which is a queue of its own.
///
/// A key takes 16 bits of its hash and 16 bits of the time of its addition. The time makes keys expire at the same age
/// in buckets with few and with many additions. There is room for half as many keys more than are remembered, because
/// buckets fill unevenly. That is six bytes for each key. One lookup in ten thousand finds a key that was not added.
#[derive(Default)]
pub(crate) struct GhostQueue {
    /// The keys of each bucket, the latest first: the fingerprint in the high 16 bits, the tick of the addition in the
    /// low ones, or 0 for no key.
    buckets: Box<[[u32; WAYS]]>,
    /// The number of ticks for which a key is remembered.
    life: u32,
    /// The number of additions in a tick.
    tick_len: i32,
    /// The number of additions in the current tick, less the number of keys that were removed.
    added: i32,
    /// The number of the current tick. It wraps.
    tick: u16,
}

impl GhostQueue {
    /// Removes all keys, and sets the number of keys to remember.
    pub(crate) fn resize(&mut self, keys: u32) {
        let ways = keys as usize * 3 / 2;
        self.buckets = vec![[0; WAYS]; ways.div_ceil(WAYS)].into();
        let tick_len = keys.div_ceil(MAX_TICKS).max(1);
        self.life = keys / tick_len;
        self.tick_len = i32::try_from(tick_len).unwrap_or(i32::MAX);
    }

    /// Returns the bucket of a hash, and the fingerprint of the hash, which is not 0. Returns `None` if there are no
    /// buckets.
    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    fn location(&mut self, hash: u32) -> Option<(&mut [u32; WAYS], u16)> {
        let spread = spread(hash);
        let bucket = ((spread >> 32) * self.buckets.len() as u64) >> 32;
        let fingerprint = (spread >> 16) as u16;
        Some((self.buckets.get_mut(bucket as usize)?, fingerprint.max(1)))
    }

    /// Adds a key as the latest of its bucket.
    #[inline]
    pub(crate) fn add(&mut self, hash: u32) {
        let tick = self.tick;
        if let Some((bucket, fingerprint)) = self.location(hash) {
            // All eight keys move at once, and the oldest is overwritten.
            bucket.rotate_right(1);
            bucket[0] = u32::from(fingerprint) << 16 | u32::from(tick);
        }
        self.added += 1;
        if self.added >= self.tick_len {
            self.added = 0;
            self.tick = self.tick.wrapping_add(1);
        }
    }

    /// Removes a key, and returns whether it was remembered.
    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn remove(&mut self, hash: u32) -> bool {
        let tick = self.tick;
        let Some((bucket, fingerprint)) = self.location(hash) else {
            return false;
        };
        let is_it = |&way: &u32| way >> 16 == u32::from(fingerprint);
        // Most keys are not in their bucket. This check has no branches and compares all eight ways at once.
        if !bucket.iter().fold(false, |found, way| found | is_it(way)) {
            return false;
        }
        let Some(way) = bucket.iter().position(is_it) else {
            return false;
        };
        let age = tick.wrapping_sub(bucket[way] as u16);
        bucket.copy_within(way + 1.., way);
        bucket[WAYS - 1] = 0;
        let remembered = u32::from(age) < self.life;
        // A removed key leaves room for another one, whose addition does not age the keys before it.
        self.added -= i32::from(remembered);
        remembered
    }
}

impl AllocatedBytes for GhostQueue {
    fn allocated_bytes(&self) -> usize {
        self.buckets.allocated_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::hash;

    #[test]
    fn latest_keys_are_found_once_and_old_ones_are_not() {
        let mut ghosts = GhostQueue::default();
        assert!(!ghosts.remove(7));
        ghosts.resize(1_000);
        (0..10_000).for_each(|n| ghosts.add(hash(n)));
        let mut count = |range: std::ops::Range<u32>| {
            let found = range.clone().filter(|&n| ghosts.remove(hash(n))).count();
            found * 100 / range.len()
        };
        assert!(count(9_700..10_000) > 95);
        assert!(count(0..7_500) < 2);
        assert!(count(9_700..10_000) < 2, "each is found once");
    }
}
