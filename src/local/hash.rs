//! Hashes: of a key, and what an entry keeps of it.

use std::num::NonZeroU32;

/// A key's hash.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyHash(pub(crate) u64);

impl KeyHash {
    /// Bits to choose a shard by: others than an index takes, if the hash is good, and still
    /// different for small integers that hash to themselves.
    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn shard_bits(self) -> usize {
        (self.0 ^ (self.0 >> 40)) as usize
    }
}

/// What an index and an entry know of a key's hash. The entry keeps it so that a shard never hashes
/// a key; it is never zero, so that an empty slot costs no memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct StoredHash(NonZeroU32);

impl StoredHash {
    /// Mixed again: a hasher that was given may be weak in any of its bits.
    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn new(KeyHash(hash): KeyHash) -> Self {
        let mixed = hash.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Self(NonZeroU32::MIN | (mixed >> 32) as u32)
    }

    /// One of so many positions, from the top bits.
    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn position(self, positions: usize) -> usize {
        (u64::from(self.0.get()) * positions as u64 >> 32) as usize
    }

    /// From the low bits, and never zero.
    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn tag(self) -> u8 {
        (self.0.get() >> 1) as u8 | 0x80
    }
}
