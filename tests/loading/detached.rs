//! `detached`: loads in tasks of their own, which continue when their caller is dropped.
#![cfg(feature = "tokio")]

use crate::common::{
    Cache, Fixture, RUNTIME, TEST_TIMEOUT, WAYS, Way, just_before, seconds, until,
};
use hotset::{LoadError, Loaded, OpaqueError};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::Barrier;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const OLD: u64 = 10;
const NEW: u64 = 20;

type Finding = Result<u64, &'static str>;

/// A detached load in flight, and its caller.
struct Load {
    finish: oneshot::Sender<Finding>,
    caller: JoinHandle<crate::common::Answer>,
}

/// Starts a detached load in a runtime. Its loader runs when this function returns.
fn start_in(runtime: &Runtime, cache: &Cache, key: u32) -> Load {
    let (finish, finished) = oneshot::channel();
    let (start, started) = mpsc::channel();
    let cache = cache.clone();
    let caller = runtime.spawn(async move {
        let load = move |_| async move {
            start.send(()).unwrap();
            finished.await.unwrap()
        };
        cache.detached().get_or_load_async(&key, load).await
    });
    started.recv_timeout(TEST_TIMEOUT).unwrap();
    Load { finish, caller }
}

fn start(cache: &Cache, key: u32) -> Load {
    start_in(&RUNTIME, cache, key)
}

impl Load {
    /// Drops the caller of the load.
    fn abandon(&mut self) {
        self.caller.abort();
        assert!(
            RUNTIME
                .block_on(&mut self.caller)
                .unwrap_err()
                .is_cancelled()
        );
    }
}

/// Returns the answer of a caller whose loader ends at once.
fn ask(cache: &Cache, key: u32, finding: Finding) -> crate::common::Answer {
    let load = move |_| async move { finding };
    RUNTIME.block_on(cache.detached().get_or_load_async(&key, load))
}

/// Validates the cache. The load of a task without waiters ends shortly after its value is stored.
fn validate(cache: &Cache) {
    until(|| catch_unwind(|| hotset::__private::validate(cache)).is_ok());
}

#[test]
fn detached_call_loads_like_others() {
    let cache = Cache::new(10);
    assert_eq!(ask(&cache, 1, Ok(OLD)).unwrap(), OLD);
    assert_eq!(ask(&cache, 1, Err("called")).unwrap(), OLD);
    let failed = ask(&cache, 2, Err("no"));
    assert!(matches!(failed, Err(LoadError::Failed(error)) if *error == "no"));
    assert_eq!(ask(&cache, 2, Ok(NEW)).unwrap(), NEW);
    let stats = cache.stats();
    assert_eq!((stats.loads, stats.load_failures, stats.hits), (3, 1, 1));
    validate(&cache);
}

#[test]
fn detached_load_continues_and_is_stored_after_its_caller_is_dropped() {
    let cache = Cache::new(10);
    let mut load = start(&cache, 1);
    load.abandon();
    assert_eq!(cache.get(&1), None);
    load.finish.send(Ok(NEW)).unwrap();
    until(|| cache.get(&1) == Some(NEW));
    assert_eq!(cache.stats().loads, 1);
    validate(&cache);
}

#[test]
fn waiters_get_a_detached_load_whose_caller_was_dropped() {
    for way in WAYS {
        let cache = Cache::new(10);
        let mut load = start(&cache, 1);
        let waiter = way.wait(&cache, 1);
        load.abandon();
        let late = way.wait(&cache, 1);
        load.finish.send(Ok(NEW)).unwrap();
        for waiter in [waiter, late] {
            assert_eq!(waiter.answer(Err("called")).unwrap(), NEW);
        }
        assert_eq!(cache.stats().loads, 1);
        validate(&cache);
    }
}

#[test]
fn detached_caller_shares_a_load_that_is_not_detached() {
    for way in WAYS {
        let cache = Cache::new(10);
        let load = way.load(&cache, 1);
        let caller = thread::scope(|scope| {
            let caller = scope.spawn(|| ask(&cache, 1, Err("called")));
            until(|| cache.stats().misses == 2);
            assert_eq!(load.find(NEW), NEW);
            caller.join().unwrap()
        });
        assert_eq!(caller.unwrap(), NEW);
        validate(&cache);
    }
}

#[test]
fn detached_waiter_with_another_error_type_calls_its_own_loader() {
    let cache = Cache::new(10);
    let load = Way::Task.load(&cache, 1);
    thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let own = move |_| async { Err::<u64, _>(OpaqueError(404)) };
            RUNTIME.block_on(cache.detached().get_or_load_async(&1, own))
        });
        until(|| cache.stats().misses == 2);
        assert!(load.finish(Err("no")).is_err());
        let failed = caller.join().unwrap();
        assert!(matches!(failed, Err(LoadError::Failed(code)) if code.0 == 404));
    });
    validate(&cache);
}

fn panicking(_: u32) -> std::future::Ready<Finding> {
    resume_unwind(Box::new("the loader's panic"))
}

#[test]
fn panic_of_a_detached_load_reaches_its_caller_and_the_next_one_loads() {
    let cache = Cache::new(10);
    let in_future = |key| async move { panicking(key).await };
    for _ in 0..2 {
        let call = || RUNTIME.block_on(cache.detached().get_or_load_async(&1, panicking));
        let panic = catch_unwind(AssertUnwindSafe(call)).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"the loader's panic"));
        let call = || RUNTIME.block_on(cache.detached().get_or_load_async(&1, in_future));
        let panic = catch_unwind(AssertUnwindSafe(call)).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"the loader's panic"));
        validate(&cache);
    }
    assert_eq!(ask(&cache, 1, Ok(NEW)).unwrap(), NEW);
    let stats = cache.stats();
    assert_eq!((stats.loads, stats.load_failures), (5, 4));
}

