//! Lookups under a shard's shared lock, for callers that only read and for callers that can load.

use crate::clock::Nanos;
use crate::local::shard::{HitTime, Shard};
use crate::local::{KeyLocation, LocalCache};
use crate::single_flight::{Candidate, Role};
use crate::stats::Count;
use crate::sync::reentrancy::assert_no_lock_held;
use crate::sync::thread_slot::ThreadSlot;
use crate::traits::key::LookupKey;
use equivalent::Equivalent;
use std::hash::{BuildHasher, Hash};

/// The result of a lookup by a caller that can load.
pub(crate) enum Lookup<'a, K, V> {
    /// A live value.
    Hit(V),
    /// A live value that the caller is to refresh.
    NeedsRefresh(V),
    /// An expired value, served because a load of the key failed recently and is not retried yet.
    Stale(V),
    /// No value. The caller has joined the load of the key, or leads it.
    Miss(Role<'a, K, V>),
}

impl<K: Eq + Hash, V, S: BuildHasher> LocalCache<K, V, S> {
    /// Returns the current time if hits of this cache usually need it, otherwise 0. It is also 0 while no thread
    /// advances a ticking clock, so that a hit with a deadline reads the clock again. The time is read before the lock
    /// is acquired, because a processor overlaps the two poorly in the other order.
    #[inline(always)]
    pub(in crate::local) fn early_time(&self) -> Nanos {
        if self.inner.expires {
            self.inner.settings.clock.early_time_of_hit()
        } else {
            0
        }
    }

