//! Updates, which read a value, run user code, and write the result in one step.
//!
//! An update claims its key in the table of loads in flight. The user code can therefore run without a lock, because a
//! write that happens meanwhile is detected.

use crate::entry::{Compute, Loaded};
use crate::local::shard::entry::EntrySettings;
use crate::local::shard::metadata::Provenance;
use crate::local::{KeyLocation, LocalCache};
use crate::single_flight::{Leader, Outdated};
use equivalent::Equivalent;
use std::convert::Infallible;
use std::future::Future;
use std::hash::{BuildHasher, Hash};

/// A change of an entry.
enum Change<V> {
    Put(Loaded<V>),
    Keep,
    Remove,
}

/// The result of a change.
enum Applied<V> {
    Kept,
    /// The entry was stored with this value, or removed.
    Changed(Option<V>),
}

impl<V> From<Compute<V>> for Change<V> {
    fn from(compute: Compute<V>) -> Self {
        match compute {
            Compute::Put(value) => Self::Put(Loaded::new(value)),
            Compute::Keep => Self::Keep,
            Compute::Remove => Self::Remove,
        }
    }
}

impl<V> From<Option<Loaded<V>>> for Change<V> {
    fn from(loaded: Option<Loaded<V>>) -> Self {
        loaded.map_or(Self::Remove, Self::Put)
    }
}

