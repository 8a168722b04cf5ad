//! Keys that left a while ago, exactly, in the order in which they did.

use super::spread;
use hashbrown::HashTable;
use std::collections::VecDeque;

/// A queue of hashes that each may be taken out of. It takes about 15 bytes a hash.
#[derive(Default)]
pub(super) struct History {
    /// What was added, with what has been taken out since.
    queue: VecDeque<u32>,
    /// The number of the first in the queue.
    first: u32,
    /// What is there: hashes, and their numbers in the queue.
    numbers: HashTable<(u32, u32)>,
}

impl History {
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    pub(super) fn contains(&self, hash: u32) -> bool {
        let is_it = |&(other, _): &(u32, u32)| other == hash;
        self.numbers.find(spread(hash), is_it).is_some()
    }

    /// Takes a hash out, and says whether it was there.
    pub(super) fn take(&mut self, hash: u32) -> bool {
        let is_it = |&(other, _): &(u32, u32)| other == hash;
        let found = self.numbers.find_entry(spread(hash), is_it);
        found
            .map(hashbrown::hash_table::OccupiedEntry::remove)
            .is_ok()
    }

    /// Adds a hash as the latest, and forgets the oldest beyond so many.
    #[allow(clippy::cast_possible_truncation)]
    pub(super) fn add(&mut self, hash: u32, most: usize) {
        self.take(hash);
        let number = self.first.wrapping_add(self.queue.len() as u32);
        self.queue.push_back(hash);
        let hasher = |&(other, _): &(u32, u32)| spread(other);
        self.numbers
            .insert_unique(spread(hash), (hash, number), hasher);
        // Of what was taken out no more is kept than of what is there.
        while self.len() > most || self.queue.len() > 2 * most {
            self.forget_oldest();
        }
    }

    pub(super) fn forget_oldest(&mut self) {
        while let Some(hash) = self.queue.pop_front() {
            let oldest = (hash, self.first);
            self.first = self.first.wrapping_add(1);
            if let Ok(found) = self
                .numbers
                .find_entry(spread(hash), |&other| other == oldest)
            {
                found.remove();
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
        assert!(history.queue.len() <= 10);
    }
}
