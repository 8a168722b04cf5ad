//! How a shard parts with all of its entries, or with the memory that they do not need.

use crate::clock::Nanos;
use crate::local::budget::Budget;
use crate::local::removal::{RemovalCause, Removals, Removed};
use crate::local::shard::expiry::Expiry;
use crate::local::shard::metadata::Extras;
use crate::local::shard::read_times::Ages;
use crate::local::shard::slab::Slab;
use crate::local::shard::{Entry, Shard};
use crate::policy::{AnyPolicy, EvictionPolicy};
use crate::storage::index::Index;
use std::mem::{replace, take};
use std::sync::atomic::Ordering::Relaxed;

/// A shard with more slots than this frees its memory when its last entry is removed.
const MOST_SLOTS_KEPT: u32 = 1_024;
/// Memory for fewer unused slots than this is not worth moving anything.
const LEAST_SLOTS_FREED: usize = 64;

/// Everything that a shard has beside its settings and counters.
struct Storage<K, V> {
    slab: Slab<Entry<K, V>>,
    extras: Option<Box<Extras>>,
    _index: Index<u32>,
    _policy: AnyPolicy,
    _expiry: Expiry,
    _ages: Option<Ages>,
}

/// The entries of a shard that was cleared. Listing and dropping them takes a time in proportion to their
/// number, and no lock.
pub(crate) struct Cleared<K, V>(Storage<K, V>);

/// How many of the entries that were cleared had been dead before.
#[derive(Default, PartialEq)]
pub(crate) struct FoundDead {
    expired: u64,
    invalidated: u64,
}

impl<K, V> Shard<K, V> {
    fn take_storage(&mut self) -> Storage<K, V> {
        let policy = self.policy.emptied();
        self.grows = false;
        Storage {
            slab: replace(&mut self.slab, Slab::new()),
            extras: replace(&mut self.extras, self.setup.extras()),
            _index: take(&mut self.index),
            _policy: replace(&mut self.policy, policy),
            _expiry: replace(&mut self.expiry, Expiry::new(self.setup.grace)),
            _ages: replace(&mut self.ages, self.setup.ages.then(Ages::new)),
        }
    }

    /// Removes all entries with their memory, and counts all of them as cleared.
    pub(crate) fn clear(&mut self, budget: &Budget) -> Cleared<K, V> {
        budget.release(self.total_weight());
        self.removals[RemovalCause::Cleared as usize] += self.len();
        Cleared(self.take_storage())
    }

    /// Counts entries that were cleared under the cause that they had been removed for if they had been found
    /// before.
    pub(crate) fn recount(&mut self, dead: &FoundDead) {
        self.removals[RemovalCause::Cleared as usize] -= dead.expired + dead.invalidated;
        self.removals[RemovalCause::Expired as usize] += dead.expired;
        self.removals[RemovalCause::Invalidated as usize] += dead.invalidated;
    }

    /// Frees the memory of a shard whose last entry has been removed, if it has many slots. Otherwise a call that lists
    /// the entries would visit all slots that were ever in use.
    #[inline]
    pub(super) fn release_if_empty(&mut self, out: &mut Removals<'_, K, V>) {
        if self.slab.len() == 0 && self.slab.end() > MOST_SLOTS_KEPT {
            out.retire(Box::new(self.take_storage()));
        }
    }

    /// Frees the memory that the entries do not need, if it is worth it. All entries are moved, which takes a
    /// time in proportion to their number and to that of the slots.
    pub(crate) fn shrink(&mut self, out: &mut Removals<'_, K, V>) {
        let len = self.slab.len() as usize;
        if self.slab.capacity() == 0 {
            return;
        }
        if len == 0 {
            out.retire(Box::new(self.take_storage()));
            return;
        }
        let room = len + len / 64 + 1;
        if self.slab.capacity() < room + room / 8 + LEAST_SLOTS_FREED && !self.grows {
            return;
        }
        let occupied: Vec<u32> = self.slab.iter().map(|(slot, _)| slot).collect();
        self.renumber(&occupied, room, out);
    }

    /// Moves the entries of these slots, which are all that are occupied, to the first ones of as many as
    /// `room`.
    fn renumber(&mut self, occupied: &[u32], room: usize, out: &mut Removals<'_, K, V>) {
        self.renumberings = self.renumberings.wrapping_add(1);
        let mut numbers = vec![None; self.slab.end() as usize];
        for (to, &from) in (0..).zip(occupied) {
            numbers[from as usize] = Some(to);
        }
        self.policy.renumber(room, |slot| numbers[slot as usize]);
        let slab = self.slab.select(occupied, room);
        out.retire(Box::new(replace(&mut self.slab, slab)));
        if let Some(extras) = &mut self.extras {
            extras.select(occupied, room);
        }
        if let Some(ages) = &mut self.ages {
            ages.read_at = ages.read_at.select(occupied, room);
        }
        let mut index = Index::with_capacity(room);
        self.expiry.restart(self.slab.end());
        for (slot, entry) in self.slab.iter() {
            index.insert(entry.hash.canonical(), slot, self.slab.hash_of());
            self.expiry.set(slot, entry.deadline.load(Relaxed));
        }
        out.retire(Box::new(replace(&mut self.index, index)));
        self.grows = false;
    }
}

impl<K, V> Cleared<K, V> {
    /// Moves all entries to `out`, and returns how many of them had been dead before.
    pub(crate) fn remove_all(mut self, now: Nanos, out: &mut Removals<'_, K, V>) -> FoundDead {
        let mut dead = FoundDead::default();
        let Storage { slab, extras, .. } = &mut self.0;
        for slot in 0..slab.end() {
            let Some(entry) = slab.remove(slot) else {
                continue;
            };
            let extras = extras.as_ref();
            let cause = if extras.is_some_and(|extras| !extras.is_current(slot)) {
                dead.invalidated += 1;
                RemovalCause::Invalidated
            } else if entry.deadline.load(Relaxed) <= now {
                dead.expired += 1;
                RemovalCause::Expired
            } else {
                RemovalCause::Cleared
            };
            let Entry { key, value, .. } = entry;
            out.push(Removed { key, value, cause });
        }
        dead
    }
}
