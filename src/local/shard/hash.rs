//! The hash of a key, and the part of it that an entry stores.

use std::num::NonZeroU32;

/// The hash of a key. The index takes a position from its low bits and a tag from its top seven, as hashbrown does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyHash(pub(crate) u64);

impl KeyHash {
    /// Returns the bits that determine the shard. With a good hash they are independent of those that the index takes.
    /// They also differ for small integers that hash to themselves.
    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn shard_bits(self) -> usize {
        (self.0 ^ (self.0 >> 40)) as usize
    }
}

/// The part of a key's hash that an entry stores, so that a shard never hashes a key: the bits that the index takes, and
/// one that is always set, so that an empty slot costs no memory.
#[derive(Clone, Copy)]
pub(crate) struct StoredHash(NonZeroU32);

impl StoredHash {
    /// The number of bits of a position in the index.
    pub(crate) const POSITION_BITS: u32 = 24;
    const SET: NonZeroU32 = NonZeroU32::new(1 << Self::POSITION_BITS).expect("not zero");
    const POSITION: u64 = (1 << Self::POSITION_BITS) - 1;
    /// The shift of the tag, which hashbrown takes from the top seven bits of a `usize`.
    const TAG_SHIFT: u32 = if usize::BITS < 64 {
        usize::BITS - 7
    } else {
        57
    };

    /// Stores the part of a hash that the index takes.
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn new(KeyHash(hash): KeyHash) -> Self {
        let tag = (hash >> Self::TAG_SHIFT & 0x7F) << 25;
        Self(Self::SET | (tag | hash & Self::POSITION) as u32)
    }

    /// Returns the stored bits, as a hash for other purposes than the index.
    pub(crate) fn bits(self) -> u32 {
        self.0.get()
    }

    /// Returns a hash with the same position and tag.
    pub(crate) fn restore(self) -> u64 {
        let stored = u64::from(self.0.get());
        (stored >> 25) << Self::TAG_SHIFT | stored & Self::POSITION
    }
}
