//! Hashes of keys: the full one, and the canonical one that the index uses and that each entry stores.

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
    pub(crate) const fn canonical(self) -> u64 {
        self.0 & StoredHash::CANONICAL
    }
}

/// The canonical hash of an entry's key, so that a shard hashes no key again.
///
/// The index uses the canonical hash for every operation: `HashTable` requires that a value is searched and rehashed
/// under the hash that it was inserted with, and an entry stores no more than 31 bits of its hash. These are the bits
/// that `HashTable` reads of a hash, so nothing is lost:
///
/// ```text
/// full hash       | tag: the top 7 bits of a usize | .. | position: the low 24 bits |
/// canonical hash  | tag                            | 0  | position                  |
/// stored hash     | tag: 7 bits | 1 | position: 24 bits |
/// ```
///
/// The bit between tag and position is always set. It makes zero a niche, so that a vacant slot costs no memory.
#[derive(Clone, Copy)]
pub(crate) struct StoredHash(NonZeroU32);

impl StoredHash {
    /// The number of position bits. An index never has more buckets than they distinguish: see
    /// [`MAX_ENTRIES`](crate::local::shard::MAX_ENTRIES).
    pub(crate) const POSITION_BITS: u32 = 24;
    const POSITION: u64 = (1 << Self::POSITION_BITS) - 1;
    const TAG: u64 = 0x7F;
    /// The shift of the tag in a full or canonical hash. `HashTable` takes the tag from the top seven bits of a
    /// `usize`.
    const TAG_SHIFT: u32 = if usize::BITS < 64 {
        usize::BITS - 7
    } else {
        57
    };
    /// The shift of the tag in a stored hash.
    const STORED_TAG_SHIFT: u32 = Self::POSITION_BITS + 1;
    const NICHE: NonZeroU32 = NonZeroU32::new(1 << Self::POSITION_BITS).expect("not zero");
    /// The bits of a full hash that the canonical one keeps.
    const CANONICAL: u64 = Self::TAG << Self::TAG_SHIFT | Self::POSITION;

    /// Stores the canonical bits of a hash.
    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) const fn new(hash: KeyHash) -> Self {
        let tag = (hash.0 >> Self::TAG_SHIFT & Self::TAG) << Self::STORED_TAG_SHIFT;
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
    #[inline]
    pub(crate) const fn canonical(self) -> u64 {
        let stored = self.0.get() as u64;
        (stored >> Self::STORED_TAG_SHIFT) << Self::TAG_SHIFT | stored & Self::POSITION
    }
}

const _: () = {
    let full = KeyHash(u64::MAX);
    assert!(StoredHash::new(full).canonical() == full.canonical());
    assert!(full.canonical() == StoredHash::CANONICAL);
    let empty = KeyHash(0);
    assert!(StoredHash::new(empty).canonical() == empty.canonical());
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random;
    use crate::storage::index::{BUCKETS_PER_STEP, Index};

    fn stored(number: u32) -> StoredHash {
        StoredHash::new(KeyHash(random::mix(number.into())))
    }

    #[test]
    fn stored_hash_has_the_same_canonical_hash_as_the_full_one() {
        for number in 0..100_000 {
            let full = KeyHash(random::mix(number));
            assert_eq!(StoredHash::new(full).canonical(), full.canonical());
        }
    }

    /// Inserts under the hash of the key, and does all else under the hash that the entry stores.
    #[test]
    fn entries_of_an_index_are_found_under_one_hash_after_they_were_moved_rehashed_and_removed() {
        const ENTRIES: u32 = 5_000;
        let hash_of = |&number: &u32| stored(number).canonical();
        let full = |number: u32| KeyHash(random::mix(number.into()));
        let mut index = Index::default();
        for number in 0..ENTRIES {
            // Growth that is spread over many insertions, and rehashing of all entries at once, in turn.
            if index.is_full() && number % 2 == 0 {
                index.grow(index.len() * 2, hash_of);
            }
            index.insert(full(number).canonical(), number, hash_of);
            index.step(BUCKETS_PER_STEP, hash_of);
        }
        for number in 0..ENTRIES {
            let is_it = |&other: &u32| other == number;
            assert_eq!(index.find(full(number).canonical(), is_it), Some(number));
            assert_eq!(index.find(hash_of(&number), is_it), Some(number));
            if number % 3 == 0 {
                assert!(index.remove(hash_of(&number), is_it));
                assert_eq!(index.find(full(number).canonical(), is_it), None);
                index.insert(full(number).canonical(), number, hash_of);
            }
        }
        while index.is_growing() {
            index.step(BUCKETS_PER_STEP, hash_of);
        }
        index.grow(index.len() * 4, hash_of);
        index.step(usize::MAX, hash_of);
        for number in 0..ENTRIES {
            assert!(index.remove(full(number).canonical(), |&other| other == number));
        }
        assert_eq!(index.len(), 0);
    }
}
