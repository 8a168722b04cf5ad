//! The traits that application code is written against.

use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
#[cfg(feature = "metrics")]
use crate::metrics::{Observed, Watch};
use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// The loader of [`Cache::get_or_load_erased`]: any loader, behind one type.
pub type ErasedLoader<'a, K, V> = dyn FnMut(&K) -> Result<Loaded<V>, Arc<AnyError>> + 'a;

/// A cache for blocking callers, whatever holds its values.
///
/// Write application code against `impl Cache<K, V>` or `Arc<dyn Cache<K, V>>`, and the backend
/// can change without it: [`LocalCache`](crate::LocalCache) today, and in a test a double of
/// one's own:
///
/// ```
/// use hotset::{AnyError, Cache, ErasedLoader, LoadError};
/// use std::{collections::HashMap, sync::{Arc, Mutex}, time::Duration};
///
/// /// Remembers everything, for ever, and loads under a lock: enough for a test.
/// #[derive(Default)]
/// struct Double(Mutex<HashMap<u32, String>>);
///
/// impl Cache<u32, String> for Double {
///     fn get(&self, key: &u32) -> Option<String> {
///         self.0.lock().unwrap().get(key).cloned()
///     }
///     fn insert(&self, key: u32, value: String) {
///         self.0.lock().unwrap().insert(key, value);
///     }
///     fn insert_with_ttl(&self, key: u32, value: String, _: Duration) {
///         self.insert(key, value);
///     }
///     fn remove(&self, key: &u32) -> Option<String> {
///         self.0.lock().unwrap().remove(key)
///     }
///     fn clear(&self) {
///         self.0.lock().unwrap().clear();
///     }
///     fn get_or_load_erased(
///         &self,
///         key: &u32,
///         load: &mut ErasedLoader<'_, u32, String>,
///     ) -> Result<String, LoadError<AnyError>> {
///         if let Some(value) = self.get(key) {
///             return Ok(value);
///         }
///         let value = load(key).map_err(LoadError::Failed)?.into_value();
///         self.insert(*key, value.clone());
///         Ok(value)
///     }
/// }
///
/// fn greet(names: &impl Cache<u32, String>) -> String {
///     let name = names.get_or_load(&1, |_| Ok::<_, std::io::Error>("Ada".to_string()));
///     format!("hello {}", name.unwrap())
/// }
///
/// assert_eq!(greet(&Double::default()), "hello Ada");
/// assert_eq!(greet(&hotset::LocalCache::new(10)), "hello Ada");
/// let shared: Arc<dyn Cache<u32, String>> = Arc::new(Double::default());
/// assert_eq!(greet(&shared), "hello Ada");
/// ```
pub trait Cache<K, V>: Send + Sync {
    /// The value of a key, if a live one is held.
    fn get(&self, key: &K) -> Option<V>;

    /// Stores a value for as long as the cache's own settings say.
    fn insert(&self, key: K, value: V);

    /// Stores a value for `ttl`.
    fn insert_with_ttl(&self, key: K, value: V, ttl: Duration);

    /// Takes a key out and returns its value, if a live one was held. A load of the key that is
    /// under way does not store its result.
    fn remove(&self, key: &K) -> Option<V>;

    /// Takes everything out. Loads that are under way do not store their results.
    fn clear(&self);

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

    /// [`get_or_load`](Self::get_or_load) for an object: implement this one, call the other.
    ///
    /// An implementation calls `load` at most once.
    ///
    /// # Errors
    ///
    /// As `get_or_load`; a `Failed` holds what some caller's `load` returned, unchanged.
    fn get_or_load_erased(
        &self,
        key: &K,
        load: &mut ErasedLoader<'_, K, V>,
    ) -> Result<V, LoadError<AnyError>>;

