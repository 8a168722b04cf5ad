//! Miniature caches, which contain hashes of a sample of the keys. They show which of several rules has the most hits.

use crate::policy::s3_fifo::{Rules, S3Fifo};
use crate::policy::slot_list::as_slot;
use crate::policy::{EvictionPolicy, PolicyStates, spread};
use crate::storage::allocated::AllocatedBytes;
use crate::storage::work_slice::WorkSlice;
use hashbrown::HashTable;
use std::sync::atomic::AtomicU32;

/// `N` caches with different rules that get the same requests. They share the index and the slots, because most keys
/// are in most of them.
pub(crate) struct MiniatureCaches<const N: usize> {
    /// The slots of all keys that are in a cache.
    index: HashTable<u32>,
    keys: Vec<Key<N>>,
    /// The slots of `keys` that are in no cache.
    free: Vec<u32>,
    caches: [S3Fifo; N],
}

/// The content of a slot.
struct Key<const N: usize> {
    hash: u32,
    /// A bit for each cache that contains the key.
    holders: u32,
    /// The states of the policies, by cache.
    states: [AtomicU32; N],
}

/// The entries of one of the caches.
struct Entries<'a, const N: usize> {
    keys: &'a [Key<N>],
    cache: usize,
}

impl<const N: usize> PolicyStates for Entries<'_, N> {
    #[inline]
    fn state(&self, slot: u32) -> Option<&AtomicU32> {
        let key = self.keys.get(slot as usize)?;
        (key.holders >> self.cache & 1 == 1).then(|| &key.states[self.cache])
    }

    #[inline]
    fn hash(&self, slot: u32) -> u32 {
        self.keys.get(slot as usize).map_or(0, |key| key.hash)
    }
}

impl<const N: usize> MiniatureCaches<N> {
    /// Creates empty caches, each for about `keys` keys.
    pub(crate) fn new(keys: usize, rules: [Rules; N]) -> Self {
        Self {
            index: HashTable::new(),
            keys: Vec::new(),
            free: Vec::new(),
            caches: rules.map(|rules| {
                let mut cache = S3Fifo::new(rules);
                cache.reset_history(keys);
                cache
            }),
        }
    }

    /// Requests a key in all caches, and inserts it into those that do not contain it. Each has room for `capacity`
    /// keys. Returns a bit for each cache that contained the key.
    pub(crate) fn access(&mut self, hash: u32, capacity: usize) -> u32 {
        let is_it = |&slot: &u32| self.keys[slot as usize].hash == hash;
        let found = self.index.find(spread(hash), is_it).copied();
        let slot = found.unwrap_or_else(|| self.allocate(hash));
        let holders = self.keys[slot as usize].holders;
        for cache in 0..N {
            if holders >> cache & 1 == 0 {
                self.make_room(cache, capacity);
                self.keys[slot as usize].holders |= 1 << cache;
                let state = &self.keys[slot as usize].states[cache];
                self.caches[cache].insert(slot, state, hash);
            } else {
                let state = &self.keys[slot as usize].states[cache];
                self.caches[cache].on_hit(slot, state);
            }
        }
        holders
    }

    /// Returns a slot for a key that is in none of the caches, and adds it to the index.
    fn allocate(&mut self, hash: u32) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| self.add_slot());
        self.keys[slot as usize].hash = hash;
        let hasher = |&slot: &u32| spread(self.keys[slot as usize].hash);
        self.index.insert_unique(spread(hash), slot, hasher);
        slot
    }

    /// Adds a slot and returns it.
    fn add_slot(&mut self) -> u32 {
        if self.keys.len() == self.keys.capacity() {
            self.keys.reserve_exact(64 + self.keys.len() / 8);
        }
        self.keys.push(Key {
            hash: 0,
            holders: 0,
            states: [const { AtomicU32::new(0) }; N],
        });
        as_slot(self.keys.len() - 1)
    }

    /// Makes room for one key in a cache. If the cache has too many keys, evicts one more.
    fn make_room(&mut self, cache: usize, capacity: usize) {
        for _ in 0..2 {
            if self.caches[cache].len() as usize >= capacity {
                self.evict(cache);
            }
        }
    }

    /// Evicts a key of a cache.
    fn evict(&mut self, cache: usize) {
        let keys = &self.keys;
        let work = &mut WorkSlice::unlimited();
        if let Some(victim) = self.caches[cache].evict(&Entries { keys, cache }, work) {
            self.clear_holders(victim, 1 << cache);
        }
    }

    /// Removes a key from all caches.
    pub(crate) fn remove(&mut self, hash: u32) {
        let is_it = |&slot: &u32| self.keys[slot as usize].hash == hash;
        let Some(&slot) = self.index.find(spread(hash), is_it) else {
            return;
        };
        let Key {
            holders, states, ..
        } = &self.keys[slot as usize];
        for (cache, state) in states.iter().enumerate() {
            if holders >> cache & 1 == 1 {
                self.caches[cache].remove(state, hash);
            }
        }
        self.clear_holders(slot, *holders);
    }

    /// Clears the bits of the caches that no longer contain the key of a slot. Frees the slot if none contains it.
    fn clear_holders(&mut self, slot: u32, caches: u32) {
        let key = &mut self.keys[slot as usize];
        key.holders &= !caches;
        if key.holders == 0 {
            let found = self
                .index
                .find_entry(spread(key.hash), |&other| other == slot);
            found.expect("each key is in the index").remove();
            self.free.push(slot);
        }
    }
}

impl<const N: usize> AllocatedBytes for MiniatureCaches<N> {
    fn allocated_bytes(&self) -> usize {
        let slots = self.keys.allocated_bytes() + self.free.allocated_bytes();
        let caches = self.caches.iter().map(S3Fifo::allocated_bytes);
        self.index.allocated_bytes() + slots + caches.sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::adaptive::rules;

    /// Requests keys in a loop that is longer than the caches. CLOCK has no hit, and a main queue has hits on the keys
    /// that it kept.
    #[test]
    fn each_miniature_cache_follows_its_own_rules() {
        let mut caches = MiniatureCaches::new(100, [rules(10), rules(100)]);
        let mut hits = [0; 2];
        for step in 0..30_000_u32 {
            let key = step % 150;
            let had = caches.access(key.wrapping_mul(0x9E37_79B9), 100);
            for (cache, hits) in hits.iter_mut().enumerate() {
                *hits += had >> cache & 1;
            }
        }
        assert_eq!(caches.caches[0].len(), 100);
        (0..75).for_each(|key: u32| caches.remove(key.wrapping_mul(0x9E37_79B9)));
        assert_eq!(caches.index.len() + caches.free.len(), caches.keys.len());
        assert!(caches.index.len() <= 75);
        assert_eq!(hits[1], 0);
        assert!(hits[0] > 15_000, "{hits:?}");
        for cache in 0..2 {
            let keys = &caches.keys;
            caches.caches[cache].validate(&Entries { keys, cache });
        }
    }
}
