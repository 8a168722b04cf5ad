//! The trait of caches for async tasks.

use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
use crate::traits::cache_future::CacheFuture;
use crate::traits::erasure::{
    BoxedLoad, ErasedAsyncLoader, FOREIGN_ERROR, SECOND_CALL, downcast, erase,
};
use std::any::Any;
use std::future::Future;
use std::time::Duration;

/// A cache for async tasks, independent of the backend that stores its values. The async form of
/// [`Cache`](crate::Cache).
///
/// Write application code against `impl AsyncCache<K, V>` or `Arc<dyn AsyncCache<K, V>>`, so that the backend can
/// change without it. [`LocalCache`](crate::LocalCache), [`TieredCache`](crate::TieredCache) and
/// [`ConfiguredAsyncCache`](crate::ConfiguredAsyncCache) implement this trait, and so do pointers to a cache.
///
/// # Cancel safety
///
/// Each future may be dropped at any time. It is then not known whether its operation has taken effect.
///
/// # Examples
///
/// ```
/// use hotset::{AsyncCache, LocalCache};
/// use std::sync::Arc;
///
/// async fn greet(names: &impl AsyncCache<u32, String>) -> String {
///     let fetch = || async { Ok::<_, std::io::Error>("Ada".to_string()) };
///     format!("hello {}", names.get_or_load_async(&1, fetch).await.unwrap())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let names: Arc<dyn AsyncCache<u32, String>> = Arc::new(LocalCache::new(10));
/// assert_eq!(greet(&names).await, "hello Ada");
/// assert_eq!(names.get(&1).await.as_deref(), Some("Ada"));
/// # }
/// ```
pub trait AsyncCache<K, V>: Send + Sync {
    /// Returns a clone of the value for `key`, or `None` if the key is absent or expired.
    fn get<'a>(&'a self, key: &'a K) -> CacheFuture<'a, Option<V>>;

    /// Inserts a value with the time to live of the cache.
    fn insert(&self, key: K, value: V) -> CacheFuture<'_, ()>;

    /// Inserts a value with its own time to live.
    fn insert_with_ttl(&self, key: K, value: V, ttl: Duration) -> CacheFuture<'_, ()>;

    /// Removes the entry of `key`, if there is one. A load of this key that is in flight does not store its result.
    fn invalidate<'a>(&'a self, key: &'a K) -> CacheFuture<'a, ()>;

    /// Removes all entries. Loads in flight do not store their results.
    fn clear(&self) -> CacheFuture<'_, ()>;

    /// Returns the value for `key`. On a miss, runs `load` and stores its result.
    ///
    /// This is [`get_or_load_async`](Self::get_or_load_async) without type parameters, so that it can be called on a
    /// trait object. Implement this method, and call `get_or_load_async`. An implementation calls `load` at most once.
    ///
    /// # Errors
    ///
    /// Returns the same errors as `get_or_load_async`. A [`LoadError::Failed`] contains the unchanged error of a
    /// caller's `load`.
    fn get_or_load_erased<'a>(
        &'a self,
        key: &'a K,
        load: &'a mut ErasedAsyncLoader<'_, V>,
    ) -> CacheFuture<'a, Result<V, LoadError<AnyError>>>;

    /// Returns the value for `key`. On a miss, runs `load` and stores its result.
    ///
    /// `Self` must be sized, which `Arc<dyn AsyncCache<K, V>>` is.
    ///
    /// # Errors
    ///
    /// Returns an error if the load failed, or if the result of another caller's load could not be awaited: see
    /// [`LoadError`].
    fn get_or_load_async<L, E, F>(
        &self,
        key: &K,
        load: impl FnOnce() -> F + Send,
    ) -> impl Future<Output = Result<V, LoadError<E>>> + Send
    where
        F: Future<Output = Result<L, E>> + Send,
        L: Into<Loaded<V>>,
        E: Any + Send + Sync,
        K: Sync,
        V: Send,
        Self: Sized,
    {
        async move {
            let mut load = Some(load);
            loop {
                let result = {
                    let mut erased = || -> BoxedLoad<'_, V> {
                        let load = load.take().expect(SECOND_CALL);
                        Box::pin(async move { erase(load().await) })
                    };
                    self.get_or_load_erased(key, &mut erased).await
                };
                if let Some(result) = downcast(result) {
                    return result;
                }
                assert!(load.is_some(), "{FOREIGN_ERROR}");
            }
        }
    }
}
