//! The operations of a shard under its exclusive lock.

use crate::clock::{NEVER, Nanos};
use crate::local::budget::{Budget, Reservation};
use crate::local::removal::{RemovalCause, Removals, Removed};
use crate::local::shard::expiry::BLOCK;
use crate::local::shard::hash::{KeyHash, StoredHash};
use crate::local::shard::metadata::{Extra, Extras};
use crate::local::shard::{Entry, MAX_ENTRIES, NewEntry, Shard};
use crate::policy::EvictionPolicy;
use crate::storage::work_slice::WorkSlice;
use equivalent::Equivalent;
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed},
};

/// The number of blocks of 32 slots that a write searches for expired entries, if there may be any.
const BLOCKS_PER_WRITE: u32 = 2;
/// The number of blocks that it searches before it evicts a live entry.
const BLOCKS_PER_EVICTION: u32 = 16;

impl<K, V> Shard<K, V> {
    /// Stores an entry, takes it from `new` and returns `true`. Leaves it in `new` and returns `false` if there is
    /// still too little room, and the work is used up or this shard has no more entries to evict.
    pub(crate) fn insert(
        &mut self,
        new: &mut Option<NewEntry<K, V>>,
        room: &mut Reservation<'_>,
        now: Nanos,
        work: &mut WorkSlice,
        out: &mut Removals<'_, K, V>,
    ) -> bool
    where
        K: Eq,
    {
        let Some(NewEntry {
            hash, key, extra, ..
        }) = new
        else {
            return true;
        };
        let (held, weight) = (self.find(*hash, key).map(|(slot, _)| slot), extra.weight);
        self.policy.on_write(&self.slab, work);
        if let Some(slot) = held {
            room.add(self.weight(slot));
            if room.reach(weight) {
                room.spend(weight);
                self.replace(slot, new, now, out);
                self.sweep(BLOCKS_PER_WRITE, now, |freed| room.add(freed), work, out);
                return true;
            }
            // The new entry is heavier than the old one, which is removed before others are evicted.
            self.take_out(slot, RemovalCause::Replaced, now, out);
        }
        let is_plain = self.extras.is_none() && extra.origin.tags.is_none();
        self.sweep(BLOCKS_PER_WRITE, now, |freed| room.add(freed), work, out);
        while self.slab.len() >= MAX_ENTRIES || !room.reach(weight) {
            if work.is_used_up() {
                return false;
            }
            if is_plain && !self.expiry.is_due(now) {
                // All entries weigh the same, so the victim leaves room for this one.
                return self.recycle(new, now, work, out);
            }
            match self.evict(now, work, out) {
                Some(freed) => room.add(freed),
                None => return false,
            }
        }
        room.spend(weight);
        self.fill(new, now, work, out);
        true
    }

    /// Replaces the key and the value in an occupied slot.
    fn replace(
        &mut self,
        slot: u32,
        new: &mut Option<NewEntry<K, V>>,
        now: Nanos,
        out: &mut Removals<'_, K, V>,
    ) {
        let cause = self.cause(slot, RemovalCause::Replaced, now);
        let (Some(entry), Some(new)) = (self.slab.get_mut(slot), new.take()) else {
            return;
        };
        let old = Removed {
            key: std::mem::replace(&mut entry.key, new.key),
            value: std::mem::replace(&mut entry.value, new.value),
            cause,
        };
        self.policy.on_hit(slot, &entry.policy_state);
        self.note(slot, new.extra, new.deadline, now);
        self.count_out(old, out);
    }

    /// Inserts an entry into a free slot.
    pub(super) fn fill(
        &mut self,
        new: &mut Option<NewEntry<K, V>>,
        now: Nanos,
        work: &mut WorkSlice,
        out: &mut Removals<'_, K, V>,
    ) {
        let Some(new) = new.take() else { return };
        self.make_room(work, out);
        debug_assert!(self.slab.has_room(), "it is full before it has grown");
        let slot = self.slab.insert(Entry {
            key: new.key,
            value: new.value,
            deadline: AtomicU64::new(new.deadline),
            policy_state: AtomicU32::new(0),
            hash: StoredHash::new(new.hash),
        });
        self.enter_in_index(new.hash, slot);
        let Some(entry) = self.slab.get_mut(slot) else {
            return;
        };
        self.policy
            .insert(slot, &entry.policy_state, entry.hash.bits());
        self.note(slot, new.extra, new.deadline, now);
    }

