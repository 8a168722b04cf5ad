//! One shard: index, slots, policy and expiry behind `&mut self`. It knows no lock, no flight and
//! no user callback; what it removes it hands out, to be dropped outside the lock.
//!
//! Of user code only `Eq` of keys runs here, and always before anything is changed, so a panic in
//! it changes nothing.

use crate::clock::{NEVER, Nanos};
use crate::local::budget::{Budget, Reservation};
use crate::local::expiry::{Expiry, SLOTS_PER_WRITE};
use crate::local::policy::{Lru, Policy, Words};
use crate::local::removal::{RemovalCause, Removals, Removed};
use crate::local::renewal::{Renewals, Rules};
use crate::local::slab::Slab;
use crate::local::tags::Tagged;
use crate::stats::Stats;
use equivalent::Equivalent;
use hashbrown::HashTable;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// A shard with this many entries evicts, whatever the budget: more, and its index might grow to
/// more positions than a [`StoredHash`] tells apart.
pub(crate) const MAX_ENTRIES: u32 = (1 << StoredHash::POSITION_BITS) / 16 * 7;

/// A key's hash. The index takes a position from its low bits and a tag from its top seven, as
/// hashbrown does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyHash(pub(crate) u64);

impl KeyHash {
    /// Bits to choose a shard by: others than the index takes, if the hash is good, and still
    /// different for small integers that hash to themselves.
    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn shard_bits(self) -> usize {
        (self.0 ^ (self.0 >> 40)) as usize
    }
}

/// What an entry keeps of its key's hash, so that a shard never hashes a key: the bits that the
/// index takes, and one that is always set, so that an empty slot costs no memory.
#[derive(Clone, Copy)]
struct StoredHash(NonZeroU32);

impl StoredHash {
    const POSITION_BITS: u32 = 24;
    const SET: NonZeroU32 = NonZeroU32::new(1 << Self::POSITION_BITS).expect("not zero");
    const POSITION: u64 = (1 << Self::POSITION_BITS) - 1;
    /// hashbrown takes the tag from the top seven bits of a `usize`.
    const TAG_SHIFT: u32 = if usize::BITS < 64 {
        usize::BITS - 7
    } else {
        57
    };

    #[allow(clippy::cast_possible_truncation)]
    fn new(KeyHash(hash): KeyHash) -> Self {
        let tag = (hash >> Self::TAG_SHIFT & 0x7F) << 25;
        Self(Self::SET | (tag | hash & Self::POSITION) as u32)
    }

    /// A hash with the same position and tag.
    fn restore(self) -> u64 {
        let stored = u64::from(self.0.get());
        (stored >> 25) << Self::TAG_SHIFT | stored & Self::POSITION
    }
}

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
    pub(crate) weight: u64,
    /// How long it took to load.
    pub(crate) load_time: Nanos,
    pub(crate) tags: Option<Box<Tagged>>,
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
    /// By slot; empty until an entry has tags.
    tags: Vec<Option<Box<Tagged>>>,
    renewals: Option<Renewals>,
    /// By slot; `None` where each entry weighs 1.
    weights: Option<Vec<u64>>,
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
            tags: Vec::new(),
            renewals: setup.renewal.map(Renewals::new),
            weights: setup.weighted.then(Vec::new),
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

    /// Was no tag of the entry invalidated?
    #[inline]
    fn is_current(&self, slot: u32) -> bool {
        match self.tags.get(slot as usize) {
            Some(Some(tags)) => tags.is_current(),
            _ => true,
        }
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
        if !self.is_current(slot) {
            return None;
        }
        self.policy.touch(&entry.word);
        Some((slot, &entry.value))
    }

    /// Is the caller, who has hit this slot, to renew it?
    #[inline]
    pub(crate) fn claim_renewal(&self, slot: u32, now: impl FnOnce() -> Nanos) -> bool {
        let Some(renewals) = &self.renewals else {
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

    /// A value that may serve where a load fails: live, or not expired for too long. Notes the
    /// failure if this is one (`failed`); else there is a value only while an earlier one counts.
    pub(crate) fn stale<Q>(&self, hash: KeyHash, key: &Q, now: Nanos, failed: bool) -> Option<&V>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let renewals = self.renewals.as_ref()?;
        let (slot, entry) = self.find(hash, key)?;
        if failed {
            renewals.failed(slot, now);
        }
        let serves = self.is_current(slot)
            && renewals.may_serve(entry.deadline.load(Relaxed), now)
            && renewals.is_throttled(slot, now);
        serves.then_some(&entry.value)
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
            hash, key, weight, ..
        }) = new
        else {
            return true;
        };
        let (held, weight) = (self.find(*hash, key).map(|(slot, _)| slot), *weight);
        self.policy.before_write(&self.slab);
        if let Some(slot) = held {
            room.add(self.weight(slot));
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
        self.set_extras(slot, new.weight, new.load_time, new.tags, now);
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
        self.set_extras(slot, new.weight, new.load_time, new.tags, now);
        self.counts.inserts += 1;
    }

    fn weight(&self, slot: u32) -> u64 {
        self.weights
            .as_ref()
            .map_or(1, |weights| weights[slot as usize])
    }

    /// Sets what lies beside an entry, where the cache has such a thing.
    fn set_extras(
        &mut self,
        slot: u32,
        weight: u64,
        load_time: Nanos,
        tags: Option<Box<Tagged>>,
        now: Nanos,
    ) {
        if let Some(renewals) = &mut self.renewals {
            renewals.set(slot, now, load_time);
        }
        let slot = slot as usize;
        if let Some(weights) = &mut self.weights {
            if weights.len() <= slot {
                weights.resize(slot + 1, 0);
            }
            weights[slot] = weight;
        }
        if tags.is_some() && self.tags.len() <= slot {
            self.tags.resize_with(slot + 1, || None);
        }
        if let Some(place) = self.tags.get_mut(slot) {
            *place = tags;
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
        budget.release(self.weight(slot));
        self.take_out(slot, cause, now, out);
        self.sweep(SLOTS_PER_WRITE, now, |freed| budget.release(freed), out);
        true
    }

    /// Evicts the policy's victim and returns what it weighed.
    pub(crate) fn evict(&mut self, now: Nanos, out: &mut Removals<'_, K, V>) -> Option<u64> {
        let victim = self.policy.victim(&self.slab)?;
        let weight = self.weight(victim);
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
        let epoch = self.tag_epoch.load(Relaxed);
        if epoch != self.swept_epoch && !self.tags.is_empty() {
            self.swept_epoch = epoch;
            self.expiry.start_over();
        }
        for _ in 0..slots {
            let Some(slot) = self.expiry.next(now, self.slab.end()) else {
                return false;
            };
            let Some(entry) = self.slab.get(slot) else {
                continue;
            };
            let deadline = entry.deadline.load(Relaxed);
            if self.expiry.is_over(deadline, now) || !self.is_current(slot) {
                freed(self.weight(slot));
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
                budget.release(self.weight(slot));
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
        if let Some(tags) = self.tags.get_mut(slot as usize) {
            *tags = None;
        }
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
        if !self.is_current(slot) {
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
        let current = slots.filter(|&slot| self.is_current(slot));
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
        self.slab.iter().map(|(slot, _)| self.weight(slot)).sum()
    }
}
