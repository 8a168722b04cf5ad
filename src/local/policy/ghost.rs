//! Keys that left a while ago, as fingerprints.

/// How many fingerprints a bucket holds.
const WAYS: usize = 8;

/// A queue of the keys that were added last, in buckets of eight, each a queue of its own. A key is 16
/// bits of its hash, so it takes two bytes, and one look-up in eight thousand finds what is not there.
#[derive(Default)]
pub(super) struct Ghost {
    /// The latest of each bucket first. 0 is nothing.
    buckets: Box<[[u16; WAYS]]>,
}

impl Ghost {
    /// Forgets everything, and has room for about so many keys.
    pub(super) fn resize(&mut self, keys: usize) {
        self.buckets = vec![[0; WAYS]; keys.div_ceil(WAYS)].into();
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    fn place(&mut self, hash: u32) -> Option<(&mut [u16; WAYS], u16)> {
        let spread = u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let bucket = ((spread >> 32) * self.buckets.len() as u64) >> 32;
        let fingerprint = (spread >> 16) as u16;
        Some((self.buckets.get_mut(bucket as usize)?, fingerprint.max(1)))
    }

    #[inline]
    pub(super) fn add(&mut self, hash: u32) {
        if let Some((bucket, fingerprint)) = self.place(hash) {
            bucket.copy_within(..WAYS - 1, 1);
            bucket[0] = fingerprint;
        }
    }

    /// Takes a key out, and says whether it was there.
    #[inline]
    pub(super) fn take(&mut self, hash: u32) -> bool {
        let Some((bucket, fingerprint)) = self.place(hash) else {
            return false;
        };
        let found = bucket.iter().position(|&other| other == fingerprint);
        found.map(|way| bucket[way] = 0).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes as good ones are.
    fn hash(n: u32) -> u32 {
        n.wrapping_mul(0x9E37_79B9) ^ n >> 7
    }

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
