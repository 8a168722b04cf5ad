//! The futures of async methods: their size, the condition for `Send`, and when they call their loader.

use hotset::{AsyncCache, Compute, Loaded, LocalCache};
use std::convert::Infallible;
use std::future::{Future, ready};
use std::mem::size_of_val;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

type Cache = LocalCache<u32, u32>;

fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Runs a loader whose future has more than a thousand bytes.
async fn large(value: u32) -> Result<u32, Infallible> {
    let bytes = [value; 256];
    tokio::task::yield_now().await;
    Ok(bytes[255])
}

#[test]
fn future_of_get_or_load_is_small_whatever_the_size_of_the_loader() {
    let cache = Cache::new(10);
    assert!(size_of_val(&large(1)) > 1_000);
    let size = size_of_val(&cache.get_or_load_async(&1, |_| large(1)));
    assert!(size <= 96, "{size} bytes");
    let captured = [1_u8; 1_000];
    let load = |_| ready(Ok::<_, Infallible>(u32::from(captured[999])));
    let moving = cache.get_or_load_async(&1, load);
    assert!(size_of_val(&moving) <= 96, "{} bytes", size_of_val(&moving));
}

#[test]
fn async_loader_is_called_only_on_a_miss_and_after_the_first_poll() {
    let cache = Cache::new(10);
    drop(
        cache.get_or_load_async(&1, |_| -> std::future::Ready<Result<u32, Infallible>> {
            panic!("called")
        }),
    );
    assert_eq!(cache.stats().misses, 0);
    cache.insert(1, 5);
    let mut hit = pin!(cache.get_or_load_async(&1, |_| {
        panic!("called");
        #[allow(unreachable_code)]
        ready(Ok::<_, Infallible>(0))
    }));
    assert!(matches!(poll(hit.as_mut()), Poll::Ready(Ok(5))));
}

/// Checks that a future has at most 512 bytes.
fn assert_small<T>(name: &str, future: &T) {
    let size = size_of_val(future);
    assert!(size <= 512, "{name}: {size} bytes");
}

/// Like [`large`], for methods whose loader cannot fail.
async fn large_value(value: u32) -> u32 {
    large(value).await.unwrap()
}

async fn large_change(value: Option<u32>) -> Compute<u32> {
    Compute::Put(large_value(value.unwrap_or(0)).await)
}

#[test]
fn futures_of_all_methods_are_small_whatever_the_size_of_the_loader() {
    let cache = Cache::new(10);
    let entry = |key| async move { large(key).await.map(Loaded::new) };
    let many = |keys: Vec<u32>| async move {
        let value = large(keys[0]).await?;
        Ok::<_, Infallible>([(keys[0], value)])
    };
    let entries = |keys: Vec<u32>| async move {
        let value = large(keys[0]).await?;
        Ok::<_, Infallible>([(keys[0], Loaded::new(value))])
    };
    let keys = [1];
    assert_small("get_or_load_async", &cache.get_or_load_async(&1, large));
    assert_small(
        "get_or_load_entry_async",
        &cache.get_or_load_entry_async(&1, entry),
    );
    assert_small(
        "get_or_insert_with_async",
        &cache.get_or_insert_with_async(&1, large_value),
    );
    assert_small("refresh_async", &cache.refresh_async(&1, large));
    let with = |old: Option<u32>| large(old.unwrap_or(0));
    assert_small("refresh_with_async", &cache.refresh_with_async(&1, with));
    assert_small("compute_async", &cache.compute_async(&1, large_change));
    let fallible = |old| async move { Ok::<_, Infallible>(large_change(old).await) };
    assert_small("try_compute_async", &cache.try_compute_async(&1, fallible));
    assert_small(
        "get_many_or_load_async",
        &cache.get_many_or_load_async(&keys, many),
    );
    let batch = cache.get_many_or_load_entries_async(&keys, entries);
    assert_small("get_many_or_load_entries_async", &batch);
    let object: Arc<dyn AsyncCache<u32, u32>> = Arc::new(cache.clone());
    let insert = object.get_or_insert_with_async(&1, large_value);
    assert_small("AsyncCache::get_or_insert_with_async", &insert);
    assert_small(
        "AsyncCache::get_or_load_async",
        &object.get_or_load_async(&1, large),
    );
}

/// Checks at compile time that a future can be moved to another thread.
fn assert_send<T: Send>(_: T) {}