    /// The value of a key; if none is held, what `load` returns, which is then stored.
    ///
    /// It needs a sized type, which an `Arc<dyn Cache<K, V>>` is. With `cache: &dyn Cache<K, V>`
    /// call `(&cache).get_or_load(..)`.
    ///
    /// # Errors
    ///
    /// What the load failed with, or why it could not be awaited: see [`LoadError`].
    ///
    /// # Blocking
    ///
    /// While `load` runs here, or in another caller for the same key.
    fn get_or_load<L, E>(
        &self,
        key: &K,
        load: impl FnOnce(&K) -> Result<L, E>,
    ) -> Result<V, LoadError<E>>
    where
        L: Into<Loaded<V>>,
        E: Any + Send + Sync,
        Self: Sized,
    {
        with_erased(load, |erased| self.get_or_load_erased(key, erased))
    }
}

/// A pointer to a cache is a cache, so that `get_or_load` is there for an object as well.
macro_rules! impl_for_pointer {
    ($($pointer:ty),*) => {$(
        impl<K, V, C: Cache<K, V> + ?Sized> Cache<K, V> for $pointer {
            fn get(&self, key: &K) -> Option<V> {
                (**self).get(key)
            }

            fn insert(&self, key: K, value: V) {
                (**self).insert(key, value);
            }

            fn insert_with_ttl(&self, key: K, value: V, ttl: Duration) {
                (**self).insert_with_ttl(key, value, ttl);
            }

            fn remove(&self, key: &K) -> Option<V> {
                (**self).remove(key)
            }

            fn clear(&self) {
                (**self).clear();
            }

            #[cfg(feature = "redis")]
            fn rollout(&self) -> Option<&crate::Rollout> {
                (**self).rollout()
            }

            #[cfg(feature = "metrics")]
            fn observed(&self) -> Option<Observed>
            where
                Self: 'static,
            {
                (**self).observed()
            }

            fn get_or_load_erased(
                &self,
                key: &K,
                load: &mut ErasedLoader<'_, K, V>,
            ) -> Result<V, LoadError<AnyError>> {
                (**self).get_or_load_erased(key, load)
            }
        }

        impl<K, V, C: AsyncCache<K, V> + ?Sized> AsyncCache<K, V> for $pointer {
            fn get<'a>(&'a self, key: &'a K) -> CacheFuture<'a, Option<V>> {
                (**self).get(key)
            }

            fn insert(&self, key: K, value: V) -> CacheFuture<'_, ()> {
                (**self).insert(key, value)
            }

            fn insert_with_ttl(&self, key: K, value: V, ttl: Duration) -> CacheFuture<'_, ()> {
                (**self).insert_with_ttl(key, value, ttl)
            }

            fn remove<'a>(&'a self, key: &'a K) -> CacheFuture<'a, Option<V>> {
                (**self).remove(key)
            }

            fn clear(&self) -> CacheFuture<'_, ()> {
                (**self).clear()
            }

            #[cfg(feature = "redis")]
            fn rollout(&self) -> Option<&crate::Rollout> {
                (**self).rollout()
            }

            #[cfg(feature = "metrics")]
            fn observed(&self) -> Option<Observed>
            where
                Self: 'static,
            {
                (**self).observed()
            }

            fn get_or_load_erased<'a>(
                &'a self,
                key: &'a K,
                load: &'a mut ErasedAsyncLoader<'_, V>,
            ) -> CacheFuture<'a, Result<V, LoadError<AnyError>>> {
                (**self).get_or_load_erased(key, load)
            }
        }
    )*};
}

impl_for_pointer!(Arc<C>, Box<C>, &C);

#[cfg(feature = "metrics")]
impl<K: 'static, V: 'static> Watch for dyn Cache<K, V> {
    fn observed(&self) -> Option<Observed> {
        Cache::observed(self)
    }
}

#[cfg(feature = "metrics")]
impl<K: 'static, V: 'static> Watch for dyn AsyncCache<K, V> {
    fn observed(&self) -> Option<Observed> {
        AsyncCache::observed(self)
    }
}

