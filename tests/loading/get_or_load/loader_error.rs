//! A loader's error is not cached. All waiters of the load get it, and the next call loads again.

use super::common::*;
use hotset::__private::validate;
use hotset::{LoadError, OpaqueError};
use std::convert::Infallible;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

fn error<E: Debug>(answer: Answer<E>) -> Arc<E> {
    match answer {
        Err(error @ LoadError::Failed(_)) => error.into_inner().unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Checks that `callers` calls have returned no value, and that the next one loads.
fn check_nothing_is_cached(cache: &Cache, callers: u64) {
    let stats = cache.stats();
    assert_eq!((stats.load_failures, stats.inserts), (stats.loads, 0));
    assert_eq!(stats.coalesced, callers - stats.loads);
    assert_eq!(cache.get_or_load(&1, |_| Ok::<_, String>(5)).unwrap(), 5);
    validate(cache);
}

/// Runs eight callers that miss together, and returns their errors.
fn eight_errors(cache: &Cache) -> Vec<Arc<String>> {
    let call = || {
        error(cache.get_or_load(&1, |_| {
            until_missed(cache, 8);
            Err::<u32, _>("no connection".to_string())
        }))
    };
    thread::scope(|scope| {
        let callers: Vec<_> = (0..8).map(|_| scope.spawn(call)).collect();
        let errors = callers.into_iter().map(|caller| caller.join().unwrap());
        errors.collect()
    })
}

fn all_are_one(errors: &[Arc<String>]) -> bool {
    assert!(errors.iter().all(|error| **error == "no connection"));
    errors.iter().all(|error| Arc::ptr_eq(error, &errors[0]))
}

/// A caller that arrives after the load has failed loads again, so this is repeated until no caller does.
#[test]
fn error_reaches_all_waiting_threads_and_is_not_cached() {
    some_attempt(|| {
        let cache = cache_with_endless_lease();
        let errors = eight_errors(&cache);
        check_nothing_is_cached(&cache, 8);
        all_are_one(&errors)
    });
}

#[test]
fn error_reaches_all_waiting_tasks_and_is_not_cached() {
    let cache = cache_with_endless_lease();
    let loading = LoadingTask::start(&cache, 1);
    let mut waiting = [(); 3].map(|()| Task::waiting(&cache, 1));
    let mut errors = vec![error(loading.finish(Err("no connection".to_string())))];
    errors.extend(waiting.iter_mut().map(|task| error(task.answer())));
    assert!(all_are_one(&errors));
    assert_eq!(cache.stats().loads, 1);
    check_nothing_is_cached(&cache, 4);
}

#[test]
fn error_of_a_task_reaches_threads_and_error_of_a_thread_reaches_tasks() {
    let failed = || Err::<u32, _>("no connection".to_string());
    some_attempt(|| {
        let cache = cache_with_endless_lease();
        let errors = thread::scope(|scope| {
            let loading = LoadingTask::start(&cache, 1);
            let mut task = Task::waiting(&cache, 1);
            let threads = [(); 2].map(|()| scope.spawn(|| cache.get_or_load(&1, |_| failed())));
            until_missed(&cache, 4);
            let mut errors = vec![error(loading.finish(failed()))];
            errors.push(error(task.answer()));
            errors.extend(threads.map(|thread| error(thread.join().unwrap())));
            errors
        });
        check_nothing_is_cached(&cache, 4);
        all_are_one(&errors)
    });

    let cache = cache_with_endless_lease();
    thread::scope(|scope| {
        let loading = LoadingThread::start(scope, &cache, 1);
        let mut task = Task::waiting(&cache, 1);
        let errors = [error(loading.finish(failed())), error(task.answer())];
        assert!(all_are_one(&errors));
    });
    check_nothing_is_cached(&cache, 2);
}

#[test]
fn waiting_thread_with_another_error_type_calls_its_own_loader() {
    let cache = cache_with_endless_lease();
    thread::scope(|scope| {
        let leader = scope.spawn(|| {
            cache.get_or_load(&1, |_| {
                until_missed(&cache, 2);
                Err::<u32, _>("a string".to_string())
            })
        });
        until(|| cache.stats().misses >= 1);
        let waiter = cache.get_or_load(&1, |_| Err::<u32, _>(OpaqueError(404)));
        assert!(matches!(waiter, Err(LoadError::Failed(code)) if code.0 == 404));
        assert_eq!(*error(leader.join().unwrap()), "a string");
    });
    assert_eq!(cache.stats().loads, 2);
    validate(&cache);
}

#[test]
fn waiting_task_with_another_error_type_calls_its_own_loader() {
    let cache = cache_with_endless_lease();
    let codes = AtomicUsize::new(0);
    let load = || {
        codes.fetch_add(1, SeqCst);
        Err::<u32, _>(OpaqueError(404))
    };
    let loading = LoadingTask::start(&cache, 1);
    let mut same = Task::<Answer<String>>::waiting(&cache, 1);
    let mut other = Task::ask(&cache, 1, load);
    other.must_wait();
    let leaders = error(loading.finish(Err("a string".to_string())));
    assert_eq!((error(other.answer()).0, codes.load(SeqCst)), (404, 1));
    assert!(Arc::ptr_eq(&error(same.answer()), &leaders));
    assert_eq!(cache.stats().loads, 2);
    validate(&cache);
}

#[test]
fn task_waiting_for_a_thread_with_another_error_type_calls_its_own_loader() {
    let cache = cache_with_endless_lease();
    thread::scope(|scope| {
        let loading = LoadingThread::start(scope, &cache, 1);
        let mut task = Task::ask(&cache, 1, || Ok::<_, Infallible>(6));
        task.must_wait();
        let leaders = error(loading.finish(Err("a string")));
        assert_eq!(*leaders, "a string");
        assert_eq!(task.answer().unwrap(), 6);
    });
    assert_eq!(cache.get(&1), Some(6));
    validate(&cache);
}
