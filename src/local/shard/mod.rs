//! One shard: index, slots, policy and expiry behind `&mut self`. It knows no lock, no flight and
//! no user callback; what it removes it hands out, to be dropped outside the lock.
//!
//! Of user code only `Eq` of keys runs here, and on reads a clock that was given, and always before
//! anything is changed, so a panic in it changes nothing.

mod clear;
pub(crate) mod expiry;
mod grow;
pub(crate) mod hash;
pub(crate) mod metadata;
pub(crate) mod read_times;
pub(crate) mod slab;
#[cfg(feature = "snapshot")]
mod snapshot;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use clear::FoundDead;
#[cfg(feature = "snapshot")]
pub(crate) use snapshot::{Copied, Restored};

use crate::clock::{NEVER, Nanos, TimeSource};
use crate::local::load::refresh::RefreshRules;
use crate::local::shard::expiry::Expiry;
use crate::local::shard::hash::{KeyHash, StoredHash};
use crate::local::shard::metadata::{Extra, Extras, Kinds};
use crate::local::shard::read_times::Ages;
use crate::local::shard::slab::Slab;
use crate::local::tags::Tagged;
use crate::local::walk::{Listed, Span};
use crate::policy::{AnyPolicy, EvictionPolicy, PolicyStates};
use crate::stats::Stats;
use crate::storage::index::Index;
use equivalent::Equivalent;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

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
    /// The state that the policy keeps of the entry.
    policy_state: AtomicU32,
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

/// What an entry was stored with, apart from its value.
#[derive(Default)]
pub(crate) struct Terms {
    /// The first time at which it does not live any more, however often it is hit.
    pub(crate) limit: Option<NonZero<Nanos>>,
    /// The weight, if it was given and not the weigher's.
    pub(crate) weight: Option<u64>,
    pub(crate) tags: Option<Box<Tagged>>,
    /// How long its load took.
    pub(crate) load_time: Nanos,
}

/// What a shard is set up with.
pub(crate) struct Setup {
    /// How many entries it is likely to hold at most; 0 if nobody knows.
    pub(crate) expected: usize,
    pub(crate) kinds: Kinds,
    /// How long entries are kept past their deadline.
    pub(crate) grace: Nanos,
    /// Is it known how old values are?
    pub(crate) ages: bool,
    /// Raised when a tag is invalidated.
    pub(crate) tag_epoch: Arc<AtomicU64>,
    /// What is of an older epoch is dead, in a cache that can forget.
    pub(crate) floor: Option<Arc<AtomicU64>>,
}

impl Setup {
    /// Returns the metadata of a shard without entries.
    fn extras(&self) -> Option<Box<Extras>> {
        let has_extras = !self.kinds.is_empty() || self.floor.is_some();
        has_extras.then(|| Box::new(Extras::new(self.kinds, self.floor.clone())))
    }
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
pub(crate) struct Shard<K, V> {
    index: Index<u32>,
    slab: Slab<Entry<K, V>>,
    extras: Option<Box<Extras>>,
    inserts: u64,
    policy: AnyPolicy,
    /// The index or something by slot is moving to larger storage.
    grows: bool,
    expiry: Expiry,
    ages: Option<Ages>,
    /// By cause; evictions are what is missing.
    removals: [u64; 6],
    setup: Setup,
    /// The tags' epoch when the sweep last set out.
    swept_epoch: u64,
    /// The number of times that entries were given other slots.
    renumberings: u32,
}

impl<K, V> Slab<Entry<K, V>> {
    /// The hash of a slot, as the index asks for it.
    #[inline]
    fn hash_of(&self) -> impl Fn(&u32) -> u64 + '_ {
        |&slot| self.get(slot).map_or(0, |entry| entry.hash.canonical())
    }
}

impl<K, V> PolicyStates for Slab<Entry<K, V>> {
    #[inline]
    fn state(&self, slot: u32) -> Option<&AtomicU32> {
        Some(&self.get(slot)?.policy_state)
    }

    #[inline]
    fn hash(&self, slot: u32) -> u32 {
        self.get(slot).map_or(0, |entry| entry.hash.bits())
    }
}

