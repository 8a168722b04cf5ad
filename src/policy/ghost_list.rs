//! The exact history of recently evicted keys, in the order of their evictions.

use crate::policy::spread;
use crate::storage::index::Index;
use std::collections::VecDeque;

/// The number of hashes in a chunk of the queue.
const CHUNK: usize = 1_024;
/// The number of buckets of its former table that an addition drains. There are few, because a call may evict thousands
/// of entries.
const BUCKETS_PER_ADDITION: usize = 16;
/// The number of removed hashes that one call discards from the queue.
const DISCARDED_AT_ONCE: usize = 64;

/// A queue of hashes, from which any hash may be removed. It takes about 15 bytes a hash.
#[derive(Default)]
pub(crate) struct History {
    /// All hashes that were added, including those that were removed since.
    queue: Queue,
    /// The number of the first hash in the queue.
    first: u32,
    /// The hashes that were not removed, with their numbers in the queue.
    numbers: Index<(u32, u32)>,
}

/// A queue in chunks, so that no call moves all of it.
#[derive(Default)]
struct Queue {
    /// The chunks. All except the last were filled.
    chunks: VecDeque<Vec<u32>>,
    /// The number of hashes of the first chunk that have left the queue.
    left: usize,
    /// The number of hashes in the queue.
    len: usize,
}

impl Queue {
    fn push_back(&mut self, hash: u32) {
        match self.chunks.back_mut() {
            Some(chunk) if chunk.len() < CHUNK => chunk.push(hash),
            _ => self.chunks.push_back(vec![hash]),
        }
        self.len += 1;
    }

    fn pop_front(&mut self) -> Option<u32> {
        let hash = *self.chunks.front()?.get(self.left)?;
        self.left += 1;
        self.len -= 1;
        if self.left == CHUNK || self.len == 0 {
            self.chunks.pop_front();
            self.left = 0;
        }
        Some(hash)
    }
}

impl History {
    /// Returns the number of hashes that were not removed.
    pub(crate) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Checks whether a hash is in the history.
    pub(crate) fn contains(&self, hash: u32) -> bool {
        let is_it = |&(other, _): &(u32, u32)| other == hash;
        self.numbers.find(spread(hash), is_it).is_some()
    }

    /// Removes a hash, and returns whether it was there.
    pub(crate) fn take(&mut self, hash: u32) -> bool {
        let is_it = |&(other, _): &(u32, u32)| other == hash;
        self.numbers.remove(spread(hash), is_it)
    }

    /// Adds a hash as the latest, and forgets the oldest if there are more than `most`.
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn add(&mut self, hash: u32, most: usize) {
        self.take(hash);
        let number = self.first.wrapping_add(self.queue.len as u32);
        self.queue.push_back(hash);
        let hash_of = |&(other, _): &(u32, u32)| spread(other);
        if self.numbers.is_full() {
            self.numbers.grow(self.len() * 2, hash_of);
        }
        self.numbers.insert(spread(hash), (hash, number), hash_of);
        self.numbers.step(BUCKETS_PER_ADDITION, hash_of);
        // The queue contains at most as many removed hashes as others.
        if self.len() > most || self.queue.len > 2 * most {
            self.forget_oldest();
        }
    }

    /// Frees the memory for more than `most` hashes. If there are more, forgets all of them.
    pub(crate) fn shrink(&mut self, most: usize) {
        if self.queue.len > most {
            *self = Self::default();
        }
    }

    /// Forgets the oldest hash. If very many that were added before it have been removed, only discards some of those,
    /// and a later call comes to the oldest.
    pub(crate) fn forget_oldest(&mut self) {
        for _ in 0..DISCARDED_AT_ONCE {
            let Some(hash) = self.queue.pop_front() else {
                return;
            };
            let oldest = (hash, self.first);
            self.first = self.first.wrapping_add(1);
            if self.numbers.remove(spread(hash), |&other| other == oldest) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_first_wherever_others_were_taken_out() {
        let mut history = History::default();
        (1..=6).for_each(|hash| history.add(hash, 5));
        assert!(!history.contains(1));
        assert!(history.take(3) && !history.take(3));
        history.add(2, 5);
        history.forget_oldest();
        let left: Vec<u32> = (1..=6).filter(|&hash| history.contains(hash)).collect();
        assert_eq!(left, [2, 5, 6]);
        for hash in 10..1_000 {
            history.add(hash, 5);
            history.take(hash);
        }
        assert!(history.queue.len <= 10);
    }
}