    /// Replaces the policy's victim by a new entry, and returns `false` if there is none.
    ///
    /// The effect is that of [`evict`](Self::evict) and [`fill`](Self::fill), for shards whose entries have no
    /// metadata.
    #[inline(always)]
    fn recycle(
        &mut self,
        new: &mut Option<NewEntry<K, V>>,
        now: Nanos,
        work: &mut WorkSlice,
        out: &mut Removals<'_, K, V>,
    ) -> bool {
        self.go_on_growing(work, out);
        let Some(slot) = self.policy.evict(&self.slab, work) else {
            return false;
        };
        let (Some(entry), Some(new)) = (self.slab.get_mut(slot), new.take()) else {
            return false;
        };
        let old_hash = std::mem::replace(&mut entry.hash, StoredHash::new(new.hash));
        let old_deadline = std::mem::replace(entry.deadline.get_mut(), new.deadline);
        let old = Removed {
            key: std::mem::replace(&mut entry.key, new.key),
            value: std::mem::replace(&mut entry.value, new.value),
            cause: if old_deadline <= now {
                RemovalCause::Expired
            } else {
                RemovalCause::Evicted
            },
        };
        self.policy
            .insert(slot, &entry.policy_state, entry.hash.bits());
        self.unindex(old_hash, slot);
        self.enter_in_index(new.hash, slot);
        self.expiry.set(slot, new.deadline);
        self.note_age(slot, new.extra.origin.age, now);
        self.inserts += 1;
        self.count_out(old, out);
        true
    }

    /// Adds a slot to the index.
    #[inline]
    fn enter_in_index(&mut self, hash: KeyHash, slot: u32) {
        if self.index.is_full() {
            self.grow_index();
        }
        self.index
            .insert(hash.canonical(), slot, self.slab.hash_of());
    }

    /// Removes a slot from the index.
    #[inline]
    fn unindex(&mut self, hash: StoredHash, slot: u32) {
        let found = self.index.remove(hash.canonical(), |&other| other == slot);
        assert!(found, "each occupied slot is in the index");
    }

    /// Stores the age of a value, if the cache knows ages.
    #[inline]
    fn note_age(&mut self, slot: u32, age: Nanos, now: Nanos) {
        if let Some(ages) = &mut self.ages {
            ages.set(slot, now, age);
        }
    }

    /// Stores the metadata and the deadline of a new entry, which does not live past `limit`.
    #[inline]
    fn note(&mut self, slot: u32, extra: Extra, limit: Nanos, now: Nanos) {
        self.note_age(slot, extra.origin.age, now);
        let deadline = self.set_extra(slot, extra, limit, now);
        if let Some(entry) = self.slab.get_mut(slot) {
            *entry.deadline.get_mut() = deadline;
        }
        self.expiry.set(slot, deadline);
        self.inserts += 1;
    }

    /// Stores the optional metadata of a new entry, and returns its first deadline.
    #[inline]
    fn set_extra(&mut self, slot: u32, extra: Extra, limit: Nanos, now: Nanos) -> Nanos {
        if self.extras.is_none() {
            if extra.origin.tags.is_none() {
                return limit;
            }
            self.extras = Some(Box::new(Extras::new(self.setup.kinds, None)));
        }
        self.set_extras(slot, extra, limit, now)
    }

    /// Stores the optional metadata of a new entry in a shard that has some, and returns its first deadline.
    #[cold]
    fn set_extras(&mut self, slot: u32, extra: Extra, limit: Nanos, now: Nanos) -> Nanos {
        let Some(extras) = &mut self.extras else {
            return limit;
        };
        let deadline = extras.set(slot, extra, limit, now);
        if !extras.is_current(slot) {
            // One of its tags was invalidated just now, and the sweep may have searched for that already.
            self.expiry.search_all(self.slab.end());
        }
        deadline
    }

