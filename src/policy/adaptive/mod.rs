//! Evicts the entry whose next request is least worth waiting for, as learned from when keys were requested again.
//!
//! The state of an entry has a coarse stamp of its last request, and its *class*: how often the key was requested before,
//! and with which gaps. A sample of the keys shows at which ages the keys of each class return. From this follows the
//! *value* of keeping an entry, by its class and age: the expected hits for the time that the entry takes up room, until
//! the end that makes this rate the highest. Values are kept in a table that all shards share. They begin such that the
//! policy is close to LRU. (Beckmann, Chen and Cidon, "LHD: Improving Cache Hit Rate by Maximizing Hit Density", NSDI
//! 2018; Song, Berger, Li and Lloyd, "Learning Relaxed Belady for Content Distribution Network Caching", NSDI 2020; Zhou
//! et al., "3L-Cache: Low Overhead and Precise Learning-based Eviction Policy for Caches", FAST 2025.)
//!
//! An eviction looks at the entry that was inserted last and then at consecutive slots, until it finds an entry that is
//! worth no more than a threshold, or has seen a few. The threshold follows the values such that about six entries
//! are seen on average. There are no queues, so entries have no links. Keys that were evicted are remembered with the time
//! and class of their last request, for two and a half times the number of entries.
//!
//! The clock of a shard counts requests that move an entry: insertions, and the first hit on an entry in each tick of the
//! clock. Other hits change nothing (compare the correlated references of `Clock2Q+`, arXiv 2511.21958). A clock that
//! counts insertions alone would tick more slowly when more requests are hits. The gaps of a loop would then depend on
//! the hit ratio, and it had 0.2 points less on traces.

mod age;
mod bounds;
mod ghost_table;
mod learner;
mod recent_hits;
mod reuse;
mod sample;
mod search;
mod state;
mod values;

pub(crate) use crate::policy::adaptive::reuse::ReuseModel;

use crate::policy::EvictionPolicy;
use crate::policy::adaptive::age::TICKS_PER_CAPACITY;
use crate::policy::adaptive::bounds::{TickDuration, value_within};
use crate::policy::adaptive::ghost_table::GhostTable;
use crate::policy::adaptive::recent_hits::RecentHits;
use crate::policy::adaptive::search::Search;
use crate::policy::adaptive::state::{Class, ReuseState};
use crate::policy::slot_list::as_slot;
use crate::policy::state::{NoOpHits, PolicyStates};
use crate::storage::allocated::AllocatedBytes;
use crate::storage::work_slice::WorkSlice;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

/// The policy of one shard.
pub(crate) struct Adaptive {
    /// The tick of the shard's clock.
    tick: u32,
    /// The number of entries that were moved in the current tick.
    moved: u32,
    /// The number of entries that are moved in a tick.
    tick_len: u32,
    /// The number of entries.
    len: u32,
    /// The number of slots.
    slots: usize,
    search: Search,
    /// Measured only if entries have weights or deadlines.
    tick_duration: TickDuration,
    /// The number of the shard.
    shard: u32,
    ghosts: GhostTable,
    model: Arc<ReuseModel>,
    hits: RecentHits,
}

impl Adaptive {
    /// Creates the policy of a shard without entries.
    pub(crate) fn new(model: Arc<ReuseModel>, shard: usize) -> Self {
        Self {
            tick: 0,
            moved: 0,
            tick_len: 1,
            len: 0,
            slots: 0,
            search: Search::default(),
            tick_duration: TickDuration::default(),
            shard: as_slot(shard),
            ghosts: GhostTable::default(),
            model,
            hits: RecentHits::new(),
        }
    }

    /// Returns a policy without entries for the same shard. The clock continues, because the model has stamps of it.
    pub(crate) fn emptied(&self) -> Self {
        self.model.resize_shard(self.slots, 0);
        Self {
            tick: self.tick,
            ..Self::new(Arc::clone(&self.model), self.shard as usize)
        }
    }

    /// Sets the number of slots, and discards what is remembered about evicted entries.
    fn set_slots(&mut self, slots: usize) {
        self.tick_len = (as_slot(slots) / TICKS_PER_CAPACITY).max(1);
        self.ghosts.resize(slots);
        self.model.resize_shard(self.slots, slots);
        self.slots = slots;
    }

    /// Passes the recorded hits to the model.
    #[cold]
    fn observe_hits(&mut self, states: &impl PolicyStates) {
        let Some(mut observer) = self.model.try_observe() else {
            self.hits.discard_slots();
            return;
        };
        for slot in self.hits.take_observed() {
            // The entry may have been removed meanwhile, or its key may no longer be observed.
            let Some(state) = states.state(slot) else {
                continue;
            };
            let hash = states.hash(slot);
            let before = ReuseState::load(state);
            if self.model.observes(hash) {
                observer.request(hash, self.shard, self.tick, before.class());
            } else {
                before.unsampled().store(state);
            }
        }
    }

