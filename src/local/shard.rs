//! One shard: index, slots, policy and expiry behind `&mut self`. It knows no lock, no flight and
//! no user callback; what it removes it hands out, to be dropped outside the lock.
//!
//! Of user code only `Eq` of keys runs here, and always before anything is changed, so a panic in
//! it changes nothing.

use crate::clock::{NEVER, Nanos};
use crate::local::budget::{Budget, Reservation};
use crate::local::expiry::{Expiry, SLOTS_PER_WRITE};
use crate::local::extras::{Extra, Extras};
use crate::local::hash::{KeyHash, StoredHash};
use crate::local::policy::{Lru, Policy, Words};
use crate::local::removal::{RemovalCause, Removals, Removed};
use crate::local::renewal::Rules;
use crate::local::slab::Slab;
use crate::local::tags::Tagged;
use crate::stats::Stats;
use equivalent::Equivalent;
use hashbrown::HashTable;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed},
};

/// A shard with this many entries evicts, whatever the budget: more, and its index might grow to
/// more positions than a [`StoredHash`] tells apart.
pub(crate) const MAX_ENTRIES: u32 = (1 << StoredHash::POSITION_BITS) / 16 * 7;

/// Aligned so that a small one lies on one cache line.
#[repr(align(32))]
struct Entry<K, V> {
    key: K,
    value: V,
    /// First moment at which it is no longer served. Hits move it where entries idle.
    deadline: AtomicU64,
    /// The policy's.
    word: AtomicU32,
    hash: StoredHash,
}

/// An entry to be stored.
pub(crate) struct NewEntry<K, V> {
    pub(crate) hash: KeyHash,
    pub(crate) key: K,
    pub(crate) value: V,
    pub(crate) deadline: Nanos,
    pub(crate) extra: Extra,
}

/// What a shard is set up with.
pub(crate) struct Setup {
    pub(crate) weighted: bool,
    pub(crate) time_to_idle: Option<Nanos>,
    /// How long entries are kept past their deadline.
    pub(crate) grace: Nanos,
    pub(crate) renewal: Option<Rules>,
    /// Raised when a tag is invalidated.
    pub(crate) tag_epoch: Arc<AtomicU64>,
}

/// What a hit reads comes first, to lie on few cache lines.
#[repr(C)]
pub(crate) struct Shard<K, V, P = Lru> {
    index: HashTable<u32>,
    slab: Slab<Entry<K, V>>,
    policy: P,
    expiry: Expiry,
    extras: Extras,
    counts: WriteCounts,
    tag_epoch: Arc<AtomicU64>,
    /// The tags' epoch when the sweep last set out.
    swept_epoch: u64,
}

/// Counted under the lock that a write holds anyway.
#[derive(Default)]
struct WriteCounts {
    inserts: u64,
    /// By [`RemovalCause`].
    removals: [u64; 6],
}

impl<K, V> Words for Slab<Entry<K, V>> {
    #[inline]
    fn word(&self, slot: u32) -> &AtomicU32 {
        &self
            .get(slot)
            .expect("the policy knows occupied slots")
            .word
    }
}

impl<K, V, P: Policy> Shard<K, V, P> {
    pub(crate) fn new(setup: Setup) -> Self {
        Self {
            index: HashTable::new(),
            slab: Slab::new(),
            policy: P::default(),
            expiry: Expiry::new(setup.time_to_idle, setup.grace),
            extras: Extras::new(setup.weighted, setup.renewal),
            counts: WriteCounts::default(),
            tag_epoch: setup.tag_epoch,
            swept_epoch: 0,
        }
    }

    pub(crate) fn len(&self) -> u64 {
        self.slab.len().into()
    }

