//! The merging of generations, if writes begin more of them than evictions end: see the documentation of `lru`.

use crate::policy::lru::{Lru, MAX_GENERATIONS};
use crate::policy::slot_list::List;
use crate::policy::state::PolicyStates;
use crate::storage::work_slice::{SLOTS_PER_HOLD, WorkSlice};
use std::mem::replace;
use std::sync::atomic::Ordering::Relaxed;

/// The number of entries that a write merges during a pass.
pub(super) const MERGED_PER_WRITE: u32 = 8;
/// The number of generations from which on a write merges more entries. So many occur only if most slots are vacant,
/// in a shard that has shrunk very much: its generations are short, and vacant slots have to be merged too.
const FAST_MERGE_GENERATIONS: u32 = 232;
/// The number of entries that a write merges then.
pub(super) const MERGED_PER_WRITE_FAST: u32 = 256;
/// The highest age of a stamp, in writes. Older stamps are set to it, so that the clock may wrap.
const MAX_AGE: u32 = 1 << 31;

// A write that merges also has room for its eviction under the same hold of the lock.
const _: () = assert!(MERGED_PER_WRITE_FAST <= SLOTS_PER_HOLD / 2);

impl Lru {
    /// Begins a pass if there is none, for a number of generations at which there has to be one. Returns `false` if
    /// there is the highest number of them.
    #[cold]
    pub(super) fn has_room_for_generation(&mut self, live: u32) -> bool {
        let has_room = live < MAX_GENERATIONS;
        if self.merges_to.is_none() {
            // The generation that is about to begin is not merged. Without room for it, the newest one is not.
            self.merges_to = Some(self.newest.wrapping_sub(u32::from(!has_room)));
            self.has_merged = true;
        }
        has_room
    }

    /// Merges a few entries if a pass is in progress: see the module's documentation.
    #[cold]
    pub(super) fn merge(&mut self, states: &impl PolicyStates, work: &mut WorkSlice) {
        let Some(to) = self.merges_to else {
            return;
        };
        let steps = if self.live_generations() < FAST_MERGE_GENERATIONS {
            MERGED_PER_WRITE
        } else {
            MERGED_PER_WRITE_FAST
        };
        work.spend(steps);
        for _ in 0..steps {
            if let Some(slot) = self.settled.pop(&mut self.links) {
                self.settle(slot, self.oldest, states);
            } else if to.wrapping_sub(self.oldest) >= MAX_GENERATIONS {
                // The oldest generation is later than `to` by now.
                self.settled = replace(&mut self.merged, List::EMPTY);
                self.merges_to = None;
                return;
            } else if let Some(slot) = self.take(self.oldest) {
                self.settle(slot, self.oldest.wrapping_add(1), states);
            } else {
                self.oldest = self.oldest.wrapping_add(1);
            }
        }
    }

    /// Files a slot that was removed from its list under its stamp, if the stamp belongs to the generation `later` or
    /// after it. Otherwise appends the slot to the merged ones.
    fn settle(&mut self, slot: u32, later: u32, states: &impl PolicyStates) {
        let Some(stored) = states.state(slot) else {
            return;
        };
        let stamp = stored.load(Relaxed);
        if self.is_of_or_after(stamp, later) {
            self.refile(slot, stamp);
            return;
        }
        if self.age(stamp) > MAX_AGE {
            stored.store(self.clock.wrapping_sub(MAX_AGE), Relaxed);
        }
        self.merged.push(slot, &mut self.links);
    }
}
