//! A cache in miniature: hashes of a sample of the keys under a policy, to see what it would do.

use super::s3_fifo::{Rules, S3Fifo};
use super::{Eviction, Words};
use hashbrown::HashTable;
use std::sync::atomic::AtomicU32;

pub(super) struct Shadow {
    rules: Rules,
    index: HashTable<u32>,
    entries: Entries,
    policy: S3Fifo,
}

struct Entry {
    hash: u32,
    word: AtomicU32,
}

/// By slot. None is ever vacant but between an eviction and the insertion that it is for.
struct Entries(Vec<Entry>);

impl Words for Entries {
    #[inline]
    fn word(&self, slot: u32) -> Option<&AtomicU32> {
        Some(&self.0.get(slot as usize)?.word)
    }

    #[inline]
    fn hash(&self, slot: u32) -> u32 {
        self.0.get(slot as usize).map_or(0, |entry| entry.hash)
    }
}

fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

impl Shadow {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            index: HashTable::new(),
            entries: Entries(Vec::new()),
            policy: S3Fifo::new(rules),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.0.len()
    }

    /// Asks for a key, and inserts it if it is not there, in a cache of so many. Was it there?
    pub(super) fn access(&mut self, hash: u32, capacity: usize) -> bool {
        let Entries(entries) = &self.entries;
        let is_it = |&slot: &u32| entries[slot as usize].hash == hash;
        if let Some(&slot) = self.index.find(spread(hash), is_it) {
            self.policy.touch(slot, &entries[slot as usize].word);
            return true;
        }
        let slot = self.vacate(capacity);
        let Entries(entries) = &mut self.entries;
        entries[slot as usize].hash = hash;
        let hasher = |&slot: &u32| spread(entries[slot as usize].hash);
        self.index.insert_unique(spread(hash), slot, hasher);
        self.policy.insert(slot, &entries[slot as usize].word, hash);
        false
    }

    /// A slot for a new entry.
    fn vacate(&mut self, capacity: usize) -> u32 {
        if self.len() >= capacity {
            if let Some(slot) = self.policy.evict(&self.entries) {
                let hash = spread(self.entries.hash(slot));
                if let Ok(found) = self.index.find_entry(hash, |&other| other == slot) {
                    found.remove();
                }
                return slot;
            }
        }
        let Entries(entries) = &mut self.entries;
        if entries.len() == entries.capacity() {
            entries.reserve(64);
            self.policy.grow(entries.capacity());
        }
        entries.push(Entry {
            hash: 0,
            word: AtomicU32::new(0),
        });
        super::list::as_slot(entries.len() - 1)
    }

    /// Holds none but these any more, and no more than so many. Forgets what it knew of others.
    pub(super) fn retain(&mut self, capacity: usize, keep: impl Fn(u32) -> bool) {
        let hottest_first = self.policy.hottest_first(&self.entries).into_iter();
        let hashes = hottest_first.map(|slot| self.entries.hash(slot));
        let kept: Vec<u32> = hashes.filter(|&hash| keep(hash)).take(capacity).collect();
        *self = Self::new(self.rules);
        for hash in kept.into_iter().rev() {
            self.access(hash, capacity);
        }
    }
}