#[test]
fn futures_of_all_methods_are_send_if_their_inputs_are() {
    assert_send(Cache::new(10).get_or_load_async(&1, |_| large(1)));
    let cache: LocalCache<String, Arc<str>> = LocalCache::new(10);
    let key = "key";
    let value = |key: String| async move {
        tokio::task::yield_now().await;
        Ok::<Arc<str>, Infallible>(key.into())
    };
    let entry = |key: String| async move { value(key).await.map(Loaded::new) };
    let many = |keys: Vec<String>| async move {
        let mut pairs = Vec::new();
        for key in keys {
            pairs.push((key.clone(), value(key).await?));
        }
        Ok::<_, Infallible>(pairs)
    };
    let entries = |keys: Vec<String>| async move {
        let pairs = many(keys).await?.into_iter();
        Ok::<_, Infallible>(pairs.map(|(key, value)| (key, Loaded::new(value))))
    };
    assert_send(cache.get_or_load_async(key, value));
    assert_send(cache.get_or_load_entry_async(key, entry));
    assert_send(cache.get_or_insert_with_async(key, |key| async move { key.into() }));
    assert_send(cache.refresh_async(key, value));
    assert_send(cache.refresh_with_async(key, |old| async move {
        tokio::task::yield_now().await;
        Ok::<_, Infallible>(old.unwrap_or_default())
    }));
    assert_send(cache.compute_async(key, |old| async move {
        tokio::task::yield_now().await;
        old.map_or(Compute::Keep, Compute::Put)
    }));
    assert_send(cache.try_compute_async(key, |old| async move {
        tokio::task::yield_now().await;
        Ok::<_, Infallible>(old.map_or(Compute::Remove, Compute::Put))
    }));
    assert_send(cache.get_many_or_load_async([key], many));
    assert_send(cache.get_many_or_load_entries_async([key], entries));
    let object: Arc<dyn AsyncCache<String, Arc<str>>> = Arc::new(cache.clone());
    assert_send(object.get(key));
    assert_send(object.contains_key(key));
    assert_send(object.remaining_ttl(key));
    assert_send(object.insert("key".to_string(), "value".into()));
    assert_send(object.invalidate(key));
    assert_send(object.invalidate_tag("tag"));
    assert_send(object.clear());
    assert_send(object.get_or_load_async(key, value));
    assert_send(object.get_or_load_entry_async(key, entry));
    assert_send(object.get_or_insert_with_async(key, |key| async move { key.into() }));
    assert_send(object.get_many_or_load_async([key], many));
    assert_send(object.get_many_or_load_entries_async([key], entries));
}

#[tokio::test]
async fn all_async_methods_run_in_spawned_tasks() {
    let cache: LocalCache<String, u32> = LocalCache::new(10);
    let object: Arc<dyn AsyncCache<String, u32>> = Arc::new(cache.clone());
    let names = vec!["one".to_string(), "two".to_string()];
    let task = tokio::spawn(async move {
        let name = names[0].as_str();
        let length = |name: String| async move { u32::try_from(name.len()) };
        assert_eq!(cache.get_or_load_async(name, length).await.unwrap(), 3);
        assert_eq!(cache.refresh_async(name, length).await.unwrap(), 3);
        let next = |old: Option<u32>| async move { Ok::<_, Infallible>(old.unwrap() + 1) };
        assert_eq!(cache.refresh_with_async(name, next).await.unwrap(), 4);
        let double = |old: Option<u32>| async move { Compute::Put(old.unwrap() * 2) };
        assert_eq!(cache.compute_async(name, double).await, Some(8));
        assert_eq!(
            cache.get_or_insert_with_async("three", async |_| 3).await,
            3
        );
        let load = |missing: Vec<String>| async move {
            Ok::<_, Infallible>(missing.into_iter().map(|name| (name, 2)))
        };
        let batch = cache.get_many_or_load_async(names.iter().map(String::as_str), load);
        assert_eq!(batch.await.unwrap(), [Some(8), Some(2)]);
        let batch = object.get_many_or_load_async(&names, load);
        assert_eq!(batch.await.unwrap(), [Some(8), Some(2)]);
        assert_eq!(object.get_or_load_async(name, length).await.unwrap(), 8);
        assert_eq!(
            object.get_or_insert_with_async("four", async |_| 4).await,
            4
        );
    });
    task.await.unwrap();
}
