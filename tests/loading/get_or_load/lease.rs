//! A load that takes longer than its lease: exactly one waiter loads. The late value is returned to its own caller, and
//! is stored only if no newer one was.

use super::common::*;
use hotset::__private::validate;
use hotset::LoadError;
use std::convert::Infallible;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Instant;

/// Waits until the lease of a load that has begun before has ended.
fn outlast_the_lease() {
    let start = Instant::now();
    until(|| start.elapsed() > SHORT_TIMEOUT);
}

/// Checks that the newer value is still cached.
fn check_newer_stays(cache: &Cache) {
    assert_eq!(cache.get(&1), Some(2));
    assert_eq!(cache.stats().outdated, 1);
    validate(cache);
}

/// Runs eight threads that request a key with a load in flight, one of which takes over.
fn eight_threads_get_2(cache: &Cache) {
    let loads = AtomicUsize::new(0);
    thread::scope(|waiters| {
        for _ in 0..8 {
            waiters.spawn(|| {
                let value = cache.get_or_load(&1, |_| counted(&loads, 2)());
                assert_eq!(value.unwrap(), 2);
            });
        }
    });
    assert_eq!(loads.load(SeqCst), 1);
}

#[test]
fn exactly_one_thread_supersedes_a_slow_thread_whose_value_is_for_its_own_caller() {
    let cache = cache_with_lease(SHORT_TIMEOUT);
    thread::scope(|scope| {
        let slow = LoadingThread::<Infallible>::start(scope, &cache, 1);
        eight_threads_get_2(&cache);
        assert_eq!(slow.finish(Ok(1)).unwrap(), 1);
    });
    check_newer_stays(&cache);
}

#[test]
fn exactly_one_thread_supersedes_a_slow_task() {
    let cache = cache_with_lease(SHORT_TIMEOUT);
    let slow = LoadingTask::<Infallible>::start(&cache, 1);
    eight_threads_get_2(&cache);
    assert_eq!(slow.finish(Ok(1)).unwrap(), 1);
    check_newer_stays(&cache);
}

type Finding = Result<u32, Infallible>;

/// Ends a load that has outlasted its lease and then its successor, and checks that the value of each is stored.
fn check_both_are_stored(
    cache: &Cache,
    finish_first: impl FnOnce(Finding) -> Answer,
    finish_second: impl FnOnce(Finding) -> Answer,
) {
    assert_eq!(finish_first(Ok(1)).unwrap(), 1);
    assert_eq!(cache.get(&1), Some(1));
    assert_eq!(finish_second(Ok(2)).unwrap(), 2);
    assert_eq!(cache.get(&1), Some(2));
    validate(cache);
}

#[test]
fn late_value_of_a_thread_is_stored_if_no_newer_one_was() {
    let cache = cache_with_lease(SHORT_TIMEOUT);
    thread::scope(|scope| {
        let first = LoadingThread::<Infallible>::start(scope, &cache, 1);
        // The second caller waits until the lease of the first load has ended, and then loads slowly itself.
        let second = LoadingThread::<Infallible>::start(scope, &cache, 1);
        check_both_are_stored(
            &cache,
            |late| first.finish(late),
            |value| second.finish(value),
        );
    });
}

#[test]
fn late_value_of_a_task_is_stored_if_no_newer_one_was() {
    let cache = cache_with_lease(SHORT_TIMEOUT);
    let first = LoadingTask::<Infallible>::start(&cache, 1);
    outlast_the_lease();
    let second = LoadingTask::<Infallible>::start(&cache, 1);
    check_both_are_stored(
        &cache,
        |late| first.finish(late),
        |value| second.finish(value),
    );
}

#[test]
fn late_value_is_not_stored_after_its_successor_failed() {
    let cache = cache_with_lease(SHORT_TIMEOUT);
    thread::scope(|scope| {
        let slow = LoadingThread::<Infallible>::start(scope, &cache, 1);
        let error = cache.get_or_load(&1, |_| Err::<u32, _>("refused"));
        assert!(matches!(error, Err(LoadError::Failed(_))));
        // This write cannot revoke the slow load any more.
        cache.remove(&1);
        assert_eq!(slow.finish(Ok(1)).unwrap(), 1);
    });
    assert_eq!(cache.get(&1), None);
    validate(&cache);
}

#[test]
fn leader_within_its_lease_is_not_superseded() {
    let cache = cache_with_endless_lease();
    thread::scope(|scope| {
        let slow = LoadingThread::<Infallible>::start(scope, &cache, 1);
        let waiter =
            scope.spawn(|| cache.get_or_load(&1, |_| Err::<u32, _>("the loader was called")));
        until_missed(&cache, 2);
        assert_eq!(slow.finish(Ok(9)).unwrap(), 9);
        assert_eq!(waiter.join().unwrap().unwrap(), 9);
    });
}

/// Outside a runtime, the timer thread of the process wakes tasks.
#[test]
fn task_outside_a_runtime_is_woken_when_the_lease_ends() {
    let cache = cache_with_lease(SHORT_TIMEOUT);
    let slow = LoadingTask::<Infallible>::start(&cache, 1);
    let mut waiting = Task::ask(&cache, 1, || Ok::<_, Infallible>(2));
    waiting.must_wait();
    until(|| waiting.wake_count() == 1);
    assert_eq!(waiting.answer().unwrap(), 2);
    assert_eq!(slow.finish(Ok(1)).unwrap(), 1);
    check_newer_stays(&cache);
}

