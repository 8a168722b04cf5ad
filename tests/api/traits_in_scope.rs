//! Calls of caches and of pointers to caches while both traits are in scope. They call the methods of the type, whose
//! results differ from those of the traits, and no call is ambiguous.

use hotset::{AsyncCache, Cache, Loaded, LocalCache, Propagation, Stats, WarmOptions};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

type Numbers = LocalCache<String, u64>;
type Never<T> = Result<T, Infallible>;

const MINUTE: Duration = Duration::from_secs(60);

fn one() -> String {
    "one".to_string()
}

#[allow(clippy::unnecessary_wraps)] // A loader.
fn rows(names: Vec<String>) -> Never<Vec<(String, u64)>> {
    Ok(names.into_iter().map(|name| (name, 1)).collect())
}

#[allow(clippy::unnecessary_wraps)] // A loader.
fn entries(names: Vec<String>) -> Never<Vec<(String, Loaded<u64>)>> {
    Ok(names
        .into_iter()
        .map(|name| (name, Loaded::new(1)))
        .collect())
}

/// Calls each method of a local cache whose name a trait has as well.
macro_rules! call_local {
    ($cache:expr) => {
        let cache = $cache;
        let () = cache.insert(one(), 1);
        let () = cache.insert_with_ttl(one(), 1, MINUTE);
        let () = cache.insert_loaded(one(), Loaded::new(1));
        let _: Option<u64> = cache.get("one");
        let _: Vec<Option<u64>> = cache.get_many(["one"]);
        let _: bool = cache.contains_key("one");
        let _: Option<Duration> = cache.remaining_ttl("one");
        let () = cache.invalidate("one");
        let () = cache.invalidate_tag("tag");
        let () = cache.clear();
        let _: Stats = cache.stats();
        let () = cache.write_through(one(), 1, |_| Never::Ok(())).unwrap();
        let loaded = Loaded::new(1);
        let () = cache
            .write_through_loaded(one(), loaded, |_| Never::Ok(()))
            .unwrap();
        let _: u64 = cache.get_or_load("one", |_| Never::Ok(1)).unwrap();
        let load = |_: &str| Never::Ok(Loaded::new(1));
        let _: u64 = cache.get_or_load_entry("one", load).unwrap();
        let _: u64 = cache.get_or_insert_with("one", |_| 1);
        let _: Vec<Option<u64>> = cache.get_many_or_load(["one"], rows).unwrap();
        let _: Vec<Option<u64>> = cache.get_many_or_load_entries(["one"], entries).unwrap();
        assert_eq!(cache.warm([one()], rows).found, 1);
        assert_eq!(cache.warm_with(WarmOptions::new(), [one()], rows).found, 1);
        // These have no name in common with a method that blocks.
        let () = cache
            .write_through_async(one(), 1, async |_| Never::Ok(()))
            .await
            .unwrap();
        let _: u64 = cache
            .get_or_load_async("one", async |_| Never::Ok(1))
            .await
            .unwrap();
        let load = async |_| Never::Ok(Loaded::new(1));
        let _: u64 = cache.get_or_load_entry_async("one", load).await.unwrap();
        let _: u64 = cache.get_or_insert_with_async("one", async |_| 1).await;
        let load = async |names| rows(names);
        let found = cache.get_many_or_load_async(["one"], load).await;
        assert_eq!(found.unwrap(), [Some(1)]);
        let load = async |names| entries(names);
        let found = cache.get_many_or_load_entries_async(["one"], load).await;
        assert_eq!(found.unwrap(), [Some(1)]);
        let load = |names| async { rows(names) };
        assert_eq!(cache.warm_async([one()], load).await.found, 1);
        let warming = cache.warm_with_async(WarmOptions::new(), [one()], load);
        assert_eq!(warming.await.found, 1);
    };
}

#[tokio::test]
async fn pointer_to_a_local_cache_calls_the_methods_of_the_cache() {
    let cache = Numbers::new(10);
    call_local!(&cache);
    call_local!(Arc::new(cache.clone()));
    call_local!(&Arc::new(cache.clone()));
    call_local!(Box::new(cache.clone()));
    call_local!(std::sync::LazyLock::<Numbers>::new(|| Numbers::new(10)));
    call_local!(cache);
}

