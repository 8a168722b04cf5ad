//! Updates, which read a value, run user code, and write the result in one step.
//!
//! An update claims its key in the table of loads in flight. The user code can therefore run without a lock, because a
//! write that happens meanwhile is detected.

use crate::entry::Loaded;
use crate::local::shard::entry::EntrySettings;
use crate::local::shard::metadata::Provenance;
use crate::local::{KeyLocation, LocalCache};
use crate::single_flight::Leader;
use equivalent::Equivalent;
use std::hash::{BuildHasher, Hash};

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// Replaces the value for `key` by the result of `change`, as one step. If the key is written to meanwhile,
    /// `change` is called again with the new value.
    ///
    /// `change` is given the live value, or `None` if there is none, and returns the new value, or `None` to remove the
    /// key. Returns the new value. Loads of the key that are in flight do not store their results.
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
        let location = self.location(key);
        loop {
            let mut claim = self.claim(&location, key.to_owned());
            let (current, settings) = self.peek_with_settings(&location, key).unzip();
            let next = change(current.as_ref());
            let mut removals = self.removals();
            let (value, written) = match next {
                Some(mut loaded) => {
                    let provenance = self.updated_provenance(&mut loaded, settings, claim.epoch);
                    let value = Some(loaded.value.clone());
                    let claim = Some(&mut claim);
                    let (key, out) = (key.to_owned(), &mut removals);
                    let stored = self.store(&location, key, loaded, provenance, claim, out);
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
            epoch,
            tags,
            replaced_tags,
            deadline: replaced.latest_deadline.filter(|_| loaded.ttl.is_none()),
        }
    }

    /// Returns the live value for `key` and the settings of its entry.
    fn peek_with_settings<Q>(
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