    /// Passes the insertion of an entry to the model.
    #[cold]
    fn observe_insertion(&self, state: &AtomicU32, hash: u32, class: Class) {
        ReuseState::new(self.tick, class, true).store(state);
        if let Some(mut observer) = self.model.try_observe() {
            observer.request(hash, self.shard, self.tick, class);
        }
    }

    /// Counts the hits since the last write, and advances the clock.
    #[inline(always)]
    fn begin_write(&mut self, states: &impl PolicyStates) {
        if !self.hits.is_empty() {
            self.record_hits(states);
        }
        if self.moved >= self.tick_len {
            self.advance();
        }
    }

    /// Counts the recorded hits, and passes them to the model.
    #[inline(never)]
    fn record_hits(&mut self, states: &impl PolicyStates) {
        if self.hits.has_observed() {
            self.observe_hits(states);
        }
        self.moved += self.hits.take_count();
    }

    /// Advances the clock.
    #[cold]
    fn advance(&mut self) {
        self.tick = self.tick.wrapping_add(self.moved / self.tick_len);
        self.moved %= self.tick_len;
    }

    /// Returns the slot of an entry that is worth little. Returns `None` if there is none, or perhaps a vacant slot if the
    /// work was used up before an entry was found.
    #[inline(always)]
    fn find_victim(&mut self, states: &impl PolicyStates, work: &mut WorkSlice) -> Option<u32> {
        if self.len == 0 {
            return None;
        }
        if let Some(now) = states.now() {
            return Some(self.find_bounded_victim(states, now, work));
        }
        let (values, tick) = (self.model.values(), self.tick);
        let value = |_, state| values.value(state, tick);
        let victim;
        (victim, self.search.hand, self.search.threshold) = self.search.run(states, work, value);
        Some(victim)
    }

    /// Returns a slot like [`find_victim`](Self::find_victim), for entries that have weights or deadlines.
    #[inline(never)]
    fn find_bounded_victim(
        &mut self,
        states: &impl PolicyStates,
        now: u64,
        work: &mut WorkSlice,
    ) -> u32 {
        let (values, tick, duration) = (self.model.values(), self.tick, &mut self.tick_duration);
        duration.measure(tick, now);
        let value = |slot, state| value_within(states.bounds(slot), values, state, tick, duration);
        let victim;
        (victim, self.search.hand, self.search.threshold) = self.search.run(states, work, value);
        victim
    }
}

impl Adaptive {
    /// Remembers the key of an entry that is evicted.
    #[inline(always)]
    fn remember(&mut self, state: &AtomicU32, hash: u32) {
        let state = ReuseState::load(state);
        self.ghosts.add(hash, state.stamp(), state.class());
    }

    /// Sets the state of a new entry in a slot.
    #[inline(always)]
    fn fill(&mut self, slot: u32, state: &AtomicU32, hash: u32) {
        let ghost = self.ghosts.take(hash, self.tick);
        let class = ghost.map_or(Class::FIRST, |ghost| ghost.class.after_return(ghost.age));
        ReuseState::new(self.tick, class, false).store(state);
        if self.model.observes(hash) {
            self.observe_insertion(state, hash, class);
        }
        self.search.newest = slot;
        // The clock advances at the next write, with the no-op hits.
        self.moved += 1;
    }
}

impl EvictionPolicy for Adaptive {
    #[inline]
    fn no_op_hits(&self) -> NoOpHits {
        ReuseState::no_op_hits(self.tick)
    }

    fn on_hit(&self, slot: u32, state: &AtomicU32) {
        let before = ReuseState::load(state);
        let age = before.age(self.tick);
        if age > 0 {
            before.after_return(self.tick, age).store(state);
            self.hits.add(slot, before.is_sampled());
        }
    }

    // Not inlined, so that a write with another policy has the registers to itself.
    #[inline(never)]
    fn on_write(&mut self, states: &impl PolicyStates, _: &mut WorkSlice) {
        self.begin_write(states);
    }

    fn insert(&mut self, slot: u32, state: &AtomicU32, hash: u32) {
        self.search.end = self.search.end.max(slot + 1);
        self.len += 1;
        self.fill(slot, state, hash);
    }

    fn remove(&mut self, state: &AtomicU32, hash: u32) {
        self.len -= 1;
        if ReuseState::load(state).is_sampled() {
            if let Some(mut observer) = self.model.try_observe() {
                observer.remove(hash, self.shard);
            }
        }
    }

    fn evict(&mut self, states: &impl PolicyStates, work: &mut WorkSlice) -> Option<u32> {
        let victim = self.find_victim(states, work)?;
        self.remember(states.state(victim)?, states.hash(victim));
        self.len -= 1;
        Some(victim)
    }

