//! Where a key's slot is: a hash table of slot numbers in chunks of half a cache line.
//!
//! A chunk holds six slot numbers and a byte of hash for each, so a look-up takes one cache line
//! here and one of the entry it leads to. A full chunk overflows into the next, and counts what has
//! passed it on the way, so that a look-up knows where to stop and a removal leaves nothing behind:
//! there is never anything to clean up. Kin: F14 (Bronson and Shi, Facebook, 2019).

use crate::local::hash::StoredHash;

const WIDTH: usize = 6;
/// Entries for every four chunks before the table grows: one in twenty is then in another chunk
/// than its own.
const FULL_FOUR: usize = 17;

#[derive(Clone, Default)]
#[repr(C, align(32))]
struct Chunk {
    tags: Tags,
    slots: [u32; WIDTH],
}

/// A byte for each position, the lowest first: 0 if it is free, or a tag, which has its top bit set.
/// In the two bytes above: how many entries are in later chunks that would be in this one, or in one
/// before it; once it is all ones it stays so, as a hash that is the same for all keys makes it.
#[derive(Clone, Copy, Default)]
struct Tags(u64);

/// Positions in a chunk, as a set of bits: position `p` is bit `8 * p + 7`.
#[derive(Clone, Copy)]
struct Positions(u64);

const ONES: u64 = 0x0101_0101_0101;
const TOPS: u64 = ONES << 7;
const ONE_PASSED: u64 = 1 << 48;
const MOST_PASSED: u64 = u64::MAX >> 48;

impl Tags {
    /// Positions with this tag, and perhaps others that are occupied.
    #[inline]
    fn find(self, tag: u8) -> Positions {
        let different = self.0 ^ (u64::from(tag) * ONES);
        // A byte that is zero gets its top bit; so may one that follows it.
        Positions(different.wrapping_sub(ONES) & !different & TOPS)
    }

    fn free(self) -> Positions {
        Positions(!self.0 & TOPS)
    }

    fn set(&mut self, position: usize, tag: u8) {
        self.0 = self.0 & !(0xFF << (8 * position)) | u64::from(tag) << (8 * position);
    }

    #[inline]
    fn passed(self) -> u64 {
        self.0 >> 48
    }

    fn passed_by_one_more(&mut self) {
        if self.passed() < MOST_PASSED {
            self.0 += ONE_PASSED;
        }
    }

    fn passed_by_one_less(&mut self) {
        if self.passed() < MOST_PASSED {
            self.0 -= ONE_PASSED;
        }
    }
}

impl Iterator for Positions {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let position = self.0.trailing_zeros() as usize / 8;
        self.0 &= self.0 - 1;
        Some(position)
    }
}

/// Slot numbers by hash.
pub(crate) struct Index {
    chunks: Box<[Chunk]>,
}

impl Index {
    pub(crate) fn new() -> Self {
        Self {
            chunks: Box::default(),
        }
    }

    /// What `is_it` makes of a slot with this hash, if it is the one.
    #[inline(always)]
    pub(crate) fn find<R>(
        &self,
        hash: StoredHash,
        is_it: impl Fn(u32) -> Option<R>,
    ) -> Option<R> {
        let home = hash.position(self.chunks.len());
        let chunk = self.chunks.get(home)?;
        for position in chunk.tags.find(hash.tag()) {
            if let Some(found) = is_it(chunk.slots[position]) {
                return Some(found);
            }
        }
        if chunk.tags.passed() == 0 {
            return None;
        }
        self.find_after(home, hash, is_it)
    }

    #[cold]
    #[inline(never)]
    fn find_after<R>(
        &self,
        home: usize,
        hash: StoredHash,
        is_it: impl Fn(u32) -> Option<R>,
    ) -> Option<R> {
        let mut at = self.after(home);
        while at != home {
            let chunk = &self.chunks[at];
            let mut slots = chunk.tags.find(hash.tag()).map(|at| chunk.slots[at]);
            if let Some(found) = slots.find_map(&is_it) {
                return Some(found);
            }
            if chunk.tags.passed() == 0 {
                return None;
            }
            at = self.after(at);
        }
        None
    }

    /// How many entries there is room for.
    #[inline]
    pub(crate) fn capacity(&self) -> usize {
        self.chunks.len() * FULL_FOUR / 4
    }

