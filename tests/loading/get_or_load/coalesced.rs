//! Callers that miss one key together make one load, and all get its value.

use super::common::*;
use hotset::__private::validate;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::thread;

/// Checks that one of `callers` calls has loaded the value, and that all others have waited for it.
fn check_one_load(cache: &Cache, callers: u64, loads: &AtomicUsize) {
    assert_eq!(loads.load(SeqCst), 1);
    let stats = cache.stats();
    let counts = (stats.loads, stats.coalesced, stats.inserts);
    assert_eq!(counts, (1, callers - 1, 1));
    assert_eq!(stats.load_times.count(), 1);
    validate(cache);
}

fn load_by_thread(cache: &Cache, callers: u64, loads: &AtomicUsize) {
    let value = cache.get_or_load(&7, |key| {
        // All callers have missed before the load ends.
        until(|| cache.stats().misses >= callers);
        loads.fetch_add(1, SeqCst);
        Ok::<_, Infallible>(key * 6)
    });
    assert_eq!(value.unwrap(), 42);
}

async fn load_by_task(cache: Cache, callers: u64, loads: Arc<AtomicUsize>) {
    let load = |_| async {
        until_async(|| cache.stats().misses >= callers).await;
        loads.fetch_add(1, SeqCst);
        Ok::<_, Infallible>(42)
    };
    assert_eq!(cache.get_or_load_async(&7, load).await.unwrap(), 42);
}

#[test]
fn thousand_threads_on_one_missing_key_make_one_load() {
    let cache = cache_with_endless_lease();
    let loads = AtomicUsize::new(0);
    let gate = Barrier::new(1_000);
    thread::scope(|scope| {
        for _ in 0..1_000 {
            scope.spawn(|| {
                gate.wait();
                load_by_thread(&cache, 1_000, &loads);
            });
        }
    });
    check_one_load(&cache, 1_000, &loads);
}

#[test]
fn thousand_tasks_on_one_missing_key_make_one_load() {
    let cache = cache_with_endless_lease();
    let loads = Arc::new(AtomicUsize::new(0));
    let runtime = runtime();
    let task = || load_by_task(cache.clone(), 1_000, loads.clone());
    Tasks::spawn(&runtime, 1_000, task).answers();
    check_one_load(&cache, 1_000, &loads);
}

#[test]
fn threads_and_tasks_on_one_missing_key_make_one_load() {
    let runtime = runtime();
    for _ in 0..20 {
        let cache = cache_with_endless_lease();
        let loads = Arc::new(AtomicUsize::new(0));
        let gate = Barrier::new(9);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    gate.wait();
                    load_by_thread(&cache, 72, &loads);
                });
            }
            gate.wait();
            let task = || load_by_task(cache.clone(), 72, loads.clone());
            Tasks::spawn(&runtime, 64, task).answers();
        });
        check_one_load(&cache, 72, &loads);
    }
}

#[test]
fn each_waiting_task_is_woken_once_when_the_load_completes() {
    let cache = cache_with_endless_lease();
    let loading = LoadingTask::<Infallible>::start(&cache, 1);
    let mut waiting = [(); 3].map(|()| Task::<Answer>::waiting(&cache, 1));
    assert!(waiting.iter().all(|task| task.wake_count() == 0));
    assert_eq!(loading.finish(Ok(9)).unwrap(), 9);
    for task in &mut waiting {
        assert_eq!(task.wake_count(), 1);
        assert_eq!(task.answer().unwrap(), 9);
    }
    assert_eq!(cache.stats().coalesced, 3);
    validate(&cache);
}

#[test]
fn call_that_has_moved_to_another_task_is_woken_there() {
    let cache = cache_with_endless_lease();
    let loading = LoadingTask::<Infallible>::start(&cache, 1);
    let mut waiting = Task::<Answer>::waiting(&cache, 1);
    waiting.move_to_another();
    waiting.must_wait();
    assert_eq!(loading.finish(Ok(9)).unwrap(), 9);
    assert_eq!((waiting.wake_count(), waiting.answer().unwrap()), (1, 9));
}

#[test]
fn thread_and_task_wait_for_each_others_loads() {
    let cache = cache_with_endless_lease();
    thread::scope(|scope| {
        let thread = LoadingThread::<Infallible>::start(scope, &cache, 1);
        let mut task = Task::<Answer>::waiting(&cache, 1);
        assert_eq!(thread.finish(Ok(8)).unwrap(), 8);
        assert_eq!((task.wake_count(), task.answer().unwrap()), (1, 8));

        let task = LoadingTask::<Infallible>::start(&cache, 2);
        let thread =
            scope.spawn(|| cache.get_or_load(&2, |_| Err::<u32, _>("the loader was called")));
        until_missed(&cache, 4);
        assert_eq!(task.finish(Ok(9)).unwrap(), 9);
        assert_eq!(thread.join().unwrap().unwrap(), 9);
    });
    assert_eq!(cache.stats().loads, 2);
    validate(&cache);
}

#[test]
fn concurrent_calls_of_one_task_make_one_load() {
    let cache = cache_with_endless_lease();
    let loads = AtomicUsize::new(0);
    let call = || async {
        let load = |_| async {
            tokio::task::yield_now().await;
            counted(&loads, 3)()
        };
        cache.get_or_load_async(&1, load).await.unwrap()
    };
    let both = runtime().block_on(async { tokio::join!(call(), call()) });
    assert_eq!(both, (3, 3));
    assert_eq!(loads.load(SeqCst), 1);
}

#[test]
fn loads_of_different_keys_do_not_wait_for_each_other() {
    let cache = Cache::builder().capacity(100).shards(1).build().unwrap();
    let gate = Barrier::new(8);
    thread::scope(|scope| {
        for key in 0..8 {
            let (cache, gate) = (&cache, &gate);
            scope.spawn(move || {
                // The barrier opens only if all eight loaders run at one time.
                let load = |_: &u32| {
                    gate.wait();
                    Ok::<_, Infallible>(key)
                };
                assert_eq!(cache.get_or_load(&key, load).unwrap(), key);
            });
        }
    });
    // The same with tasks, on one thread.
    let loading: Vec<_> = (10..18)
        .map(|key| (key, LoadingTask::<Infallible>::start(&cache, key)))
        .collect();
    for (key, task) in loading {
        assert_eq!(task.finish(Ok(key)).unwrap(), key);
    }
    validate(&cache);
}
