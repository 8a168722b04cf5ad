//! Hashes of keys: the full one, and the part of it that the index uses and that each entry stores.

use crate::random::{GOLDEN_RATIO, spread};
use crate::storage::slot_table::CellHash;
use std::num::NonZeroU32;

/// The full hash of a key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyHash(pub(crate) u64);

impl KeyHash {
    /// Returns the bits that choose a shard. They are independent of those of the index if the hash is good, and they
    /// still differ between small integers that hash to themselves.
    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn shard_bits(self) -> usize {
        (self.0 ^ (self.0 >> 40)) as usize
    }

    /// Returns 32 bits that depend on all bits of the hash. Hashers of which only the high bits or only the low bits
    /// are good, and integers that hash to themselves, are therefore spread well too.
    #[inline(always)]
    const fn mixed_bits(self) -> u32 {
        (spread(self.0, GOLDEN_RATIO) >> u32::BITS) as u32
    }

    /// Returns the hash under which the index of a shard contains the key.
    #[inline(always)]
    pub(crate) const fn cell(self) -> CellHash {
        let bits = self.mixed_bits();
        CellHash::new(bits, bits >> StoredHash::TAG_SHIFT)
    }
}

/// The part of a key's hash that an entry stores, so that a shard hashes no key again. The index uses nothing else of a
/// hash.
///
/// ```text
///  31 .. 27   26   25 .. 24   23 .. 0
/// +----------+----+----------+----------+
/// | TAG      | 1  | unused   | POSITION |
/// +----------+----+----------+----------+
/// ```
///
/// These are 32 mixed bits of the full hash, one of which is always set. It makes zero a niche, so that a vacant slot
/// costs no memory.
#[derive(Clone, Copy)]
pub(crate) struct StoredHash(NonZeroU32);

impl StoredHash {
    /// The number of position bits. An index never has more cells than they distinguish.
    pub(crate) const POSITION_BITS: u32 = 24;
    const TAG_SHIFT: u32 = u32::BITS - CellHash::TAG_BITS;
    const NICHE: NonZeroU32 = NonZeroU32::new(1 << (Self::TAG_SHIFT - 1)).expect("not zero");

    /// Stores a part of a hash.
    #[inline(always)]
    pub(crate) const fn new(hash: KeyHash) -> Self {
        match NonZeroU32::new(hash.mixed_bits() | Self::NICHE.get()) {
            Some(stored) => Self(stored),
            None => unreachable!(),
        }
    }

    /// Returns all stored bits, for users that need only some hash of the key.
    pub(crate) const fn bits(self) -> u32 {
        self.0.get()
    }

    /// Returns the hash under which the index contains the entry.
    #[inline(always)]
    pub(crate) const fn cell(self) -> CellHash {
        CellHash::new(self.bits(), self.bits() >> Self::TAG_SHIFT)
    }
}

const _: () = assert!(StoredHash::POSITION_BITS < StoredHash::TAG_SHIFT);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random;

    const MASK: usize = (1 << StoredHash::POSITION_BITS) - 1;

    #[test]
    fn stored_hash_has_the_same_place_in_the_index_as_the_full_one() {
        for number in 0..100_000 {
            let full = KeyHash(random::mix(number));
            assert!(StoredHash::new(full).cell().is_equal(full.cell(), MASK));
        }
    }

    #[test]
    fn hashes_that_differ_in_any_bit_are_distinguished() {
        for number in 0..10_000 {
            let hash = random::mix(number);
            let place = KeyHash(hash).cell();
            for bit in 0..u64::BITS {
                let other = KeyHash(hash ^ 1 << bit);
                assert!(!other.cell().is_equal(place, MASK), "bit {bit}");
            }
        }
    }
}