/// Returns a cache whose key 1 is due for a refresh.
fn due() -> Fixture {
    let f = Fixture::new(|builder| {
        let builder = builder.refresh_after(seconds(10));
        builder.stale_if_error(seconds(60))
    });
    f.cache.insert(1, OLD);
    f.clock.set(seconds(10));
    f
}

#[test]
fn detached_refresh_runs_in_the_background_and_its_caller_is_served_at_once() {
    let f = due();
    let refresh = start(&f.cache, 1);
    assert_eq!(RUNTIME.block_on(refresh.caller).unwrap().unwrap(), OLD);
    assert_eq!(ask(&f.cache, 1, Err("called")).unwrap(), OLD);
    for way in WAYS {
        assert_eq!(way.hit(&f.cache, 1), OLD);
    }
    refresh.finish.send(Ok(NEW)).unwrap();
    until(|| f.cache.get(&1) == Some(NEW));
    let stats = f.cache.stats();
    assert_eq!((stats.refreshes, stats.loads), (1, 1));
    validate(&f.cache);
}

#[test]
fn failed_background_refresh_is_not_tried_again_within_a_second() {
    let f = due();
    let refresh = start(&f.cache, 1);
    refresh.finish.send(Err("no")).unwrap();
    until(|| f.cache.stats().load_failures == 1);
    validate(&f.cache);
    f.clock.advance(just_before(seconds(1)));
    assert_eq!(ask(&f.cache, 1, Err("called")).unwrap(), OLD);
    assert_eq!(f.cache.stats().loads, 1);
    f.clock.advance(Duration::from_nanos(1));
    assert_eq!(ask(&f.cache, 1, Ok(NEW)).unwrap(), OLD);
    until(|| f.cache.get(&1) == Some(NEW));
    validate(&f.cache);
}

#[test]
fn removal_during_a_background_refresh_wins() {
    let f = due();
    let refresh = start(&f.cache, 1);
    assert_eq!(f.cache.remove(&1), Some(OLD));
    refresh.finish.send(Ok(NEW)).unwrap();
    until(|| f.cache.stats().outdated == 1);
    assert_eq!(f.cache.get(&1), None);
    validate(&f.cache);
}

#[test]
fn one_of_many_detached_callers_refreshes() {
    let f = due();
    let gate = Barrier::new(8);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                gate.wait();
                let value = ask(&f.cache, 1, Ok(NEW)).unwrap();
                assert!([OLD, NEW].contains(&value));
            });
        }
    });
    until(|| f.cache.get(&1) == Some(NEW));
    assert_eq!(f.cache.stats().loads, 1);
    validate(&f.cache);
}

#[test]
fn detached_load_of_a_dropped_caller_keeps_its_permit_until_it_ends() {
    let cache = Cache::builder().capacity(10).max_concurrent_loads(1);
    let cache = cache.build().unwrap();
    let mut load = start(&cache, 1);
    load.abandon();
    let queued = Way::Thread.call(&cache, 2);
    until(|| cache.stats().queued == 1);
    assert!(!queued.has_started());
    load.finish.send(Ok(NEW)).unwrap();
    queued.started();
    assert_eq!(queued.find(5), 5);
    // The permit passes on before the loaded value is stored.
    until(|| cache.get(&1) == Some(NEW));
    validate(&cache);
}

#[test]
fn detached_loader_that_requests_its_own_key_gets_recursive() {
    let cache = Cache::new(10);
    let inner = cache.clone();
    let load = |_| async move {
        let own = inner.get_or_load_async(&1, |_| async { Ok::<_, &str>(0) });
        assert!(matches!(own.await, Err(LoadError::Recursive)));
        let other = inner.detached();
        let other = other.get_or_load_async(&2, |_| async { Ok::<_, &str>(NEW) });
        Ok::<_, &str>(Loaded::new(other.await.unwrap() + 1))
    };
    let loaded = RUNTIME.block_on(cache.detached().get_or_load_entry_async(&1, load));
    assert_eq!(loaded.unwrap(), NEW + 1);
    validate(&cache);
}

#[test]
fn detached_call_outside_a_runtime_serves_a_hit_and_panics_on_a_load() {
    let cache = Cache::new(10);
    let asks = |key: u32| {
        let load = |_| async { Ok::<_, &str>(NEW) };
        let detached = cache.detached();
        let mut call = pin!(detached.get_or_load_async(&key, load));
        let mut context = Context::from_waker(Waker::noop());
        matches!(call.as_mut().poll(&mut context), Poll::Ready(Ok(OLD)))
    };
    cache.insert(1, OLD);
    assert!(asks(1));
    assert!(catch_unwind(AssertUnwindSafe(|| asks(2))).is_err());
    validate(&cache);
    assert_eq!(cache.get_or_load(&2, |_| Ok::<_, &str>(NEW)).unwrap(), NEW);
}

#[test]
fn runtime_shutdown_ends_a_detached_call_with_an_error_and_a_waiter_loads() {
    let cache = Cache::new(10);
    let runtime = Runtime::new().unwrap();
    let handle = runtime.handle().clone();
    let (start, started) = mpsc::channel();
    thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let load = move |_| async move {
                start.send(()).unwrap();
                std::future::pending::<Finding>().await
            };
            handle.block_on(cache.detached().get_or_load_async(&1, load))
        });
        started.recv_timeout(TEST_TIMEOUT).unwrap();
        let waiter = Way::Thread.wait(&cache, 1);
        runtime.shutdown_background();
        assert!(matches!(caller.join().unwrap(), Err(LoadError::Shutdown)));
        waiter.started();
        assert_eq!(waiter.find(NEW), NEW);
    });
    validate(&cache);
}