    /// Replaces a victim like the provided method, with one access to its entry.
    #[inline(always)]
    fn replace_victim(
        &mut self,
        states: &impl PolicyStates,
        hash: u32,
        work: &mut WorkSlice,
    ) -> Option<u32> {
        self.begin_write(states);
        let victim = self.find_victim(states, work)?;
        let state = states.state(victim)?;
        self.remember(state, states.hash(victim));
        self.fill(victim, state, hash);
        Some(victim)
    }

    fn grow(&mut self, slots: usize) {
        self.set_slots(slots);
    }

    fn step(&mut self, _: usize) -> Option<Vec<u32>> {
        None
    }

    fn renumber(&mut self, slots: usize, slot_of: impl Fn(u32) -> Option<u32>) {
        self.set_slots(slots);
        self.hits.discard_slots();
        // The entries have the first slots now.
        self.search = Search {
            hand: 0,
            end: self.len,
            newest: slot_of(self.search.newest).unwrap_or(0),
            ..self.search
        };
    }

    fn time(&self) -> u32 {
        self.tick
    }

    fn heat(&self, state: &AtomicU32, since: u32) -> i32 {
        self.model.values().value_at(ReuseState::load(state), since)
    }

    fn filed_next(&self, _: u32) -> Option<u32> {
        None
    }

    fn validate(&self, states: &impl PolicyStates) {
        let occupied = (0..self.search.end).filter(|&slot| states.state(slot).is_some());
        assert_eq!(occupied.count(), self.len as usize);
        assert!(states.state(self.search.end).is_none());
    }
}

impl AllocatedBytes for Adaptive {
    fn allocated_bytes(&self) -> usize {
        // The model is counted once for all shards.
        let model = if self.shard == 0 {
            self.model.allocated_bytes()
        } else {
            0
        };
        self.ghosts.allocated_bytes() + model
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::{States, fill, hash, hottest_first};

    fn policy() -> Adaptive {
        Adaptive::new(Arc::new(ReuseModel::new(1)), 0)
    }

    /// Replaces the victim by a new entry with this hash, and returns its slot.
    fn replace(policy: &mut Adaptive, states: &States, hash: u32) -> u32 {
        let work = &mut WorkSlice::new();
        let slot = policy.replace_victim(states, hash, work);
        slot.unwrap()
    }

    #[test]
    fn victim_is_found_among_vacant_slots_however_many_holds_that_takes() {
        let mut policy = policy();
        let states = fill(&mut policy, 50_000, 0);
        let left = crate::policy::tests::Sparse {
            states,
            only: 40_000,
        };
        for slot in (0..50_000).filter(|&slot| slot != 40_000) {
            policy.remove(left.states.state(slot).unwrap(), 0);
        }
        policy.validate(&left);
        let holds = crate::policy::tests::holds_until_eviction(&mut policy, &left);
        assert!(holds <= 2, "{holds}");
        assert_eq!(policy.evict(&left, &mut WorkSlice::new()), None);
    }

    #[test]
    fn old_entries_are_evicted_before_those_that_were_hit() {
        let mut policy = policy();
        let states = fill(&mut policy, 1_000, 0);
        let is_hot = |slot: u32| slot % 2 == 0;
        for new in 0..400 {
            for slot in (0..1_000).filter(|&slot| is_hot(slot)) {
                policy.on_hit(slot, &states.0[slot as usize]);
            }
            let slot = replace(&mut policy, &states, hash(10_000 + new));
            assert!(!is_hot(slot), "{slot} at {new}");
        }
        policy.validate(&states);
        let hottest = hottest_first(&policy, &states, 1_000);
        assert!(hottest[..500].iter().filter(|&&slot| is_hot(slot)).count() > 400);
    }

    #[test]
    fn repeated_hit_in_a_tick_changes_nothing() {
        let mut policy = policy();
        let states = fill(&mut policy, 1_000, 0);
        (0..100).for_each(|new| {
            replace(&mut policy, &states, hash(10_000 + new));
        });
        let state = &states.0[500];
        let before = ReuseState::load(state);
        policy.on_hit(500, state);
        let once = ReuseState::load(state);
        assert_ne!(once, before);
        policy.on_hit(500, state);
        assert_eq!(ReuseState::load(state), once);
        assert!(policy.no_op_hits().is_no_op_hit(state));
    }

    #[test]
    fn emptied_policy_keeps_the_clock_and_what_was_learned() {
        let mut policy = policy();
        let states = fill(&mut policy, 1_000, 0);
        (0..1_000).for_each(|new| {
            replace(&mut policy, &states, hash(10_000 + new));
        });
        let emptied = policy.emptied();
        assert_eq!((emptied.time(), emptied.len), (policy.time(), 0));
        assert!(Arc::ptr_eq(&emptied.model, &policy.model));
    }
}
