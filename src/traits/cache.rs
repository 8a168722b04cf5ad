//! The trait of caches for blocking callers.

use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
#[cfg(feature = "metrics")]
use crate::metrics::Observed;
use crate::traits::erasure::{ErasedLoader, with_erased};
use std::any::Any;
use std::time::Duration;

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
