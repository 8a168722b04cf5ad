//! S3-FIFO: a small queue that new entries pass through, a main queue, and a ghost queue of the keys that were evicted
//! from the small queue (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023).
//!
//! For [`Adaptive`](crate::policy::adaptive::Adaptive) there are rules that the paper does not have: an admission gate
//! before the main queue, and a small queue of any share. If the small queue has all entries, the policy is CLOCK.

use crate::policy::EvictionPolicy;
use crate::policy::frequency_sketch::FrequencySketch;
use crate::policy::ghost_queue::GhostQueue;
use crate::policy::queues::{MAX_SECOND_CHANCES, Queues, Taken};
use crate::policy::slot_list::as_slot;
use crate::policy::state::{NoOpHits, PolicyStates, Queue, QueueState};
use crate::storage::allocated::AllocatedBytes;
use crate::storage::work_slice::WorkSlice;
use std::sync::atomic::AtomicU32;

const SMALL: Queue = Queue::First;
const MAIN: Queue = Queue::Second;

/// The number of hits from which on an entry of the small queue moves to the main queue.
const PROMOTION_HITS: u32 = 2;
/// The highest lead in requests with which a candidate does not yet displace an entry of the main queue. With a lower
/// one, the keys of a loop would displace each other.
const ADMISSION_MARGIN: u32 = 1;
/// The number of ghosts, in percent of the entries. There are as many as the main queue has entries.
const GHOST_PERCENT: usize = 90;
/// The highest number of entries that an eviction moves to the main queue, if the small queue is much too long.
const MAX_MOVES_PER_EVICTION: usize = 8;

/// The small queue's share, in percent, at which it is the only one. The policy is CLOCK then.
pub(crate) const CLOCK_PERCENT: u32 = 100;

/// The rules of the queues.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    /// The small queue's share of the entries, in percent.
    pub(crate) small_percent: u32,
    /// `true` if there is an admission gate: an entry at the end of the small queue displaces the main queue's victim
    /// only if it was requested more often. There are no ghosts then, because the gate admits keys that return, and the
    /// sketch remembers longer.
    pub(crate) gated: bool,
}

/// The policy of one shard.
pub(crate) struct S3Fifo {
    rules: Rules,
    queues: Queues,
    /// Empty if there is a gate.
    ghosts: GhostQueue,
    /// Empty unless there is a gate.
    sketch: FrequencySketch,
    /// The number of second chances that the eviction in progress has given.
    second_chances: u32,
    /// The number of entries that the eviction in progress has moved to the main queue.
    moved: u32,
}

impl Default for S3Fifo {
    fn default() -> Self {
        Self::new(Rules {
            small_percent: 10,
            gated: false,
        })
    }
}