/// Runs `call` with `load` behind one type, and gives its result the type of `load` again.
///
/// Callers of one key may have loaders with different error types. One who waited for a load that
/// failed with a foreign type cannot return that error, and still has a loader: it calls again.
pub(crate) fn with_erased<K, V, L, E>(
    load: impl FnOnce(&K) -> Result<L, E>,
    mut call: impl FnMut(&mut ErasedLoader<'_, K, V>) -> Result<V, LoadError<AnyError>>,
) -> Result<V, LoadError<E>>
where
    L: Into<Loaded<V>>,
    E: Any + Send + Sync,
{
    let mut load = Some(load);
    loop {
        let result = call(&mut |key| {
            let load = load.take().expect("a cache calls a loader at most once");
            match load(key) {
                Ok(loaded) => Ok(loaded.into()),
                Err(error) => Err(Arc::new(error)),
            }
        });
        if let Some(result) = typed(result) {
            return result;
        }
        assert!(load.is_some(), "{FOREIGN_ERROR}");
    }
}

const FOREIGN_ERROR: &str = "get_or_load_erased returned an error that is not its loader's";

/// A result with the type of the caller's loader; `None` if it is another caller's error of
/// another type.
pub(crate) fn typed<V, E: Any + Send + Sync>(
    result: Result<V, LoadError<AnyError>>,
) -> Option<Result<V, LoadError<E>>> {
    match result.map_err(LoadError::downcast::<E>) {
        Ok(value) => Some(Ok(value)),
        Err(Ok(error)) => Some(Err(error)),
        Err(Err(_)) => None,
    }
}

/// What a loader makes for [`AsyncCache::get_or_load_erased`].
pub type BoxedLoad<'a, V> =
    Pin<Box<dyn Future<Output = Result<Loaded<V>, Arc<AnyError>>> + Send + 'a>>;

/// The loader of [`AsyncCache::get_or_load_erased`]: any loader, behind one type.
pub type ErasedAsyncLoader<'a, V> = dyn FnMut() -> BoxedLoad<'a, V> + Send + 'a;

/// A cache for tasks, whatever holds its values: [`Cache`], with futures.
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
                        Box::pin(async move {
                            match load().await {
                                Ok(loaded) => Ok(loaded.into()),
                                Err(error) => Err(Arc::new(error) as Arc<AnyError>),
                            }
                        })
                    };
                    self.get_or_load_erased(key, &mut erased).await
                };
                if let Some(result) = typed(result) {
                    return result;
                }
                assert!(load.is_some(), "{FOREIGN_ERROR}");
            }
        }
    }
}

/// The future of a method of [`AsyncCache`]: ready at once, or boxed.
#[must_use = "futures do nothing unless they are awaited"]
pub struct CacheFuture<'a, T>(Kind<'a, T>);

enum Kind<'a, T> {
    /// `None` once it was taken.
    Ready(Option<T>),
    Boxed(Pin<Box<dyn Future<Output = T> + Send + 'a>>),
}

impl<'a, T> CacheFuture<'a, T> {
    /// A future that is ready, without an allocation.
    pub const fn ready(value: T) -> Self {
        Self(Kind::Ready(Some(value)))
    }

    /// Any future.
    pub fn new(future: impl Future<Output = T> + Send + 'a) -> Self {
        Self(Kind::Boxed(Box::pin(future)))
    }
}

// Nothing is pinned but what is in a box.
impl<T> Unpin for CacheFuture<'_, T> {}

impl<T> Future for CacheFuture<'_, T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match &mut self.get_mut().0 {
            Kind::Ready(value) => Poll::Ready(value.take().expect("polled after it was ready")),
            Kind::Boxed(future) => future.as_mut().poll(cx),
        }
    }
}

impl<T> std::fmt::Debug for CacheFuture<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CacheFuture").finish_non_exhaustive()
    }
}