    #[inline(always)]
    fn hit_time(&self, early: Nanos) -> HitTime<'_> {
        HitTime {
            early,
            clock: &self.inner.settings.clock,
        }
    }

    /// Looks up a key and returns the result of `read` on its live value. Counts a hit or a miss.
    #[inline(always)]
    pub(crate) fn hit<Q, R>(&self, key: &Q, read: impl FnOnce(&V) -> R) -> Option<R>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let thread = ThreadSlot::current_or_shared();
        // A cache without deadlines has its own copy of the lookup, which needs no time.
        let found = if self.inner.expires {
            let location = self.location(key);
            let early_time = self.inner.settings.clock.early_time_of_hit();
            self.hit_at(&location, key, early_time, thread, read)
        } else {
            self.hit_at(&self.location(key), key, 0, thread, read)
        };
        if found.is_none() {
            self.count_miss(thread);
        }
        found
    }

    /// Looks up a key like [`hit`](Self::hit), at its location and the given [early time](Self::early_time), but does
    /// not count a miss.
    #[inline(always)]
    pub(in crate::local) fn hit_at<Q, R>(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &Q,
        early_time: Nanos,
        thread: ThreadSlot,
        read: impl FnOnce(&V) -> R,
    ) -> Option<R>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        match location.cell.shard.publish(thread) {
            // `map` would drop an unused `read` while the guard `shard` still exists, so user code would run under the
            // lock on a miss.
            #[allow(clippy::manual_map)]
            Some(shard) => match shard.hit(location.hash, key, self.hit_time(early_time)) {
                Some((slot, value)) => {
                    let result = read(value);
                    self.count_hit(&shard, slot, thread);
                    Some(result)
                }
                None => None,
            },
            None => self.hit_unpublished(*location, key, early_time, thread, read),
        }
    }

    /// Returns a clone of the value of a key at its location. Counts a hit or a miss.
    pub(in crate::local) fn get_at<Q>(&self, location: &KeyLocation<'_, K, V>, key: &Q) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ?Sized,
        V: Clone,
    {
        let (thread, early_time) = (ThreadSlot::current_or_shared(), self.early_time());
        let found = self.hit_at(location, key, early_time, thread, V::clone);
        if found.is_none() {
            self.count_miss(thread);
        }
        found
    }

    /// Completes [`hit_at`](Self::hit_at) if the reader could not be published. This is a separate function, so that a
    /// hit stays in registers.
    #[inline(never)]
    fn hit_unpublished<Q, R>(
        &self,
        location: KeyLocation<'_, K, V>,
        key: &Q,
        early_time: Nanos,
        thread: ThreadSlot,
        read: impl FnOnce(&V) -> R,
    ) -> Option<R>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        // The inner closure only borrows `read`, so that on a miss `read` is not dropped under the lock.
        let mut read = Some(read);
        location.cell.shard.read_unpublished(thread, |shard| {
            let (slot, value) = shard.hit(location.hash, key, self.hit_time(early_time))?;
            let result = read.take().map(|read| read(value));
            self.count_hit(shard, slot, thread);
            result
        })
    }

    /// Counts a hit of a slot, and records the ages of some of the values.
    #[inline(always)]
    fn count_hit(&self, shard: &Shard<K, V>, slot: u32, thread: ThreadSlot) {
        if self.inner.counters.add_served(thread) {
            self.sample_age(shard, slot, thread);
        }
    }

    /// Counts a value that was served for a key without a hit.
    pub(crate) fn count_served<Q>(&self, thread: ThreadSlot, key: &Q)
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        if self.inner.counters.add_served(thread) {
            let location = self.location(key);
            location.cell.shard.read(|shard| {
                if let Some(slot) = shard.slot_of(location.hash, key) {
                    self.sample_age(shard, slot, thread);
                }
            });
        }
    }

    /// Records the age of the value in a slot.
    #[cold]
    #[inline(never)]
    fn sample_age(&self, shard: &Shard<K, V>, slot: u32, thread: ThreadSlot) {
        let now = self.inner.settings.clock.now();
        if let Some(age) = shard.age(slot, now) {
            self.inner.counters.add_age(thread, age);
        }
    }

    #[cold]
    #[inline(never)]
    pub(in crate::local) fn count_miss(&self, thread: ThreadSlot) {
        self.inner.counters.add(thread, Count::Miss);
    }

    /// Returns the result of `read` on a live value and its deadline. Neither the statistics nor the policy record the
    /// lookup.
    pub(crate) fn peek_at<Q, R>(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &Q,
        read: impl FnOnce(&V, Nanos) -> R,
    ) -> Option<R>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        location.cell.shard.read(|shard| {
            let now = || self.inner.settings.clock.now();
            let found = shard.peek(location.hash, key, now);
            found.map(|(value, deadline)| read(value, deadline))
        })
    }
}

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// Looks up a key. On a miss, joins the load of the key or leads it under the same shared lock, so that no write
    /// happens between the two.
    ///
    /// # Panics
    ///
    /// Panics on a miss if this thread holds a lock, because the leader of a load may wait for that lock.
    #[inline(always)]
    pub(crate) fn lookup<'a, Q>(
        &self,
        location: &KeyLocation<'a, K, V>,
        key: &Q,
    ) -> Lookup<'a, K, V>
    where
        Q: LookupKey<K> + ?Sized,
    {
        self.lookup_at(location, key, self.early_time())
    }

    /// Looks a key up like [`lookup`](Self::lookup), at the given [early time](Self::early_time).
    #[inline(always)]
    pub(in crate::local) fn lookup_at<'a, Q>(
        &self,
        location: &KeyLocation<'a, K, V>,
        key: &Q,
        early_time: Nanos,
    ) -> Lookup<'a, K, V>
    where
        Q: LookupKey<K> + ?Sized,
    {
        let thread = ThreadSlot::current_or_shared();
        // The result of a miss is returned through this variable, so that a hit stays in registers.
        let mut miss = None;
        let hit = if let Some(shard) = location.cell.shard.publish(thread) {
            self.lookup_in(&shard, location, key, early_time, thread, &mut miss)
        } else {
            self.lookup_unpublished(location, key, early_time, thread, &mut miss)
        };
        if let Some((value, needs_refresh)) = hit {
            return if needs_refresh {
                Lookup::NeedsRefresh(value)
            } else {
                Lookup::Hit(value)
            };
        }
        self.count_miss(thread);
        assert_no_lock_held("load into");
        miss.expect("a lookup without a hit is a miss")
    }

    /// Looks up a key like [`lookup_in`](Self::lookup_in) if the reader could not be published. This is a separate
    /// function, so that a hit stays in registers.
    #[inline(never)]
    fn lookup_unpublished<'a, Q>(
        &self,
        location: &KeyLocation<'a, K, V>,
        key: &Q,
        early_time: Nanos,
        thread: ThreadSlot,
        miss: &mut Option<Lookup<'a, K, V>>,
    ) -> Option<(V, bool)>
    where
        Q: LookupKey<K> + ?Sized,
    {
        let lookup =
            |shard: &Shard<K, V>| self.lookup_in(shard, location, key, early_time, thread, miss);
        location.cell.shard.read_unpublished(thread, lookup)
    }

    /// Looks up a key under the shard's shared lock. Counts a hit, and returns the value and whether the
    /// caller is to refresh it. Otherwise stores the result in `miss` and returns `None`.
    #[inline(always)]
    fn lookup_in<'a, Q>(
        &self,
        shard: &Shard<K, V>,
        location: &KeyLocation<'a, K, V>,
        key: &Q,
        early_time: Nanos,
        thread: ThreadSlot,
        miss: &mut Option<Lookup<'a, K, V>>,
    ) -> Option<(V, bool)>
    where
        Q: LookupKey<K> + ?Sized,
    {
        let time = self.hit_time(early_time);
        if let Some((slot, value)) = shard.hit(location.hash, key, time) {
            // The flag of the cache is checked first, because it is already in the processor's cache.
            let needs_refresh =
                self.inner.has_refresh_rules && shard.claim_refresh(slot, || time.now());
            let value = value.clone();
            self.count_hit(shard, slot, thread);
            return Some((value, needs_refresh));
        }
        *miss = Some(self.join_or_lead_in(shard, location, key, || self.candidate()));
        None
    }

    /// Looks up a key like [`lookup`](Self::lookup), but takes the candidate as an argument and never requests a
    /// refresh. Neither the statistics nor the policy record the lookup.
    pub(crate) fn join_or_lead<'a, Q>(
        &self,
        location: &KeyLocation<'a, K, V>,
        key: &Q,
        candidate: impl Fn() -> Candidate,
    ) -> Lookup<'a, K, V>
    where
        Q: LookupKey<K> + ?Sized,
    {
        let now = || self.inner.settings.clock.now();
        let lookup = location.cell.shard.read(|shard| {
            let found = shard.peek(location.hash, key, now);
            match found {
                Some((value, _)) => Lookup::Hit(value.clone()),
                None => self.join_or_lead_in(shard, location, key, candidate),
            }
        });
        assert_no_lock_held("load into");
        lookup
    }

    /// Joins the load of a key that has no live value, or leads it, under the shard's shared lock. Returns an expired
    /// value instead if a load failed recently.
    #[cold]
    #[inline(never)]
    fn join_or_lead_in<'a, Q>(
        &self,
        shard: &Shard<K, V>,
        location: &KeyLocation<'a, K, V>,
        key: &Q,
        candidate: impl Fn() -> Candidate,
    ) -> Lookup<'a, K, V>
    where
        Q: LookupKey<K> + ?Sized,
    {
        if self.inner.settings.stale_if_error.is_some() {
            let now = self.inner.settings.clock.now();
            if let Some((value, false)) = shard.stale(location.hash, key, now) {
                return Lookup::Stale(value.clone());
            }
        }
        let in_flight = &location.cell.in_flight;
        Lookup::Miss(in_flight.join_or_lead_with(location.hash.0, key, candidate))
    }
}
