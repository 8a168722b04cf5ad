//! Tests of failures that other caches had, each with the issue that reported it.

use crate::common::{let_others_run, until};
use hotset::__private::validate;
use hotset::{LoadError, LocalCache, ManualClock, OpaqueError};
use std::convert::Infallible;
use std::future::{Future, pending, ready};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;
use tokio::sync::oneshot;

type Cache = LocalCache<u32, u32>;

/// A lease whose end a test waits for.
const SHORT_LEASE: Duration = Duration::from_secs(1);

/// Builds a cache whose loads never lose their lease.
fn cache_with_endless_lease() -> Cache {
    let builder = Cache::builder().capacity(100).lease(Duration::MAX);
    builder.build().unwrap()
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Waits until this number of lookups have missed. A miss is counted just before the caller joins a load, so this also
/// lets the last caller get there.
fn until_missed(cache: &Cache, misses: u64) {
    until(|| cache.stats().misses >= misses);
    let_others_run();
}

// moka #240: a leader whose future was polled once and never again blocked all other callers without limit.
#[test]
fn leader_that_is_never_polled_again_blocks_no_other_caller() {
    let builder = Cache::builder().capacity(100).lease(SHORT_LEASE);
    let cache = builder.build().unwrap();
    let mut leader = pin!(cache.get_or_load_async(&1, |_| pending::<Result<u32, Infallible>>()));
    assert!(poll(leader.as_mut()).is_pending());
    let value = cache.get_or_load(&1, |_| Ok::<_, Infallible>(2));
    assert_eq!((value.unwrap(), cache.get(&1)), (2, Some(2)));
    validate(&cache);
}

// moka #59: callers that waited for an aborted leader panicked.
#[test]
fn aborted_leader_is_replaced_by_a_waiter() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap();
    let cache = cache_with_endless_lease();
    let loading = cache.clone();
    let leader = runtime.spawn(async move {
        let load = |_| pending::<Result<u32, Infallible>>();
        loading.get_or_load_async(&1, load).await
    });
    until(|| cache.stats().loads == 1);
    let waiting = cache.clone();
    let waiter = runtime.spawn(async move {
        let load = |_| ready(Ok::<_, Infallible>(3));
        waiting.get_or_load_async(&1, load).await
    });
    until_missed(&cache, 2);
    leader.abort();
    assert!(runtime.block_on(leader).unwrap_err().is_cancelled());
    assert_eq!(runtime.block_on(waiter).unwrap().unwrap(), 3);
    validate(&cache);
}

/// A value that counts its instances.
#[derive(Debug)]
struct Tracked(Arc<AtomicI64>);

impl Tracked {
    fn new(count: &Arc<AtomicI64>) -> Self {
        count.fetch_add(1, SeqCst);
        Self(Arc::clone(count))
    }
}

impl Clone for Tracked {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Value,
    Error,
    Panic,
    Dropped,
}

/// Runs a leader and two waiters, with tracked values in their closures, futures and results.
fn play_tracked(cache: &LocalCache<u32, Tracked>, count: &Arc<AtomicI64>, end: End) {
    let mut finishes = Vec::new();
    let mut callers: Vec<_> = (0..3)
        .map(|_| {
            let (finish, finished) = oneshot::channel::<End>();
            finishes.push(finish);
            let in_closure = Tracked::new(count);
            Box::pin(async move {
                let load = move |_| {
                    let in_future = in_closure.clone();
                    async move {
                        let (_closure, value) = (in_closure, in_future.clone());
                        match finished.await {
                            Ok(End::Value) => Ok(value),
                            Ok(End::Error) => Err(OpaqueError(value)),
                            _ => resume_unwind(Box::new("the loader's panic")),
                        }
                    }
                };
                cache.get_or_load_async(&1, load).await
            })
        })
        .collect();
    for caller in &mut callers {
        assert!(poll(caller.as_mut()).is_pending());
    }
    for finish in finishes {
        // There is no receiver if the load of another caller was used.
        let _ = finish.send(end);
    }
    if end == End::Dropped {
        return;
    }
    for caller in &mut callers {
        let polled = AssertUnwindSafe(|| poll(caller.as_mut()).is_ready());
        assert_eq!(catch_unwind(polled).is_err(), end == End::Panic);
    }
}

// moka #329: each load by a task leaked memory.
#[test]
fn load_leaks_no_value_closure_or_future_however_it_ends() {
    for end in [End::Value, End::Error, End::Panic, End::Dropped] {
        let count = Arc::new(AtomicI64::new(0));
        let cache = LocalCache::new(10);
        play_tracked(&cache, &count, end);
        let cached = i64::from(end == End::Value);
        assert_eq!(count.load(SeqCst), cached, "{end:?}");
        validate(&cache);
        drop(cache);
        assert_eq!(count.load(SeqCst), 0, "{end:?}");
        // No handle of the in-flight load is left either.
        assert_eq!(Arc::strong_count(&count), 1, "{end:?}");
    }
}

