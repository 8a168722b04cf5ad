//! A task that loads is dropped: exactly one of the waiting threads and tasks loads.

use super::common::*;
use hotset::__private::validate;
use std::convert::Infallible;
use std::future::pending;
use std::sync::atomic::AtomicUsize;
use std::thread;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// Spawns a task whose loader never ends, and waits until it loads.
fn spawn_endless(runtime: &Runtime, cache: &Cache) -> JoinHandle<Answer> {
    let loading = cache.clone();
    let load = |_| pending::<Result<u32, Infallible>>();
    let task = runtime.spawn(async move { loading.get_or_load_async(&1, load).await });
    until(|| cache.stats().loads >= 1);
    task
}

#[test]
fn exactly_one_waiting_task_leads_after_the_leader_is_dropped() {
    let cache = cache_with_endless_lease();
    let loads = AtomicUsize::new(0);
    let loading = LoadingTask::<Infallible>::start(&cache, 1);
    let mut waiting = [(); 3].map(|()| Task::ask(&cache, 1, counted(&loads, 11)));
    waiting.iter_mut().for_each(Task::must_wait);
    drop(loading);
    assert_eq!(waiting.each_ref().map(Task::wake_count), [1, 0, 0]);
    // Only the woken waiter has to be polled.
    assert_eq!(waiting[0].answer().unwrap(), 11);
    for task in &mut waiting[1..] {
        assert_eq!((task.wake_count(), task.answer().unwrap()), (1, 11));
    }
    check_one_led(&cache, &loads);
}

#[test]
fn exactly_one_waiting_thread_leads_after_the_leader_is_dropped() {
    for _ in 0..20 {
        let cache = cache_with_endless_lease();
        let loads = AtomicUsize::new(0);
        let loading = LoadingTask::<Infallible>::start(&cache, 1);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let value = cache.get_or_load(&1, |_| counted(&loads, 11)());
                    assert_eq!(value.unwrap(), 11);
                });
            }
            until_missed(&cache, 9);
            drop(loading);
        });
        check_one_led(&cache, &loads);
    }
}

#[test]
fn exactly_one_of_waiting_threads_and_tasks_leads_after_an_abort() {
    let runtime = runtime();
    for _ in 0..20 {
        let cache = cache_with_endless_lease();
        let leader = spawn_endless(&runtime, &cache);
        check_one_waiter_takes_over(&runtime, &cache, || {
            leader.abort();
            assert!(runtime.block_on(leader).unwrap_err().is_cancelled());
        });
    }
}

#[test]
fn dropped_leader_without_waiters_leaves_no_load_behind() {
    let cache = cache_with_endless_lease();
    drop(LoadingTask::<Infallible>::start(&cache, 1));
    validate(&cache);
    assert_eq!(
        cache.get_or_load(&1, |_| Ok::<_, Infallible>(4)).unwrap(),
        4
    );
    assert_eq!(cache.stats().load_failures, 1);
}

#[test]
fn leading_thread_is_not_disturbed_by_a_dropped_waiter() {
    let cache = cache_with_endless_lease();
    thread::scope(|scope| {
        let loading = LoadingThread::<Infallible>::start(scope, &cache, 1);
        let dropped = Task::<Answer>::waiting(&cache, 1);
        let mut stays = Task::<Answer>::waiting(&cache, 1);
        drop(dropped);
        assert_eq!(stays.wake_count(), 0);
        assert_eq!(loading.finish(Ok(4)).unwrap(), 4);
        assert_eq!(stays.answer().unwrap(), 4);
    });
    validate(&cache);
}