impl<K, V> Shard<K, V> {
    pub(crate) fn new(setup: Setup, policy: AnyPolicy) -> Self {
        Self {
            index: Index::default(),
            slab: Slab::new(),
            extras: setup.extras(),
            inserts: 0,
            policy,
            grows: false,
            expiry: Expiry::new(setup.grace),
            ages: setup.ages.then(Ages::new),
            removals: [0; 6],
            setup,
            swept_epoch: 0,
            renumberings: 0,
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
        // Looks at what has moved, which is everything while the shard does not grow: a hit then costs what it
        // costs in a shard that cannot grow. With the second look inlined here it took eight instructions more.
        let is_it = |&slot: &u32| {
            let entry = self.slab.get_moved(slot);
            entry.is_some_and(|entry| key.equivalent(&entry.key))
        };
        if let Some(&slot) = self.index.current().find(hash.canonical(), is_it) {
            return Some((slot, self.slab.get_moved(slot)?));
        }
        if self.grows {
            return self.find_everywhere(hash, key);
        }
        None
    }

    #[cold]
    #[inline(never)]
    fn find_everywhere<Q>(&self, hash: KeyHash, key: &Q) -> Option<(u32, &Entry<K, V>)>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let is_it = |&slot: &u32| {
            let entry = self.slab.get(slot);
            entry.is_some_and(|entry| key.equivalent(&entry.key))
        };
        let slot = self.index.find(hash.canonical(), is_it)?;
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
        self.policy.on_hit(slot, &entry.policy_state);
        Some((slot, &entry.value))
    }

    /// Was no tag of the entry invalidated, and the entry not forgotten?
    fn is_current(&self, slot: u32) -> bool {
        let extras = self.extras.as_ref();
        extras.is_none_or(|extras| extras.is_current(slot))
    }

    fn weight(&self, slot: u32) -> u64 {
        self.extras.as_ref().map_or(1, |extras| extras.weight(slot))
    }

    /// Returns what all entries weigh.
    fn total_weight(&self) -> u64 {
        let extras = self.extras.as_ref();
        let total = extras.and_then(|extras| extras.total_weight());
        total.unwrap_or(self.len())
    }

    fn refreshes(&self) -> Option<&RefreshRules> {
        self.extras.as_ref()?.refreshes.as_ref()
    }

    /// Is the caller, who has hit this slot, to renew it?
    #[inline]
    pub(crate) fn claim_refresh(&self, slot: u32, now: impl FnOnce() -> Nanos) -> bool {
        let Some(refreshes) = self.refreshes() else {
            return false;
        };
        let entry = self.slab.get(slot);
        entry.is_some_and(|entry| refreshes.claim(slot, entry.deadline.load(Relaxed), now()))
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

    /// How old the value of a key is, live or not, where that is known.
    pub(crate) fn age<Q>(&self, hash: KeyHash, key: &Q, now: Nanos) -> Option<Duration>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let (slot, _) = self.find(hash, key)?;
        Some(self.ages.as_ref()?.of(slot, now))
    }