// moka #195: a caller that arrived just when a load ended loaded the value again.
#[test]
fn caller_that_arrives_when_a_load_ends_does_not_load_again() {
    for _ in 0..500 {
        let cache = cache_with_endless_lease();
        let loads = AtomicUsize::new(0);
        let barrier = Barrier::new(4);
        thread::scope(|scope| {
            for caller in 0..4 {
                let (cache, loads, barrier) = (&cache, &loads, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    // The callers arrive before, during and after the end of a load that takes almost no time.
                    (0..caller * 20).for_each(|_| std::hint::spin_loop());
                    let load = || Ok::<_, Infallible>(loads.fetch_add(1, SeqCst));
                    let value = if caller % 2 == 0 {
                        cache.get_or_load(&1, |_| load().map(|_| 7_u32))
                    } else {
                        let load = |_| ready(load().map(|_| 7_u32));
                        let mut call = pin!(cache.get_or_load_async(&1, load));
                        loop {
                            if let Poll::Ready(value) = poll(call.as_mut()) {
                                break value;
                            }
                            thread::yield_now();
                        }
                    };
                    assert_eq!(value.unwrap(), 7);
                });
            }
        });
        assert_eq!(loads.load(SeqCst), 1);
        validate(&cache);
    }
}

/// Changes the database during a load that has read it before. The value from before the change must not be cached
/// afterwards.
fn check_change_during_a_load(cache: &Cache, change: impl FnOnce(&Cache)) {
    let (finish, finished) = oneshot::channel();
    let load = |_| async { Ok::<_, Infallible>(finished.await.unwrap()) };
    let mut old = pin!(cache.get_or_load_async(&1, load));
    assert!(poll(old.as_mut()).is_pending());
    change(cache);
    let left = cache.get(&1);
    finish.send(10).unwrap();
    assert!(matches!(poll(old.as_mut()), Poll::Ready(Ok(10))));
    assert_eq!(cache.get(&1), left);
    let new = cache.get_or_load(&1, |_| Ok::<_, Infallible>(20));
    assert_eq!(new.unwrap(), 20);
    validate(cache);
}

// FusionCache #625: `Remove` of a key that was being loaded left the old value to be stored after it.
// foyer #1310: the result of a fetch overwrote a value that was inserted while the fetch was in flight.
#[test]
fn load_started_before_a_write_is_not_stored() {
    check_change_during_a_load(&cache_with_endless_lease(), |cache| {
        assert_eq!(cache.remove(&1), None);
    });
    check_change_during_a_load(&cache_with_endless_lease(), |cache| cache.insert(1, 20));
    check_change_during_a_load(&cache_with_endless_lease(), Cache::clear);
}

// caffeine #193: a refresh in flight stored its value although the key was invalidated meanwhile.
#[test]
fn refresh_started_before_a_write_is_not_stored() {
    let remove = |cache: &Cache| assert_eq!(cache.remove(&1), Some(5));
    for change in [remove, Cache::clear] {
        let clock = ManualClock::new();
        let cache = Cache::builder()
            .capacity(100)
            .refresh_after(Duration::from_secs(1))
            .clock(clock.clone())
            .build()
            .unwrap();
        cache.insert(1, 5);
        clock.advance(Duration::from_secs(2));
        check_change_during_a_load(&cache, change);
        assert_eq!(cache.stats().refreshes, 1);
    }
}

// caffeine #160, #60: a loader that called the cache, even for another key, hung without limit.
#[test]
fn loader_that_requests_its_own_key_does_not_hang() {
    let cache = cache_with_endless_lease();
    let result = cache.get_or_load(&1, |key| cache.get_or_load(key, |_| Ok::<_, Infallible>(1)));
    let error = result.unwrap_err();
    assert!(matches!(error.as_inner(), Some(LoadError::Recursive)));
    let result = cache.get_or_load(&1, |_| cache.get_or_load(&2, |_| Ok::<_, Infallible>(1)));
    assert_eq!(result.unwrap(), 1);
    validate(&cache);
}

// golang/go #33519: after a panic in the function, callers that waited for it waited without limit.
#[test]
fn waiters_of_a_panicked_load_get_a_value() {
    let cache = cache_with_endless_lease();
    thread::scope(|scope| {
        scope.spawn(|| {
            let load = |_: &u32| -> Result<u32, Infallible> {
                until_missed(&cache, 5);
                resume_unwind(Box::new("the loader's panic"))
            };
            let call = || cache.get_or_load(&1, load);
            assert!(catch_unwind(AssertUnwindSafe(call)).is_err());
        });
        until(|| cache.stats().loads == 1);
        for _ in 0..4 {
            scope.spawn(|| cache.get_or_load(&1, |_| Ok::<_, Infallible>(2)).unwrap());
        }
    });
    assert_eq!(cache.stats().loads, 2);
    validate(&cache);
}

// In caches that hold a lock of the key while they load, each caller that had waited for a failed load tried again, one
// after the other.
#[test]
fn failed_load_is_not_repeated_by_its_waiters() {
    let cache = cache_with_endless_lease();
    let (finish, finished) = oneshot::channel::<&str>();
    let load = |_| async { Err::<u32, _>(finished.await.unwrap()) };
    let mut leader = pin!(cache.get_or_load_async(&1, load));
    assert!(poll(leader.as_mut()).is_pending());
    let call = || Box::pin(cache.get_or_load_async(&1, |_| ready(Err::<u32, _>("again"))));
    let mut waiting: Vec<_> = (0..50).map(|_| call()).collect();
    for caller in &mut waiting {
        assert!(poll(caller.as_mut()).is_pending());
    }
    finish.send("down").unwrap();
    assert!(poll(leader.as_mut()).is_ready());
    for caller in &mut waiting {
        let answer = poll(caller.as_mut());
        let Poll::Ready(Err(LoadError::Failed(error))) = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(*error, "down");
    }
    assert_eq!(cache.stats().loads, 1);
    validate(&cache);
}
