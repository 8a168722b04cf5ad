//! A panic reaches the caller of the panicking loader, and exactly one waiter loads.

use super::common::*;
use hotset::__private::validate;
use std::convert::Infallible;
use std::future::Ready;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread;

fn panic<T>() -> T {
    resume_unwind(Box::new("the loader's panic"))
}

/// Loads on this thread with a loader that panics once `callers` callers have missed.
fn panic_in_thread(cache: &Cache, callers: u64) {
    let load = || {
        cache.get_or_load(&1, |_| -> Result<u32, Infallible> {
            until_missed(cache, callers);
            panic()
        })
    };
    let panic = catch_unwind(AssertUnwindSafe(load)).unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"the loader's panic"));
}

#[test]
fn panic_reaches_its_own_thread_and_exactly_one_waiter_leads() {
    let cache = cache_with_endless_lease();
    let loads = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| panic_in_thread(&cache, 9));
        until(|| cache.stats().loads >= 1);
        for _ in 0..8 {
            scope.spawn(|| {
                let value = cache.get_or_load(&1, |_| counted(&loads, 11)());
                assert_eq!(value.unwrap(), 11);
            });
        }
    });
    check_one_led(&cache, &loads);
}

#[test]
fn panic_reaches_its_own_task_and_exactly_one_waiter_leads() {
    let cache = cache_with_endless_lease();
    let loads = AtomicUsize::new(0);
    let loading = LoadingTask::<Infallible>::start(&cache, 1);
    let mut waiting = [(); 3].map(|()| Task::ask(&cache, 1, counted(&loads, 11)));
    waiting.iter_mut().for_each(Task::must_wait);
    loading.panic();
    assert_eq!(waiting.each_ref().map(Task::wake_count), [1, 0, 0]);
    assert_eq!(waiting[0].answer().unwrap(), 11);
    for task in &mut waiting[1..] {
        assert_eq!((task.wake_count(), task.answer().unwrap()), (1, 11));
    }
    check_one_led(&cache, &loads);
}

#[test]
fn panic_in_a_runtime_reaches_only_its_own_task() {
    let runtime = runtime();
    let cache = cache_with_endless_lease();
    let loads = Arc::new(AtomicUsize::new(0));
    let loading = cache.clone();
    let leader = runtime.spawn(async move {
        let load = |_| async {
            until_async(|| loading.stats().misses >= 9).await;
            panic::<Result<u32, Infallible>>()
        };
        loading.get_or_load_async(&1, load).await
    });
    until(|| cache.stats().loads >= 1);
    let tasks = spawn_callers(&runtime, 8, &cache, &loads, 11);
    assert_eq!(tasks.answers(), [11; 8]);
    assert!(runtime.block_on(leader).unwrap_err().is_panic());
    check_one_led(&cache, &loads);
}

/// One loader panics before it has created its future, the other at the first poll of its future.
#[test]
fn loader_that_panics_before_its_first_await_hands_over() {
    let cache = cache_with_endless_lease();
    let call = |_| panic::<Ready<Result<u32, Infallible>>>();
    let mut at_call = Task::new(cache.get_or_load_async(&1, call));
    assert_eq!(at_call.panics().downcast_ref(), Some(&"the loader's panic"));
    validate(&cache);
    let poll = |_| async { panic::<Result<u32, Infallible>>() };
    let mut at_poll = Task::new(cache.get_or_load_async(&1, poll));
    at_poll.panics();
    // The load has ended although its future has not been dropped yet.
    validate(&cache);
    assert_eq!(cache.stats().load_failures, 2);
}

#[test]
fn panic_of_a_thread_hands_over_to_one_task() {
    let cache = cache_with_endless_lease();
    let loads = AtomicUsize::new(0);
    let mut waiting = [(); 2].map(|()| Task::ask(&cache, 1, counted(&loads, 11)));
    thread::scope(|scope| {
        let leader = scope.spawn(|| panic_in_thread(&cache, 3));
        until(|| cache.stats().loads >= 1);
        waiting.iter_mut().for_each(Task::must_wait);
        leader.join().unwrap();
    });
    assert_eq!(waiting.each_ref().map(Task::wake_count), [1, 0]);
    assert_eq!(waiting[0].answer().unwrap(), 11);
    assert_eq!(waiting[1].answer().unwrap(), 11);
    check_one_led(&cache, &loads);
}

#[test]
fn panic_of_a_task_hands_over_to_one_of_threads_and_tasks() {
    let runtime = runtime();
    for _ in 0..20 {
        let cache = cache_with_endless_lease();
        let loading = LoadingTask::<Infallible>::start(&cache, 1);
        check_one_waiter_takes_over(&runtime, &cache, || loading.panic());
    }
}
