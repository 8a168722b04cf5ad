//! S3-FIFO: a small queue that new entries pass through, a main queue, and a ghost queue of the keys that were evicted
//! from the small queue (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023).

use crate::policy::EvictionPolicy;
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
/// The number of ghosts, in percent of the entries. There are as many as the main queue has entries.
const GHOST_PERCENT: usize = 90;
/// The small queue's share of the entries, in percent.
const SMALL_PERCENT: u32 = 10;

/// The policy of one shard.
pub(crate) struct S3Fifo {
    queues: Queues,
    ghosts: GhostQueue,
    /// The number of second chances that the eviction in progress has given.
    second_chances: u32,
    /// The number of entries that the eviction in progress has moved to the main queue.
    moved: u32,
}

impl Default for S3Fifo {
    fn default() -> Self {
        Self {
            queues: Queues::new(),
            ghosts: GhostQueue::default(),
            second_chances: 0,
            moved: 0,
        }
    }
}

impl S3Fifo {
    /// Returns the number of entries.
    pub(crate) fn len(&self) -> u32 {
        self.queues.len()
    }

    /// Discards the ghosts, and sets the size of the ghost queue for `entries` entries.
    fn reset_history(&mut self, entries: usize) {
        self.ghosts.resize(as_slot(entries * GHOST_PERCENT / 100));
    }

    /// Returns the number of entries at which the small queue is full.
    fn small_target(&self) -> u32 {
        let len = self.len();
        (len / 100 * SMALL_PERCENT + len % 100 * SMALL_PERCENT / 100).max(1)
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
            self.queues.put(&taken, MAIN, hits - 1);
        }
    }

    /// Evicts an entry of the main queue.
    fn evict_main(&mut self, states: &impl PolicyStates, work: &mut WorkSlice) -> Option<u32> {
        Some(self.take_victim(states, work)?.slot)
    }

    /// Removes an entry from the small queue, which is evicted or moves to the main queue. Returns the evicted one.
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
        if taken.state.hits() >= PROMOTION_HITS {
            self.queues.put(&taken, MAIN, 0);
            return Ok(None);
        }
        self.ghosts.add(states.hash(taken.slot));
        Ok(Some(taken.slot))
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
        let returns = self.ghosts.remove(hash);
        let queue = if returns { MAIN } else { SMALL };
        self.queues.insert(queue, slot, state);
    }

    fn remove(&mut self, state: &AtomicU32, _: u32) {
        self.queues.remove(state);
    }

    fn evict(&mut self, states: &impl PolicyStates, work: &mut WorkSlice) -> Option<u32> {
        let small_target = self.small_target();
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
        self.queues.allocated_bytes() + self.ghosts.allocated_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::{States, fill, holds_until_eviction, hottest_first};

    /// Returns a policy with `entries` entries, each of which was hit `hits` times.
    fn filled(entries: u32, hits: usize) -> (S3Fifo, States) {
        let mut policy = S3Fifo::default();
        let states = fill(&mut policy, entries, hits);
        (policy, states)
    }

    #[test]
    fn eviction_gives_a_bounded_number_of_second_chances() {
        let (mut policy, states) = filled(20_000, 3);
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

    #[test]
    fn eviction_ends_after_a_bounded_number_of_holds_if_all_entries_were_hit() {
        let (mut policy, states) = filled(50_000, 3);
        assert!(holds_until_eviction(&mut policy, &states) <= 10);
    }

    #[test]
    fn heat_orders_entries_by_queue_and_hits() {
        let (mut policy, states) = filled(100, 0);
        for slot in [7, 7, 7, 30, 30, 55] {
            policy.on_hit(slot, &states.0[slot as usize]);
        }
        assert_eq!(hottest_first(&policy, &states, 100)[..4], [7, 30, 55, 99]);
        // Entries that were promoted to the main queue are hotter than the others.
        while policy.evict(&states, &mut WorkSlice::unlimited()).unwrap() < 31 {}
        assert_eq!(hottest_first(&policy, &states, 100)[..3], [30, 7, 55]);
    }
}
