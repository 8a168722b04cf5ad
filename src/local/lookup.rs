//! Reads: what happens under a shard's shared lock.

#[cfg(feature = "redis")]
use crate::clock::TimeSource;
use crate::clock::{NEVER, Nanos};
use crate::local::shard::{Shard, Times};
use crate::local::walk::Span;
use crate::local::{Iter, KeyLocation, LocalCache};
use crate::random::{GOLDEN_RATIO, spread};
use crate::single_flight::{Candidate, Role};
use crate::stats::Count;
use crate::sync::reentrancy::{assert_no_lock_held, is_reading, is_writing};
use crate::sync::thread_slot::ThreadSlot;
use equivalent::Equivalent;
use std::hash::{BuildHasher, Hash};
use std::time::Duration;

/// The bound of the spread number of a hit below which the hit is sampled: one in 64. Spreading the numbers keeps the
/// samples out of step with a caller that requests the same keys in turn.
pub(crate) const SAMPLES_BELOW: u64 = 1 << (64 - 6);

/// What one who can load has found.
pub(crate) enum Sought<'a, K, V> {
    Live(V),
    /// A live value that the caller is to renew, if it can.
    Due(V),
    /// An expired value: the load failed so lately that it is not tried again.
    Stale(V),
    /// Nothing. The caller has boarded the key's flight.
    Missing(Role<'a, K, V>),
}

impl<K: Eq + Hash, V, S: BuildHasher> LocalCache<K, V, S> {
    /// A clone of the value of a key, if a live one is held.
    ///
    /// `Clone` runs under the shard's shared lock: keep it cheap, with an `Arc` around what is not.
    #[inline]
    pub fn get<Q>(&self, key: &Q) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ?Sized,
        V: Clone,
    {
        self.get_with(key, V::clone)
    }

