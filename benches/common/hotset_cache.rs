//! hotset as a cache under test, and the trait that it shares with its peers.

use super::Contents;
use hotset::{LocalCache, Policy};
use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

/// Long enough that nothing expires in a run; what is measured is that it is checked.
pub const TTL: Duration = Duration::from_secs(3_600);

/// A cache under test.
pub trait Peer<C: Contents>: Sync + Sized {
    /// What the tables call it.
    const NAME: &'static str;
    /// Does it have a blocking `get`?
    const GETS: bool = true;
    /// Does it evict, or is it only the limit of what a look-up can be?
    const EVICTS: bool = true;
    /// Does it have a `get_or_load` of its own, for threads and for tasks?
    const LOADS: bool = true;
    const LOADS_ASYNC: bool = true;

    fn with_capacity(capacity: usize) -> Self;
    fn get(&self, key: &C::Key) -> Option<C::Value>;
    fn insert(&self, key: C::Key, value: C::Value);

    /// A look at a value where it is, for a peer that can; returns whether it is there.
    fn read(&self, key: &C::Key) -> bool {
        self.get(key).is_some()
    }

    /// A load on every call on a peer that has none.
    fn get_or_load(&self, _: &C::Key, load: impl FnOnce() -> C::Value) -> C::Value {
        load()
    }

    fn get_or_load_async(
        &self,
        _: &C::Key,
        load: impl Fn() -> C::Value,
    ) -> impl Future<Output = C::Value> {
        std::future::ready(load())
    }
}

/// With a time to live; statistics are always on.
pub struct Hotset<C: Contents, const ADAPTIVE: bool = false>(LocalCache<C::Key, C::Value>);

/// With another policy, of which loads know nothing.
pub type Adaptive<C> = Hotset<C, true>;

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
        let load = || async { Ok::<_, Infallible>(load()) };
        let loaded = self.0.get_or_load_async(key, load).await;
        loaded.expect("the loader does not fail")
    }
}