    #[inline]
    fn find<Q>(&self, hash: KeyHash, key: &Q) -> Option<(u32, &Entry<K, V>)>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let is_it = |&slot: &u32| {
            let entry = self.slab.get(slot);
            entry.is_some_and(|entry| key.equivalent(&entry.key))
        };
        let slot = *self.index.find(hash.0, is_it)?;
        Some((slot, self.slab.get(slot)?))
    }

    /// A live value and its slot, as a hit: the policy and idle deadlines take note.
    #[inline(always)]
    pub(crate) fn hit<Q>(
        &self,
        hash: KeyHash,
        key: &Q,
        now: impl FnOnce() -> Nanos,
    ) -> Option<(u32, &V)>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let (slot, entry) = self.find(hash, key)?;
        let deadline = entry.deadline.load(Relaxed);
        if deadline != NEVER {
            let now = now();
            if now >= deadline {
                return None;
            }
            self.expiry.touch(slot, &entry.deadline, now);
        }
        if !self.extras.is_current(slot) {
            return None;
        }
        self.policy.touch(&entry.word);
        Some((slot, &entry.value))
    }

    /// Is the caller, who has hit this slot, to renew it?
    #[inline]
    pub(crate) fn claim_renewal(&self, slot: u32, now: impl FnOnce() -> Nanos) -> bool {
        let Some(renewals) = &self.extras.renewals else {
            return false;
        };
        let entry = self.slab.get(slot);
        entry.is_some_and(|entry| renewals.claim(slot, entry.deadline.load(Relaxed), now()))
    }

    /// A live value and its deadline; nothing takes note.
    pub(crate) fn peek<Q>(
        &self,
        hash: KeyHash,
        key: &Q,
        now: impl FnOnce() -> Nanos,
    ) -> Option<(&V, Nanos)>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let (slot, entry) = self.find(hash, key)?;
        let deadline = entry.deadline.load(Relaxed);
        let is_live = (deadline == NEVER || now() < deadline) && self.extras.is_current(slot);
        is_live.then_some((&entry.value, deadline))
    }

    /// As [`peek`](Self::peek), with the entry's tags.
    pub(crate) fn peek_tagged<Q>(
        &self,
        hash: KeyHash,
        key: &Q,
        now: impl FnOnce() -> Nanos,
    ) -> Option<(&V, Option<&Tagged>)>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let (value, _) = self.peek(hash, key, now)?;
        let (slot, _) = self.find(hash, key)?;
        Some((value, self.extras.tags(slot)))
    }

    /// A load of this key has failed.
    pub(crate) fn load_failed<Q>(&self, hash: KeyHash, key: &Q, now: Nanos)
    where
        Q: Equivalent<K> + ?Sized,
    {
        if let (Some(renewals), Some((slot, _))) = (&self.extras.renewals, self.find(hash, key)) {
            renewals.failed(slot, now);
        }
    }

    /// A value that may serve in place of a load that has failed lately, and whether it is alive.
    pub(crate) fn stale<Q>(&self, hash: KeyHash, key: &Q, now: Nanos) -> Option<(&V, bool)>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let renewals = self.extras.renewals.as_ref()?;
        let (slot, entry) = self.find(hash, key)?;
        let deadline = entry.deadline.load(Relaxed);
        let serves = self.extras.is_current(slot)
            && renewals.may_serve(deadline, now)
            && renewals.is_throttled(slot, now);
        serves.then_some((&entry.value, now < deadline))
    }

    /// Stores an entry, taking `new`, or leaves it there and returns `false` if this shard has no
    /// more to evict and the budget is still short.
    pub(crate) fn insert(
        &mut self,
        new: &mut Option<NewEntry<K, V>>,
        room: &mut Reservation<'_>,
        now: Nanos,
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
        self.policy.before_write(&self.slab);
        if let Some(slot) = held {
            room.add(self.extras.weight(slot));
            if room.reach(weight) {
                room.spend(weight);
                self.replace(slot, new, now, out);
                self.sweep(SLOTS_PER_WRITE, now, |freed| room.add(freed), out);
                return true;
            }
            // Heavier than what it replaces: the old one goes first, then others.
            self.take_out(slot, RemovalCause::Replaced, now, out);
        }
        self.sweep(SLOTS_PER_WRITE, now, |freed| room.add(freed), out);
        while self.slab.len() >= MAX_ENTRIES || !room.reach(weight) {
            match self.evict(now, out) {
                Some(freed) => room.add(freed),
                None => return false,
            }
        }
        room.spend(weight);
        self.fill(new, now);
        true
    }

    /// Puts a new key and value into an occupied slot.
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
        let deadline = self.expiry.first_deadline(now, new.deadline);
        *entry.deadline.get_mut() = deadline;
        let old = Removed {
            key: std::mem::replace(&mut entry.key, new.key),
            value: std::mem::replace(&mut entry.value, new.value),
            cause,
        };
        self.policy.touch(&entry.word);
        self.expiry.set(slot, new.deadline, deadline);
        self.set_extra(slot, new.extra, now);
        self.counts.inserts += 1;
        self.count_out(old, out);
    }

    /// Puts a new entry into a free slot.
    fn fill(&mut self, new: &mut Option<NewEntry<K, V>>, now: Nanos) {
        let Some(new) = new.take() else { return };
        let deadline = self.expiry.first_deadline(now, new.deadline);
        let slot = self.slab.insert(Entry {
            key: new.key,
            value: new.value,
            deadline: AtomicU64::new(deadline),
            word: AtomicU32::new(0),
            hash: StoredHash::new(new.hash),
        });
        let slab = &self.slab;
        self.index.insert_unique(new.hash.0, slot, |&slot| {
            slab.get(slot).map_or(0, |entry| entry.hash.restore())
        });
        self.policy.insert(slot, &self.slab);
        self.expiry.set(slot, new.deadline, deadline);
        self.set_extra(slot, new.extra, now);
        self.counts.inserts += 1;
    }

    fn set_extra(&mut self, slot: u32, extra: Extra, now: Nanos) {
        self.extras.set(slot, extra, now);
        if !self.extras.is_current(slot) {
            // Its tag was invalidated just now, which the sweep may have noted before.
            self.expiry.search(self.slab.end());
        }
    }

    /// Takes a key out, and says whether it was there. The cause is `Expired` if it was past its
    /// deadline. Sweeps.
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
        self.policy.before_write(&self.slab);
        budget.release(self.extras.weight(slot));
        self.take_out(slot, cause, now, out);
        self.sweep(SLOTS_PER_WRITE, now, |freed| budget.release(freed), out);
        true
    }

    /// Evicts the policy's victim and returns what it weighed.
    pub(crate) fn evict(&mut self, now: Nanos, out: &mut Removals<'_, K, V>) -> Option<u64> {
        let victim = self.policy.victim(&self.slab)?;
        let weight = self.extras.weight(victim);
        self.take_out(victim, RemovalCause::Evicted, now, out);
        Some(weight)
    }

    /// Looks at the next `slots` slots and takes out those past their deadline and those whose tags
    /// were invalidated, calling `freed` with what each weighed. Returns `false` once there can be
    /// no more of them.
    pub(crate) fn sweep(
        &mut self,
        slots: u32,
        now: Nanos,
        mut freed: impl FnMut(u64),
        out: &mut Removals<'_, K, V>,
    ) -> bool {
        // The release is `Tags::invalidate`'s.
        let epoch = self.tag_epoch.load(Acquire);
        if epoch != self.swept_epoch && self.extras.has_tags() {
            self.swept_epoch = epoch;
            self.expiry.search(self.slab.end());
        }
        for _ in 0..slots {
            let Some(slot) = self.expiry.next(now, self.slab.end()) else {
                return false;
            };
            let Some(entry) = self.slab.get(slot) else {
                continue;
            };
            let deadline = entry.deadline.load(Relaxed);
            if self.expiry.is_over(deadline, now) || !self.extras.is_current(slot) {
                freed(self.extras.weight(slot));
                self.take_out(slot, RemovalCause::Expired, now, out);
            } else {
                self.expiry.passed(deadline);
            }
        }
        true
    }

    /// How many slots a sweep goes over in a round.
    pub(crate) fn slots(&self) -> u32 {
        self.slab.end()
    }

    /// Takes everything out.
    pub(crate) fn clear(&mut self, budget: &Budget, now: Nanos, out: &mut Removals<'_, K, V>) {
        self.policy.before_write(&self.slab);
        for slot in 0..self.slab.end() {
            if self.slab.get(slot).is_some() {
                budget.release(self.extras.weight(slot));
                self.take_out(slot, RemovalCause::Cleared, now, out);
            }
        }
    }

    /// Unhooks an entry from everything; its weight is the caller's to account for.
    fn take_out(
        &mut self,
        slot: u32,
        cause: RemovalCause,
        now: Nanos,
        out: &mut Removals<'_, K, V>,
    ) {
        let cause = self.cause(slot, cause, now);
        let Some(entry) = self.slab.remove(slot) else {
            return;
        };
        self.extras.clear(slot);
        let found = self
            .index
            .find_entry(entry.hash.restore(), |&other| other == slot);
        found.expect("each occupied slot is in the index").remove();
        self.policy.remove(slot);
        let removed = Removed {
            key: entry.key,
            value: entry.value,
            cause,
        };
        self.count_out(removed, out);
    }

    /// Why an entry leaves: `cause`, unless it was dead already.
    fn cause(&self, slot: u32, cause: RemovalCause, now: Nanos) -> RemovalCause {
        let entry = self.slab.get(slot);
        if !self.extras.is_current(slot) {
            RemovalCause::Invalidated
        } else if entry.is_some_and(|entry| entry.deadline.load(Relaxed) <= now) {
            RemovalCause::Expired
        } else {
            cause
        }
    }

    fn count_out(&mut self, removed: Removed<K, V>, out: &mut Removals<'_, K, V>) {
        self.counts.removals[removed.cause as usize] += 1;
        out.push(removed);
    }

    /// Live entries, the last to be evicted first.
    pub(crate) fn hottest_first(&self, now: Nanos) -> impl Iterator<Item = (&K, &V)> {
        let slots = self.policy.hottest_first(&self.slab).into_iter();
        let current = slots.filter(|&slot| self.extras.is_current(slot));
        let entries = current.filter_map(|slot| self.slab.get(slot));
        entries
            .filter(move |entry| now < entry.deadline.load(Relaxed))
            .map(|entry| (&entry.key, &entry.value))
    }

    /// Adds what this shard holds and has counted.
    pub(crate) fn add_to(&self, stats: &mut Stats) {
        let [replaced, removed, expired, evicted, cleared, invalidated] = self.counts.removals;
        stats.inserts += self.counts.inserts;
        stats.replaced += replaced;
        stats.removed += removed;
        stats.expired += expired;
        stats.evicted += evicted;
        stats.cleared += cleared;
        stats.invalidated += invalidated;
        stats.entries += self.len();
    }

    /// Checks everything that holds between writes, and returns the weight held.
    ///
    /// # Panics
    ///
    /// If something does not hold.
    pub(crate) fn validate(&self) -> u64 {
        assert_eq!(self.index.len(), self.slab.len() as usize);
        for &slot in &self.index {
            assert!(self.slab.get(slot).is_some(), "slot {slot} is vacant");
        }
        for (slot, entry) in self.slab.iter() {
            let bits = entry.hash.restore();
            assert!(self.index.find(bits, |&other| other == slot).is_some());
        }
        self.policy.validate(&self.slab);
        let deadlines = self.slab.iter();
        self.expiry
            .validate(deadlines.map(|(slot, entry)| (slot, entry.deadline.load(Relaxed))));
        let removals: u64 = self.counts.removals.iter().sum();
        assert_eq!(self.counts.inserts - removals, self.len());
        self.slab
            .iter()
            .map(|(slot, _)| self.extras.weight(slot))
            .sum()
    }
}