    /// What `read` returns of the value of a key, if a live one is held.
    ///
    /// `read` runs under the shard's shared lock, so it delays writers of the shard.
    ///
    /// # Panics
    ///
    /// If `read` writes to a cache or calls `get_or_load`. It may read.
    #[inline]
    pub fn get_with<Q, R>(&self, key: &Q, read: impl FnOnce(&V) -> R) -> Option<R>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        self.hit(&self.location(key), key, read)
    }

    /// The time, where most entries have a deadline: read ahead of the lock, since a processor
    /// overlaps the two badly the other way round. Where few have, 0.
    #[inline(always)]
    fn time_ahead(&self) -> Nanos {
        if self.inner.expires {
            self.inner.settings.clock.now()
        } else {
            0
        }
    }

    #[inline(always)]
    fn times(&self, ahead: Nanos) -> Times<'_> {
        Times {
            ahead,
            clock: &self.inner.settings.clock,
        }
    }

    /// As [`get`](Self::get), by one who has read the system's clock just now, and who looks again if it
    /// is no hit: only that one is a miss.
    #[cfg(feature = "redis")]
    #[inline]
    pub(crate) fn hit_or_look_again(&self, key: &K, now: Nanos) -> Option<V>
    where
        V: Clone,
    {
        let ahead = match self.inner.settings.clock {
            TimeSource::System if self.inner.expires => now,
            _ => self.time_ahead(),
        };
        self.hit_at(&self.location(key), key, ahead, V::clone)
    }

    /// A look-up that was not made, since nothing that it could find may be served.
    #[cfg(feature = "redis")]
    pub(crate) fn miss(&self) {
        self.count_miss(ThreadSlot::current());
    }

    /// What `read` returns of a live value.
    #[inline(always)]
    pub(crate) fn hit<Q, R>(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &Q,
        read: impl FnOnce(&V) -> R,
    ) -> Option<R>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let found = self.hit_at(location, key, self.time_ahead(), read);
        if found.is_none() {
            self.count_miss(ThreadSlot::current());
        }
        found
    }

    /// As [`hit`](Self::hit), but that a miss is not counted.
    #[inline(always)]
    fn hit_at<Q, R>(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &Q,
        ahead: Nanos,
        read: impl FnOnce(&V) -> R,
    ) -> Option<R>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let slot = ThreadSlot::current();
        let found = match location.cell.shard.publish(slot) {
            Some(shard) => {
                let hit = shard.hit(location.hash, key, self.times(ahead));
                // Not `map`, which would drop it, and it is the user's, before the guard.
                #[allow(clippy::manual_map)]
                match hit {
                    Some((_, value)) => Some(read(value)),
                    None => None,
                }
            }
            None => self.hit_unannounced(slot, location, key, ahead, read),
        };
        if found.is_some() {
            self.count_served(slot, Count::Hit, location, key);
        }
        found
    }

    /// What is held of a key was served. Whether it was a hit, `count` says.
    #[inline(always)]
    pub(crate) fn count_served<Q>(
        &self,
        slot: ThreadSlot,
        count: Count,
        location: &KeyLocation<'_, K, V>,
        key: &Q,
    ) where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let counted = self.inner.counters.add(slot, count);
        if spread(counted, GOLDEN_RATIO) < self.inner.samples_below {
            self.sample_age(slot, location, key);
        }
    }

    /// Looks up once more what was hit: in the hit itself there would have to be a place for it.
    #[cold]
    #[inline(never)]
    fn sample_age<Q>(&self, slot: ThreadSlot, location: &KeyLocation<'_, K, V>, key: &Q)
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        // A read within another one might have to wait, where the first did not.
        if is_reading() || is_writing() {
            return;
        }
        let now = self.inner.settings.clock.now();
        let age = |shard: &Shard<K, V>| shard.age(location.hash, key, now);
        if let Some(age) = location.cell.shard.read(age) {
            self.inner.counters.add_age(slot, age);
        }
    }

    #[cold]
    #[inline(never)]
    fn count_miss(&self, slot: ThreadSlot) {
        self.inner.counters.add(slot, Count::Miss);
    }

    #[inline(never)]
    fn hit_unannounced<Q, R>(
        &self,
        slot: ThreadSlot,
        location: &KeyLocation<'_, K, V>,
        key: &Q,
        ahead: Nanos,
        read: impl FnOnce(&V) -> R,
    ) -> Option<R>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        // The lock's closure borrows it, so that it is not dropped under the lock.
        let mut read = Some(read);
        location.cell.shard.read_unpublished(slot, |shard| {
            let (_, value) = shard.hit(location.hash, key, self.times(ahead))?;
            read.take().map(|read| read(value))
        })
    }

    /// A live value as `read` sees it, without a trace in statistics and order.
    pub(crate) fn peek<Q, R>(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &Q,
        read: impl FnOnce(&V, u64) -> R,
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

    /// Is a live value of the key held? Counts as no lookup and no use.
    pub fn contains_key<Q>(&self, key: &Q) -> bool
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        self.peek(&self.location(key), key, |_, _| ()).is_some()
    }

    /// How long the entry of a key has to live, if a live one is held; `Duration::MAX` if it does
    /// not expire. Counts as no lookup and no use.
    pub fn remaining_ttl<Q>(&self, key: &Q) -> Option<Duration>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let deadline = self.peek(&self.location(key), key, |_, deadline| deadline)?;
        if deadline == NEVER {
            return Some(Duration::MAX);
        }
        let left = deadline.checked_sub(self.inner.settings.clock.now())?;
        (left > 0).then(|| Duration::from_nanos(left))
    }

    /// Returns clones of all live entries, the hottest first as the policy sees it.
    ///
    /// The entries are read some thousand slots at a time under a shard's shared lock. An entry that is neither stored
    /// nor removed meanwhile is listed once. An entry that is stored or removed meanwhile may or may not be listed, and
    /// no key is listed twice.
    #[must_use]
    pub fn iter(&self) -> Iter<K, V>
    where
        K: Clone,
        V: Clone,
    {
        let now = self.inner.settings.clock.now();
        let clone = |shard: &Shard<K, V>, span: &Span, clones: &mut Vec<_>| {
            clones.extend(shard.clones_in(span, now));
        };
        Iter::new(self.list(clone, |(key, _)| key))
    }
}

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// Looks a key up and, if it is not there, boards its flight, as one step: no write comes
    /// between.
    ///
    /// # Panics
    ///
    /// If it is not there and this thread holds a lock: a flight's leader may wait for it.
    #[inline(always)]
    pub(crate) fn seek<'a>(&self, location: &KeyLocation<'a, K, V>, key: &K) -> Sought<'a, K, V> {
        let slot = ThreadSlot::current();
        let ahead = self.time_ahead();
        // What is no hit has a way of its own, so that a hit stays in registers.
        let mut otherwise = None;
        let hit = if let Some(shard) = location.cell.shard.publish(slot) {
            self.seek_in(&shard, location, key, ahead, &mut otherwise)
        } else {
            let seek =
                |shard: &Shard<K, V>| self.seek_in(shard, location, key, ahead, &mut otherwise);
            location.cell.shard.read_unpublished(slot, seek)
        };
        if let Some((value, due)) = hit {
            self.count_served(slot, Count::Hit, location, key);
            return if due {
                Sought::Due(value)
            } else {
                Sought::Live(value)
            };
        }
        self.count_miss(slot);
        assert_no_lock_held("load into");
        otherwise.expect("there is something where there is no hit")
    }

    /// A hit, and whether the caller is to renew it; or what there is `otherwise`.
    #[inline(always)]
    fn seek_in<'a>(
        &self,
        shard: &Shard<K, V>,
        location: &KeyLocation<'a, K, V>,
        key: &K,
        ahead: Nanos,
        otherwise: &mut Option<Sought<'a, K, V>>,
    ) -> Option<(V, bool)> {
        if let Some((slot, value)) = shard.hit(location.hash, key, self.times(ahead)) {
            // Asked of the cache first, whose settings are at hand.
            let due = self.inner.renews && shard.claim_refresh(slot, || self.times(ahead).now());
            return Some((value.clone(), due));
        }
        *otherwise = Some(self.join_or_lead_under(shard, location, key, || self.candidate()));
        None
    }

    /// As [`seek`](Self::seek), without a trace in statistics and order.
    pub(crate) fn join_or_lead<'a>(
        &self,
        location: &KeyLocation<'a, K, V>,
        key: &K,
    ) -> Sought<'a, K, V> {
        self.join_or_lead_as(location, key, || self.candidate())
    }

    /// Like [`board`](Self::board), on the given terms.
    pub(crate) fn join_or_lead_as<'a>(
        &self,
        location: &KeyLocation<'a, K, V>,
        key: &K,
        candidate: impl FnOnce() -> Candidate,
    ) -> Sought<'a, K, V> {
        let now = || self.inner.settings.clock.now();
        let sought = location.cell.shard.read(|shard| {
            let found = shard.peek(location.hash, key, now);
            match found {
                Some((value, _)) => Sought::Live(value.clone()),
                None => self.join_or_lead_under(shard, location, key, candidate),
            }
        });
        assert_no_lock_held("load into");
        sought
    }

    #[cold]
    #[inline(never)]
    fn join_or_lead_under<'a>(
        &self,
        shard: &Shard<K, V>,
        location: &KeyLocation<'a, K, V>,
        key: &K,
        candidate: impl FnOnce() -> Candidate,
    ) -> Sought<'a, K, V> {
        if self.inner.settings.stale_if_error.is_some() {
            let now = self.inner.settings.clock.now();
            if let Some((value, false)) = shard.stale(location.hash, key, now) {
                return Sought::Stale(value.clone());
            }
        }
        let in_flight = &location.cell.in_flight;
        Sought::Missing(in_flight.join_or_lead(location.hash.0, key, candidate()))
    }
}