impl S3Fifo {
    /// Creates a policy without entries.
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            second_chances: 0,
            moved: 0,
            queues: Queues::new(),
            ghosts: GhostQueue::default(),
            sketch: FrequencySketch::default(),
        }
    }

    /// Returns the number of entries.
    pub(crate) fn len(&self) -> u32 {
        self.queues.len()
    }

    /// Discards the ghosts and the counted requests, and sets the size of the ghost queue or of the sketch for
    /// `entries` entries.
    pub(crate) fn reset_history(&mut self, entries: usize) {
        if self.rules.gated {
            self.sketch.resize(entries);
        } else {
            self.ghosts.resize(as_slot(entries * GHOST_PERCENT / 100));
        }
    }

    /// Sets the share of the small queue. Entries move between the queues during later evictions.
    pub(crate) fn set_small_percent(&mut self, percent: u32) {
        self.rules.small_percent = percent;
    }

    /// Checks whether the small queue is the only one.
    fn is_clock(&self) -> bool {
        self.rules.small_percent == CLOCK_PERCENT
    }

    /// Returns the number of entries at which the small queue is full.
    fn small_target(&self) -> u32 {
        let (len, percent) = (self.len(), self.rules.small_percent);
        (len / 100 * percent + len % 100 * percent / 100).max(1)
    }

    /// Removes the first entry of the main queue that was not hit since it was filed or got a second chance.
    fn take_victim<'s>(
        &mut self,
        states: &'s impl PolicyStates,
        work: &mut WorkSlice,
    ) -> Option<Taken<'s>> {
        loop {
            let taken = self.queues.take(MAIN, states, work)?;
            let hits = taken.state.hits();
            if hits == 0 || self.second_chances >= MAX_SECOND_CHANCES {
                self.second_chances = 0;
                return Some(taken);
            }
            self.second_chances += 1;
            if self.rules.gated {
                self.sketch.add(states.hash(taken.slot));
            }
            self.queues.put(&taken, MAIN, hits - 1);
        }
    }

    /// Evicts an entry of the main queue.
    fn evict_main(&mut self, states: &impl PolicyStates, work: &mut WorkSlice) -> Option<u32> {
        Some(self.take_victim(states, work)?.slot)
    }

    /// Removes an entry from the small queue and returns the evicted one, if there is one.
    ///
    /// The entry moves to the main queue, or is evicted, or moves to the main queue whose victim is evicted.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no entry in the queue.
    fn evict_small(
        &mut self,
        states: &impl PolicyStates,
        work: &mut WorkSlice,
    ) -> Result<Option<u32>, Empty> {
        let taken = self.queues.take(SMALL, states, work).ok_or(Empty)?;
        let (hits, hash) = (taken.state.hits(), states.hash(taken.slot));
        if self.rules.gated {
            for _ in 0..hits {
                self.sketch.add(hash);
            }
        }
        if hits >= PROMOTION_HITS {
            self.queues.put(&taken, MAIN, 0);
            return Ok(None);
        }
        // The states of most entries show that they were requested too rarely to displace any other.
        if self.rules.gated && taken.state.admission_frequency() + 1 + hits > ADMISSION_MARGIN {
            if let Some(victim) = self.take_beaten(hash, states, work) {
                self.queues.put(&taken, MAIN, 0);
                return Ok(Some(victim.slot));
            }
            if work.is_used_up() {
                // The victim was not found yet, so a later call compares the two.
                self.queues.put_back(&taken);
                return Ok(None);
            }
        }
        if !self.rules.gated {
            self.ghosts.add(hash);
        }
        Ok(Some(taken.slot))
    }

    /// Removes the main queue's victim if the key of this hash was requested more often. This is the admission gate.
    fn take_beaten<'s>(
        &mut self,
        hash: u32,
        states: &'s impl PolicyStates,
        work: &mut WorkSlice,
    ) -> Option<Taken<'s>> {
        let count = self.sketch.count(hash);
        if count <= ADMISSION_MARGIN {
            return None;
        }
        let victim = self.take_victim(states, work)?;
        if count > self.sketch.count(states.hash(victim.slot)) + ADMISSION_MARGIN {
            return Some(victim);
        }
        self.queues.put_back(&victim);
        None
    }

    /// Evicts the first of all entries that was not hit since it was filed or got a second chance, like CLOCK.
    fn evict_clock(&mut self, states: &impl PolicyStates, work: &mut WorkSlice) -> Option<u32> {
        loop {
            // The main queue has entries only for a while, after the share has changed.
            let taken = self.queues.take(MAIN, states, work);
            let taken = taken.or_else(|| self.queues.take(SMALL, states, work))?;
            let hits = taken.state.hits();
            if hits == 0 || self.second_chances >= MAX_SECOND_CHANCES {
                self.second_chances = 0;
                return Some(taken.slot);
            }
            self.second_chances += 1;
            self.queues.put(&taken, SMALL, 0);
        }
    }

    /// Replaces the victim however many steps the search takes.
    #[inline(never)]
    fn replace_any_victim(
        &mut self,
        states: &impl PolicyStates,
        hash: u32,
        work: &mut WorkSlice,
    ) -> Option<u32> {
        let slot = self.evict(states, work)?;
        self.insert(slot, states.state(slot)?, hash);
        Some(slot)
    }

    /// Moves the first entries of the small queue to the main queue if the small one is much too long. A few move at a
    /// time, so that a smaller share takes effect soon and no entry is evicted for it.
    #[inline]
    fn shorten_small(&mut self, target: u32, states: &impl PolicyStates, work: &mut WorkSlice) {
        let most = target + self.len() / 32 + 1;
        if self.queues.len_of(SMALL) > most {
            self.move_to_main(most, states, work);
        }
    }

    /// Moves up to [`MAX_MOVES_PER_EVICTION`] entries to the main queue, until the small one has no more than `most`.
    #[cold]
    fn move_to_main(&mut self, most: u32, states: &impl PolicyStates, work: &mut WorkSlice) {
        for _ in 0..MAX_MOVES_PER_EVICTION {
            if self.queues.len_of(SMALL) <= most {
                return;
            }
            let Some(taken) = self.queues.take(SMALL, states, work) else {
                return;
            };
            self.queues.put(&taken, MAIN, taken.state.hits());
        }
    }
}

/// The error of a queue without entries: it is empty, or all of its entries are filed in the other queue.
struct Empty;

impl EvictionPolicy for S3Fifo {
    #[inline]
    fn no_op_hits(&self) -> NoOpHits {
        NoOpHits::OF_QUEUES
    }

    #[inline]
    fn on_hit(&self, _: u32, state: &AtomicU32) {
        let before = QueueState::load(state);
        let after = before.after_hit();
        if after != before {
            after.store(state);
        }
    }

    #[inline]
    fn on_write(&mut self, _: &impl PolicyStates, _: &mut WorkSlice) {}

    #[inline]
    fn insert(&mut self, slot: u32, state: &AtomicU32, hash: u32) {
        let (queue, frequency) = if self.is_clock() {
            (SMALL, 0)
        } else if self.rules.gated {
            (SMALL, self.sketch.add(hash))
        } else if self.ghosts.remove(hash) {
            (MAIN, 0)
        } else {
            (SMALL, 0)
        };
        self.queues.insert(queue, slot, state, frequency);
    }