    /// Like [`peek`](Self::peek), with what the entry was stored with.
    pub(crate) fn peek_terms<Q>(
        &self,
        hash: KeyHash,
        key: &Q,
        now: impl FnOnce() -> Nanos,
    ) -> Option<(&V, Terms)>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let (value, deadline) = self.peek(hash, key, now)?;
        let (slot, _) = self.find(hash, key)?;
        let Some(extras) = &self.extras else {
            let limit = NonZero::new(deadline);
            return Some((
                value,
                Terms {
                    limit,
                    ..Terms::default()
                },
            ));
        };
        let refreshes = extras.refreshes.as_ref();
        let terms = Terms {
            limit: NonZero::new(extras.idle_limit(slot).unwrap_or(deadline)),
            weight: extras.own_weight(slot),
            tags: extras.tags(slot).cloned().map(Box::new),
            load_time: refreshes.map_or(0, |refreshes| refreshes.load_time(slot)),
        };
        Some((value, terms))
    }

    /// A load of this key has failed.
    pub(crate) fn load_failed<Q>(&self, hash: KeyHash, key: &Q, now: Nanos)
    where
        Q: Equivalent<K> + ?Sized,
    {
        if let (Some(refreshes), Some((slot, _))) = (self.refreshes(), self.find(hash, key)) {
            refreshes.failed(slot, now);
        }
    }

    /// A value that may serve in place of a load that has failed lately, and whether it is alive.
    pub(crate) fn stale<Q>(&self, hash: KeyHash, key: &Q, now: Nanos) -> Option<(&V, bool)>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let (slot, _) = self.find(hash, key)?;
        let is_throttled = self.refreshes()?.is_throttled(slot, now);
        self.servable(hash, key, now).filter(|_| is_throttled)
    }

    /// Returns a value that may serve in place of a load that fails or takes too long, and whether it is live.
    pub(crate) fn servable<Q>(&self, hash: KeyHash, key: &Q, now: Nanos) -> Option<(&V, bool)>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let refreshes = self.refreshes()?;
        let (slot, entry) = self.find(hash, key)?;
        let deadline = entry.deadline.load(Relaxed);
        // Not one that is known to be wrong; one that was forgotten may still be right.
        let extras = self.extras.as_ref();
        let serves = !extras.is_some_and(|extras| extras.is_invalidated(slot))
            && refreshes.may_serve(deadline, now);
        serves.then_some((&entry.value, now < deadline && self.is_current(slot)))
    }

    /// Returns clones of the live entries in a span of slots.
    pub(crate) fn clones_in(&self, span: &Span, now: Nanos) -> impl Iterator<Item = Listed<(K, V)>>
    where
        K: Clone,
        V: Clone,
    {
        let live = self.live_in(span, now);
        live.map(|listed| listed.map(|(_, entry)| (entry.key.clone(), entry.value.clone())))
    }

    /// Returns the keys of all entries in a span of slots, expired and invalidated ones included.
    pub(crate) fn keys_in(&self, span: &Span) -> impl Iterator<Item = &K> {
        let slots = span.slots.start..span.slots.end.min(self.slab.end());
        slots.filter_map(|slot| Some(&self.slab.get(slot)?.key))
    }

    /// Returns one more than the highest slot in use.
    pub(crate) fn end(&self) -> u32 {
        self.slab.end()
    }

    /// Returns the number of times that entries were given other slots, so that a walk over the slots has to begin
    /// again.
    pub(crate) fn renumberings(&self) -> u32 {
        self.renumberings
    }

    /// Returns the live entries in a span of slots, with their slots.
    fn live_in(
        &self,
        span: &Span,
        now: Nanos,
    ) -> impl Iterator<Item = Listed<(u32, &Entry<K, V>)>> {
        let (slots, since) = (
            span.slots.start..span.slots.end.min(self.slab.end()),
            span.since,
        );
        slots.filter_map(move |slot| {
            let entry = self.slab.get(slot)?;
            let is_live = now < entry.deadline.load(Relaxed) && self.is_current(slot);
            is_live.then(|| Listed {
                heat: self.policy.heat(&entry.policy_state, since),
                slot,
                item: (slot, entry),
            })
        })
    }

    /// Returns the time of the policy's clock.
    pub(crate) fn time(&self) -> u32 {
        self.policy.time()
    }

    /// Returns the number of entries that were stored so far.
    pub(crate) fn inserts(&self) -> u64 {
        self.inserts
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
        for slot in self.index.iter() {
            assert!(self.slab.get(slot).is_some(), "slot {slot} is vacant");
        }
        for (slot, entry) in self.slab.iter() {
            let hash = entry.hash.canonical();
            assert!(self.index.find(hash, |&other| other == slot).is_some());
        }
        self.policy.validate(&self.slab);
        let deadlines = self.slab.iter();
        self.expiry
            .validate(deadlines.map(|(slot, entry)| (slot, entry.deadline.load(Relaxed))));
        let weight = self.slab.iter().map(|(slot, _)| self.weight(slot)).sum();
        assert_eq!(weight, self.total_weight());
        weight
    }
}
