//! `get_or_insert_with`, whose loader cannot fail.

use crate::common::{
    Cache, Fixture, PAIRS, RUNTIME, TEST_TIMEOUT, WAYS, Way, let_others_run, seconds, until,
};
use hotset::__private::validate;
use hotset::LocalCache;
use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc;
use std::task::{Context, Waker};
use std::thread;

fn get_or_insert(way: Way, cache: &Cache, key: u32, compute: impl FnOnce() -> u64) -> u64 {
    match way {
        Way::Thread => cache.get_or_insert_with(&key, |_| compute()),
        Way::Task => {
            RUNTIME.block_on(cache.get_or_insert_with_async(&key, |_| async { compute() }))
        }
    }
}

#[test]
fn value_is_computed_once_and_stored() {
    for way in WAYS {
        let f = Fixture::new(|builder| builder.time_to_live(seconds(5)));
        assert_eq!(get_or_insert(way, &f.cache, 1, || 7), 7);
        assert_eq!(
            get_or_insert(way, &f.cache, 1, || panic!("computed again")),
            7
        );
        assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(5)));
        let stats = f.cache.stats();
        assert_eq!((stats.hits, stats.misses, stats.loads), (1, 1, 1));
    }
}

#[test]
fn caller_gets_the_value_of_a_load_in_flight() {
    for (loading, waiting) in PAIRS {
        let f = Fixture::new(|builder| builder);
        let load = loading.load(&f.cache, 1);
        let (send, value) = mpsc::channel();
        let cache = f.cache.clone();
        let waiter = thread::spawn(move || {
            send.send(get_or_insert(waiting, &cache, 1, || 99)).unwrap();
        });
        until(|| f.cache.stats().misses == 2);
        let_others_run();
        assert_eq!(load.find(7), 7);
        assert_eq!(value.recv_timeout(TEST_TIMEOUT).unwrap(), 7);
        waiter.join().unwrap();
        validate(&f.cache);
    }
}

#[test]
fn caller_that_waits_for_a_failed_load_computes_the_value() {
    for (loading, waiting) in PAIRS {
        let f = Fixture::new(|builder| builder);
        let load = loading.load(&f.cache, 1);
        let cache = f.cache.clone();
        let waiter = thread::spawn(move || get_or_insert(waiting, &cache, 1, || 99));
        until(|| f.cache.stats().misses == 2);
        let_others_run();
        assert!(load.finish(Err("no")).is_err());
        assert_eq!(waiter.join().unwrap(), 99);
        assert_eq!(f.cache.get(&1), Some(99));
        validate(&f.cache);
    }
}

#[test]
fn recursive_call_computes_for_itself_and_stores_nothing() {
    for way in WAYS {
        let f = Fixture::new(|builder| builder);
        let value = match way {
            Way::Thread => f.cache.get_or_insert_with(&1, |_| {
                let inner = f.cache.get_or_insert_with(&1, |_| 5);
                assert_eq!(f.cache.get(&1), None);
                inner + 1
            }),
            Way::Task => RUNTIME.block_on(f.cache.get_or_insert_with_async(&1, async |_| {
                let inner = f.cache.get_or_insert_with_async(&1, async |_| 5).await;
                assert_eq!(f.cache.get(&1), None);
                inner + 1
            })),
        };
        assert_eq!((value, f.cache.get(&1)), (6, Some(6)));
        validate(&f.cache);
    }
}

#[test]
fn panic_reaches_the_caller_and_the_next_one_computes() {
    for way in WAYS {
        let f = Fixture::new(|builder| builder);
        let panicking = || get_or_insert(way, &f.cache, 1, || resume_unwind(Box::new("panic")));
        assert!(catch_unwind(AssertUnwindSafe(panicking)).is_err());
        assert_eq!(get_or_insert(way, &f.cache, 1, || 7), 7);
        validate(&f.cache);
    }
}

#[cfg(feature = "tokio")]
#[tokio::test(start_paused = true)]
async fn caller_computes_for_itself_after_the_wait_timeout() {
    let f = Fixture::new(|builder| builder.wait_timeout(seconds(2)));
    let mut cx = Context::from_waker(Waker::noop());
    let mut hanging = Box::pin(f.cache.get_or_insert_with_async(&1, |_| pending::<u64>()));
    assert!(hanging.as_mut().poll(&mut cx).is_pending());
    let start = tokio::time::Instant::now();
    assert_eq!(f.cache.get_or_insert_with_async(&1, async |_| 5).await, 5);
    assert!((seconds(2)..seconds(3)).contains(&start.elapsed()));
    assert_eq!(f.cache.get(&1), None);
    drop(hanging);
    assert_eq!(f.cache.get_or_insert_with_async(&1, async |_| 6).await, 6);
    assert_eq!(f.cache.get(&1), Some(6));
    validate(&f.cache);
}

#[test]
fn dropped_future_hands_over_to_the_next_caller() {
    for way in WAYS {
        let f = Fixture::new(|builder| builder);
        let mut cx = Context::from_waker(Waker::noop());
        let mut dropped = Box::pin(f.cache.get_or_insert_with_async(&1, |_| pending::<u64>()));
        assert!(dropped.as_mut().poll(&mut cx).is_pending());
        drop(dropped);
        assert_eq!(get_or_insert(way, &f.cache, 1, || 7), 7);
        validate(&f.cache);
    }
}

#[test]
fn key_in_borrowed_form_is_cloned_for_the_loader() {
    let cache: LocalCache<String, usize> = LocalCache::new(10);
    assert_eq!(cache.get_or_insert_with("key", str::len), 3);
    let computed = cache.get_or_insert_with_async("other", |key| async move { key.len() });
    assert_eq!(RUNTIME.block_on(computed), 5);
    assert_eq!(cache.get_many(["key", "other"]), [Some(3), Some(5)]);
}
