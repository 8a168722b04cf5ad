//! An exact list of recently evicted keys, in the order of their evictions.

use crate::policy::spread;
use crate::storage::allocated::AllocatedBytes;
use crate::storage::index::Index;
use hashbrown::HashTable;
use std::collections::VecDeque;

/// The number of hashes in a chunk of the queue.
const CHUNK_LEN: usize = 1_024;
/// The number of buckets of the former table that an addition drains. It is low, because one call may evict
/// thousands of entries.
const BUCKETS_PER_ADDITION: usize = 16;
/// The highest number of removed hashes that one call discards from the queue.
const MAX_DISCARDED_PER_CALL: usize = 64;

/// A list of the hashes of evicted keys, from which any hash can be removed. It takes about 15 bytes for each hash.
#[derive(Default)]
pub(crate) struct GhostList {
    /// All hashes that were added, including removed ones that are not discarded yet.
    queue: Queue,
    /// The number of the first hash in the queue.
    first: u32,
    /// The hashes that were not removed, with their numbers in the queue.
    numbers: Index<HashTable<(u32, u32)>>,
}

/// A queue in chunks, so that no call moves all of it to larger storage.
#[derive(Default)]
struct Queue {
    /// The chunks. All except the last were filled.
    chunks: VecDeque<Vec<u32>>,
    /// The number of hashes at the front of the first chunk that were removed from the queue.
    popped: usize,
    /// The number of hashes in the queue.
    len: usize,
}

impl Queue {
    fn push_back(&mut self, hash: u32) {
        match self.chunks.back_mut() {
            Some(chunk) if chunk.len() < CHUNK_LEN => chunk.push(hash),
            _ => self.chunks.push_back(vec![hash]),
        }
        self.len += 1;
    }

    fn pop_front(&mut self) -> Option<u32> {
        let hash = *self.chunks.front()?.get(self.popped)?;
        self.popped += 1;
        self.len -= 1;
        if self.popped == CHUNK_LEN || self.len == 0 {
            self.chunks.pop_front();
            self.popped = 0;
        }
        Some(hash)
    }
}

/// Returns the hash under which the index contains a hash with its number.
fn hash_of((hash, _): (u32, u32)) -> u64 {
    spread(hash)
}

impl GhostList {
    /// Returns the number of hashes that were not removed.
    pub(crate) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Checks whether a hash is in the list.
    pub(crate) fn contains(&self, hash: u32) -> bool {
        self.find(hash).is_some()
    }

    /// Returns a hash with its number.
    fn find(&self, hash: u32) -> Option<(u32, u32)> {
        let pick = |entry: (u32, u32)| (entry.0 == hash).then_some(entry);
        self.numbers.find(spread(hash), pick)
    }

    /// Removes a hash, and returns whether the list contained it.
    pub(crate) fn remove(&mut self, hash: u32) -> bool {
        let found = self.find(hash);
        found.is_some_and(|found| self.numbers.remove(spread(hash), found, hash_of))
    }

    /// Adds a hash as the latest, and removes the oldest if there are more than `most`.
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn add(&mut self, hash: u32, most: usize) {
        self.remove(hash);
        let number = self.first.wrapping_add(self.queue.len as u32);
        self.queue.push_back(hash);
        if self.numbers.is_full() {
            self.numbers.grow(self.len() * 2, hash_of);
        }
        self.numbers.insert(spread(hash), (hash, number), hash_of);
        self.numbers.step(BUCKETS_PER_ADDITION, hash_of);
        // The queue contains at most `most` hashes, and as many removed ones.
        if self.len() > most || self.queue.len > 2 * most {
            self.remove_oldest();
        }
    }

    /// Removes all hashes and frees their memory, if the queue contains more than `most`.
    pub(crate) fn shrink(&mut self, most: usize) {
        if self.queue.len > most {
            *self = Self::default();
        }
    }

    /// Removes the oldest hash. If very many removed hashes come before it in the queue, only discards some of those. A
    /// later call then reaches the oldest hash.
    pub(crate) fn remove_oldest(&mut self) {
        for _ in 0..MAX_DISCARDED_PER_CALL {
            let Some(hash) = self.queue.pop_front() else {
                return;
            };
            let oldest = (hash, self.first);
            self.first = self.first.wrapping_add(1);
            if self.numbers.remove(spread(hash), oldest, hash_of) {
                return;
            }
        }
    }
}

impl AllocatedBytes for GhostList {
    fn allocated_bytes(&self) -> usize {
        self.queue.allocated_bytes() + self.numbers.allocated_bytes()
    }
}

impl AllocatedBytes for Queue {
    fn allocated_bytes(&self) -> usize {
        // All chunks except the last were filled, so they have room for exactly `CHUNK_LEN` hashes.
        let filled = self.chunks.len().saturating_sub(1) * CHUNK_LEN * size_of::<u32>();
        let last = self.chunks.back().map_or(0, Vec::allocated_bytes);
        self.chunks.allocated_bytes() + filled + last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_hash_is_removed_first_after_removals_anywhere() {
        let mut ghosts = GhostList::default();
        (1..=6).for_each(|hash| ghosts.add(hash, 5));
        assert!(!ghosts.contains(1));
        assert!(ghosts.remove(3) && !ghosts.remove(3));
        ghosts.add(2, 5);
        ghosts.remove_oldest();
        let left: Vec<u32> = (1..=6).filter(|&hash| ghosts.contains(hash)).collect();
        assert_eq!(left, [2, 5, 6]);
        for hash in 10..1_000 {
            ghosts.add(hash, 5);
            ghosts.remove(hash);
        }
        assert!(ghosts.queue.len <= 10);
    }
}
