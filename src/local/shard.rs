//! One shard: index, slots, policy and expiry behind `&mut self`. It knows no lock, no flight and
//! no user callback; what it removes it hands out, to be dropped outside the lock.
//!
//! Of user code only `Eq` of keys runs here, and always before anything is changed, so a panic in
//! it changes nothing.

use crate::clock::{NEVER, Nanos, TimeSource};
use crate::local::budget::{Budget, Reservation};
use crate::local::expiry::{BLOCK, Expiry};
use crate::local::extras::{Extra, Extras, Kinds};
use crate::local::hash::{KeyHash, StoredHash};
use crate::local::policy::{Lru, Policy, Words};
use crate::local::removal::{RemovalCause, Removals, Removed};
use crate::local::renewal::Renewals;
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

/// How many entries a shard has room for at first.
const FIRST_ROOM: usize = 16;

/// How many blocks of 32 slots a write looks at while something may have expired there.
const BLOCKS_PER_WRITE: u32 = 2;
/// How many it looks at before it evicts something alive.
const BLOCKS_PER_EVICTION: u32 = 16;

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
    /// How many entries it is likely to hold at most; 0 if nobody knows.
    pub(crate) expected: usize,
    pub(crate) kinds: Kinds,
    /// How long entries are kept past their deadline.
    pub(crate) grace: Nanos,
    /// Raised when a tag is invalidated.
    pub(crate) tag_epoch: Arc<AtomicU64>,
}

/// The time of a hit: read ahead of the look-up, or 0 if it is to be read when it is needed.
#[derive(Clone, Copy)]
pub(crate) struct Times<'a> {
    pub(crate) ahead: Nanos,
    pub(crate) clock: &'a TimeSource,
}

impl Times<'_> {
    #[inline]
    pub(crate) fn now(self) -> Nanos {
        match self.ahead {
            0 => self.clock.now(),
            ahead => ahead,
        }
    }

    /// Where it was not read ahead: is it this late?
    #[inline]
    fn are_after(self, deadline: Nanos) -> bool {
        self.ahead == 0 && deadline <= self.clock.now()
    }
}

/// In the order of use: what every hit reads and few writes change, what every write changes, what
/// is seldom needed.
#[repr(C)]
pub(crate) struct Shard<K, V, P = Lru> {
    index: HashTable<u32>,
    slab: Slab<Entry<K, V>>,
    extras: Option<Box<Extras>>,
    inserts: u64,
    policy: P,
    expiry: Expiry,
    /// By [`RemovalCause`]; evictions are what is missing.
    removals: [u64; 6],
    setup: Setup,
    /// The tags' epoch when the sweep last set out.
    swept_epoch: u64,
}

impl<K, V> Words for Slab<Entry<K, V>> {
    #[inline]
    fn word(&self, slot: u32) -> Option<&AtomicU32> {
        Some(&self.get(slot)?.word)
    }
}

impl<K, V, P: Policy> Shard<K, V, P> {
    pub(crate) fn new(setup: Setup) -> Self {
        let kinds = setup.kinds;
        Self {
            index: HashTable::new(),
            slab: Slab::new(),
            extras: (!kinds.is_empty()).then(|| Box::new(Extras::new(kinds))),
            inserts: 0,
            policy: P::default(),
            expiry: Expiry::new(setup.grace),
            removals: [0; 6],
            setup,
            swept_epoch: 0,
        }
    }

    pub(crate) fn len(&self) -> u64 {
        self.slab.len().into()
    }

    #[inline(always)]
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
    pub(crate) fn hit<Q>(&self, hash: KeyHash, key: &Q, times: Times<'_>) -> Option<(u32, &V)>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let (slot, entry) = self.find(hash, key)?;
        let deadline = entry.deadline.load(Relaxed);
        if deadline <= times.ahead || deadline != NEVER && times.are_after(deadline) {
            return None;
        }
        if let Some(extras) = &self.extras {
            if !extras.hit(slot, &entry.deadline, || times.now()) {
                return None;
            }
        }
        self.policy.touch(&entry.word);
        Some((slot, &entry.value))
    }

