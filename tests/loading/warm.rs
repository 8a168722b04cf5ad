//! Warming: the cache gets the values of the loader, and requests no more keys than it has room for.

use hotset::__private::validate;
use hotset::{LoadError, Loaded, LocalCache, ManualClock, OpaqueError, WarmOptions, WarmOutcome};
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, mpsc};
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::yield_now;

type Cache = LocalCache<u64, u64>;

fn rows(keys: Vec<u64>) -> HashMap<u64, u64> {
    keys.into_iter().map(|key| (key, key * 10)).collect()
}

#[allow(clippy::unnecessary_wraps)]
fn load(keys: Vec<u64>) -> Result<HashMap<u64, u64>, Infallible> {
    Ok(rows(keys))
}

#[test]
fn warming_loads_missing_keys_in_batches() {
    let cache = Cache::new(1_000);
    cache.insert(3, 1);
    let mut batches = Vec::new();
    let mut reported = Vec::new();
    let warming = WarmOptions::new().batch(4).on_progress(|progress| {
        reported.push((progress.done(), progress.left_out, progress.total));
    });
    let report = cache.warm_with(warming, 0..10, |keys| {
        batches.push(keys.clone());
        let mut rows = rows(keys);
        rows.remove(&5);
        Ok::<_, Infallible>(rows)
    });
    assert_eq!(batches, [vec![0, 1, 2], vec![4, 5, 6, 7], vec![8, 9]]);
    assert_eq!(
        reported,
        [(4, 0, Some(10)), (8, 1, Some(10)), (10, 1, Some(10))]
    );
    assert_eq!((report.found, report.left_out, report.failed), (9, 1, 0));
    assert_eq!(report.end, WarmOutcome::Done);
    assert!(report.failures.is_empty());
    assert_eq!(
        (cache.get(&3), cache.get(&9), cache.get(&5)),
        (Some(1), Some(90), None)
    );
    validate(&cache);
}

#[test]
fn progress_has_a_total_only_if_it_is_known() {
    let cache = Cache::new(1_000);
    let warming = WarmOptions::new().on_progress(|progress| assert_eq!(progress.total, None));
    let report = cache.warm_with(warming, (0..10).filter(|key| key % 2 == 0), load);
    assert_eq!(report.found, 5);
}

#[test]
fn warming_stops_when_the_cache_is_full_and_takes_no_more_keys() {
    let clock = ManualClock::new();
    let builder = LocalCache::builder().capacity(1_000);
    let cache: Cache = builder.clock(clock.clone()).build().unwrap();
    let mut taken = 0;
    let endless = (0..).inspect(|_| taken += 1);
    let mut asked = 0;
    let report = cache.warm_with(WarmOptions::new().batch(300), endless, |keys| {
        asked += keys.len();
        load(keys)
    });
    assert_eq!((report.end, report.found), (WarmOutcome::Full, 1_000));
    assert_eq!((asked, taken), (1_000, 1_000));
    let stats = cache.stats();
    assert_eq!((stats.entries, stats.evicted), (1_000, 0));
    let report = cache.warm(5_000..6_000, load);
    assert_eq!((report.end, report.found), (WarmOutcome::Full, 0));
    // Expired entries take no room.
    for key in 0..10 {
        cache.insert_with_ttl(key, 0, Duration::from_secs(1));
    }
    clock.advance(Duration::from_secs(1));
    assert_eq!(cache.warm(5_000..6_000, load).found, 10);
    assert_eq!(cache.stats().evicted, 0);
}

#[test]
fn room_is_estimated_by_average_weight_and_unlimited_without_bound() {
    let cache: Cache = LocalCache::builder()
        .max_weight(10_000)
        .weigher(|_, _| 7)
        .build()
        .unwrap();
    let report = cache.warm_with(WarmOptions::new().batch(100), 0.., load);
    assert_eq!((report.end, report.found), (WarmOutcome::Full, 10_000 / 7));
    assert_eq!(cache.stats().evicted, 0);
    let cache: Cache = LocalCache::builder().unbounded().build().unwrap();
    assert_eq!(cache.warm(0..10_000, load).found, 10_000);
}

