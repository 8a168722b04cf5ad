//! Operations that read, run user code, and write as one step. They are registered like loads in flight, so that the user
//! code runs without a lock, and a write in between is detected.

use crate::entry::Loaded;
#[cfg(feature = "redis")]
use crate::local::DefaultHasher;
use crate::local::removal::{RemovalCause, Removals};
use crate::local::shard::metadata::Origin;
use crate::local::shard::{Shard, Terms};
use crate::local::walk::{Span, Walk};
use crate::local::{KeyLocation, LocalCache};
use crate::single_flight::{Leader, Outdated};
use std::hash::{BuildHasher, Hash};

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// Replaces the value for `key` by the result of `change`, as one step. If the key is written to
    /// meanwhile, `change` is called again with the new value.
    ///
    /// `change` is given the live value, or `None` if there is none, and returns the new value, or `None`
    /// to remove the key. Returns the new value. Loads of the key that are in flight do not store their
    /// results.
    ///
    /// The entry keeps:
    ///
    /// - its remaining time to live, to the nanosecond, whether that is its own or the cache's. So an
    ///   entry that is updated again and again still expires. If it expires while `change` runs,
    ///   `change` is called again with `None`;
    /// - its [weight](Loaded::weight), if it was stored with one. Otherwise the weigher is called again;
    /// - its [tags](Loaded::tags). If one of them is invalidated while `change` runs, `change` is called
    ///   again with `None`.
    ///
    /// To change these, use [`update_loaded`](Self::update_loaded). The times of
    /// [`time_to_idle`](crate::LocalCacheBuilder::time_to_idle) and [`refresh_after`](crate::LocalCacheBuilder::refresh_after)
    /// begin again, like with each write, and the value's age is zero. If there was no live value, the
    /// new entry has the cache's settings, like with [`insert`](Self::insert).
    ///
    /// `change` runs without a lock and may call the cache. If it writes to the same key each time, it
    /// is called without limit.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::LocalCache;
    /// use std::time::Duration;
    ///
    /// let visits: LocalCache<&str, u64> = LocalCache::new(100);
    /// visits.insert_with_ttl("home", 0, Duration::from_secs(60));
    /// for _ in 0..3 {
    ///     visits.update(&"home", |count| Some(count.map_or(1, |count| count + 1)));
    /// }
    /// assert_eq!(visits.get("home"), Some(3));
    /// // Counted from the insertion.
    /// assert!(visits.remaining_ttl("home").unwrap() <= Duration::from_secs(60));
    /// assert_eq!(visits.update(&"home", |_| None), None);
    /// assert!(visits.is_empty());
    /// ```
    pub fn update(&self, key: &K, mut change: impl FnMut(Option<&V>) -> Option<V>) -> Option<V> {
        self.update_loaded(key, |value| change(value).map(Loaded::new))
    }

    /// Like [`update`](Self::update), but `change` returns a [`Loaded`], whose time to live, weight and
    /// tags replace those of the entry. The entry keeps each of the three that the `Loaded` does not set.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{Loaded, LocalCache};
    /// use std::time::Duration;
    ///
    /// let minute = Duration::from_secs(60);
    /// let sessions: LocalCache<u64, String> = LocalCache::new(100);
    /// sessions.insert_with_ttl(7, "alice".to_string(), minute);
    /// // Lives for another 30 minutes.
    /// sessions.update_loaded(&7, |name| Some(Loaded::new(name?.clone()).ttl(30 * minute)));
    /// assert!(sessions.remaining_ttl(&7).unwrap() > minute);
    /// ```
    pub fn update_loaded(
        &self,
        key: &K,
        mut change: impl FnMut(Option<&V>) -> Option<Loaded<V>>,
    ) -> Option<V> {
        let location = self.location(key);
        loop {
            let mut claim = self.claim(&location, key);
            let (current, terms) = self.peek_terms(&location, key).unzip();
            let next = change(current.as_ref());
            let mut removals = self.removals();
            let (value, written) = match next {
                Some(mut loaded) => {
                    let origin = self.updated_origin(&mut loaded, terms, claim.epoch);
                    let value = Some(loaded.value.clone());
                    let claim = Some(&mut claim);
                    let stored =
                        self.store(&location, key.clone(), loaded, origin, claim, &mut removals);
                    (value, stored)
                }
                None => (
                    None,
                    self.remove_claimed(&location, key, &mut claim, &mut removals),
                ),
            };
            // Dropped here and not on return, because a panic in a `drop` on return would leak the returned value.
            drop((claim, current));
            removals.finish();
            if written.is_ok() {
                return value;
            }
        }
    }

    /// Completes the settings of `loaded` by the terms of the entry that it replaces, and returns its origin.
    fn updated_origin(&self, loaded: &mut Loaded<V>, terms: Option<Terms>, epoch: u64) -> Origin {
        let terms = terms.unwrap_or_default();
        loaded.weight = loaded.weight.or(terms.weight);
        let tags = self.inner.tags.tag(&loaded.tags, epoch);
        let (tags, replaced_tags) = match tags {
            Some(tags) => (Some(tags), terms.tags),
            None => (terms.tags, None),
        };
        Origin {
            load_time: terms.load_time,
            age: 0,
            epoch,
            tags,
            replaced_tags,
            deadline: terms.limit.filter(|_| loaded.ttl.is_none()),
        }
    }

    /// Removes the entries for which `keep` returns `false`.
    ///
    /// `keep` is called without a lock, once for each live entry, and again if the entry is written to
    /// meanwhile. A call counts neither as a lookup nor as a use. Expired entries are removed, also those that
    /// [`stale_if_error`](crate::LocalCacheBuilder::stale_if_error) would still serve.
    ///
    /// This is an invalidation: loads that are in flight when it is called do not store their
    /// results, whatever their keys, because `keep` cannot be called for results that do not exist yet. Their callers
    /// get the loaded values. So a value that a load has read from a database before a change is not cached after it,
    /// if `retain` is called after the change. `keep` may or may not be called for entries that
    /// are stored meanwhile by insertions and by loads that began later.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::LocalCache;
    ///
    /// let prices: LocalCache<&str, u64> = LocalCache::new(100);
    /// prices.insert("apple", 120);
    /// prices.insert("pear", 90);
    /// prices.retain(|_, price| *price > 100);
    /// assert!(prices.contains_key("apple") && !prices.contains_key("pear"));
    /// ```
    pub fn retain(&self, mut keep: impl FnMut(&K, &V) -> bool) {
        for cell in &self.inner.cells {
            // This comes before the entries are listed: a value that a load has stored by now is listed, and one that
            // it has not stored by now is never stored.
            let shard = cell.shard.write();
            cell.in_flight.revoke_all();
            drop(shard);
            let mut walk = Walk::new();
            while !walk.is_over() {
                // Outside of the lock, so that it is dropped there if a `clone` panics.
                let mut keys = Vec::new();
                let list = |shard: &Shard<K, V>, span: &Span| {
                    keys.extend(shard.keys_in(span).cloned());
                };
                walk.step(&cell.shard, list);
                for key in keys {
                    while self.retain_one(&key, &mut keep).is_err() {}
                }
            }
        }
    }

    fn retain_one(&self, key: &K, keep: &mut impl FnMut(&K, &V) -> bool) -> Result<(), Outdated> {
        let location = self.location(key);
        let mut claim = self.claim(&location, key);
        let value = self.peek(&location, key, |value, _| value.clone());
        // `keep` was not called for an expired entry, so the entry may not serve after a failed load either.
        if value.is_some_and(|value| keep(key, &value)) {
            return Ok(());
        }
        let mut removals = self.removals();
        let removed = self.remove_claimed(&location, key, &mut claim, &mut removals);
        drop(claim);
        removals.finish();
        removed
    }

    /// Returns the live value for `key` and the terms of its entry.
    fn peek_terms(&self, location: &KeyLocation<'_, K, V>, key: &K) -> Option<(V, Terms)> {
        location.cell.shard.read(|shard| {
            let now = || self.inner.settings.clock.now();
            let (value, terms) = shard.peek_terms(location.hash, key, now)?;
            Some((value.clone(), terms))
        })
    }

    /// Returns a promise of a value from elsewhere. It is stored unless the key is written to meanwhile.
    #[cfg(feature = "redis")]
    pub(crate) fn promise(&self, key: &K) -> Promise<'_, K, V, S> {
        let location = self.location(key);
        let claim = self.claim(&location, key);
        Promise {
            cache: self,
            location,
            claim,
        }
    }

    /// Returns the number of invalidations of tags and of everything so far.
    #[cfg(feature = "redis")]
    pub(crate) fn epoch(&self) -> u64 {
        self.inner.tags.epoch()
    }

    fn claim<'a>(&self, location: &KeyLocation<'a, K, V>, key: &K) -> Leader<'a, K, V> {
        let in_flight = &location.cell.in_flight;
        in_flight.register_update(location.hash.0, key.clone(), self.candidate())
    }

    fn remove_claimed(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &K,
        claim: &mut Leader<'_, K, V>,
        removals: &mut Removals<'_, K, V>,
    ) -> Result<(), Outdated> {
        self.take_out(location, key, RemovalCause::Removed, Some(claim), removals)?;
        Ok(())
    }
}

/// The right to store a value from elsewhere. It is stored unless the key was written to since the promise
/// was made.
#[cfg(feature = "redis")]
pub(crate) struct Promise<'a, K, V, S = DefaultHasher> {
    cache: &'a LocalCache<K, V, S>,
    location: KeyLocation<'a, K, V>,
    claim: Leader<'a, K, V>,
}

#[cfg(feature = "redis")]
impl<K, V, S> Promise<'_, K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// Stores the value. Returns `false` if the key was written to meanwhile.
    pub(crate) fn keep(self, key: K, loaded: Loaded<V>) -> bool {
        self.keep_since(u64::MAX, key, loaded)
    }

    /// Stores a value that was current in the given [epoch](LocalCache::epoch), before the promise was made.
    pub(crate) fn keep_since(mut self, epoch: u64, key: K, loaded: Loaded<V>) -> bool {
        let cache = self.cache;
        let mut removals = cache.removals();
        let origin = cache.origin(&loaded, self.claim.epoch.min(epoch), 0);
        let claim = Some(&mut self.claim);
        let stored = cache.store(&self.location, key, loaded, origin, claim, &mut removals);
        drop(self);
        removals.finish();
        stored.is_ok()
    }
}