    /// Was no tag of the entry invalidated?
    fn is_current(&self, slot: u32) -> bool {
        let extras = self.extras.as_ref();
        extras.is_none_or(|extras| extras.is_current(slot))
    }

    fn weight(&self, slot: u32) -> u64 {
        self.extras.as_ref().map_or(1, |extras| extras.weight(slot))
    }

    fn renewals(&self) -> Option<&Renewals> {
        self.extras.as_ref()?.renewals.as_ref()
    }

    /// Is the caller, who has hit this slot, to renew it?
    #[inline]
    pub(crate) fn claim_renewal(&self, slot: u32, now: impl FnOnce() -> Nanos) -> bool {
        let Some(renewals) = self.renewals() else {
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
        let is_live = (deadline == NEVER || now() < deadline) && self.is_current(slot);
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
        let extras = self.extras.as_ref();
        Some((value, extras.and_then(|extras| extras.tags(slot))))
    }

    /// A load of this key has failed.
    pub(crate) fn load_failed<Q>(&self, hash: KeyHash, key: &Q, now: Nanos)
    where
        Q: Equivalent<K> + ?Sized,
    {
        if let (Some(renewals), Some((slot, _))) = (self.renewals(), self.find(hash, key)) {
            renewals.failed(slot, now);
        }
    }

    /// A value that may serve in place of a load that has failed lately, and whether it is alive.
    pub(crate) fn stale<Q>(&self, hash: KeyHash, key: &Q, now: Nanos) -> Option<(&V, bool)>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let renewals = self.renewals()?;
        let (slot, entry) = self.find(hash, key)?;
        let deadline = entry.deadline.load(Relaxed);
        let serves = self.is_current(slot)
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
            room.add(self.weight(slot));
            if room.reach(weight) {
                room.spend(weight);
                self.replace(slot, new, now, out);
                self.sweep(BLOCKS_PER_WRITE, now, |freed| room.add(freed), out);
                return true;
            }
            // Heavier than what it replaces: the old one goes first, then others.
            self.take_out(slot, RemovalCause::Replaced, now, out);
        }
        let is_plain = self.extras.is_none() && extra.origin.tags.is_none();
        self.sweep(BLOCKS_PER_WRITE, now, |freed| room.add(freed), out);
        while self.slab.len() >= MAX_ENTRIES || !room.reach(weight) {
            if is_plain && !self.expiry.is_due(now) {
                // All weigh the same, so there is room for this one where another was.
                return self.recycle(new, now, out);
            }
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
        let old = Removed {
            key: std::mem::replace(&mut entry.key, new.key),
            value: std::mem::replace(&mut entry.value, new.value),
            cause,
        };
        self.policy.touch(&entry.word);
        let deadline = self.set_extra(slot, new.extra, new.deadline, now);
        if let Some(entry) = self.slab.get_mut(slot) {
            *entry.deadline.get_mut() = deadline;
        }
        self.expiry.set(slot, deadline);
        self.inserts += 1;
        self.count_out(old, out);
    }

    /// Puts a new entry into a free slot.
    fn fill(&mut self, new: &mut Option<NewEntry<K, V>>, now: Nanos) {
        let Some(new) = new.take() else { return };
        if self.slab.is_full() {
            self.grow();
        }
        let slot = self.slab.insert(Entry {
            key: new.key,
            value: new.value,
            deadline: AtomicU64::new(new.deadline),
            word: AtomicU32::new(0),
            hash: StoredHash::new(new.hash),
        });
        self.enter_in_index(new.hash, slot);
        let Some(entry) = self.slab.get_mut(slot) else {
            return;
        };
        self.policy.insert(slot, &entry.word);
        let deadline = self.set_extra(slot, new.extra, new.deadline, now);
        if let Some(entry) = self.slab.get_mut(slot) {
            *entry.deadline.get_mut() = deadline;
        }
        self.expiry.set(slot, deadline);
        self.inserts += 1;
    }

