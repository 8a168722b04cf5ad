//! What reads, runs user code, and then writes as one step. These are flights too, so the user
//! code runs without a lock, and a write in between is noticed.

use super::extras::Origin;
use super::removal::{RemovalCause, Removals};
use super::tags::Tagged;
use super::{LocalCache, Place};
use crate::entry::Loaded;
use crate::flight::{Leader, Outdated};
use std::hash::{BuildHasher, Hash};

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// Replaces the value of a key by what `change` makes of it, as one step: if the key is
    /// written to meanwhile, `change` is called again with the new value.
    ///
    /// `change` is given the live value, if one is held, and returns the new one, or `None` to
    /// remove the key. The new entry's time to live begins anew, its [tags](Loaded::tags) are the old
    /// one's: if one of them is invalidated meanwhile, `change` is called again with `None`. Returns the new value. Loads of
    /// the key that are under way do not store their results.
    ///
    /// `change` runs without a lock and may call the cache; if it writes to the same key each time,
    /// it is called for ever.
    ///
    /// ```
    /// let visits: hotset::LocalCache<&str, u64> = hotset::LocalCache::new(100);
    /// for _ in 0..3 {
    ///     visits.update(&"home", |count| Some(count.map_or(1, |count| count + 1)));
    /// }
    /// assert_eq!(visits.get("home"), Some(3));
    /// assert_eq!(visits.update(&"home", |_| None), None);
    /// assert!(visits.is_empty());
    /// ```
    pub fn update(&self, key: &K, mut change: impl FnMut(Option<&V>) -> Option<V>) -> Option<V> {
        let place = self.place(key);
        loop {
            let mut claim = self.claim(&place, key);
            let (current, tags) = self.peek_tagged(&place, key);
            let next = change(current.as_ref());
            let mut removals = self.removals();
            let written = match next.clone() {
                Some(value) => {
                    let loaded = Loaded::new(value);
                    let origin = Origin {
                        load_time: 0,
                        age: 0,
                        epoch: claim.epoch,
                        tags,
                    };
                    let claim = Some(&mut claim);
                    self.store(&place, key.clone(), loaded, origin, claim, &mut removals)
                }
                None => self.remove_claimed(&place, key, &mut claim, &mut removals),
            };
            // Not as it returns: a panic in a `drop` then leaks what is on its way to the caller.
            drop((claim, current));
            removals.finish();
            if written.is_ok() {
                return next;
            }
        }
    }

    /// Takes out the entries for which `keep` returns `false`.
    ///
    /// `keep` is called without a lock, once for each live entry, and again if the entry is
    /// written to meanwhile. It counts as no lookup and no use. Entries inserted meanwhile may or
    /// may not be seen; so a load under way, of a key that is not held yet, stores what it finds.
    /// [`clear`](Self::clear) and [`remove`](Self::remove) are for that.
    pub fn retain(&self, mut keep: impl FnMut(&K, &V) -> bool) {
        for cell in &self.inner.cells {
            let now = self.inner.settings.clock.now();
            // Outside, so that it is dropped there if a `clone` panics.
            let mut keys = Vec::new();
            cell.shard.read(|shard| {
                let live = shard.hottest_first(now);
                keys.extend(live.map(|(key, _)| key.clone()));
            });
            for key in keys {
                while self.retain_one(&key, &mut keep).is_err() {}
            }
        }
    }

    fn retain_one(&self, key: &K, keep: &mut impl FnMut(&K, &V) -> bool) -> Result<(), Outdated> {
        let place = self.place(key);
        let mut claim = self.claim(&place, key);
        let value = self.peek(&place, key, |value, _| value.clone());
        if value.is_none_or(|value| keep(key, &value)) {
            return Ok(());
        }
        let mut removals = self.removals();
        let removed = self.remove_claimed(&place, key, &mut claim, &mut removals);
        drop(claim);
        removals.finish();
        removed
    }

    fn peek_tagged(&self, place: &Place<'_, K, V>, key: &K) -> (Option<V>, Option<Box<Tagged>>) {
        place.cell.shard.read(|shard| {
            let now = || self.inner.settings.clock.now();
            match shard.peek_tagged(place.hash, key, now) {
                Some((value, tags)) => (Some(value.clone()), tags.cloned().map(Box::new)),
                None => (None, None),
            }
        })
    }

    /// A promise of a value that comes from elsewhere.
    #[cfg(feature = "redis")]
    pub(crate) fn promise(&self, key: &K) -> Promise<'_, K, V, S> {
        let place = self.place(key);
        let claim = self.claim(&place, key);
        Promise {
            cache: self,
            place,
            claim,
        }
    }

    /// The number of invalidations of tags and of everything so far.
    #[cfg(feature = "redis")]
    pub(crate) fn epoch(&self) -> u64 {
        self.inner.tags.epoch()
    }

    fn claim<'a>(&self, place: &Place<'a, K, V>, key: &K) -> Leader<'a, K, V> {
        let flights = &place.cell.flights;
        flights.register_exclusive(place.hash.0, key.clone(), self.candidate())
    }

    fn remove_claimed(
        &self,
        place: &Place<'_, K, V>,
        key: &K,
        claim: &mut Leader<'_, K, V>,
        removals: &mut Removals<'_, K, V>,
    ) -> Result<(), Outdated> {
        self.take_out(place, key, RemovalCause::Removed, Some(claim), removals)?;
        Ok(())
    }
}

/// A value that comes from elsewhere. It is stored unless the key was written to since the promise
/// was made.
#[cfg(feature = "redis")]
pub(crate) struct Promise<'a, K, V, S> {
    cache: &'a LocalCache<K, V, S>,
    place: Place<'a, K, V>,
    claim: Leader<'a, K, V>,
}

#[cfg(feature = "redis")]
impl<K, V, S> Promise<'_, K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// Stores the value, and says whether it might.
    pub(crate) fn keep(self, key: K, loaded: Loaded<V>) -> bool {
        self.keep_since(u64::MAX, key, loaded)
    }

    /// Stores a value that was true already in this [epoch](LocalCache::epoch), before the promise was made.
    pub(crate) fn keep_since(mut self, epoch: u64, key: K, loaded: Loaded<V>) -> bool {
        let cache = self.cache;
        let mut removals = cache.removals();
        let origin = cache.origin(&loaded, self.claim.epoch.min(epoch), 0);
        let claim = Some(&mut self.claim);
        let stored = cache.store(&self.place, key, loaded, origin, claim, &mut removals);
        drop(self);
        removals.finish();
        stored.is_ok()
    }
}
