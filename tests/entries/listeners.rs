//! Removal listeners, which own the key and the value.

use crate::common::{Fixture, seconds};
use hotset::__private::validate;
use hotset::RemovalCause::{Cleared, Evicted, Expired, Invalidated, Removed, Replaced};
use hotset::{Compute, Loaded, LocalCache};
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

#[test]
fn listener_is_called_in_the_order_of_the_writes_of_a_thread() {
    let f = Fixture::new(|builder| builder);
    f.cache.insert(1, 10);
    f.cache.insert(1, 11);
    f.cache.update(&1, |_| Some(12));
    f.cache.compute(&1, |_| Compute::Put(13));
    f.cache.compute(&1, |_| Compute::Remove);
    f.cache.insert(1, 14);
    f.cache.insert_loaded(1, Loaded::uncached(15));
    f.cache.insert(1, 16);
    f.cache.insert_with_ttl(1, 17, Duration::ZERO);
    f.cache.insert(1, 18);
    f.cache.refresh(&1, |_| Ok::<_, &str>(19)).unwrap();
    f.cache.invalidate(&1);
    f.cache.insert(1, 20);
    f.cache.retain(|_, _| false);
    let expected = [
        (1, 10, Replaced),
        (1, 11, Replaced),
        (1, 12, Replaced),
        (1, 13, Removed),
        (1, 14, Replaced),
        (1, 16, Replaced),
        (1, 18, Replaced),
        (1, 19, Removed),
        (1, 20, Removed),
    ];
    assert_eq!(f.take_notified(), expected);
}

#[test]
fn listener_is_called_once_with_each_cause() {
    let f = Fixture::new(|builder| builder.capacity(3));
    let write = |value| f.cache.insert(1, value);
    write(10);
    write(11);
    assert_eq!(f.cache.remove(&1), Some(11));
    f.cache.insert_with_ttl(1, 12, seconds(1));
    f.clock.set(seconds(1));
    f.cache.remove_expired();
    write(13);
    f.cache.clear();
    f.cache.insert_loaded(1, Loaded::new(14).tags(["tag"]));
    f.cache.invalidate_tag("tag");
    write(15);
    (2..5).for_each(|key| f.cache.insert(key, 0));
    let expected = [
        (1, 10, Replaced),
        (1, 11, Removed),
        (1, 12, Expired),
        (1, 13, Cleared),
        (1, 14, Invalidated),
        (1, 15, Evicted),
    ];
    assert_eq!(f.take_notified(), expected);
    assert_eq!(f.cache.len(), 3);
}

#[test]
fn remove_returns_the_value_that_the_listener_owns() {
    let (send, removed) = mpsc::channel();
    let cache: LocalCache<String, Arc<str>> = LocalCache::builder()
        .capacity(10)
        .on_removal(move |key, value, cause| send.send((key, value, cause)).unwrap())
        .build()
        .unwrap();
    cache.insert("key".to_string(), "value".into());
    let value = cache.remove("key").unwrap();
    let (key, owned, cause) = removed.try_recv().unwrap();
    assert_eq!((key.as_str(), cause), ("key", Removed));
    assert!(Arc::ptr_eq(&value, &owned));
    assert_eq!(cache.remove("key"), None);
    assert!(removed.try_recv().is_err());
}

#[test]
fn remove_of_an_expired_entry_returns_nothing_and_reports_its_expiration() {
    let f = Fixture::new(|builder| builder);
    f.cache.insert_with_ttl(1, 10, seconds(1));
    f.clock.set(seconds(1));
    assert_eq!(f.cache.remove(&1), None);
    assert_eq!(f.take_notified(), [(1, 10, Expired)]);
}

#[test]
fn listener_gets_every_entry_once_under_concurrent_writes() {
    let (send, removed) = mpsc::channel();
    let cache: LocalCache<u32, u32> = LocalCache::builder()
        .capacity(64)
        .on_removal(move |_, value, _| send.send(value).unwrap())
        .build()
        .unwrap();
    let values = AtomicU32::new(0);
    thread::scope(|scope| {
        for thread in 0..4 {
            let (cache, values) = (&cache, &values);
            scope.spawn(move || {
                for turn in 0..2_000 {
                    let value = values.fetch_add(1, SeqCst);
                    match (turn + thread) % 16 {
                        0 => cache
                            .set_capacity(usize::from(turn % 3 == 0) * 40 + 10)
                            .unwrap(),
                        1 => drop(cache.compute(&(value % 100), |_| Compute::Remove).is_some()),
                        2 => drop(cache.remove(&(value % 100)).is_some()),
                        _ => {}
                    }
                    cache.insert(value % 100, value);
                }
            });
        }
    });
    cache.clear();
    let written = values.into_inner();
    drop(cache);
    let mut owned: Vec<u32> = removed.iter().collect();
    owned.sort_unstable();
    assert!(owned.into_iter().eq(0..written));
}

#[test]
fn listener_that_panics_in_set_ttl_or_set_capacity_leaves_the_cache_valid() {
    let cache: LocalCache<u32, u32> = LocalCache::builder()
        .capacity(10)
        .on_removal(|_, _, _| panic_any("panic"))
        .build()
        .unwrap();
    (0..10).for_each(|key| cache.insert(key, key));
    let set_ttl = AssertUnwindSafe(|| cache.set_ttl(&1, Duration::ZERO));
    assert!(catch_unwind(set_ttl).is_err());
    assert_eq!(cache.get(&1), None);
    let shrink = AssertUnwindSafe(|| cache.set_capacity(3).unwrap());
    assert!(catch_unwind(shrink).is_err());
    assert_eq!(cache.capacity(), Some(3));
    validate(&cache);
    let insert = AssertUnwindSafe(|| cache.insert(20, 20));
    assert!(catch_unwind(insert).is_err());
    assert!(cache.len() <= 3);
    let compute = AssertUnwindSafe(|| cache.compute(&20, |_| Compute::Put(21)));
    assert!(catch_unwind(compute).is_err());
    validate(&cache);
}
