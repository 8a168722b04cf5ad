//! Hashes of keys: the full one, and the part of it that the index uses and that each entry stores.

use crate::storage::slot_table::CellHash;
use std::num::NonZeroU32;

/// The full hash of a key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyHash(pub(crate) u64);

impl KeyHash {
    /// Returns the bits that choose a shard. They differ from those of the index if the hash is good, and they still
    /// differ between small integers that hash to themselves.
    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn shard_bits(self) -> usize {
        (self.0 ^ (self.0 >> 40)) as usize
    }

    /// Returns the hash under which the index of a shard contains the key.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) const fn cell(self) -> CellHash {
        CellHash::new(
            self.0 as u32,
            (self.0 >> (u64::BITS - CellHash::TAG_BITS)) as u32,
        )
    }
}

/// The part of a key's hash that an entry stores, so that a shard hashes no key again. The index uses nothing else of a
/// hash.
///
/// ```text
/// full hash    | tag: the top 7 bits | .. | position: the low 24 bits |
/// stored hash  | tag: 7 bits | 1 | position: 24 bits |
/// ```
///
/// The bit between tag and position is always set. It makes zero a niche, so that a vacant slot costs no memory.
#[derive(Clone, Copy)]
pub(crate) struct StoredHash(NonZeroU32);

impl StoredHash {
    /// The number of position bits. An index never has more cells than they distinguish.
    pub(crate) const POSITION_BITS: u32 = 24;
    const POSITION: u64 = (1 << Self::POSITION_BITS) - 1;
    /// The shift of the tag in a full hash.
    const TAG_SHIFT: u32 = 57;
    /// The shift of the tag in a stored hash.
    const STORED_TAG_SHIFT: u32 = Self::POSITION_BITS + 1;
    const NICHE: NonZeroU32 = NonZeroU32::new(1 << Self::POSITION_BITS).expect("not zero");

    /// Stores a part of a hash.
    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) const fn new(hash: KeyHash) -> Self {
        let tag = (hash.0 >> Self::TAG_SHIFT) << Self::STORED_TAG_SHIFT;
        let bits = (tag | hash.0 & Self::POSITION) as u32;
        match NonZeroU32::new(bits | Self::NICHE.get()) {
            Some(stored) => Self(stored),
            None => unreachable!(),
        }
    }

    /// Returns all stored bits, for users that need only some hash of the key.
    pub(crate) fn bits(self) -> u32 {
        self.0.get()
    }

    /// Returns the hash under which the index contains the entry.
    #[inline(always)]
    pub(crate) const fn cell(self) -> CellHash {
        let bits = self.0.get();
        CellHash::new(bits, bits >> (u32::BITS - CellHash::TAG_BITS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random;

    #[test]
    fn stored_hash_has_the_same_place_in_the_index_as_the_full_one() {
        const MASK: usize = (1 << StoredHash::POSITION_BITS) - 1;
        for number in 0..100_000 {
            let full = KeyHash(random::mix(number));
            assert!(StoredHash::new(full).cell().is_equal(full.cell(), MASK));
        }
    }
}
