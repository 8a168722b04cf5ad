//! Other caches, behind the trait of caches under test.

use crate::common::hotset_cache::TTL;
use crate::common::{Contents, Peer, runtime};
use std::convert::Infallible;
use std::sync::Mutex;
use tokio::runtime::Runtime;

/// Implements `get` and `insert` by the methods of the same names of the wrapped cache.
macro_rules! get_and_insert {
    () => {
        fn get(&self, key: &C::Key) -> Option<C::Value> {
            self.0.get(key)
        }

        fn insert(&self, key: C::Key, value: C::Value) {
            self.0.insert(key, value);
        }
    };
}

/// `quick_cache`. It has no time to live, and no statistics with its default features.
pub struct QuickCache<C: Contents>(quick_cache::sync::Cache<C::Key, C::Value>);

impl<C: Contents> Peer<C> for QuickCache<C> {
    const NAME: &'static str = "quick_cache";

    fn with_capacity(capacity: usize) -> Self {
        Self(quick_cache::sync::Cache::new(capacity))
    }

    get_and_insert!();

    fn get_or_load(&self, key: &C::Key, load: impl FnOnce() -> C::Value) -> C::Value {
        let load = || Ok::<_, Infallible>(load());
        let loaded = self.0.get_or_insert_with(key, load);
        loaded.expect("the loader does not fail")
    }

    async fn get_or_load_async(&self, key: &C::Key, load: impl Fn() -> C::Value) -> C::Value {
        let load = async { Ok::<_, Infallible>(load()) };
        let loaded = self.0.get_or_insert_async(key, load).await;
        loaded.expect("the loader does not fail")
    }
}

/// moka with a time to live.
pub struct Moka<C: Contents>(moka::sync::Cache<C::Key, C::Value>);

impl<C: Contents> Peer<C> for Moka<C> {
    const NAME: &'static str = "moka";
    const LOADS_ASYNC: bool = false;

    fn with_capacity(capacity: usize) -> Self {
        let builder = moka::sync::Cache::builder().max_capacity(capacity as u64);
        Self(builder.time_to_live(TTL).build())
    }

    get_and_insert!();

    fn get_or_load(&self, key: &C::Key, load: impl FnOnce() -> C::Value) -> C::Value {
        let load = || Ok::<_, Infallible>(load());
        let loaded = self.0.try_get_with_by_ref(key, load);
        loaded.expect("the loader does not fail")
    }
}

/// The async cache of moka, with a time to live. Its `get` and `insert` are futures as well, so only loads are
/// compared.
pub struct MokaFuture<C: Contents> {
    cache: moka::future::Cache<C::Key, C::Value>,
    runtime: Runtime,
}

impl<C: Contents> Peer<C> for MokaFuture<C> {
    const NAME: &'static str = "moka";
    const GETS: bool = false;
    const EVICTS: bool = false;
    const LOADS: bool = false;

    fn with_capacity(capacity: usize) -> Self {
        let builder = moka::future::Cache::builder().max_capacity(capacity as u64);
        Self {
            cache: builder.time_to_live(TTL).build(),
            runtime: runtime(),
        }
    }

    fn get(&self, key: &C::Key) -> Option<C::Value> {
        self.runtime.block_on(self.cache.get(key))
    }

    fn insert(&self, key: C::Key, value: C::Value) {
        self.runtime.block_on(self.cache.insert(key, value));
    }

    async fn get_or_load_async(&self, key: &C::Key, load: impl Fn() -> C::Value) -> C::Value {
        let load = async { Ok::<_, Infallible>(load()) };
        let loaded = self.cache.try_get_with_by_ref(key, load).await;
        loaded.expect("the loader does not fail")
    }
}

/// The in-memory cache of foyer with its LRU policy, without a time to live.
pub struct Foyer<C: Contents>(foyer_memory::Cache<C::Key, C::Value>);

impl<C: Contents> Peer<C> for Foyer<C> {
    const NAME: &'static str = "foyer";
    const LOADS: bool = false;
    const LOADS_ASYNC: bool = false;

    fn with_capacity(capacity: usize) -> Self {
        let builder = foyer_memory::CacheBuilder::new(capacity);
        Self(
            builder
                .with_eviction_config(foyer_memory::LruConfig::default())
                .build(),
        )
    }

    fn get(&self, key: &C::Key) -> Option<C::Value> {
        Some(self.0.get(key)?.value().clone())
    }

    fn read(&self, key: &C::Key) -> bool {
        self.0.get(key).is_some()
    }

    fn insert(&self, key: C::Key, value: C::Value) {
        self.0.insert(key, value);
    }
}

/// `scc::HashCache`, without a time to live. It consists of sets of 32 entries, each with its own LRU order, so that
/// its capacity is not exact.
pub struct Scc<C: Contents>(scc::HashCache<C::Key, C::Value>);

impl<C: Contents> Peer<C> for Scc<C> {
    const NAME: &'static str = "scc";
    const LOADS: bool = false;
    const LOADS_ASYNC: bool = false;

    fn with_capacity(capacity: usize) -> Self {
        Self(scc::HashCache::with_capacity(capacity, capacity))
    }

    fn get(&self, key: &C::Key) -> Option<C::Value> {
        self.0.get_sync(key).map(|entry| entry.get().clone())
    }

    fn read(&self, key: &C::Key) -> bool {
        self.0.read_sync(key, |_, _| ()).is_some()
    }

    fn insert(&self, key: C::Key, value: C::Value) {
        let _ = self.0.put_sync(key, value);
    }
}

/// The cache of the crate `lru` behind a mutex, as the simplest concurrent cache.
pub struct MutexLru<C: Contents>(Mutex<lru::LruCache<C::Key, C::Value>>);

impl<C: Contents> Peer<C> for MutexLru<C> {
    const NAME: &'static str = "Mutex<lru>";
    const LOADS: bool = false;
    const LOADS_ASYNC: bool = false;

    fn with_capacity(capacity: usize) -> Self {
        let capacity = capacity.try_into().expect("a capacity above zero");
        Self(Mutex::new(lru::LruCache::new(capacity)))
    }

    fn get(&self, key: &C::Key) -> Option<C::Value> {
        self.0.lock().unwrap().get(key).cloned()
    }

    fn insert(&self, key: C::Key, value: C::Value) {
        self.0.lock().unwrap().put(key, value);
    }
}

/// A plain map that is filled once, as an upper limit of the throughput of lookups. It is not a cache.
pub struct PlainMap<C: Contents>(hashbrown::HashMap<C::Key, C::Value, hotset::DefaultHasher>);

impl<C: Contents> Peer<C> for PlainMap<C> {
    const NAME: &'static str = "plain map";
    const EVICTS: bool = false;
    const LOADS: bool = false;
    const LOADS_ASYNC: bool = false;

    fn with_capacity(capacity: usize) -> Self {
        let ranks = 0..capacity as u64;
        Self(ranks.map(|rank| (C::key(rank), C::value(rank))).collect())
    }

    fn get(&self, key: &C::Key) -> Option<C::Value> {
        self.0.get(key).cloned()
    }

    fn insert(&self, _: C::Key, _: C::Value) {}
}