    /// Puts a new entry into the slot of the policy's victim, if there is one: as
    /// [`evict`](Self::evict) and [`fill`](Self::fill), where entries have nothing beside them.
    #[inline(always)]
    fn recycle(
        &mut self,
        new: &mut Option<NewEntry<K, V>>,
        now: Nanos,
        out: &mut Removals<'_, K, V>,
    ) -> bool {
        let Some(slot) = self.policy.evict(&self.slab) else {
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
        self.policy.insert(slot, &entry.word);
        self.unindex(old_hash, slot);
        self.enter_in_index(new.hash, slot);
        self.expiry.set(slot, new.deadline);
        self.inserts += 1;
        self.count_out(old, out);
        true
    }

    #[inline]
    fn enter_in_index(&mut self, hash: KeyHash, slot: u32) {
        let slab = &self.slab;
        self.index.insert_unique(hash.0, slot, |&slot| {
            slab.get(slot).map_or(0, |entry| entry.hash.restore())
        });
    }

    #[inline]
    fn unindex(&mut self, hash: StoredHash, slot: u32) {
        let found = self
            .index
            .find_entry(hash.restore(), |&other| other == slot);
        found.expect("each occupied slot is in the index").remove();
    }

    /// Makes room for more entries: twice as many, or soon for all that are expected, so that few
    /// are moved, and what is outgrown is little.
    #[cold]
    fn grow(&mut self) {
        let (len, expected) = (self.slab.len() as usize, self.setup.expected);
        let room = if (len + 1..=len * 16).contains(&expected) {
            expected
        } else if (1..=len).contains(&expected) {
            // More than its share, but hardly much more.
            len + (len / 8).max(FIRST_ROOM)
        } else {
            (len * 2).max(FIRST_ROOM)
        };
        self.slab.grow(room);
        let slab = &self.slab;
        self.index.reserve(room - len, |&slot| {
            slab.get(slot).map_or(0, |entry| entry.hash.restore())
        });
        self.policy.grow(room);
    }

    /// Notes what an entry is stored with, and returns its first deadline.
    #[inline]
    fn set_extra(&mut self, slot: u32, extra: Extra, limit: Nanos, now: Nanos) -> Nanos {
        if self.extras.is_none() {
            if extra.origin.tags.is_none() {
                return limit;
            }
            self.extras = Some(Box::new(Extras::new(self.setup.kinds)));
        }
        self.set_extras(slot, extra, limit, now)
    }

    #[cold]
    fn set_extras(&mut self, slot: u32, extra: Extra, limit: Nanos, now: Nanos) -> Nanos {
        let Some(extras) = &mut self.extras else {
            return limit;
        };
        let deadline = extras.set(slot, extra, limit, now);
        if !extras.is_current(slot) {
            // Its tag was invalidated just now, which the sweep may have noted before.
            self.expiry.search_all(self.slab.end());
        }
        deadline
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
        budget.release(self.weight(slot));
        self.take_out(slot, cause, now, out);
        self.sweep(BLOCKS_PER_WRITE, now, |freed| budget.release(freed), out);
        true
    }

    /// Evicts something, what has expired first, and returns what it weighed.
    pub(crate) fn evict(&mut self, now: Nanos, out: &mut Removals<'_, K, V>) -> Option<u64> {
        if self.expiry.is_due(now) {
            let mut freed = 0;
            for _ in 0..BLOCKS_PER_EVICTION {
                let more = self.sweep(1, now, |weight| freed += weight, out);
                if freed > 0 {
                    return Some(freed);
                }
                if !more {
                    break;
                }
            }
        }
        let victim = self.policy.evict(&self.slab)?;
        let weight = self.weight(victim);
        self.unhook(victim, RemovalCause::Evicted, now, out);
        Some(weight)
    }

    /// Looks at so many blocks of slots where something may be dead, and takes out what is past its
    /// deadline or has a tag that was invalidated, calling `freed` with what each weighed. Returns
    /// `false` once nothing is.
    #[inline]
    pub(crate) fn sweep(
        &mut self,
        blocks: u32,
        now: Nanos,
        freed: impl FnMut(u64),
        out: &mut Removals<'_, K, V>,
    ) -> bool {
        if self.extras.is_some() {
            self.search_for_invalidated();
        }
        self.expiry.is_due(now) && self.sweep_due(blocks, now, freed, out)
    }

    #[cold]
    fn search_for_invalidated(&mut self) {
        // The release is `Tags::invalidate`'s.
        let epoch = self.setup.tag_epoch.load(Acquire);
        let has_tags = self.extras.as_ref().is_some_and(|extras| extras.has_tags());
        if epoch != self.swept_epoch && has_tags {
            self.swept_epoch = epoch;
            self.expiry.search_all(self.slab.end());
        }
    }

    #[cold]
    fn sweep_due(
        &mut self,
        blocks: u32,
        now: Nanos,
        mut freed: impl FnMut(u64),
        out: &mut Removals<'_, K, V>,
    ) -> bool {
        for _ in 0..blocks {
            let Some(slots) = self.expiry.due(now) else {
                return false;
            };
            let mut soonest = NEVER;
            for slot in slots.clone() {
                let Some(entry) = self.slab.get(slot) else {
                    continue;
                };
                let deadline = entry.deadline.load(Relaxed);
                if self.expiry.is_over(deadline, now) || !self.is_current(slot) {
                    freed(self.weight(slot));
                    self.take_out(slot, RemovalCause::Expired, now, out);
                } else {
                    soonest = soonest.min(deadline);
                }
            }
            self.expiry.raise(&slots, soonest);
        }
        true
    }

    /// How many blocks of slots there are to look at.
    pub(crate) fn blocks(&self) -> u32 {
        self.slab.end().div_ceil(BLOCK)
    }

    /// Takes everything out.
    pub(crate) fn clear(&mut self, budget: &Budget, now: Nanos, out: &mut Removals<'_, K, V>) {
        self.policy.before_write(&self.slab);
        for slot in 0..self.slab.end() {
            if self.slab.get(slot).is_some() {
                budget.release(self.weight(slot));
                self.take_out(slot, RemovalCause::Cleared, now, out);
            }
        }
    }

    /// Takes an entry out whom the policy did not choose; its weight is the caller's to account for.
    fn take_out(
        &mut self,
        slot: u32,
        cause: RemovalCause,
        now: Nanos,
        out: &mut Removals<'_, K, V>,
    ) {
        self.policy.remove(slot);
        self.unhook(slot, cause, now, out);
    }

    /// Unhooks an entry from everything but the policy.
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

    /// Why an entry leaves: `cause`, unless it was dead already.
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

    #[inline]
    fn count_out(&mut self, removed: Removed<K, V>, out: &mut Removals<'_, K, V>) {
        // The most frequent cause is not counted: a write then touches one cache line less.
        if removed.cause != RemovalCause::Evicted {
            self.removals[removed.cause as usize] += 1;
        }
        out.push(removed);
    }

    /// Live entries, the last to be evicted first.
    pub(crate) fn hottest_first(&self, now: Nanos) -> impl Iterator<Item = (&K, &V)> {
        let slots = self.policy.hottest_first(&self.slab).into_iter();
        let current = slots.filter(|&slot| self.is_current(slot));
        let entries = current.filter_map(|slot| self.slab.get(slot));
        entries
            .filter(move |entry| now < entry.deadline.load(Relaxed))
            .map(|entry| (&entry.key, &entry.value))
    }

    /// Adds what this shard holds and has counted.
    pub(crate) fn add_to(&self, stats: &mut Stats) {
        let [replaced, removed, expired, _, cleared, invalidated] = self.removals;
        stats.inserts += self.inserts;
        stats.replaced += replaced;
        stats.removed += removed;
        stats.expired += expired;
        stats.evicted += self.inserts - self.len() - self.removals.iter().sum::<u64>();
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
        self.slab.iter().map(|(slot, _)| self.weight(slot)).sum()
    }
}
