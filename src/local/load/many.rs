//! `get_many_or_load`: the public methods, for threads and for tasks.

use crate::entry::Loaded;
use crate::error::{LoadError, LoaderError};
use crate::local::LocalCache;
use crate::local::load::batch::BatchLookup;
use crate::traits::erasure::{ErrorType, share_batch, share_batch_async, typed};
use crate::traits::key::LookupKey;
use equivalent::Equivalent;
use std::future::Future;
use std::hash::{BuildHasher, Hash};

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// Returns the values for several keys, in their order. Calls `load` once for all missing keys.
    ///
    /// `load` receives the missing keys that no other caller is loading, without duplicates. It returns pairs of key
    /// and value in any order, as a map, a vector or any other iterator. For a key that it leaves out, the result is
    /// `None` and nothing is cached; the other keys are not affected. A pair for a key that `load` did not receive is
    /// ignored.
    ///
    /// The call waits for keys that other callers are loading, alone or in batches. If such a load panics, hangs, is
    /// dropped, or fails with an error of a type other than `E`, this call may run `load` for its key. Keys whose loads
    /// end together, such as those of another batch, are passed to `load` in one call.
    ///
    /// A batch never refreshes entries: live entries older than
    /// [`refresh_after`](crate::LocalCacheBuilder::refresh_after) are returned as they are.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`get_or_load`](Self::get_or_load), if the load of any key fails. The loaded values
    /// of the other keys are cached. A call on a thread that runs the loader of one of the keys always returns
    /// [`Recursive`](LoadError::Recursive).
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
    /// let prices: LocalCache<u32, u64> = LocalCache::new(1_000);
    /// prices.insert(1, 100);
    /// let found = prices.get_many_or_load(&[1, 2, 3], |missing| {
    ///     assert_eq!(missing, [2, 3]);
    ///     Ok::<_, std::io::Error>([(2, 200)])
    /// })?;
    /// assert_eq!(found, [Some(100), Some(200), None]);
    /// # Ok::<(), hotset::LoadError<std::io::Error>>(())
    /// ```
    #[doc(alias("getAll", "get_all"))]
    pub fn get_many_or_load<'q, Q, T, E, M>(
        &self,
        keys: impl IntoIterator<Item = &'q Q>,
        load: impl FnMut(Vec<K>) -> Result<T, E>,
    ) -> Result<Vec<Option<V>>, LoadError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized + 'q,
        T: IntoIterator<Item = (K, V)>,
        E: LoaderError<M>,
    {
        self.get_many_loaded(keys, load)
    }

    /// Like [`get_many_or_load`](Self::get_many_or_load), but `load` returns pairs of key and [`Loaded`], which has
    /// its own time to live, weight and tags.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`get_many_or_load`](Self::get_many_or_load).
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
    /// use hotset::{Loaded, LocalCache};
    ///
    /// let pages: LocalCache<String, u64> = LocalCache::new(1_000);
    /// let load = |missing: Vec<String>| {
    ///     let page = |path: String| (path.clone(), Loaded::new(100).tags([path]));
    ///     Ok::<_, std::io::Error>(missing.into_iter().map(page))
    /// };
    /// assert_eq!(pages.get_many_or_load_entries(["/", "/shop"], load)?, [Some(100), Some(100)]);
    /// pages.invalidate_tag("/shop");
    /// assert_eq!(pages.get("/shop"), None);
    /// # Ok::<(), hotset::LoadError<std::io::Error>>(())
    /// ```
    #[doc(alias("getAll", "get_all"))]
    pub fn get_many_or_load_entries<'q, Q, T, E, M>(
        &self,
        keys: impl IntoIterator<Item = &'q Q>,
        load: impl FnMut(Vec<K>) -> Result<T, E>,
    ) -> Result<Vec<Option<V>>, LoadError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized + 'q,
        T: IntoIterator<Item = (K, Loaded<V>)>,
        E: LoaderError<M>,
    {
        self.get_many_loaded(keys, load)
    }

    /// Like [`get_many_or_load`](Self::get_many_or_load), but for tasks.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`get_many_or_load`](Self::get_many_or_load).
    ///
    /// # Panics
    ///
    /// Panics like [`get_or_load_async`](Self::get_or_load_async).
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time: see [`get_or_load_async`](Self::get_or_load_async).
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), hotset::LoadError<std::io::Error>> {
    /// let prices: hotset::LocalCache<u32, u64> = hotset::LocalCache::new(1_000);
    /// prices.insert(1, 100);
    /// let load = |missing: Vec<u32>| async move {
    ///     assert_eq!(missing, [2, 3]);
    ///     Ok::<_, std::io::Error>([(2, 200)])
    /// };
    /// let found = prices.get_many_or_load_async(&[1, 2, 3], load).await?;
    /// assert_eq!(found, [Some(100), Some(200), None]);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("getAll", "get_all"))]
    pub async fn get_many_or_load_async<'q, Q, T, E, F, M>(
        &self,
        keys: impl IntoIterator<Item = &'q Q>,
        load: impl FnMut(Vec<K>) -> F,
    ) -> Result<Vec<Option<V>>, LoadError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized + 'q,
        F: Future<Output = Result<T, E>>,
        T: IntoIterator<Item = (K, V)>,
        E: LoaderError<M>,
    {
        self.get_many_loaded_async(keys, load).await
    }

    /// Like [`get_many_or_load_entries`](Self::get_many_or_load_entries), but for tasks.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`get_many_or_load`](Self::get_many_or_load).
    ///
    /// # Panics
    ///
    /// Panics like [`get_or_load_async`](Self::get_or_load_async).
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time: see [`get_or_load_async`](Self::get_or_load_async).
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{Loaded, LocalCache};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), hotset::LoadError<std::io::Error>> {
    /// let pages: LocalCache<String, u64> = LocalCache::new(1_000);
    /// let load = |missing: Vec<String>| async {
    ///     let page = |path| (path, Loaded::new(100).tags(["layout"]));
    ///     Ok::<_, std::io::Error>(missing.into_iter().map(page))
    /// };
    /// let found = pages.get_many_or_load_entries_async(["/", "/shop"], load).await?;
    /// assert_eq!(found, [Some(100), Some(100)]);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("getAll", "get_all"))]
    pub async fn get_many_or_load_entries_async<'q, Q, T, E, F, M>(
        &self,
        keys: impl IntoIterator<Item = &'q Q>,
        load: impl FnMut(Vec<K>) -> F,
    ) -> Result<Vec<Option<V>>, LoadError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized + 'q,
        F: Future<Output = Result<T, E>>,
        T: IntoIterator<Item = (K, Loaded<V>)>,
        E: LoaderError<M>,
    {
        self.get_many_loaded_async(keys, load).await
    }

    /// Returns the values for several keys, for a loader of values or of entries.
    pub(in crate::local) fn get_many_loaded<'q, Q, T, L, E, M>(
        &self,
        keys: impl IntoIterator<Item = &'q Q>,
        mut load: impl FnMut(Vec<K>) -> Result<T, E>,
    ) -> Result<Vec<Option<V>>, LoadError<E>>
    where
        Q: LookupKey<K> + ?Sized + 'q,
        T: IntoIterator<Item = (K, L)>,
        L: Into<Loaded<V>>,
        E: LoaderError<M>,
    {
        let keys = keys.into_iter().collect();
        let load = |missing| share_batch(load(missing));
        typed(self.get_many_or_load_blocking(keys, ErrorType::of::<E>(), load))
    }

    /// Like [`get_many_loaded`](Self::get_many_loaded), but for tasks.
    pub(in crate::local) async fn get_many_loaded_async<'q, Q, T, L, E, F, M>(
        &self,
        keys: impl IntoIterator<Item = &'q Q>,
        mut load: impl FnMut(Vec<K>) -> F,
    ) -> Result<Vec<Option<V>>, LoadError<E>>
    where
        Q: LookupKey<K> + ?Sized + 'q,
        F: Future<Output = Result<T, E>>,
        T: IntoIterator<Item = (K, L)>,
        L: Into<Loaded<V>>,
        E: LoaderError<M>,
    {
        let keys = keys.into_iter().collect();
        let load = |missing| share_batch_async(load(missing));
        let (error_type, lookup) = (ErrorType::of::<E>(), BatchLookup::Recorded);
        let limits = self.wait_limits();
        let values = self.get_many_or_load_shared(keys, error_type, lookup, limits, load);
        typed(values.await)
    }
}
