//! CAR, CLOCK with adaptive replacement (Bansal and Modha, FAST 2004). It has a clock of entries that were requested
//! once, a clock of entries that were requested again, and a ghost list of the keys that were evicted from each. A key
//! that returns from a ghost list is evidence that its clock is too small.

use crate::policy::EvictionPolicy;
use crate::policy::ghost_list::GhostList;
use crate::policy::queues::{MAX_SECOND_CHANCES, Queues};
use crate::policy::state::{NoOpHits, PolicyStates, Queue, QueueState};
use crate::storage::allocated::AllocatedBytes;
use crate::storage::work_slice::WorkSlice;
use std::sync::atomic::AtomicU32;

/// The clock of entries that were requested once, T1 in the paper. Its ghost list is B1.
const ONCE: Queue = Queue::First;
/// The clock of entries that were requested again, T2 in the paper. Its ghost list is B2.
const OFTEN: Queue = Queue::Second;

/// The policy of one shard.
pub(crate) struct Car {
    clocks: Queues,
    /// The keys that were evicted from each clock.
    ghosts: [GhostList; 2],
    /// The number of entries at which the clock of those requested once is full.
    once_target: f64,
    /// The number of second chances that the eviction in progress has given.
    second_chances: u32,
}

impl Default for Car {
    fn default() -> Self {
        Self {
            clocks: Queues::new(),
            ghosts: [GhostList::default(), GhostList::default()],
            once_target: 0.0,
            second_chances: 0,
        }
    }
}

impl Car {
    /// Returns the number of keys in the ghost list of a clock.
    fn ghost_len(&self, clock: Queue) -> f64 {
        as_real(self.ghosts[clock as usize].len())
    }

    /// Moves the target because a key returns that was evicted from this clock. As in the paper, the step is greater
    /// the fewer keys are in the ghost list of this clock compared with the other one.
    fn adapt(&mut self, clock: Queue, capacity: f64) {
        let (once, often) = (self.ghost_len(ONCE), self.ghost_len(OFTEN));
        self.once_target = if clock == ONCE {
            (self.once_target + (often / once).max(1.0)).min(capacity)
        } else {
            (self.once_target - (once / often).max(1.0)).max(0.0)
        };
    }

    /// Removes a key from the ghost lists if they are full. Together they have at most as many keys as there are
    /// entries. The clock of entries requested once and its ghost list together have at most as many, too.
    fn trim(&mut self, capacity: usize) {
        let [once, often] = &mut self.ghosts;
        let entries = self.clocks.len() as usize;
        if self.clocks.len_of(ONCE) as usize + once.len() >= capacity {
            once.remove_oldest();
        } else if entries + once.len() + often.len() >= 2 * capacity {
            often.remove_oldest();
        }
    }
}

/// Converts a number of entries to a real number.
#[allow(clippy::cast_precision_loss)]
fn as_real(entries: usize) -> f64 {
    entries as f64
}

impl EvictionPolicy for Car {
    #[inline]
    fn no_op_hits(&self) -> NoOpHits {
        NoOpHits::OF_QUEUES
    }

    #[inline]
    fn on_hit(&self, _: u32, state: &AtomicU32) {
        // CAR distinguishes only entries with and without a hit, so all bits are set at once.
        QueueState::load(state).with_max_hits().store(state);
    }

    #[inline]
    fn on_write(&mut self, _: &impl PolicyStates, _: &mut WorkSlice) {}

    fn insert(&mut self, slot: u32, state: &AtomicU32, hash: u32) {
        // The new entry is included, because another one was evicted for it if there was no room.
        let capacity = self.clocks.len() as usize + 1;
        let returns_to = [ONCE, OFTEN]
            .into_iter()
            .find(|&clock| self.ghosts[clock as usize].contains(hash));
        let clock = if let Some(clock) = returns_to {
            self.adapt(clock, as_real(capacity));
            self.ghosts[clock as usize].remove(hash);
            OFTEN
        } else {
            self.trim(capacity);
            ONCE
        };
        self.clocks.insert(clock, slot, state);
    }

    fn remove(&mut self, state: &AtomicU32, _: u32) {
        self.clocks.remove(state);
    }

    fn evict(&mut self, states: &impl PolicyStates, work: &mut WorkSlice) -> Option<u32> {
        let capacity = self.clocks.len() as usize;
        while self.clocks.len() > 0 && !work.is_used_up() {
            let is_once_full = f64::from(self.clocks.len_of(ONCE)) >= self.once_target.max(1.0);
            let clock = if is_once_full { ONCE } else { OFTEN };
            // If all entries of a clock are filed in the other clock, a search of the other one files them where they
            // belong.
            let other = if is_once_full { OFTEN } else { ONCE };
            let taken = self.clocks.take(clock, states, work);
            let Some(taken) = taken.or_else(|| self.clocks.take(other, states, work)) else {
                continue;
            };
            if taken.state.hits() > 0 && self.second_chances < MAX_SECOND_CHANCES {
                self.second_chances += 1;
                self.clocks.put(&taken, OFTEN, 0);
                continue;
            }
            self.second_chances = 0;
            let ghosts = &mut self.ghosts[taken.state.queue() as usize];
            ghosts.add(states.hash(taken.slot), capacity);
            return Some(taken.slot);
        }
        None
    }

    fn grow(&mut self, slots: usize) {
        self.clocks.grow(slots);
    }

    fn step(&mut self, most: usize) -> Option<Vec<u32>> {
        self.clocks.step(most)
    }

    fn renumber(&mut self, slots: usize, slot_of: impl Fn(u32) -> Option<u32>) {
        self.clocks.renumber(slots, slot_of);
        for ghosts in &mut self.ghosts {
            ghosts.shrink(slots);
        }
    }

    fn time(&self) -> u32 {
        0
    }

    fn heat(&self, state: &AtomicU32, _: u32) -> i32 {
        QueueState::load(state).heat()
    }

    fn filed_next(&self, slot: u32) -> Option<u32> {
        self.clocks.filed_next(slot)
    }

    fn validate(&self, states: &impl PolicyStates) {
        self.clocks.validate(states);
    }
}

impl AllocatedBytes for Car {
    fn allocated_bytes(&self) -> usize {
        let [once, often] = &self.ghosts;
        self.clocks.allocated_bytes() + once.allocated_bytes() + often.allocated_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::{fill, holds_until_eviction};

    #[test]
    fn eviction_ends_after_a_bounded_number_of_holds_if_all_entries_were_hit() {
        let mut policy = Car::default();
        let states = fill(&mut policy, 50_000, 1);
        assert!(holds_until_eviction(&mut policy, &states) <= 10);
    }
}