    /// Adds a slot. There is room for it: fewer are held than the capacity.
    pub(crate) fn insert(&mut self, hash: StoredHash, slot: u32) {
        let mut at = hash.position(self.chunks.len());
        loop {
            let chunk = &mut self.chunks[at];
            if let Some(position) = chunk.tags.free().next() {
                chunk.tags.set(position, hash.tag());
                chunk.slots[position] = slot;
                return;
            }
            chunk.tags.passed_by_one_more();
            at = self.after(at);
        }
    }

    /// Takes out a slot that is there.
    pub(crate) fn remove(&mut self, hash: StoredHash, slot: u32) {
        let mut at = hash.position(self.chunks.len());
        loop {
            let chunk = &mut self.chunks[at];
            let mut found = chunk.tags.find(hash.tag());
            if let Some(position) = found.find(|&position| chunk.slots[position] == slot) {
                chunk.tags.set(position, 0);
                return;
            }
            assert!(chunk.tags.passed() > 0, "each occupied slot is in the index");
            chunk.tags.passed_by_one_less();
            at = self.after(at);
        }
    }

    /// Makes room for `entries`, of all `held` slots and their hashes.
    pub(crate) fn grow(&mut self, entries: usize, held: impl Iterator<Item = (StoredHash, u32)>) {
        let chunks = (entries * 4).div_ceil(FULL_FOUR);
        self.chunks = vec![Chunk::default(); chunks].into();
        for (hash, slot) in held {
            self.insert(hash, slot);
        }
    }

    #[inline]
    fn after(&self, at: usize) -> usize {
        if at + 1 < self.chunks.len() { at + 1 } else { 0 }
    }

    /// All slots, for tests.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> {
        self.chunks.iter().flat_map(|chunk| {
            let is_free = |position: &usize| chunk.tags.free().any(|free| free == *position);
            let taken = (0..WIDTH).filter(move |position| !is_free(position));
            taken.map(|position| chunk.slots[position])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::hash::KeyHash;
    use std::collections::HashMap;

    #[test]
    fn a_chunk_is_half_a_cache_line() {
        assert_eq!(size_of::<Chunk>(), 32);
    }

    #[test]
    fn every_position_is_found_free_and_cleared() {
        let mut tags = Tags::default();
        assert_eq!(tags.free().count(), WIDTH);
        for position in 0..WIDTH {
            tags.set(position, 0x80 | position as u8);
        }
        assert_eq!(tags.free().count(), 0);
        for position in 0..WIDTH {
            let found: Vec<_> = tags.find(0x80 | position as u8).collect();
            assert!(found.contains(&position), "{found:?}");
            tags.set(position, 0);
            assert!(tags.free().any(|free| free == position));
            assert!(!tags.find(0x80 | position as u8).any(|found| found == position));
        }
        assert_eq!(tags.find(0x80).count(), 0);
    }

    /// Against the standard map, with few homes for many, so that chunks overflow in chains.
    #[test]
    fn what_is_inserted_is_found_until_it_is_removed() {
        for homes in [1, 3, 1_000] {
            let hash = |n: u32| StoredHash::new(KeyHash(u64::from(n % homes)));
            let (mut index, mut model) = (Index::new(), HashMap::new());
            let mut state = 1u32;
            for _ in 0..20_000 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let key = (state >> 16) % 600;
                if model.remove(&key).is_some() {
                    index.remove(hash(key), key);
                } else {
                    if model.len() == index.capacity() {
                        let held: Vec<u32> = model.keys().copied().collect();
                        let held = held.into_iter().map(|key| (hash(key), key));
                        index.grow(model.len() * 2 + 10, held);
                    }
                    index.insert(hash(key), key);
                    model.insert(key, ());
                }
                let found = index.find(hash(key), |slot| (slot == key).then_some(slot));
                assert_eq!(found.is_some(), model.contains_key(&key));
            }
            for key in 0..600 {
                let found = index.find(hash(key), |slot| (slot == key).then_some(slot));
                assert_eq!(found, model.contains_key(&key).then_some(key));
            }
            let mut left: Vec<_> = index.iter().collect();
            left.sort_unstable();
            let mut expected: Vec<_> = model.into_keys().collect();
            expected.sort_unstable();
            assert_eq!(left, expected);
            left.iter().for_each(|&key| index.remove(hash(key), key));
            assert!(index.chunks.iter().all(|chunk| chunk.tags.passed() == 0 && chunk.tags.free().count() == WIDTH));
        }
    }
}
