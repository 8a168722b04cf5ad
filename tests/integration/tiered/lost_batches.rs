//! Batches that wait for keys of another batch whose load is dropped or fails. They load these keys together.

use super::servers::{Server, soon};
use super::{MINUTE, proven};
use hotset::TieredCache;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::future::{pending, poll_fn};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::Poll;
use tokio::sync::Semaphore;

/// The number of keys.
const KEYS: u64 = 500;

static ALL: LazyLock<Vec<u64>> = LazyLock::new(|| (0..KEYS).collect());

/// Gets the values of all keys, and returns the keys of each call of the loader.
async fn load_all(cache: &TieredCache<u64, u64>) -> Vec<Vec<u64>> {
    let calls = Mutex::new(Vec::new());
    let load = |missing: Vec<u64>| {
        calls.lock().push(missing.clone());
        async { Ok::<_, ()>(missing.into_iter().map(|key| (key, key * 10))) }
    };
    let found = cache
        .get_many_or_load_async(ALL.iter(), load)
        .await
        .unwrap();
    let expected: Vec<_> = ALL.iter().map(|key| Some(key * 10)).collect();
    assert_eq!(found, expected);
    calls.into_inner()
}

/// Checks that each key was loaded once, in few calls of the loader. Leases are released in several round trips, so
/// that a busy machine may need more than one call.
fn check_loaded_together(calls: &[Vec<u64>]) {
    let mut keys = calls.concat();
    keys.sort_unstable();
    assert_eq!(keys, *ALL);
    assert!(calls.len() <= 5, "{} calls", calls.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_dropped_batch_of_another_process_are_loaded_together() {
    let server = Server::start();
    let one = proven::<u64>(&server.url(), MINUTE).await;
    let other = proven::<u64>(&server.url(), MINUTE).await;
    let begun = Semaphore::new(0);
    let lost = other.get_many_or_load_async(ALL.iter(), |_| {
        begun.add_permits(1);
        pending::<Result<HashMap<u64, u64>, ()>>()
    });
    let drop_load = async {
        tokio::select! {
            _ = lost => unreachable!("the load does not end"),
            () = soon("the batch waits", || one.tier_stats().l2_waits >= KEYS) => {}
        }
    };
    let wait = async {
        begun.acquire().await.unwrap().forget();
        load_all(&one).await
    };
    let ((), calls) = tokio::join!(drop_load, wait);
    check_loaded_together(&calls);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_failed_batch_of_another_process_are_loaded_together() {
    let server = Server::start();
    let one = proven::<u64>(&server.url(), MINUTE).await;
    let other = proven::<u64>(&server.url(), MINUTE).await;
    let (begun, go_on) = (Semaphore::new(0), Semaphore::new(0));
    let failing = other.get_many_or_load_async(ALL.iter(), |_| async {
        begun.add_permits(1);
        go_on.acquire().await.unwrap().forget();
        Err::<HashMap<u64, u64>, _>("it fails")
    });
    let wait = async {
        begun.acquire().await.unwrap().forget();
        load_all(&one).await
    };
    let fail = async {
        soon("the batch waits", || one.tier_stats().l2_waits >= KEYS).await;
        go_on.add_permits(1);
    };
    let (failed, calls, ()) = tokio::join!(failing, wait, fail);
    assert!(failed.is_err());
    check_loaded_together(&calls);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_dropped_batch_of_the_same_process_are_loaded_together() {
    let server = Server::start();
    let cache = proven::<u64>(&server.url(), MINUTE).await;
    let loading = AtomicBool::new(false);
    let lost = cache.get_many_or_load_async(ALL.iter(), |_| {
        loading.store(true, SeqCst);
        pending::<Result<HashMap<u64, u64>, ()>>()
    });
    let mut lost = Box::pin(lost);
    tokio::select! {
        _ = &mut lost => unreachable!("the load does not end"),
        () = soon("the batch loads", || loading.load(SeqCst)) => {}
    }
    let mut other = Box::pin(load_all(&cache));
    // After one poll the batch waits for all of its keys.
    let is_pending = poll_fn(|context| Poll::Ready(other.as_mut().poll(context).is_pending()));
    assert!(is_pending.await);
    drop(lost);
    check_loaded_together(&other.await);
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_that_waits_for_another_process_misses_l1_once_for_each_key() {
    let server = Server::start();
    let one = proven::<u64>(&server.url(), MINUTE).await;
    let other = proven::<u64>(&server.url(), MINUTE).await;
    let (begun, go_on) = (Semaphore::new(0), Semaphore::new(0));
    let slow = other.get_many_or_load_async(&[1, 2], |_| async {
        begun.add_permits(1);
        go_on.acquire().await.unwrap().forget();
        Ok::<_, ()>([(1, 10), (2, 20)])
    });
    let wait = async {
        begun.acquire().await.unwrap().forget();
        let load = |_| async { Err::<HashMap<u64, u64>, _>("not to be loaded") };
        one.get_many_or_load_async(&[1, 2], load).await.unwrap()
    };
    let end = async {
        // Both keys were looked up in Redis three times.
        soon("the batch waits", || one.tier_stats().l2_waits >= 6).await;
        go_on.add_permits(1);
    };
    let (_, found, ()) = tokio::join!(slow, wait, end);
    assert_eq!(found, [Some(10), Some(20)]);
    assert_eq!(one.stats().misses, 2);
}