#[test]
fn caller_after_the_lease_leads_and_its_value_reaches_an_unpolled_task() {
    let cache = cache_with_lease(SHORT_TIMEOUT);
    let loads = AtomicUsize::new(0);
    let slow = LoadingTask::<Infallible>::start(&cache, 1);
    let mut waiting = Task::<Answer>::waiting(&cache, 1);
    outlast_the_lease();
    let mut newcomer = Task::ask(&cache, 1, counted(&loads, 2));
    assert_eq!(newcomer.answer().unwrap(), 2);
    assert_eq!(waiting.answer().unwrap(), 2);
    assert_eq!(slow.finish(Ok(1)).unwrap(), 1);
    assert_eq!(loads.load(SeqCst), 1);
    check_newer_stays(&cache);
}

#[test]
fn only_the_first_task_polled_after_the_lease_leads() {
    let cache = cache_with_lease(SHORT_TIMEOUT);
    let slow = LoadingTask::<Infallible>::start(&cache, 1);
    let mut first = Task::<Answer>::waiting(&cache, 1);
    let mut second = Task::new(async {
        let load = |_| async {
            tokio::task::yield_now().await;
            Ok::<_, Infallible>(2)
        };
        cache.get_or_load_async(&1, load).await
    });
    second.must_wait();
    outlast_the_lease();
    second.must_wait();
    assert_eq!(cache.stats().loads, 2);
    // The second load has its own lease, so the first caller does not take over yet.
    first.must_wait();
    assert_eq!(second.answer().unwrap(), 2);
    assert_eq!(first.answer().unwrap(), 2);
    assert_eq!(slow.finish(Ok(1)).unwrap(), 1);
    check_newer_stays(&cache);
}

#[test]
fn late_leader_that_is_dropped_or_fails_disturbs_no_other_caller() {
    for fails in [false, true] {
        let cache = cache_with_lease(SHORT_TIMEOUT);
        let slow = LoadingTask::<&str>::start(&cache, 1);
        outlast_the_lease();
        let newer = LoadingTask::<&str>::start(&cache, 1);
        let mut waiting = Task::<Answer<&str>>::waiting(&cache, 1);
        if fails {
            assert!(slow.finish(Err("late")).is_err());
        } else {
            drop(slow);
        }
        assert_eq!(waiting.wake_count(), 0);
        assert_eq!(newer.finish(Ok(2)).unwrap(), 2);
        assert_eq!(waiting.answer().unwrap(), 2);
        assert_eq!(cache.get(&1), Some(2));
        validate(&cache);
    }
}

#[test]
fn two_loaders_that_wait_for_each_other_end_after_the_lease() {
    let cache = cache_with_lease(SHORT_TIMEOUT);
    let gate = Barrier::new(2);
    thread::scope(|scope| {
        for (mine, other) in [(1, 2), (2, 1)] {
            let (cache, gate) = (&cache, &gate);
            scope.spawn(move || {
                let load = |_: &u32| {
                    gate.wait();
                    let other = cache.get_or_load(&other, |_| Ok::<_, Infallible>(0));
                    Ok::<_, Infallible>(other.unwrap() + mine)
                };
                cache.get_or_load(&mine, load).unwrap();
            });
        }
    });
    validate(&cache);
}

#[cfg(feature = "tokio")]
mod by_timer {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn exactly_one_task_supersedes_a_slow_task_whose_value_is_for_its_own_caller() {
        let cache = cache_with_lease(SHORT_TIMEOUT);
        let loads = Arc::new(AtomicUsize::new(0));
        let slow = LoadingTask::<Infallible>::start(&cache, 1);
        let runtime = runtime();
        let tasks = spawn_callers(&runtime, 8, &cache, &loads, 2);
        assert_eq!(tasks.answers(), [2; 8]);
        assert_eq!(loads.load(SeqCst), 1);
        assert_eq!(slow.finish(Ok(1)).unwrap(), 1);
        check_newer_stays(&cache);
    }

    #[test]
    fn exactly_one_of_threads_and_tasks_supersedes_a_slow_leader() {
        let cache = cache_with_lease(SHORT_TIMEOUT);
        let loads = Arc::new(AtomicUsize::new(0));
        let runtime = runtime();
        thread::scope(|scope| {
            let slow = LoadingThread::<Infallible>::start(scope, &cache, 1);
            let tasks = spawn_callers(&runtime, 8, &cache, &loads, 2);
            let call = || cache.get_or_load(&1, |_| counted(&loads, 2)());
            let threads = [(); 4].map(|()| scope.spawn(call));
            assert_eq!(tasks.answers(), [2; 8]);
            let answers = threads.map(|thread| thread.join().unwrap().unwrap());
            assert_eq!(answers, [2; 4]);
            assert_eq!(slow.finish(Ok(1)).unwrap(), 1);
        });
        assert_eq!(loads.load(SeqCst), 1);
        check_newer_stays(&cache);
    }

    #[test]
    fn lease_without_end_needs_no_timer() {
        let cache = cache_with_endless_lease();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let _in_runtime = runtime.enter();
        let loading = LoadingTask::<Infallible>::start(&cache, 1);
        let mut waiting = Task::<Answer>::waiting(&cache, 1);
        assert_eq!(loading.finish(Ok(3)).unwrap(), 3);
        assert_eq!(waiting.answer().unwrap(), 3);
    }
}
