//! Keys that left a while ago, as fingerprints.

use crate::policy::spread;

/// How many keys a bucket holds.
const WAYS: usize = 8;
/// How finely time is told at most, in parts of what the queue remembers.
const TICKS: u32 = 1_000;

/// A queue of the keys that were added last, in buckets of eight, each a queue of its own. A key is 16
/// bits of its hash, and 16 of the time, by which what is in a bucket that few came to is old at the same
/// age as elsewhere. There is room for half as many more than are remembered, since buckets fill
/// unevenly: six bytes for each. One look-up in ten thousand finds what is not there.
#[derive(Default)]
pub(crate) struct Ghost {
    /// The latest of each bucket first. 0 is nothing.
    buckets: Box<[[u32; WAYS]]>,
    /// For how many ticks a key is remembered, and how many are added in each.
    life: u32,
    tick_len: i32,
    /// How many were added in this one, less those taken out, and its number.
    added: i32,
    tick: u16,
}

impl Ghost {
    /// Forgets everything, and is to remember so many keys.
    pub(crate) fn resize(&mut self, keys: u32) {
        let lanes = keys as usize * 3 / 2;
        self.buckets = vec![[0; WAYS]; lanes.div_ceil(WAYS)].into();
        let tick_len = keys.div_ceil(TICKS).max(1);
        self.life = keys / tick_len;
        self.tick_len = i32::try_from(tick_len).unwrap_or(i32::MAX);
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    fn location(&mut self, hash: u32) -> Option<(&mut [u32; WAYS], u16)> {
        let spread = spread(hash);
        let bucket = ((spread >> 32) * self.buckets.len() as u64) >> 32;
        let fingerprint = (spread >> 16) as u16;
        Some((self.buckets.get_mut(bucket as usize)?, fingerprint.max(1)))
    }

    #[inline]
    pub(crate) fn add(&mut self, hash: u32) {
        let tick = self.tick;
        if let Some((bucket, fingerprint)) = self.location(hash) {
            // All eight move at once, and the oldest goes.
            bucket.rotate_right(1);
            bucket[0] = u32::from(fingerprint) << 16 | u32::from(tick);
        }
        self.added += 1;
        if self.added >= self.tick_len {
            self.added = 0;
            self.tick = self.tick.wrapping_add(1);
        }
    }

    /// Takes a key out, and says whether it was there.
    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn take(&mut self, hash: u32) -> bool {
        let tick = self.tick;
        let Some((bucket, fingerprint)) = self.location(hash) else {
            return false;
        };
        let is_it = |&lane: &u32| lane >> 16 == u32::from(fingerprint);
        // Most are not there, which is told at once for all eight.
        if !bucket.iter().fold(false, |found, lane| found | is_it(lane)) {
            return false;
        }
        let Some(way) = bucket.iter().position(is_it) else {
            return false;
        };
        let age = tick.wrapping_sub(bucket[way] as u16);
        bucket.copy_within(way + 1.., way);
        bucket[WAYS - 1] = 0;
        let remembered = u32::from(age) < self.life;
        // One that is taken out leaves room for another, by which those before it do not age.
        self.added -= i32::from(remembered);
        remembered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::hash;

    #[test]
    fn the_latest_are_there_and_the_old_are_not() {
        let mut ghost = Ghost::default();
        assert!(!ghost.take(7));
        ghost.resize(1_000);
        (0..10_000).for_each(|n| ghost.add(hash(n)));
        let mut count = |range: std::ops::Range<u32>| {
            let found = range.clone().filter(|&n| ghost.take(hash(n))).count();
            found * 100 / range.len()
        };
        assert!(count(9_700..10_000) > 95);
        assert!(count(0..7_500) < 2);
        assert!(count(9_700..10_000) < 2, "each is taken once");
    }
}