fn weighing(max: u64, weigher: fn(&u64, &u64) -> u64) -> Cache {
    let builder = LocalCache::builder().max_weight(max);
    builder.weigher(weigher).build().unwrap()
}

#[test]
fn warming_an_empty_weighted_cache_begins_with_single_keys() {
    let cache = weighing(1_000, |_, _| 10);
    let mut sizes = Vec::new();
    let report = cache.warm_with(WarmOptions::new().batch(32), 0.., |keys| {
        sizes.push(keys.len());
        load(keys)
    });
    assert_eq!(sizes, [1, 1, 2, 4, 8, 16, 32, 32, 4]);
    assert_eq!((report.end, report.found), (WarmOutcome::Full, 100));
    assert_eq!(cache.stats().evicted, 0);
    assert!((0..100).all(|key| cache.contains_key(&key)));
    // Light and heavy entries: the average is not rounded down.
    let cache = weighing(1_000, |key, _| 1 + key % 2);
    let report = cache.warm(0.., load);
    assert_eq!((report.end, cache.stats().evicted), (WarmOutcome::Full, 0));
    assert!(cache.weight() >= 998, "{}", cache.weight());
}

#[test]
fn warming_ends_if_no_value_is_stored() {
    let too_heavy = weighing(100, |_, _| 1_000);
    let report = too_heavy.warm(0.., load);
    assert_eq!((report.end, report.found), (WarmOutcome::Full, 100));
    let too_heavy = weighing(u64::MAX / 2, |_, _| u64::MAX);
    let report = too_heavy.warm(0.., load);
    assert_eq!((report.end, report.found), (WarmOutcome::Full, 10_000));
    assert_eq!(
        (too_heavy.len(), Cache::new(0).warm(0.., load).found),
        (0, 0)
    );
    let cache = Cache::new(100);
    let report = cache.warm(0.., |keys| {
        let rows = rows(keys).into_iter();
        let rows = rows.map(|(key, row)| (key, Loaded::new(row).ttl(Duration::ZERO)));
        Ok::<_, Infallible>(rows)
    });
    assert_eq!((report.end, report.found), (WarmOutcome::Full, 100));
    assert!(cache.is_empty());
}

#[test]
fn repeated_key_is_loaded_once_and_unrequested_key_is_ignored() {
    let cache = Cache::new(100);
    let report = cache.warm([1, 1, 1, 2, 2], |keys| {
        assert_eq!(keys, [1, 2]);
        Ok::<_, Infallible>([(9, 9), (1, 1), (1, 7)])
    });
    assert_eq!((report.found, report.left_out), (3, 2));
    assert_eq!((cache.len(), cache.get(&9)), (1, None));
}

#[test]
fn failed_batch_is_reported_and_does_not_stop_the_others() {
    let cache = Cache::new(1_000);
    let fails = |keys: Vec<u64>| {
        if keys.contains(&5) {
            Err("down")
        } else {
            Ok(rows(keys))
        }
    };
    let report = cache.warm_with(WarmOptions::new().batch(4), 0..12, fails);
    assert_eq!(
        (report.found, report.failed, report.end),
        (8, 4, WarmOutcome::Done)
    );
    assert_eq!(report.failures[0].keys, [4, 5, 6, 7]);
    let error = &report.failures[0].error;
    assert!(matches!(error, LoadError::Failed(error) if **error == "down"));
    validate(&cache);
}

