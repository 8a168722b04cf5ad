//! The calls that load, on caches of all kinds, with keys in borrowed form and values that are inferred.

use hotset::{AsyncCache, Cache, Loaded, LocalCache};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io;
use std::num::ParseIntError;
use std::sync::Arc;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// Calls the methods of [`Cache`].
fn load_all(cache: &impl Cache<String, Value>) {
    let parsed = cache.get_or_load("1", |text| text.parse()).unwrap();
    assert_eq!(parsed, json!(1));
    let parsed = cache.get_or_load_entry("2", |text| {
        Ok::<_, serde_json::Error>(Loaded::new(serde_json::from_str(text)?).ttl(MINUTE))
    });
    assert_eq!(parsed.unwrap(), json!(2));
    assert_eq!(
        cache.get_or_insert_with("3", |text| text.into()),
        json!("3")
    );
    let found = cache.get_many_or_load(["1", "4"], |missing| {
        Ok::<_, io::Error>(missing.into_iter().map(|text| (text, 4.into())))
    });
    assert_eq!(found.unwrap(), [Some(json!(1)), Some(json!(4))]);
    let found = cache.get_many_or_load_entries(["2", "5"], |missing| {
        Ok::<_, io::Error>(
            missing
                .into_iter()
                .map(|text| (text, Loaded::new(5.into()))),
        )
    });
    assert_eq!(found.unwrap(), [Some(json!(2)), Some(json!(5))]);
}

/// Calls the methods of [`AsyncCache`].
async fn load_all_async(cache: &impl AsyncCache<String, Value>) {
    let parsed = cache.get_or_load_async("1", |text| async move { text.parse() });
    assert_eq!(parsed.await.unwrap(), json!(1));
    let parsed = cache.get_or_load_entry_async("2", |text| async move {
        Ok::<_, serde_json::Error>(Loaded::new(serde_json::from_str(&text)?).ttl(MINUTE))
    });
    assert_eq!(parsed.await.unwrap(), json!(2));
    let computed = cache.get_or_insert_with_async("3", |text| async move { text.into() });
    assert_eq!(computed.await, json!("3"));
    let found = cache.get_many_or_load_async(["1", "4"], |missing| async move {
        Ok::<_, io::Error>(missing.into_iter().map(|text| (text, 4.into())))
    });
    assert_eq!(found.await.unwrap(), [Some(json!(1)), Some(json!(4))]);
    let found = cache.get_many_or_load_entries_async(["2", "5"], |missing| async move {
        Ok::<_, io::Error>(
            missing
                .into_iter()
                .map(|text| (text, Loaded::new(5.into()))),
        )
    });
    assert_eq!(found.await.unwrap(), [Some(json!(2)), Some(json!(5))]);
}

#[tokio::test]
async fn values_are_inferred_through_the_traits() {
    load_all(&LocalCache::new(10));
    load_all_async(&LocalCache::new(10)).await;
    let object: Arc<dyn Cache<String, Value>> = Arc::new(LocalCache::new(10));
    load_all(&object);
    let object: Arc<dyn AsyncCache<String, Value>> = Arc::new(LocalCache::new(10));
    load_all_async(&object).await;
}

#[tokio::test]
async fn entries_of_async_loaders_and_of_batches_are_inferred() {
    let cache: LocalCache<String, u64> = LocalCache::new(10);
    let loaded = cache.get_or_load_entry_async("1", |text| async move {
        Ok::<_, ParseIntError>(Loaded::new(text.parse()?).ttl(MINUTE))
    });
    assert_eq!(loaded.await.unwrap(), 1);
    let found = cache.get_many_or_load_entries(["1", "2"], |missing| {
        Ok::<_, io::Error>(
            missing
                .into_iter()
                .map(|text| (text, Loaded::new(2).tags(["number"]))),
        )
    });
    assert_eq!(found.unwrap(), [Some(1), Some(2)]);
    let found = cache.get_many_or_load_async(["2", "3"], |missing| async move {
        Ok::<_, io::Error>(HashMap::from([(missing[0].clone(), 3)]))
    });
    assert_eq!(found.await.unwrap(), [Some(2), Some(3)]);
    let found = cache.get_many_or_load_entries_async(["3", "4"], |missing| async move {
        let entry = |text: String| Ok((text.clone(), Loaded::new(text.parse()?)));
        missing
            .into_iter()
            .map(entry)
            .collect::<Result<Vec<_>, ParseIntError>>()
    });
    assert_eq!(found.await.unwrap(), [Some(3), Some(4)]);
}

#[cfg(feature = "tokio")]
#[tokio::test]
async fn value_of_a_detached_loader_is_inferred() {
    let cache: LocalCache<String, Value> = LocalCache::new(10);
    let detached = cache.detached();
    let loaded = detached.get_or_load_async("1", |text| async move { text.parse() });
    assert_eq!(loaded.await.unwrap(), json!(1));
    let loaded = detached.get_or_load_entry_async("2", |text| async move {
        Ok::<_, io::Error>(Loaded::new(text.into()).ttl(MINUTE))
    });
    assert_eq!(loaded.await.unwrap(), json!("2"));
}

#[test]
fn value_of_a_refresh_is_inferred() {
    let cache: LocalCache<String, Value> = LocalCache::new(10);
    assert_eq!(cache.refresh("1", |text| text.parse()).unwrap(), json!(1));
    let loaded = cache.refresh_with("1", |old| {
        Ok::<_, io::Error>(old.map_or(Value::Null, |old| [old, 2.into()].into_iter().collect()))
    });
    assert_eq!(loaded.unwrap(), json!([1, 2]));
}

/// Compiled but not called, because it needs a Redis server.
#[cfg(feature = "redis")]
#[allow(dead_code)]
async fn tiered(cache: hotset::TieredCache<String, Value>) {
    let loaded = cache.get_or_load_async("1", |text| async move { text.parse() });
    let _: Value = loaded.await.unwrap();
    let loaded = cache.get_or_load_entry_async("2", |text| async move {
        Ok::<_, serde_json::Error>(Loaded::new(serde_json::from_str(&text)?).ttl(MINUTE))
    });
    let _: Value = loaded.await.unwrap();
    let computed = cache.get_or_insert_with_async("3", |text| async move { text.into() });
    let _: Value = computed.await;
    let found = cache.get_many_or_load_async(["1", "4"], |missing| async move {
        Ok::<_, io::Error>(missing.into_iter().map(|text| (text, 4.into())))
    });
    let _: Vec<Option<Value>> = found.await.unwrap();
    load_all_async(&cache).await;
    load_all(&cache.blocking());
}
