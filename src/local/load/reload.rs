//! `refresh`: loads of keys that may have a live value.

use crate::entry::Loaded;
use crate::error::{AnyError, LoadError, LoaderError};
use crate::local::lookup::Lookup;
use crate::local::shard::entry::EntrySettings;
use crate::local::{KeyLocation, LocalCache};
use crate::single_flight::Timer;
use crate::single_flight::blocking::block_on;
use crate::single_flight::future::TaskTimer;
use crate::stats::Count;
use crate::traits::erasure::{LoaderProperties, share, typed};
use crate::traits::key::LookupKey;
use equivalent::Equivalent;
use std::cell::Cell;
use std::future::{Future, ready};
use std::hash::{BuildHasher, Hash};

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// Loads the value for `key` now, whether it is cached or not, and stores the result.
    ///
    /// Other callers get the current value meanwhile, if there is one. If a load of the key is in flight already, for
    /// `refresh` or for [`get_or_load`](Self::get_or_load), the call joins it. So after a change in the database, call
    /// [`invalidate`](Self::invalidate) instead: a load that `refresh` joins may have begun before the change. If that
    /// load outlives its lease, the call may also get the value of an earlier load.
    ///
    /// The new entry keeps the tags and the [weight](Loaded::weight) of the current one. Its time to live begins again,
    /// with the length that an insertion has.
    ///
    /// If the key is written to or invalidated during the load, or one of the tags is, the loaded value is returned and
    /// not stored.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`get_or_load`](Self::get_or_load). The current value stays in the cache. With
    /// [`stale_if_error`](crate::LocalCacheBuilder::stale_if_error), the call returns the current value, or an expired
    /// one, instead of the error of the loader. The failure is counted in
    /// [`Stats::load_failures`](crate::Stats::load_failures).
    ///
    /// # Panics
    ///
    /// Panics like [`get_or_load`](Self::get_or_load).
    ///
    /// # Blocking
    ///
    /// Blocks like [`get_or_load`](Self::get_or_load).
    ///
    /// # Examples
    ///
    /// ```
    /// let prices: hotset::LocalCache<String, u64> = hotset::LocalCache::new(100);
    /// prices.insert("apple".to_string(), 120);
    /// assert_eq!(prices.refresh("apple", |_| "130".parse())?, 130);
    /// assert_eq!(prices.get("apple"), Some(130));
    /// # Ok::<(), hotset::LoadError<std::num::ParseIntError>>(())
    /// ```
    #[doc(alias("reload", "get_with_if", "or_insert_with_if"))]
    pub fn refresh<Q, E, M>(
        &self,
        key: &Q,
        load: impl FnOnce(&Q) -> Result<V, E>,
    ) -> Result<V, LoadError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        E: LoaderError<M>,
    {
        let loader = LoaderProperties::new::<E, _>(&load);
        let load = |_| share(load(key));
        typed(self.refresh_blocking(key, loader, load))
    }

    /// Like [`refresh`](Self::refresh), but `load` is given the current value, or `None` if the key is absent or
    /// expired.
    ///
    /// A loader that finds the value unchanged returns it again, for example after the status 304 of a web server.
    /// The entry then gets a new time to live.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`refresh`](Self::refresh).
    ///
    /// # Panics
    ///
    /// Panics like [`get_or_load`](Self::get_or_load).
    ///
    /// # Blocking
    ///
    /// Blocks like [`get_or_load`](Self::get_or_load).
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::LocalCache;
    ///
    /// #[derive(Clone)]
    /// struct Page { etag: u32, text: String }
    ///
    /// # /// Returns `None` for the status 304.
    /// # fn request(path: &str, etag: Option<u32>) -> std::io::Result<Option<Page>> { Ok(None) }
    /// let pages: LocalCache<String, Page> = LocalCache::new(100);
    /// pages.insert("/".to_string(), Page { etag: 7, text: "hello".to_string() });
    /// let page = pages.refresh_with("/", |old| {
    ///     let changed = request("/", old.as_ref().map(|page| page.etag))?;
    ///     changed.or(old).ok_or_else(|| std::io::Error::other("status 304 without an etag"))
    /// })?;
    /// assert_eq!(page.text, "hello");
    /// # Ok::<(), hotset::LoadError<std::io::Error>>(())
    /// ```
    #[doc(alias = "reload")]
    pub fn refresh_with<Q, E, M>(
        &self,
        key: &Q,
        load: impl FnOnce(Option<V>) -> Result<V, E>,
    ) -> Result<V, LoadError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        E: LoaderError<M>,
    {
        let loader = LoaderProperties::new::<E, _>(&load);
        let load = |current| share(load(current));
        typed(self.refresh_blocking(key, loader, load))
    }

    /// Like [`refresh`](Self::refresh), but for tasks.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`refresh`](Self::refresh).
    ///
    /// # Panics
    ///
    /// Panics like [`get_or_load_async`](Self::get_or_load_async).
    ///
    /// # Cancel safety
    ///
    /// See [`get_or_load_async`](Self::get_or_load_async).
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn fetch_price(name: String) -> std::io::Result<u64> { Ok(130) }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), hotset::LoadError<std::io::Error>> {
    /// let prices: hotset::LocalCache<String, u64> = hotset::LocalCache::new(100);
    /// prices.insert("apple".to_string(), 120);
    /// assert_eq!(prices.refresh_async("apple", fetch_price).await?, 130);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("reload", "get_with_if", "or_insert_with_if"))]
    pub async fn refresh_async<Q, E, F, M>(
        &self,
        key: &Q,
        load: impl FnOnce(K) -> F,
    ) -> Result<V, LoadError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        F: Future<Output = Result<V, E>>,
        E: LoaderError<M>,
    {
        let loader = LoaderProperties::new::<E, _>(&load);
        let load = |_| {
            let loading = load(key.to_owned());
            async { share(loading.await) }
        };
        let mut timer = TaskTimer::default();
        typed(Box::pin(self.refresh_shared(key, loader, &mut timer, load)).await)
    }

    /// Like [`refresh_with`](Self::refresh_with), but for tasks.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`refresh`](Self::refresh).
    ///
    /// # Panics
    ///
    /// Panics like [`get_or_load_async`](Self::get_or_load_async).
    ///
    /// # Cancel safety
    ///
    /// See [`get_or_load_async`](Self::get_or_load_async).
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn fetch_page(old: Option<String>) -> std::io::Result<String> { Ok(old.unwrap_or_default()) }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), hotset::LoadError<std::io::Error>> {
    /// let pages: hotset::LocalCache<String, String> = hotset::LocalCache::new(100);
    /// pages.insert("/".to_string(), "hello".to_string());
    /// assert_eq!(pages.refresh_with_async("/", fetch_page).await?, "hello");
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "reload")]
    pub async fn refresh_with_async<Q, E, F, M>(
        &self,
        key: &Q,
        load: impl FnOnce(Option<V>) -> F,
    ) -> Result<V, LoadError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        F: Future<Output = Result<V, E>>,
        E: LoaderError<M>,
    {
        let loader = LoaderProperties::new::<E, _>(&load);
        let load = |current| {
            let loading = load(current);
            async { share(loading.await) }
        };
        let mut timer = TaskTimer::default();
        typed(Box::pin(self.refresh_shared(key, loader, &mut timer, load)).await)
    }

    /// Loads a key like [`refresh_shared`](Self::refresh_shared), on this thread.
    fn refresh_blocking<Q>(
        &self,
        key: &Q,
        loader: LoaderProperties,
        load: impl FnOnce(Option<V>) -> Result<V, LoadError<AnyError>>,
    ) -> Result<V, LoadError<AnyError>>
    where
        Q: LookupKey<K> + ?Sized,
    {
        block_on(&Cell::new(None), async |mut timer| {
            let load = |current| ready(load(current));
            self.refresh_shared(key, loader, &mut timer, load).await
        })
    }

    /// Loads a key for a loader whose result is in shared form already. The loader is given the current value. The new
    /// entry keeps the tags and the explicit weight of the current one.
    async fn refresh_shared<Q, F>(
        &self,
        key: &Q,
        loader: LoaderProperties,
        timer: &mut impl Timer,
        load: impl FnOnce(Option<V>) -> F,
    ) -> Result<V, LoadError<AnyError>>
    where
        Q: LookupKey<K> + ?Sized,
        F: Future<Output = Result<V, LoadError<AnyError>>>,
    {
        let location = self.location(key);
        let role = Self::reload(&location, key, self.candidate());
        let found = (Lookup::Miss(role), loader.reloading());
        let load = || {
            // The load has begun, so an invalidation of one of these tags from now on makes the new value outdated.
            let (current, settings) = self.value_to_refresh(&location, key).unzip();
            let loading = load(current);
            async {
                let mut loaded = Loaded::new(loading.await?);
                if let Some(settings) = settings {
                    settings.pass_on(&mut loaded);
                }
                Ok(loaded)
            }
        };
        self.load(&location, key, found, timer, load).await
    }

    /// Returns the live value of a key that is about to be loaded again, with the settings that its new entry keeps,
    /// and counts the refresh.
    pub(in crate::local) fn value_to_refresh<Q>(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &Q,
    ) -> Option<(V, EntrySettings)>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let found = self.peek_with_settings(location, key);
        if found.is_some() {
            self.inner.counters.count(Count::Refresh);
        }
        found
    }
}
