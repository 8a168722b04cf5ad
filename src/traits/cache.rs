//! The trait of caches for blocking callers.

use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
use crate::traits::erasure::{ErasedLoader, with_erased};
use std::any::Any;
use std::time::Duration;

/// A cache for blocking callers, independent of the backend that stores its values.
///
/// Write application code against `impl Cache<K, V>` or `Arc<dyn Cache<K, V>>`, so that the backend can change without
/// it. [`LocalCache`](crate::LocalCache), [`BlockingCache`](crate::BlockingCache) and
/// [`ConfiguredCache`](crate::ConfiguredCache) implement this trait, and so do pointers to a cache. A test can
/// implement it as well.
///
/// # Examples
///
/// ```
/// use hotset::{AnyError, Cache, ErasedLoader, LoadError};
/// use std::{collections::HashMap, sync::{Arc, Mutex}, time::Duration};
///
/// /// A cache for tests. It keeps all entries without limit.
/// #[derive(Default)]
/// struct TestCache(Mutex<HashMap<u32, String>>);
///
/// impl Cache<u32, String> for TestCache {
///     fn get(&self, key: &u32) -> Option<String> {
///         self.0.lock().unwrap().get(key).cloned()
///     }
///     fn insert(&self, key: u32, value: String) {
///         self.0.lock().unwrap().insert(key, value);
///     }
///     fn insert_with_ttl(&self, key: u32, value: String, _: Duration) {
///         self.insert(key, value);
///     }
///     fn invalidate(&self, key: &u32) {
///         self.0.lock().unwrap().remove(key);
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
/// assert_eq!(greet(&TestCache::default()), "hello Ada");
/// assert_eq!(greet(&hotset::LocalCache::new(10)), "hello Ada");
/// let shared: Arc<dyn Cache<u32, String>> = Arc::new(TestCache::default());
/// assert_eq!(greet(&shared), "hello Ada");
/// ```
pub trait Cache<K, V>: Send + Sync {
    /// Returns a clone of the value for `key`, or `None` if the key is absent or expired.
    fn get(&self, key: &K) -> Option<V>;

    /// Inserts a value with the time to live of the cache.
    fn insert(&self, key: K, value: V);

    /// Inserts a value with its own time to live.
    fn insert_with_ttl(&self, key: K, value: V, ttl: Duration);

    /// Removes the entry of `key`, if there is one. A load of this key that is in flight does not store its result.
    fn invalidate(&self, key: &K);

    /// Removes all entries. Loads in flight do not store their results.
    fn clear(&self);

    /// Returns the value for `key`. On a miss, runs `load` and stores its result.
    ///
    /// This is [`get_or_load`](Self::get_or_load) without type parameters, so that it can be called on a trait object.
    /// Implement this method, and call `get_or_load`. An implementation calls `load` at most once.
    ///
    /// # Errors
    ///
    /// Returns the same errors as `get_or_load`. A [`LoadError::Failed`] contains the unchanged error of a caller's
    /// `load`.
    fn get_or_load_erased(
        &self,
        key: &K,
        load: &mut ErasedLoader<'_, K, V>,
    ) -> Result<V, LoadError<AnyError>>;

    /// Returns the value for `key`. On a miss, runs `load` and stores its result.
    ///
    /// `Self` must be sized. `Arc<dyn Cache<K, V>>` is; with `cache: &dyn Cache<K, V>` call
    /// `(&cache).get_or_load(..)`.
    ///
    /// # Errors
    ///
    /// Returns an error if the load failed, or if the result of another caller's load could not be awaited: see
    /// [`LoadError`].
    ///
    /// # Blocking
    ///
    /// Blocks while `load` runs, and while another caller loads the same key.
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