    /// Removes the entry of a key, and returns whether there was one. If it was dead, it is counted as such and not
    /// under `cause`. Also removes some other dead entries.
    pub(crate) fn remove<Q>(
        &mut self,
        hash: KeyHash,
        key: &Q,
        cause: RemovalCause,
        budget: &Budget,
        now: Nanos,
        out: &mut Removals<'_, K, V>,
    ) -> bool
    where
        Q: Equivalent<K> + ?Sized,
    {
        let Some((slot, _)) = self.find(hash, key) else {
            return false;
        };
        let work = &mut WorkSlice::new();
        self.policy.on_write(&self.slab, work);
        self.go_on_growing(work, out);
        budget.release(self.weight(slot));
        self.take_out(slot, cause, now, out);
        self.sweep(
            BLOCKS_PER_WRITE,
            now,
            |freed| budget.release(freed),
            work,
            out,
        );
        self.release_if_empty(out);
        true
    }

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
        let victim = self.policy.evict(&self.slab, work)?;
        let weight = self.weight(victim);
        self.unhook(victim, RemovalCause::Evicted, now, out);
        self.release_if_empty(out);
        Some(weight)
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
        if self.extras.is_some() {
            self.search_for_invalidated();
        }
        self.expiry.is_due(now) && self.sweep_due(blocks, now, freed, work, out)
    }

    /// Begins a search of all slots, if a tag was invalidated since the last one began.
    #[cold]
    fn search_for_invalidated(&mut self) {
        // Pairs with the release in `Tags::invalidate`.
        let epoch = self.setup.tag_epoch.load(Acquire);
        let may_die = self.extras.as_ref().is_some_and(|extras| extras.may_die());
        if epoch != self.swept_epoch && may_die {
            self.swept_epoch = epoch;
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
            work.spend(BLOCK);
            let mut soonest = NEVER;
            for slot in slots.clone() {
                let Some(entry) = self.slab.get(slot) else {
                    continue;
                };
                let deadline = entry.deadline.load(Relaxed);
                if self.expiry.is_over(deadline, now) || self.is_of_no_use(slot) {
                    freed(self.weight(slot));
                    self.take_out(slot, RemovalCause::Expired, now, out);
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
    fn is_of_no_use(&self, slot: u32) -> bool {
        let extras = self.extras.as_ref();
        let invalidated = extras.is_some_and(|extras| extras.is_invalidated(slot));
        // An entry that was forgotten may serve when a load fails.
        invalidated || self.setup.grace == 0 && !self.is_current(slot)
    }

    /// Returns the number of blocks of slots.
    pub(crate) fn blocks(&self) -> u32 {
        self.slab.end().div_ceil(BLOCK)
    }

    /// Removes an entry that the policy did not choose. The caller accounts for its weight.
    fn take_out(
        &mut self,
        slot: u32,
        cause: RemovalCause,
        now: Nanos,
        out: &mut Removals<'_, K, V>,
    ) {
        if let Some(entry) = self.slab.get(slot) {
            self.policy.remove(&entry.policy_state, entry.hash.bits());
        }
        self.unhook(slot, cause, now, out);
    }

    /// Removes an entry from everything except the policy.
    #[inline]
    fn unhook(&mut self, slot: u32, cause: RemovalCause, now: Nanos, out: &mut Removals<'_, K, V>) {
        let cause = self.cause(slot, cause, now);
        let Some(entry) = self.slab.remove(slot) else {
            return;
        };
        if let Some(extras) = &mut self.extras {
            extras.clear(slot);
        }
        self.unindex(entry.hash, slot);
        let removed = Removed {
            key: entry.key,
            value: entry.value,
            cause,
        };
        self.count_out(removed, out);
    }

    /// Returns the cause under which an entry is removed: `cause`, unless it was dead already.
    fn cause(&self, slot: u32, cause: RemovalCause, now: Nanos) -> RemovalCause {
        let entry = self.slab.get(slot);
        if !self.is_current(slot) {
            RemovalCause::Invalidated
        } else if entry.is_some_and(|entry| entry.deadline.load(Relaxed) <= now) {
            RemovalCause::Expired
        } else {
            cause
        }
    }

    /// Counts a removal by its cause, and adds the entry to `out`.
    #[inline]
    fn count_out(&mut self, removed: Removed<K, V>, out: &mut Removals<'_, K, V>) {
        // The most frequent cause is not counted, so that a write touches one cache line less.
        if removed.cause != RemovalCause::Evicted {
            self.removals[removed.cause as usize] += 1;
        }
        out.push(removed);
    }
}