/// Returns the result of a change that cannot fail.
fn infallible<T>(result: Result<T, Infallible>) -> T {
    match result {
        Ok(value) => value,
        Err(never) => match never {},
    }
}

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// Replaces the value for `key` by the result of `change`, as one step. If the key is written to meanwhile,
    /// `change` is called again with the new value. An eviction does not count as a write.
    ///
    /// `change` is given the live value, or `None` if there is none, and returns the new value, or `None` to remove the
    /// entry. The call returns the new value. Loads of the key that are in flight do not store their results.
    ///
    /// The entry keeps:
    ///
    /// - its remaining time to live, to the nanosecond, whether that is its own or the cache's. So an entry that is
    ///   updated again and again still expires. If it expires while `change` runs, `change` is called again with
    ///   `None`;
    /// - its [weight](Loaded::weight), if it was stored with one. Otherwise the weigher is called again;
    /// - its [tags](Loaded::tags). If one of them is invalidated while `change` runs, `change` is called again with
    ///   `None`.
    ///
    /// To change these, use [`update_loaded`](Self::update_loaded). The times of
    /// [`time_to_idle`](crate::LocalCacheBuilder::time_to_idle) and
    /// [`refresh_after`](crate::LocalCacheBuilder::refresh_after) begin again, as with each write, and the value's age
    /// is zero. If there was no live value, the new entry has the cache's settings, as with [`insert`](Self::insert).
    ///
    /// `change` runs without a lock and may call the cache. If it writes to the same key each time, it is called again
    /// without limit.
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
    #[doc(alias("replace", "computeIfPresent", "merge", "and_upsert_with", "get_mut"))]
    pub fn update<Q>(&self, key: &Q, mut change: impl FnMut(Option<&V>) -> Option<V>) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        self.update_loaded(key, |value| change(value).map(Loaded::new))
    }

    /// Like [`update`](Self::update), but `change` returns a [`Loaded`], whose time to live, weight and tags replace
    /// those of the entry. The entry keeps each of the three that the `Loaded` does not set.
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
    pub fn update_loaded<Q>(
        &self,
        key: &Q,
        mut change: impl FnMut(Option<&V>) -> Option<Loaded<V>>,
    ) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        let change = |value: Option<&V>| Ok(Change::from(change(value)));
        infallible(self.change(key, change))
    }

    /// Reads the value for `key`, and stores, keeps or removes the entry as `change` says, as one step. Returns the
    /// new value, even if it is not stored because it is refused, or the current one if it is kept.
    ///
    /// Like [`update`](Self::update), but `change` returns a [`Compute`]. With [`Compute::Keep`] the entry stays
    /// unchanged: the call does not count as a use, a time to idle does not begin again, and loads in flight may store
    /// their results.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{Compute, LocalCache};
    ///
    /// let stock: LocalCache<String, u32> = LocalCache::new(100);
    /// stock.insert("apple".to_string(), 1);
    /// let take_one = |left: Option<&u32>| match left {
    ///     None => Compute::Keep,
    ///     Some(1) => Compute::Remove,
    ///     Some(left) => Compute::Put(left - 1),
    /// };
    /// assert_eq!(stock.compute("apple", take_one), None);
    /// assert!(!stock.contains_key("apple"));
    /// ```
    #[doc(alias(
        "and_compute_with",
        "and_upsert_with",
        "entry",
        "remove_if",
        "entry_by_ref"
    ))]
    pub fn compute<Q>(&self, key: &Q, mut change: impl FnMut(Option<&V>) -> Compute<V>) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        infallible(self.try_compute(key, |value| Ok(change(value))))
    }

    /// Like [`compute`](Self::compute), but `change` may fail.
    ///
    /// # Errors
    ///
    /// Returns the error of `change`. The entry is then unchanged.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{Compute, LocalCache};
    ///
    /// let totals: LocalCache<String, u32> = LocalCache::new(100);
    /// let add = |text: &'static str| {
    ///     move |total: Option<&u32>| {
    ///         Ok::<_, std::num::ParseIntError>(Compute::Put(total.unwrap_or(&0) + text.parse::<u32>()?))
    ///     }
    /// };
    /// assert_eq!(totals.try_compute("a", add("5"))?, Some(5));
    /// assert!(totals.try_compute("a", add("five")).is_err());
    /// assert_eq!(totals.get("a"), Some(5));
    /// # Ok::<(), std::num::ParseIntError>(())
    /// ```
    #[doc(alias = "and_try_compute_with")]
    pub fn try_compute<Q, E>(
        &self,
        key: &Q,
        mut change: impl FnMut(Option<&V>) -> Result<Compute<V>, E>,
    ) -> Result<Option<V>, E>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        let change = |value: Option<&V>| change(value).map(Change::from);
        self.change(key, change)
    }

    /// Like [`compute`](Self::compute), but for tasks. `change` is given a clone of the value.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the entry is unchanged.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{Compute, LocalCache};
    ///
    /// # async fn discount(price: u64) -> u64 { price * 9 / 10 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let prices: LocalCache<String, u64> = LocalCache::new(100);
    /// prices.insert("apple".to_string(), 200);
    /// let reduce = |price| async move {
    ///     match price {
    ///         Some(price) => Compute::Put(discount(price).await),
    ///         None => Compute::Keep,
    ///     }
    /// };
    /// assert_eq!(prices.compute_async("apple", reduce).await, Some(180));
    /// # }
    /// ```
    #[doc(alias("and_compute_with", "and_upsert_with", "entry_async"))]
    pub async fn compute_async<Q, F>(
        &self,
        key: &Q,
        mut change: impl FnMut(Option<V>) -> F,
    ) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        F: Future<Output = Compute<V>>,
    {
        let change = |value| {
            let changing = change(value);
            async { Ok(changing.await) }
        };
        infallible(self.try_compute_async(key, change).await)
    }

    /// Like [`try_compute`](Self::try_compute), but for tasks. `change` is given a clone of the value.
    ///
    /// # Errors
    ///
    /// Returns the error of `change`. The entry is then unchanged.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the entry is unchanged.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{Compute, LocalCache};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let prices: LocalCache<String, u64> = LocalCache::new(100);
    /// let fail = |_| async { Err::<Compute<u64>, _>("no connection") };
    /// assert_eq!(prices.try_compute_async("apple", fail).await, Err("no connection"));
    /// # }
    /// ```
    #[doc(alias("and_try_compute_with", "and_try_compute_if_nobody_else"))]
    pub async fn try_compute_async<Q, F, E>(
        &self,
        key: &Q,
        mut change: impl FnMut(Option<V>) -> F,
    ) -> Result<Option<V>, E>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        F: Future<Output = Result<Compute<V>, E>>,
    {
        let location = self.location(key);
        loop {
            let claim = self.claim(&location, key.to_owned());
            let (current, settings) = self.peek_with_settings(&location, key).unzip();
            // Boxed, so that this future stays small whatever the size of the change.
            let next = Box::pin(change(current.clone())).await?;
            match self.apply(&location, key, claim, settings, next.into()) {
                Ok(Applied::Kept) => return Ok(current),
                Ok(Applied::Changed(value)) => {
                    // Not on return, because a panic in this `drop` would leak the returned value.
                    drop(current);
                    return Ok(value);
                }
                Err(Outdated) => {}
            }
        }
    }

    /// Changes the entry of a key as `change` says, as one step.
    fn change<Q, E>(
        &self,
        key: &Q,
        mut change: impl FnMut(Option<&V>) -> Result<Change<V>, E>,
    ) -> Result<Option<V>, E>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        let location = self.location(key);
        loop {
            let claim = self.claim(&location, key.to_owned());
            let (current, settings) = self.peek_with_settings(&location, key).unzip();
            let next = change(current.as_ref())?;
            match self.apply(&location, key, claim, settings, next) {
                Ok(Applied::Kept) => return Ok(current),
                Ok(Applied::Changed(value)) => {
                    // Not on return, because a panic in this `drop` would leak the returned value.
                    drop(current);
                    return Ok(value);
                }
                Err(Outdated) => {}
            }
        }
    }

    /// Applies a change to the entry of a claimed key, which had these settings.
    ///
    /// # Errors
    ///
    /// Returns an error if the key was written to since the claim, or if the entry has expired or was invalidated.
    /// Nothing is then changed.
    fn apply<Q>(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &Q,
        mut claim: Leader<'_, K, V>,
        settings: Option<EntrySettings>,
        change: Change<V>,
    ) -> Result<Applied<V>, Outdated>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        let mut removals = self.removals();
        let (value, written) = match change {
            Change::Keep => return Ok(Applied::Kept),
            Change::Put(mut loaded) => {
                let provenance = self.updated_provenance(&mut loaded, settings, claim.epoch);
                let value = Some(loaded.value.clone());
                let (key, leader, out) = (key.to_owned(), Some(&mut claim), &mut removals);
                let stored = self.store(location, key, loaded, provenance, leader, out);
                (value, stored)
            }
            Change::Remove => {
                let read = settings.as_ref();
                let removed = self.remove_claimed(location, key, &mut claim, read, &mut removals);
                (None, removed)
            }
        };
        // Dropped here and not on return, because a panic in a `drop` on return would leak the returned value.
        drop(claim);
        removals.finish();
        written.map(|()| Applied::Changed(value))
    }

    /// Completes the settings of `loaded` by those of the entry that it replaces, and returns its provenance.
    fn updated_provenance(
        &self,
        loaded: &mut Loaded<V>,
        replaced: Option<EntrySettings>,
        epoch: u64,
    ) -> Provenance {
        let replaced = replaced.unwrap_or_default();
        loaded.weight = loaded.weight.or(replaced.weight);
        let tags = self.inner.tags.entry_tags(&loaded.tags, epoch);
        let (tags, replaced_tags) = match tags {
            Some(tags) => (Some(tags), replaced.tags),
            None => (replaced.tags, None),
        };
        Provenance {
            load_time: replaced.load_time,
            age: 0,
            write: 0,
            epoch,
            partition: 0,
            tags,
            replaced_tags,
            deadline: replaced.latest_deadline,
        }
    }

    /// Returns the live value for `key` and the settings of its entry.
    pub(in crate::local) fn peek_with_settings<Q>(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &Q,
    ) -> Option<(V, EntrySettings)>
    where
        Q: Equivalent<K> + ?Sized,
    {
        location.cell.shard.read(|shard| {
            let now = || self.inner.settings.clock.now();
            let (value, settings) = shard.peek_with_settings(location.hash, key, now)?;
            Some((value.clone(), settings))
        })
    }

    /// Claims a key, so that a write by another caller is detected.
    pub(in crate::local) fn claim<'a>(
        &self,
        location: &KeyLocation<'a, K, V>,
        key: K,
    ) -> Leader<'a, K, V> {
        let in_flight = &location.cell.in_flight;
        in_flight.register_update(location.hash.0, key, self.candidate())
    }
}