#[test]
fn warming_stops_after_failures_and_bounds_the_report() {
    let cache = Cache::new(1_000_000);
    let asked = AtomicUsize::new(0);
    let down = |_: Vec<u64>| {
        asked.fetch_add(1, SeqCst);
        Err::<Vec<(u64, u64)>, _>("down")
    };
    let warming = WarmOptions::new().batch(10).stop_after_failures(3);
    let report = cache.warm_with(warming, 0..100_000, down);
    assert_eq!((report.end, report.failed), (WarmOutcome::Failures, 30));
    assert_eq!(asked.load(SeqCst), 3);
    let report = cache.warm_with(WarmOptions::new().batch(30), 0..100_000, down);
    let listed: usize = report.failures.iter().map(|batch| batch.keys.len()).sum();
    assert_eq!((report.failed, listed), (100_000, 10_000));
}

#[test]
fn panic_of_the_loader_reaches_the_caller_and_earlier_entries_stay() {
    let cache = Cache::new(1_000);
    let warming = WarmOptions::new().batch(4);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        cache.warm_with(warming, 0..12, |keys| {
            assert!(!keys.contains(&5), "in the loader");
            load(keys)
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(cache.len(), 4);
    validate(&cache);
    assert_eq!(cache.warm(0..12, load).found, 12);
}

#[test]
fn warming_shares_loads_and_invalidations_prevail() {
    let cache = Cache::new(1_000);
    let (began, begun) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    thread::scope(|scope| {
        // Dropped if an assertion fails, so that the loader does not wait without limit.
        let (cache, go_on) = (&cache, go_on);
        let warming = scope.spawn(move || {
            cache.warm(0..10, |keys| {
                began.send(()).unwrap();
                may_go_on.recv().unwrap();
                let rows = rows(keys).into_iter();
                Ok::<_, Infallible>(rows.map(|(key, row)| (key, Loaded::new(row).tags(["rows"]))))
            })
        });
        begun.recv().unwrap();
        cache.remove(&3);
        let other = scope.spawn(|| cache.get_or_load(&4, |_| Ok::<_, Infallible>(1)));
        go_on.send(()).unwrap();
        assert_eq!(warming.join().unwrap().found, 10);
        // Loaded by the warming, or found in the cache if the warming was earlier.
        assert_eq!(other.join().unwrap().unwrap(), 40);
    });
    assert_eq!((cache.get(&3), cache.len()), (None, 9));
    cache.invalidate_tag("rows");
    assert_eq!(cache.iter().count(), 0);
    validate(&cache);
}

#[tokio::test]
async fn async_warming_runs_the_set_number_of_batches_at_one_time() {
    let cache = Cache::new(1_000);
    let (in_flight, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let gate = Semaphore::new(0);
    let load = |keys: Vec<u64>| {
        let (in_flight, most, gate) = (&in_flight, &most, &gate);
        async move {
            most.fetch_max(in_flight.fetch_add(1, SeqCst) + 1, SeqCst);
            if in_flight.load(SeqCst) == 3 {
                gate.add_permits(1_000);
            }
            gate.acquire().await.unwrap().forget();
            yield_now().await;
            in_flight.fetch_sub(1, SeqCst);
            load(keys)
        }
    };
    let warming = WarmOptions::new().batch(10).concurrency(3);
    let report = cache.warm_with_async(warming, 0..100, load).await;
    assert_eq!((report.found, report.end), (100, WarmOutcome::Done));
    assert_eq!(most.load(SeqCst), 3);
    validate(&cache);
}

#[tokio::test]
async fn async_warming_fills_the_cache_exactly() {
    let cache = Cache::new(1_000);
    let asked = AtomicUsize::new(0);
    let load = |keys: Vec<u64>| {
        asked.fetch_add(keys.len(), SeqCst);
        async move {
            yield_now().await;
            load(keys)
        }
    };
    let warming = WarmOptions::new().batch(300).concurrency(8);
    let report = cache.warm_with_async(warming, 0.., load).await;
    assert_eq!((report.end, report.found), (WarmOutcome::Full, 1_000));
    assert_eq!((asked.load(SeqCst), cache.stats().evicted), (1_000, 0));
}

#[tokio::test]
async fn async_warming_runs_one_batch_until_a_weight_is_known() {
    let cache = weighing(1_000, |_, _| 10);
    let (in_flight, sizes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let load = |keys: Vec<u64>| {
        // The keys of this batch and of all batches in flight.
        let before = in_flight.fetch_add(keys.len(), SeqCst);
        sizes.lock().unwrap().push(before + keys.len());
        let in_flight = &in_flight;
        async move {
            yield_now().await;
            in_flight.fetch_sub(keys.len(), SeqCst);
            load(keys)
        }
    };
    let warming = WarmOptions::new().batch(32).concurrency(4);
    let report = cache.warm_with_async(warming, 0.., load).await;
    assert_eq!((report.end, report.found), (WarmOutcome::Full, 100));
    assert_eq!(cache.stats().evicted, 0);
    assert_eq!(sizes.lock().unwrap()[..4], [1, 1, 2, 4]);
}

#[tokio::test]
async fn async_warming_reports_failed_batches() {
    let cache = Cache::new(1_000);
    let reported = Mutex::new(Vec::new());
    let warming = WarmOptions::new()
        .batch(10)
        .concurrency(4)
        .stop_after_failures(2)
        .on_progress(|progress| reported.lock().unwrap().push(progress.failed));
    let load = |keys: Vec<u64>| async move {
        yield_now().await;
        Err::<Vec<(u64, u64)>, _>(OpaqueError(keys[0]))
    };
    let report = cache.warm_with_async(warming, 0..1_000, load).await;
    // The batches in flight when the second one failed have failed too.
    assert_eq!(report.end, WarmOutcome::Failures);
    assert!((20..=50).contains(&report.failed), "{}", report.failed);
    assert_eq!(reported.lock().unwrap().last(), Some(&report.failed));
    for batch in &report.failures {
        assert_eq!(
            batch.error.as_inner().map(|first| first.0),
            Some(batch.keys[0])
        );
    }
}

#[tokio::test]
async fn dropped_warming_leaves_no_load_in_flight() {
    let cache = Cache::new(1_000);
    let calls = AtomicUsize::new(0);
    let load = |keys: Vec<u64>| {
        let call = calls.fetch_add(1, SeqCst);
        async move {
            if call > 0 {
                std::future::pending::<()>().await;
            }
            load(keys)
        }
    };
    let warming = WarmOptions::new().batch(10).concurrency(2);
    let mut future = Box::pin(cache.warm_with_async(warming, 0..100, load));
    // The first batch is done. The second and third hang.
    let mut cx = Context::from_waker(Waker::noop());
    assert!(future.as_mut().poll(&mut cx).is_pending());
    drop(future);
    assert_eq!((cache.len(), calls.load(SeqCst)), (10, 3));
    validate(&cache);
}

#[tokio::test]
async fn panic_of_an_async_loader_reaches_the_caller() {
    let cache = Cache::new(1_000);
    let handle = cache.clone();
    let warming = tokio::spawn(async move {
        let load = |keys: Vec<u64>| async move {
            yield_now().await;
            assert!(!keys.contains(&500), "in the loader");
            load(keys)
        };
        let warming = WarmOptions::new().batch(10).concurrency(4);
        handle.warm_with_async(warming, 0..1_000, load).await
    });
    assert!(warming.await.unwrap_err().is_panic());
    assert!((400..=500).contains(&cache.len()), "{}", cache.len());
    validate(&cache);
}

/// The future can be spawned.
#[tokio::test]
async fn future_of_async_warming_is_send() {
    let cache = Cache::new(1_000);
    let handle = cache.clone();
    let warming = async move {
        let load = |keys: Vec<u64>| async move { load(keys) };
        handle.warm_async(0..100, load).await.found
    };
    assert_eq!(tokio::spawn(warming).await.unwrap(), 100);
    assert_eq!(cache.len(), 100);
}
