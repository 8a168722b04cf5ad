//! The trait of caches under test, and its implementation by hotset.

use super::Contents;
use hotset::{LocalCache, Policy};
use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

/// The time to live of all entries. No entry expires during a run, so that only the checks for expiration are measured.
pub const TTL: Duration = Duration::from_secs(3_600);

/// A cache under test.
pub trait Peer<C: Contents>: Sync + Sized {
    /// The name in tables.
    const NAME: &'static str;
    /// Whether it has a blocking `get`.
    const GETS: bool = true;
    /// Whether it evicts entries, unlike a plain map.
    const EVICTS: bool = true;
    /// Whether it has a blocking `get_or_load`.
    const LOADS: bool = true;
    /// Whether it has an async `get_or_load`.
    const LOADS_ASYNC: bool = true;

    fn with_capacity(capacity: usize) -> Self;
    fn get(&self, key: &C::Key) -> Option<C::Value>;
    fn insert(&self, key: C::Key, value: C::Value);

    /// Reads a value in place if the cache supports it, and returns whether it was a hit.
    fn read(&self, key: &C::Key) -> bool {
        self.get(key).is_some()
    }

    /// Returns the value for `key`, and loads it on a miss. The default loads on every call.
    fn get_or_load(&self, _: &C::Key, load: impl FnOnce() -> C::Value) -> C::Value {
        load()
    }

    /// Returns the value for `key`, and loads it on a miss. The default loads on every call.
    fn get_or_load_async(
        &self,
        _: &C::Key,
        load: impl Fn() -> C::Value,
    ) -> impl Future<Output = C::Value> {
        std::future::ready(load())
    }
}

/// hotset with a time to live. Its statistics are always on.
pub struct Hotset<C: Contents, const ADAPTIVE: bool = false>(LocalCache<C::Key, C::Value>);

/// hotset with the adaptive policy. Loads are not measured, because they do not depend on the policy.
pub type Adaptive<C> = Hotset<C, true>;

impl<C: Contents> From<LocalCache<C::Key, C::Value>> for Hotset<C> {
    fn from(cache: LocalCache<C::Key, C::Value>) -> Self {
        Self(cache)
    }
}

impl<C: Contents, const ADAPTIVE: bool> Peer<C> for Hotset<C, ADAPTIVE> {
    const NAME: &'static str = if ADAPTIVE {
        "hotset, adaptive"
    } else {
        "hotset"
    };
    const LOADS: bool = !ADAPTIVE;
    const LOADS_ASYNC: bool = !ADAPTIVE;

    fn with_capacity(capacity: usize) -> Self {
        let policy = if ADAPTIVE {
            Policy::Adaptive
        } else {
            Policy::Lru
        };
        let builder = LocalCache::builder().capacity(capacity).time_to_live(TTL);
        Self(builder.policy(policy).build().expect("settings are valid"))
    }

    fn get(&self, key: &C::Key) -> Option<C::Value> {
        self.0.get(key)
    }

    fn read(&self, key: &C::Key) -> bool {
        self.0.get_with(key, |_| ()).is_some()
    }

    fn insert(&self, key: C::Key, value: C::Value) {
        self.0.insert(key, value);
    }

    fn get_or_load(&self, key: &C::Key, load: impl FnOnce() -> C::Value) -> C::Value {
        let loaded = self.0.get_or_load(key, |_| Ok::<_, Infallible>(load()));
        loaded.expect("the loader does not fail")
    }

    async fn get_or_load_async(&self, key: &C::Key, load: impl Fn() -> C::Value) -> C::Value {
        let load = |_| async { Ok::<_, Infallible>(load()) };
        let loaded = self.0.get_or_load_async(key, load).await;
        loaded.expect("the loader does not fail")
    }
}
