//! The trait of caches for async tasks.

use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
#[cfg(feature = "metrics")]
use crate::metrics::Observed;
use crate::traits::cache_future::CacheFuture;
use crate::traits::erasure::{BoxedLoad, ErasedAsyncLoader, FOREIGN_ERROR, downcast, erase};
use std::any::Any;
use std::future::Future;
use std::time::Duration;

/// A cache for tasks, whatever holds its values: [`Cache`], with futures.
///
/// ```
/// use hotset::{AsyncCache, LocalCache};
/// ///
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
///
/// # Cancellation
///
/// Each future may be dropped at any time. What it was to do may then have been done or not.
pub trait AsyncCache<K, V>: Send + Sync {
    /// The value of a key, if a live one is held.
    fn get<'a>(&'a self, key: &'a K) -> CacheFuture<'a, Option<V>>;

    /// Stores a value for as long as the cache's own settings say.
    fn insert(&self, key: K, value: V) -> CacheFuture<'_, ()>;

    /// Stores a value for `ttl`.
    fn insert_with_ttl(&self, key: K, value: V, ttl: Duration) -> CacheFuture<'_, ()>;

    /// Takes a key out and returns its value, if a live one was held. A load of the key that is
    /// under way does not store its result.
    fn remove<'a>(&'a self, key: &'a K) -> CacheFuture<'a, Option<V>>;

    /// Takes everything out. Loads that are under way do not store their results.
    fn clear(&self) -> CacheFuture<'_, ()>;

    /// How far this cache has moved to Redis, to be changed while it is used; `None` of one that does
    /// not know Redis.
    #[cfg(feature = "redis")]
    fn rollout(&self) -> Option<&crate::Rollout> {
        None
    }

    /// What [`Metrics`](crate::Metrics) watches; `None` of one that does not tell what it does.
    #[cfg(feature = "metrics")]
    #[doc(hidden)]
    fn observed(&self) -> Option<Observed>
    where
        Self: 'static,
    {
        None
    }

    /// [`get_or_load_async`](Self::get_or_load_async) for an object: implement this one, call the
    /// other.
    ///
    /// An implementation calls `load` at most once.
    ///
    /// # Errors
    ///
    /// As `get_or_load_async`; a `Failed` holds what some caller's `load` returned, unchanged.
    fn get_or_load_erased<'a>(
        &'a self,
        key: &'a K,
        load: &'a mut ErasedAsyncLoader<'_, V>,
    ) -> CacheFuture<'a, Result<V, LoadError<AnyError>>>;

    /// The value of a key; if none is held, what `load` returns, which is then stored.
    ///
    /// It needs a sized type, which an `Arc<dyn AsyncCache<K, V>>` is.
    ///
    /// # Errors
    ///
    /// What the load failed with, or why it could not be awaited: see [`LoadError`].
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
                        let load = load.take().expect("a cache calls a loader at most once");
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
