//! The removal of dead entries, and eviction.

use crate::clock::{NEVER, Nanos};
use crate::local::removal::{RemovalCause, Removals};
use crate::local::shard::Shard;
use crate::local::shard::entry::BoundedEntries;
use crate::local::shard::expiry::SLOTS_PER_BLOCK;
use crate::local::shard::metadata::MetadataTable;
use crate::policy::EvictionPolicy;
use crate::storage::work_slice::WorkSlice;
use std::sync::atomic::Ordering::{Acquire, Relaxed};

/// The number of blocks that an eviction searches for dead entries before it evicts a live one.
const BLOCKS_PER_EVICTION: u32 = 16;

impl<K, V> Shard<K, V> {
    /// Removes dead entries, or evicts one if none is found, and returns the weight that was freed. Returns `None` if
    /// there is no entry, or if the work was used up before one was found.
    pub(crate) fn evict(
        &mut self,
        now: Nanos,
        work: &mut WorkSlice,
        out: &mut Removals<'_, K, V>,
    ) -> Option<u64> {
        if self.expiry.is_due(now) {
            let mut freed = 0;
            for _ in 0..BLOCKS_PER_EVICTION {
                let more = self.sweep(1, now, |weight| freed += weight, work, out);
                if freed > 0 {
                    return Some(freed);
                }
                if !more {
                    break;
                }
            }
        }
        let victim = self.policy_victim(now, work)?;
        let weight = self.weight(victim);
        self.unlink(victim, RemovalCause::Evicted, now, out);
        self.release_if_empty(out);
        Some(weight)
    }

    /// Returns the slot that the policy has chosen for the caller to vacate: see [`EvictionPolicy::evict`].
    #[inline]
    pub(super) fn policy_victim(&mut self, now: Nanos, work: &mut WorkSlice) -> Option<u32> {
        let metadata = self.metadata.as_deref();
        let has_weights = metadata.is_some_and(MetadataTable::has_weights);
        if !has_weights && !self.expiry.has_deadlines() {
            return self.policy.evict(&self.slab, work);
        }
        let entries = BoundedEntries {
            slab: &self.slab,
            metadata,
            now,
        };
        self.policy.evict(&entries, work)
    }

    /// Searches up to `blocks` blocks of slots for entries that are past their deadline or have an invalidated tag.
    /// Removes them, and calls `freed` with the weight of each. Returns whether there may be more of them.
    #[inline]
    pub(crate) fn sweep(
        &mut self,
        blocks: u32,
        now: Nanos,
        freed: impl FnMut(u64),
        work: &mut WorkSlice,
        out: &mut Removals<'_, K, V>,
    ) -> bool {
        if self.metadata.is_some() {
            self.search_for_invalidated();
        }
        self.expiry.is_due(now) && self.sweep_due(blocks, now, freed, work, out)
    }

    /// Begins a search of all slots, if a tag was invalidated since the last one began.
    #[cold]
    fn search_for_invalidated(&mut self) {
        // Pairs with the release in `Tags::raise_epoch`.
        let epoch = self.setup.tag_epoch.load(Acquire);
        let has_invalidations = self
            .metadata
            .as_ref()
            .is_some_and(|metadata| metadata.has_invalidations());
        if epoch != self.searched_epoch && has_invalidations {
            self.searched_epoch = epoch;
            self.expiry.search_all(self.slab.end());
        }
    }

    /// Searches blocks that are due: see [`sweep`](Self::sweep).
    #[cold]
    fn sweep_due(
        &mut self,
        blocks: u32,
        now: Nanos,
        mut freed: impl FnMut(u64),
        work: &mut WorkSlice,
        out: &mut Removals<'_, K, V>,
    ) -> bool {
        for _ in 0..blocks {
            let Some(slots) = self.expiry.due(now) else {
                break;
            };
            work.spend(SLOTS_PER_BLOCK);
            let mut soonest = NEVER;
            for slot in slots.clone() {
                let Some(entry) = self.slab.get(slot) else {
                    continue;
                };
                let deadline = entry.deadline.load(Relaxed);
                if self.expiry.is_over(deadline, now) || self.is_never_served_again(slot) {
                    freed(self.weight(slot));
                    self.remove_slot(slot, RemovalCause::Expired, now, out);
                } else {
                    soonest = soonest.min(deadline);
                }
            }
            self.expiry.raise(&slots, soonest);
        }
        self.release_if_empty(out);
        self.expiry.is_due(now)
    }

    /// Checks whether an entry is never served again, whatever its deadline is.
    fn is_never_served_again(&self, slot: u32) -> bool {
        let metadata = self.metadata.as_ref();
        let invalidated = metadata.is_some_and(|metadata| metadata.is_tag_invalidated(slot));
        // An entry that was invalidated by its epoch may serve when a load fails.
        invalidated || self.setup.grace == 0 && !self.is_current(slot)
    }

    /// Returns the number of blocks of slots.
    pub(crate) fn blocks(&self) -> u32 {
        self.slab.end().div_ceil(SLOTS_PER_BLOCK)
    }
}