/// Calls each method of the trait for threads.
macro_rules! call_blocking {
    ($cache:expr) => {
        let cache = $cache;
        let _: Propagation = cache.insert(one(), 1);
        let _: Propagation = cache.insert_with_ttl(one(), 1, MINUTE);
        let _: Propagation = cache.insert_loaded(one(), Loaded::new(1));
        let _: Option<u64> = cache.get("one");
        let _: Vec<Option<u64>> = cache.get_many(["one"]);
        let _: bool = cache.contains_key("one");
        let _: Option<Duration> = cache.remaining_ttl("one");
        let _: Propagation = cache.invalidate("one");
        let _: Propagation = cache.invalidate_tag("tag");
        let _: Propagation = cache.clear();
        let _: Stats = cache.stats();
        let _: Propagation = cache.write_through(one(), 1, |_| Never::Ok(())).unwrap();
        let written = cache.write_through_loaded(one(), Loaded::new(1), |_| Never::Ok(()));
        let _: Propagation = written.unwrap();
        let _: u64 = cache.get_or_load("one", |_| Never::Ok(1)).unwrap();
        let load = |_: &str| Never::Ok(Loaded::new(1));
        let _: u64 = cache.get_or_load_entry("one", load).unwrap();
        let _: u64 = cache.get_or_insert_with("one", |_| 1);
        let _: Vec<Option<u64>> = cache.get_many_or_load(["one"], rows).unwrap();
        let _: Vec<Option<u64>> = cache.get_many_or_load_entries(["one"], entries).unwrap();
        assert_eq!(cache.warm([one()], rows).found, 1);
        assert_eq!(cache.warm_with(WarmOptions::new(), [one()], rows).found, 1);
    };
}

/// Calls each method of the trait for tasks, most of which a tiered cache has as well.
macro_rules! call_async {
    ($cache:expr) => {
        let cache = $cache;
        let _: Propagation = cache.insert(one(), 1).await;
        let _: Propagation = cache.insert_with_ttl(one(), 1, MINUTE).await;
        let _: Propagation = cache.insert_loaded(one(), Loaded::new(1)).await;
        let _: Option<u64> = cache.get("one").await;
        let _: Vec<Option<u64>> = cache.get_many(["one"]).await;
        let _: bool = cache.contains_key("one").await;
        let _: Option<Duration> = cache.remaining_ttl("one").await;
        let _: Propagation = cache.invalidate("one").await;
        let _: Propagation = cache.invalidate_tag("tag").await;
        let _: Propagation = cache.clear().await;
        let _: Stats = cache.stats();
        let write = async |_| Never::Ok(());
        let _: Propagation = cache.write_through(one(), 1, write).await.unwrap();
        let written = cache
            .write_through_loaded(one(), Loaded::new(1), write)
            .await;
        let _: Propagation = written.unwrap();
        let _: u64 = cache
            .get_or_load_async("one", async |_| Never::Ok(1))
            .await
            .unwrap();
        let load = async |_| Never::Ok(Loaded::new(1));
        let _: u64 = cache.get_or_load_entry_async("one", load).await.unwrap();
        let _: u64 = cache.get_or_insert_with_async("one", async |_| 1).await;
        let load = |names| async { rows(names) };
        let found = cache.get_many_or_load_async(["one"], load).await;
        assert_eq!(found.unwrap(), [Some(1)]);
        let found = cache.get_many_or_load_entries_async(["one"], |names| async { entries(names) });
        assert_eq!(found.await.unwrap(), [Some(1)]);
        assert_eq!(cache.warm_async([one()], load).await.found, 1);
        let warming = cache.warm_with_async(WarmOptions::new(), [one()], load);
        assert_eq!(warming.await.found, 1);
    };
}

#[tokio::test]
async fn trait_object_has_the_methods_of_its_trait() {
    let cache = Numbers::new(10);
    call_blocking!(Arc::new(cache.clone()) as Arc<dyn Cache<String, u64>>);
    call_blocking!(&(&cache as &dyn Cache<String, u64>));
    let tasks: Arc<dyn AsyncCache<String, u64>> = Arc::new(cache.clone());
    call_async!(&tasks);
    tasks.flush().await;
    call_async!(&&*tasks);
    let tasks: Box<dyn AsyncCache<String, u64> + Send + Sync> = Box::new(cache);
    call_async!(tasks);
}

#[cfg(feature = "serde")]
#[tokio::test]
async fn configured_cache_has_the_methods_of_its_trait() {
    call_blocking!(hotset::ConfiguredCache::from(Numbers::new(10)));
    call_blocking!(Arc::new(hotset::ConfiguredCache::from(Numbers::new(10))));
    call_async!(hotset::ConfiguredAsyncCache::from(Numbers::new(10)));
    call_async!(Arc::new(hotset::ConfiguredAsyncCache::from(Numbers::new(
        10
    ))));
}

#[cfg(feature = "redis")]
#[tokio::test(flavor = "multi_thread")]
async fn pointer_to_a_tiered_cache_calls_the_methods_of_the_cache() {
    // This class needs no server to serve.
    let cache: hotset::TieredCache<String, u64> = LocalCache::builder()
        .capacity(10)
        .redis("redis://127.0.0.1:1/", "test")
        .consistency(hotset::Consistency::L1Only)
        .heartbeat(Duration::from_millis(50))
        .build()
        .unwrap();
    call_async!(&cache);
    call_async!(Arc::new(cache.clone()));
    call_async!(cache.clone());
    let threads = move || {
        call_blocking!(cache.blocking());
        call_blocking!(&cache.blocking());
        call_blocking!(Arc::new(cache.blocking()));
    };
    tokio::task::spawn_blocking(threads).await.unwrap();
}
