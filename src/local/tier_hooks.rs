//! The operations that only a tiered cache calls, on the local cache that is its L1.

pub(crate) use crate::local::load::batch::BatchLookup;
pub(crate) use crate::local::load::refresh::THROTTLE;
pub(crate) use crate::local::load::waiting::WaitLimits;
#[cfg(feature = "metrics")]
pub(crate) use crate::local::metrics::{Loads, samples};
pub(crate) use crate::local::write_through::ConditionalInsertion;

use crate::clock::{NEVER, Nanos, TimeSource, saturating_nanos};
use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
use crate::local::lookup::Lookup;
use crate::local::shard::Shard;
use crate::local::shard::entry::EntrySettings;
use crate::local::{KeyLocation, LocalCache};
use crate::sync::thread_slot::ThreadSlot;
use crate::traits::erasure::{LoadResult, LoaderProperties};
use crate::traits::key::LookupKey;
use equivalent::Equivalent;
use std::future::Future;
use std::hash::{BuildHasher, Hash};
use std::time::Duration;

impl<K: Eq + Hash, V, S: BuildHasher> LocalCache<K, V, S> {
    /// Looks up a key like [`get`](Self::get), for a caller that has read the system's clock at `now`. A miss is not
    /// counted.
    #[inline]
    pub(crate) fn hit_or_uncounted_miss<Q>(&self, key: &Q, now: Nanos) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ?Sized,
        V: Clone,
    {
        let early_time = self.early_time_at(now);
        let (location, thread) = (self.location(key), ThreadSlot::current_or_shared());
        self.hit_at(&location, key, early_time, thread, V::clone)
    }

    /// Returns the [early time](Self::early_time) for a caller that has read the system's clock at `now`.
    #[inline(always)]
    fn early_time_at(&self, now: Nanos) -> Nanos {
        match self.inner.settings.clock {
            TimeSource::System if self.inner.expires => now,
            _ => self.early_time(),
        }
    }

    /// Completes the time to live of a value that was loaded or written, by the rule of
    /// [`expire_after`](crate::LocalCacheBuilder::expire_after).
    pub(crate) fn apply_expire_after(&self, key: &K, loaded: &mut Loaded<V>) {
        loaded.ttl = self.inner.settings.ttl_of(key, &loaded.value, loaded.ttl);
    }

