//! A panic reaches the caller of the panicking loader, and exactly one waiter loads.

use super::common::*;
use hotset::__private::validate;
use std::convert::Infallible;
use std::future::Ready;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

fn panic<T>() -> T {
    resume_unwind(Box::new("the loader's panic"))
}

/// Panics in this thread's loader once `callers` have missed.
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

/// Checks that one load has panicked and one has not.
fn check_one_led(cache: &Cache, loads: &AtomicUsize) {
    assert_eq!(loads.load(SeqCst), 1);
    let stats = cache.stats();
    assert_eq!((stats.loads, stats.load_failures), (2, 1));
    validate(cache);
}

#[test]
fn panic_reaches_its_own_thread_and_exactly_one_waiter_leads() {
    let cache = patient_cache();
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
    let cache = patient_cache();
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
    let cache = patient_cache();
    let loads = Arc::new(AtomicUsize::new(0));
    let loading = cache.clone();
    let leader = runtime.spawn(async move {
        let load = || async {
            until_async(|| loading.stats().misses >= 9).await;
            panic::<Result<u32, Infallible>>()
        };
        loading.get_or_load_async(&1, load).await
    });
    until(|| cache.stats().loads >= 1);
    let answers = Tasks::spawn(&runtime, 8, || {
        let (cache, loads) = (cache.clone(), loads.clone());
        async move {
            let load = || async { counted(&loads, 11)() };
            cache.get_or_load_async(&1, load).await.unwrap()
        }
    });
    assert_eq!(answers.answers(), [11; 8]);
    assert!(runtime.block_on(leader).unwrap_err().is_panic());
    check_one_led(&cache, &loads);
}

/// Panics before there is a future, and at its first poll.
#[test]
fn loader_that_panics_before_its_first_await_hands_over() {
    let cache = patient_cache();
    let call = || panic::<Ready<Result<u32, Infallible>>>();
    let mut at_call = Task::new(cache.get_or_load_async(&1, call));
    assert_eq!(at_call.panics().downcast_ref(), Some(&"the loader's panic"));
    validate(&cache);
    let poll = || async { panic::<Result<u32, Infallible>>() };
    let mut at_poll = Task::new(cache.get_or_load_async(&1, poll));
    at_poll.panics();
    // The waiter is woken before the future itself is dropped.
    validate(&cache);
    assert_eq!(cache.stats().load_failures, 2);
}

#[test]
fn panic_of_a_thread_hands_over_to_one_task() {
    let cache = patient_cache();
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
        let cache = patient_cache();
        let loads = Arc::new(AtomicUsize::new(0));
        let loading = LoadingTask::<Infallible>::start(&cache, 1);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| cache.get_or_load(&1, |_| counted(&loads, 11)()).unwrap());
            }
            let answers = Tasks::spawn(&runtime, 4, || {
                let (cache, loads) = (cache.clone(), loads.clone());
                async move {
                    let load = || async { counted(&loads, 11)() };
                    cache.get_or_load_async(&1, load).await.unwrap()
                }
            });
            until_missed(&cache, 9);
            loading.panic();
            assert_eq!(answers.answers(), [11; 4]);
        });
        check_one_led(&cache, &loads);
    }
}
