//! A sample of the keys of a cache, with the time and class of their last request.

use crate::policy::adaptive::state::ReuseState;
use crate::policy::slot_list::as_slot;
use crate::policy::spread;
use crate::storage::allocated::AllocatedBytes;
use hashbrown::HashTable;

/// The highest number of keys.
const MAX_KEYS: usize = 4_096;
/// The highest number of keys for each entry of the cache, so that a small cache has a small sample.
const KEYS_PER_ENTRY: usize = 16;
/// The lowest of these two limits, so that a very small cache has one that is large enough.
const MIN_KEYS: usize = 1_024;

/// The number of entries of a small cache that are in the sample in the long run.
const SAMPLED_ENTRIES: usize = 128;
/// The part of the keys of a large cache that is in the sample in the long run, as a divisor. Requests for keys in the
/// sample take as much time as some five others.
const MIN_DIVISOR: usize = 8;
/// The number of requests for keys in the sample after which it is reduced to these limits, and the number between two
/// steps of this.
const INITIAL_REQUESTS: usize = 8_192;
const REQUESTS_PER_STEP: usize = 1_024;

/// A key of the sample.
pub(super) struct Key {
    pub(super) hash: u32,
    /// The number of the shard that the key belongs to.
    pub(super) shard: u32,
    /// The state that an entry of the key would have if it were never evicted.
    pub(super) state: ReuseState,
    /// The age up to which it was recorded that the key did not return.
    pub(super) exposed_to: u32,
}

/// A sample of the keys. If there are too many, the part of the keys that is in the sample gets smaller (Waldspurger et
/// al., "Efficient MRC construction with SHARDS", FAST 2015).
pub(super) struct Sample {
    /// The positions in `keys` by hash.
    index: HashTable<u32>,
    keys: Vec<Key>,
    /// The position of the key to visit next.
    hand: usize,
    /// The part of the keys that is in the sample, in units of 2 to the power of -32.
    part: u32,
    max_keys: usize,
    /// The highest part in the long run.
    max_part: u32,
    /// The number of requests until the part may be made smaller.
    until_step: usize,
    /// The tick of each shard's clock at the last request.
    ticks: Box<[u32]>,
}

/// Checks whether a key is in a sample of this part of the keys, in units of 2 to the power of -32.
#[inline]
pub(super) const fn is_in_part(hash: u32, part: u32) -> bool {
    // The low bits of a hash are those of the place in the index, so they are uniformly distributed.
    hash << 8 <= part
}

impl Sample {
    /// Creates an empty sample for a cache with this number of shards.
    pub(super) fn new(shards: usize) -> Self {
        Self {
            index: HashTable::new(),
            keys: Vec::new(),
            hand: 0,
            part: u32::MAX,
            max_keys: MIN_KEYS,
            max_part: u32::MAX,
            until_step: INITIAL_REQUESTS,
            ticks: vec![0; shards].into(),
        }
    }

    /// Sets the number of entries of the cache.
    pub(super) fn set_entries(&mut self, entries: usize) {
        self.max_keys = (entries * KEYS_PER_ENTRY).clamp(MIN_KEYS, MAX_KEYS);
        let divisor = (entries / SAMPLED_ENTRIES).clamp(1, MIN_DIVISOR);
        self.max_part = u32::MAX / as_slot(divisor);
    }

    /// Returns the part of the keys that is in the sample, in units of 2 to the power of -32.
    pub(super) fn part(&self) -> u32 {
        self.part
    }

    /// Counts a request in a shard, in this tick of the shard's clock.
    pub(super) fn count_request(&mut self, shard: u32, tick: u32) {
        self.until_step = self.until_step.saturating_sub(1);
        if self.until_step == 0 && self.part > self.max_part {
            self.until_step = REQUESTS_PER_STEP;
            self.reduce();
        }
        if let Some(last) = self.ticks.get_mut(shard as usize) {
            *last = tick;
        }
    }

    /// Returns the key with this hash.
    pub(super) fn get_mut(&mut self, hash: u32) -> Option<&mut Key> {
        let keys = &mut self.keys;
        let found = self
            .index
            .find(spread(hash), |&at| keys[at as usize].hash == hash);
        found.map(|&at| &mut keys[at as usize])
    }

    /// Adds a key that is not in the sample. Makes the part smaller if there are too many keys.
    pub(super) fn insert(&mut self, key: Key) {
        if self.keys.len() >= self.max_keys {
            self.reduce();
        }
        self.add(key);
    }

    #[allow(clippy::cast_possible_truncation)]
    fn add(&mut self, key: Key) {
        let keys = &self.keys;
        let hasher = |&at: &u32| spread(keys[at as usize].hash);
        self.index
            .insert_unique(spread(key.hash), keys.len() as u32, hasher);
        self.keys.push(key);
    }

    /// Makes the part smaller by a quarter, and removes the keys that are no longer in it.
    #[cold]
    fn reduce(&mut self) {
        self.part -= self.part / 4;
        let part = self.part;
        self.hand = 0;
        self.index.clear();
        let mut kept = std::mem::take(&mut self.keys);
        kept.retain(|key| is_in_part(key.hash, part));
        for key in kept {
            self.add(key);
        }
    }

    /// Removes a key.
    pub(super) fn remove(&mut self, hash: u32) {
        let keys = &self.keys;
        let found = self
            .index
            .find(spread(hash), |&at| keys[at as usize].hash == hash);
        if let Some(&at) = found {
            self.remove_at(at as usize);
        }
    }

    /// Removes the key at a position, to which the last key moves.
    fn remove_at(&mut self, at: usize) {
        self.unindex(at);
        let last = self.keys.len() - 1;
        if at < last {
            let hash = self.keys[last].hash;
            if let Some(moved) = self
                .index
                .find_mut(spread(hash), |&other| other as usize == last)
            {
                #[allow(clippy::cast_possible_truncation)]
                let at = at as u32;
                *moved = at;
            }
        }
        self.keys.swap_remove(at);
    }

    /// Removes the key at a position from the index.
    fn unindex(&mut self, at: usize) {
        let hash = self.keys[at].hash;
        let found = self
            .index
            .find_entry(spread(hash), |&other| other as usize == at);
        found.expect("each key is in the index").remove();
    }

    /// Visits up to `most` keys, all of them in turn, with their ages. Removes those for which `visit` returns `false`.
    pub(super) fn visit(&mut self, most: usize, mut visit: impl FnMut(&mut Key, u32) -> bool) {
        for _ in 0..most {
            if self.hand >= self.keys.len() {
                self.begin_pass();
            }
            let Some(key) = self.keys.get_mut(self.hand) else {
                return;
            };
            let tick = self.ticks.get(key.shard as usize).copied().unwrap_or(0);
            let age = key.state.age(tick);
            if visit(key, age) {
                self.hand += 1;
            } else {
                self.remove_at(self.hand);
            }
        }
    }

    /// Begins to visit all keys again. Makes the part larger if there are few keys.
    fn begin_pass(&mut self) {
        self.hand = 0;
        if self.keys.len() < self.max_keys / 4 {
            self.part = self
                .part
                .saturating_add(self.part / 4)
                .min(self.max_part.max(self.part));
        }
    }
}

impl AllocatedBytes for Sample {
    fn allocated_bytes(&self) -> usize {
        let keys = self.keys.allocated_bytes() + self.index.allocated_bytes();
        keys + self.ticks.allocated_bytes()
    }
}