    /// Returns the number of the write that has stored the value of a key in L2, or 0 if it is not known. Only caches
    /// with rules for refreshes know it.
    pub(crate) fn write_in_l2<Q>(&self, key: &Q) -> u64
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let location = self.location(key);
        let write = |shard: &Shard<K, V>| shard.write_in_l2(location.hash, key);
        location.cell.shard.read(write)
    }

    /// Counts a miss without a lookup. Called when no value that a lookup could find may be served.
    pub(crate) fn miss(&self) {
        self.count_miss(ThreadSlot::current());
    }

    /// Invalidates all entries, in the same short time for any number of them. The results of loads in flight are
    /// stored, but count as invalidated, and later callers do not wait for those loads.
    pub(crate) fn invalidate_all_entries(&self) {
        debug_assert!(self.inner.settings.is_l1);
        self.inner.tags.invalidate_all();
    }

    /// Invalidates the entries of one partition, like [`invalidate_all_entries`](Self::invalidate_all_entries). Later
    /// callers do not wait for loads of any partition.
    pub(crate) fn invalidate_partition(&self, partition: usize) {
        debug_assert!(self.inner.settings.is_l1);
        self.inner.tags.invalidate_partition(partition);
    }

    /// Begins an epoch. Later callers do not wait for loads that are in flight now.
    pub(crate) fn begin_epoch(&self) {
        self.inner.tags.begin_epoch();
    }

    /// Returns the number of invalidations of tags and of all entries so far.
    pub(crate) fn epoch(&self) -> u64 {
        self.inner.tags.epoch()
    }
}

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// Looks up a key for a caller that has read the system's clock at `now`. On a miss, joins the load in flight or
    /// leads a new one: pass the result to [`load_missed`](Self::load_missed).
    #[inline(always)]
    pub(crate) fn look_up_to_load<Q>(&self, key: &Q, now: Nanos) -> Result<V, Missed<'_, K, V>>
    where
        Q: LookupKey<K> + ?Sized,
    {
        let location = self.location(key);
        match self.lookup_at(&location, key, self.early_time_at(now)) {
            Lookup::Hit(value) => Ok(value),
            lookup => Err(Missed { location, lookup }),
        }
    }

    /// Joins the load of a key in flight or leads a new one, whether the key has a live value or not.
    pub(crate) fn reload_missed<Q>(&self, key: &Q) -> Missed<'_, K, V>
    where
        Q: LookupKey<K> + ?Sized,
    {
        let location = self.location(key);
        let role = Self::reload(&location, key, self.candidate());
        let lookup = Lookup::Miss(role);
        Missed { location, lookup }
    }

    /// Returns the lookup of a key whose live value is due for a refresh.
    pub(crate) fn due_for_refresh<Q>(&self, key: &Q, value: V) -> Missed<'_, K, V>
    where
        Q: Hash + ?Sized,
    {
        Missed {
            location: self.location(key),
            lookup: Lookup::NeedsRefresh(value),
        }
    }

    /// Returns the value for a key after its lookup, for a loader whose result is in shared form already.
    pub(crate) async fn load_missed<Q, F>(
        &self,
        key: &Q,
        missed: Missed<'_, K, V>,
        loader: LoaderProperties,
        load: impl FnOnce() -> F,
    ) -> Result<V, LoadError<AnyError>>
    where
        Q: LookupKey<K> + ?Sized,
        F: Future<Output = LoadResult<V>>,
    {
        // Without an id, a call from the loader of the key is recursive, and is not taken for a stolen job. That job
        // would wait in L2 for the lease of the load that it interrupts.
        let loader = LoaderProperties { id: None, ..loader };
        let Missed { location, lookup } = missed;
        self.load_async(location, key, (lookup, loader), load).await
    }

    /// Returns the live value of a key that the caller has begun to load again, with the settings that its new entry
    /// keeps.
    pub(crate) fn begin_reload(&self, key: &K) -> Option<(V, EntrySettings)> {
        self.value_to_refresh(&self.location(key), key)
    }

    /// Checks whether a rule may find a live value due for a refresh.
    pub(crate) fn refreshes_by_rule(&self) -> bool {
        let settings = &self.inner.settings;
        settings.refresh_after.is_some() || settings.early_refresh.is_some()
    }

    /// Checks whether a value of L2 is due for a refresh, which the rule of
    /// [`early_refresh`](crate::LocalCacheBuilder::early_refresh) decides at random.
    pub(crate) fn is_due_for_refresh(&self, found: &Loaded<V>) -> bool {
        let left = match found.ttl {
            None | Some(Duration::MAX) => NEVER,
            Some(ttl) => saturating_nanos(ttl),
        };
        let rules = self.inner.settings.refresh_rules();
        rules.is_some_and(|rules| rules.is_due(found.age, left, found.load_time))
    }

    /// Checks whether expired values may serve if a load fails.
    pub(crate) fn serves_stale(&self) -> bool {
        self.inner.settings.stale_if_error.is_some()
    }

    /// Checks whether there is a value to serve in place of a load that takes too long.
    pub(crate) fn has_stale(&self, key: &K) -> bool {
        self.stale_for_waiter(&self.location(key), key).is_some()
    }

    /// Returns an expired value for a caller that has waited for too long, and counts it.
    pub(crate) fn stale_in_place(&self, key: &K) -> Option<V> {
        let location = self.location(key);
        let outcome = self.stale_for_waiter(&location, key)?;
        self.take_outcome(key, outcome).ok()
    }
}

/// The result of a lookup that is not a [`Lookup::Hit`], and the location of its key.
pub(crate) struct Missed<'a, K, V> {
    location: KeyLocation<'a, K, V>,
    lookup: Lookup<'a, K, V>,
}

impl<K, V> Missed<'_, K, V> {
    /// Checks whether the key has a live value that the caller is to refresh.
    pub(crate) fn needs_refresh(&self) -> bool {
        matches!(self.lookup, Lookup::NeedsRefresh(_))
    }

    /// Returns the live value that the caller is to refresh, if there is one.
    pub(crate) fn into_live_value(self) -> Option<V> {
        match self.lookup {
            Lookup::NeedsRefresh(value) => Some(value),
            _ => None,
        }
    }
}
