//! Hashes: of a key, and what an entry keeps of it.

use std::num::NonZeroU32;

/// A key's hash. The index takes a position from its low bits and a tag from its top seven, as
/// hashbrown does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyHash(pub(crate) u64);

impl KeyHash {
    /// Bits to choose a shard by: others than the index takes, if the hash is good, and still
    /// different for small integers that hash to themselves.
    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn shard_bits(self) -> usize {
        (self.0 ^ (self.0 >> 40)) as usize
    }
}

/// What an entry keeps of its key's hash, so that a shard never hashes a key: the bits that the
/// index takes, and one that is always set, so that an empty slot costs no memory.
#[derive(Clone, Copy)]
pub(crate) struct StoredHash(NonZeroU32);

impl StoredHash {
    pub(crate) const POSITION_BITS: u32 = 24;
    const SET: NonZeroU32 = NonZeroU32::new(1 << Self::POSITION_BITS).expect("not zero");
    const POSITION: u64 = (1 << Self::POSITION_BITS) - 1;
    /// hashbrown takes the tag from the top seven bits of a `usize`.
    const TAG_SHIFT: u32 = if usize::BITS < 64 {
        usize::BITS - 7
    } else {
        57
    };

    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn new(KeyHash(hash): KeyHash) -> Self {
        let tag = (hash >> Self::TAG_SHIFT & 0x7F) << 25;
        Self(Self::SET | (tag | hash & Self::POSITION) as u32)
    }

    /// All that is kept, for those who want but a hash of the key.
    pub(crate) fn bits(self) -> u32 {
        self.0.get()
    }

    /// A hash with the same position and tag.
    pub(crate) fn restore(self) -> u64 {
        let stored = u64::from(self.0.get());
        (stored >> 25) << Self::TAG_SHIFT | stored & Self::POSITION
    }
}