    fn remove(&mut self, state: &AtomicU32, _: u32) {
        self.queues.remove(state);
    }

    fn evict(&mut self, states: &impl PolicyStates, work: &mut WorkSlice) -> Option<u32> {
        if self.is_clock() {
            return self.evict_clock(states, work);
        }
        let small_target = self.small_target();
        if self.rules.gated {
            self.shorten_small(small_target, states, work);
        }
        while self.len() > 0 && !work.is_used_up() {
            // The entry that the caller is about to insert counts too. Otherwise, with a capacity of two, the entry
            // that was promoted just now would be the only candidate.
            let is_small_full = self.queues.len_of(SMALL) >= small_target;
            if !is_small_full || self.moved >= MAX_SECOND_CHANCES {
                if let Some(victim) = self.evict_main(states, work) {
                    self.moved = 0;
                    return Some(victim);
                }
            }
            match self.evict_small(states, work) {
                Ok(None) => self.moved += 1,
                Ok(victim) => {
                    self.moved = 0;
                    return victim;
                }
                // The entries of the small queue are filed in the main queue. If that has no others, `evict_main` files
                // them where they belong.
                Err(Empty) => {
                    if let Some(victim) = self.evict_main(states, work) {
                        return Some(victim);
                    }
                }
            }
        }
        None
    }

    #[inline(always)]
    fn replace_victim(
        &mut self,
        states: &impl PolicyStates,
        hash: u32,
        work: &mut WorkSlice,
    ) -> Option<u32> {
        if self.is_clock() && self.queues.is_empty(MAIN) {
            if let Some(slot) = self.queues.replace_first(SMALL, states, 0) {
                self.second_chances = 0;
                return Some(slot);
            }
        }
        self.replace_any_victim(states, hash, work)
    }

    fn grow(&mut self, slots: usize) {
        self.queues.grow(slots);
        self.reset_history(slots);
    }

    fn step(&mut self, most: usize) -> Option<Vec<u32>> {
        self.queues.step(most)
    }

    fn renumber(&mut self, slots: usize, slot_of: impl Fn(u32) -> Option<u32>) {
        self.queues.renumber(slots, slot_of);
        self.reset_history(slots);
    }

    fn time(&self) -> u32 {
        0
    }

    fn heat(&self, state: &AtomicU32, _: u32) -> i32 {
        QueueState::load(state).heat()
    }

    fn filed_next(&self, slot: u32) -> Option<u32> {
        self.queues.filed_next(slot)
    }

    fn validate(&self, states: &impl PolicyStates) {
        self.queues.validate(states);
    }
}

impl AllocatedBytes for S3Fifo {
    fn allocated_bytes(&self) -> usize {
        let history = self.ghosts.allocated_bytes() + self.sketch.allocated_bytes();
        self.queues.allocated_bytes() + history
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::{States, fill, holds_until_eviction, hottest_first};

    /// Returns a policy with `entries` entries, each of which was hit `hits` times.
    fn filled(rules: Rules, entries: u32, hits: usize) -> (S3Fifo, States) {
        let mut policy = S3Fifo::new(rules);
        let states = fill(&mut policy, entries, hits);
        (policy, states)
    }

    #[test]
    fn eviction_gives_a_bounded_number_of_second_chances() {
        for (small_percent, gated) in [(10, false), (10, true), (95, true), (CLOCK_PERCENT, true)] {
            let rules = Rules {
                small_percent,
                gated,
            };
            let (mut policy, states) = filled(rules, 20_000, 3);
            for _ in 0..3 {
                let victim = policy.evict(&states, &mut WorkSlice::unlimited()).unwrap();
                let passed = states
                    .0
                    .iter()
                    .filter(|state| QueueState::load(state).hits() < 3);
                assert!(passed.count() < 8_000);
                policy.insert(victim, &states.0[victim as usize], states.hash(victim));
                policy.validate(&states);
            }
        }
    }

    #[test]
    fn eviction_ends_after_a_bounded_number_of_holds_if_all_entries_were_hit() {
        for (small_percent, gated) in [(10, false), (10, true), (95, true), (CLOCK_PERCENT, true)] {
            let rules = Rules {
                small_percent,
                gated,
            };
            let (mut policy, states) = filled(rules, 50_000, 3);
            assert!(holds_until_eviction(&mut policy, &states) <= 10);
        }
    }

    #[test]
    fn heat_orders_entries_by_queue_and_hits() {
        let (mut policy, states) = filled(S3Fifo::default().rules, 100, 0);
        for slot in [7, 7, 7, 30, 30, 55] {
            policy.on_hit(slot, &states.0[slot as usize]);
        }
        assert_eq!(hottest_first(&policy, &states, 100)[..4], [7, 30, 55, 99]);
        // Entries that were promoted to the main queue are hotter than the others.
        while policy.evict(&states, &mut WorkSlice::unlimited()).unwrap() < 31 {}
        assert_eq!(hottest_first(&policy, &states, 100)[..3], [30, 7, 55]);
    }
}
