//! The search for an entry that is worth little.

use crate::policy::adaptive::state::ReuseState;
use crate::policy::adaptive::values::ValueTable;
use crate::policy::state::PolicyStates;
use crate::storage::work_slice::WorkSlice;

/// The number of entries that an eviction looks at, on average, besides the one that was inserted last. With four, the
/// hit ratio on traces was 0.2 points lower, and with twelve 0.2 points higher.
const MEAN_LOOKS: i32 = 6;
/// The highest number of entries that an eviction looks at.
const MAX_LOOKS: i32 = 16;
/// The number of vacant slots after which an eviction takes the best entry that it has found.
const MAX_VACANT_SLOTS: u32 = 64;
/// The number of vacant slots that take as much time as one step of other work. They are next to each other in memory.
const VACANT_SLOTS_PER_WORK: u32 = 64;
/// The change of the threshold for each entry that an eviction has looked at more or less than on average.
const THRESHOLD_STEP: i32 = ValueTable::UNITS_PER_DOUBLING / 64;
/// A value above that of all entries.
const NO_VALUE: i32 = i32::MAX;

/// The state of the searches in a shard.
#[derive(Clone, Copy, Default)]
pub(super) struct Search {
    /// The slot that is looked at next.
    pub(super) hand: u32,
    /// One more than the highest slot in use.
    pub(super) end: u32,
    /// The slot that was filled last.
    pub(super) newest: u32,
    /// The value up to which an entry is evicted at once. It follows the values of entries such that a search looks at
    /// [`MEAN_LOOKS`] entries on average.
    pub(super) threshold: i32,
}

impl Search {
    /// Returns the slot of an entry that is worth little, and the slot and threshold with which the next search begins.
    /// There is at least one entry. Returns a vacant slot if the work was used up before an entry was found.
    #[inline(always)]
    pub(super) fn run(
        mut self,
        states: &impl PolicyStates,
        work: &mut WorkSlice,
        value: impl Fn(u32, ReuseState) -> i32,
    ) -> (u32, u32, i32) {
        let (mut victim, mut least) = (self.newest, NO_VALUE);
        if let Some(state) = states.state(victim) {
            least = value(victim, ReuseState::load(state));
        }
        let (mut looks, mut vacant) = (0, 0);
        while least > self.threshold && looks < MAX_LOOKS {
            let slot = self.hand;
            self.hand = if slot + 1 < self.end { slot + 1 } else { 0 };
            let Some(state) = states.state(slot) else {
                vacant += 1;
                if ends_after_vacant_slots(vacant, least, work) {
                    break;
                }
                continue;
            };
            looks += 1;
            let value = value(slot, ReuseState::load(state));
            if value < least {
                (victim, least) = (slot, value);
            }
        }
        // If new entries are worth the least, most of them are evicted without a look at others. These are then few, but
        // not none, so that the threshold follows the values.
        if looks == 0 {
            self.threshold -= THRESHOLD_STEP;
        } else {
            work.spend(looks.unsigned_abs());
            self.threshold += (looks - MEAN_LOOKS) * THRESHOLD_STEP;
        }
        (victim, self.hand, self.threshold)
    }
}

/// Counts a vacant slot, and checks whether the search ends: because something was found after many vacant slots, or
/// because the work is used up.
#[cold]
fn ends_after_vacant_slots(vacant: u32, least: i32, work: &mut WorkSlice) -> bool {
    if vacant % VACANT_SLOTS_PER_WORK == 0 {
        work.spend(1);
    }
    (vacant >= MAX_VACANT_SLOTS && least < NO_VALUE) || work.is_used_up()
}
