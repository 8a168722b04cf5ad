//! Failures that other caches had, each with the issue that reported it.

use hotset::{LoadError, LocalCache, ManualClock};
use std::convert::Infallible;
use std::future::{Future, pending, ready};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

type Cache = LocalCache<u32, u32>;

/// A lease that a test waits out.
const SHORT: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(60);

fn patient_cache() -> Cache {
    let builder = Cache::builder().capacity(100).lease(Duration::MAX);
    builder.build().unwrap()
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain");
        thread::yield_now();
    }
}

/// A miss is counted just before the caller boards: this also lets the last one get there.
fn until_missed(cache: &Cache, misses: u64) {
    until(|| cache.stats().misses >= misses);
    (0..100).for_each(|_| thread::yield_now());
}

// moka #240: a leader whose future was polled once, and never again, blocked everybody for ever.
#[test]
fn a_leader_that_is_polled_once_and_never_again_blocks_nobody() {
    let builder = Cache::builder().capacity(100).lease(SHORT);
    let cache = builder.build().unwrap();
    let mut leader = pin!(cache.get_or_load_async(&1, pending::<Result<u32, Infallible>>));
    assert!(poll(leader.as_mut()).is_pending());
    let value = cache.get_or_load(&1, |_| Ok::<_, Infallible>(2));
    assert_eq!((value.unwrap(), cache.get(&1)), (2, Some(2)));
    cache.validate();
}

// moka #59: who waited for a leader that was aborted panicked.
#[test]
fn a_leader_that_is_aborted_is_replaced_by_one_who_waits() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap();
    let cache = patient_cache();
    let loading = cache.clone();
    let leader = runtime.spawn(async move {
        let load = pending::<Result<u32, Infallible>>;
        loading.get_or_load_async(&1, load).await
    });
    until(|| cache.stats().loads == 1);
    let waiting = cache.clone();
    let waiter = runtime.spawn(async move {
        let load = || ready(Ok::<_, Infallible>(3));
        waiting.get_or_load_async(&1, load).await
    });
    until_missed(&cache, 2);
    leader.abort();
    assert!(runtime.block_on(leader).unwrap_err().is_cancelled());
    assert_eq!(runtime.block_on(waiter).unwrap().unwrap(), 3);
    cache.validate();
}

/// Counts how many of it there are.
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

/// A leader and two who wait, all with what is counted in their closures, futures and results.
fn play_tracked(cache: &LocalCache<u32, Tracked>, count: &Arc<AtomicI64>, end: End) {
    let mut finishes = Vec::new();
    let mut callers: Vec<_> = (0..3)
        .map(|_| {
            let (finish, finished) = oneshot::channel::<End>();
            finishes.push(finish);
            let in_closure = Tracked::new(count);
            Box::pin(async move {
                let load = move || {
                    let in_future = in_closure.clone();
                    async move {
                        let (_closure, value) = (in_closure, in_future.clone());
                        match finished.await {
                            Ok(End::Value) => Ok(value),
                            Ok(End::Error) => Err(value),
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
        // Nobody receives where another's load has served.
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
fn a_load_leaks_neither_values_nor_closures_nor_futures() {
    for end in [End::Value, End::Error, End::Panic, End::Dropped] {
        let count = Arc::new(AtomicI64::new(0));
        let cache = LocalCache::new(10);
        play_tracked(&cache, &count, end);
        let held = i64::from(end == End::Value);
        assert_eq!(count.load(SeqCst), held, "{end:?}");
        cache.validate();
        drop(cache);
        assert_eq!(count.load(SeqCst), 0, "{end:?}");
        // Nor does a handle on the flight stay anywhere.
        assert_eq!(Arc::strong_count(&count), 1, "{end:?}");
    }
}

// moka #195: who came just as a load ended loaded the value once more.
#[test]
fn who_comes_as_a_load_ends_does_not_load_again() {
    for _ in 0..500 {
        let cache = patient_cache();
        let loads = AtomicUsize::new(0);
        let gate = Barrier::new(4);
        thread::scope(|scope| {
            for caller in 0..4 {
                let (cache, loads, gate) = (&cache, &loads, &gate);
                scope.spawn(move || {
                    gate.wait();
                    // They arrive before, during and after the end of a load that takes no time.
                    (0..caller * 20).for_each(|_| std::hint::spin_loop());
                    let load = || Ok::<_, Infallible>(loads.fetch_add(1, SeqCst));
                    let value = if caller % 2 == 0 {
                        cache.get_or_load(&1, |_| load().map(|_| 7_u32))
                    } else {
                        let load = || ready(load().map(|_| 7_u32));
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
        cache.validate();
    }
}

/// Changes the database while a load is under way that has read it before. What must not be: the
/// value from before the change in the cache.
fn a_change_during_a_load_is_not_lost(cache: &Cache, change: impl FnOnce(&Cache)) {
    let (finish, finished) = oneshot::channel();
    let load = || async { Ok::<_, Infallible>(finished.await.unwrap()) };
    let mut old = pin!(cache.get_or_load_async(&1, load));
    assert!(poll(old.as_mut()).is_pending());
    change(cache);
    let left = cache.get(&1);
    finish.send(10).unwrap();
    assert!(matches!(poll(old.as_mut()), Poll::Ready(Ok(10))));
    assert_eq!(cache.get(&1), left);
    let new = cache.get_or_load(&1, |_| Ok::<_, Infallible>(20));
    assert_eq!(new.unwrap(), 20);
    cache.validate();
}

// FusionCache #625: `Remove` of a key that was being loaded left the old value to be stored after it.
// foyer #1310: what a fetch had found overwrote what was inserted while it was under way.
#[test]
fn a_load_that_began_before_a_write_does_not_store() {
    a_change_during_a_load_is_not_lost(&patient_cache(), |cache| {
        assert_eq!(cache.remove(&1), None);
    });
    a_change_during_a_load_is_not_lost(&patient_cache(), |cache| cache.insert(1, 20));
    a_change_during_a_load_is_not_lost(&patient_cache(), Cache::clear);
}

// caffeine #193: a refresh that was under way stored its value though the key was invalidated.
#[test]
fn a_renewal_that_began_before_a_write_does_not_store() {
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
        a_change_during_a_load_is_not_lost(&cache, change);
        assert_eq!(cache.stats().refreshes, 1);
    }
}

// caffeine #160, #60: a loader that asked the cache, even for another key, hung for ever.
#[test]
fn a_loader_that_asks_for_its_own_key_does_not_hang() {
    let cache = patient_cache();
    let result = cache.get_or_load(&1, |key| cache.get_or_load(key, |_| Ok::<_, Infallible>(1)));
    let error = result.unwrap_err();
    let inner = error.failed().unwrap();
    assert!(matches!(**inner, LoadError::Recursive));
    let result = cache.get_or_load(&1, |_| cache.get_or_load(&2, |_| Ok::<_, Infallible>(1)));
    assert_eq!(result.unwrap(), 1);
    cache.validate();
}

// golang/go #33519: after a panic in the function those who waited for it waited for ever.
#[test]
fn a_panic_strands_nobody_who_waits() {
    let cache = patient_cache();
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
    cache.validate();
}

// Caches that hold a key's lock while they load: each who had waited for a load that failed tried again
// by itself, one after the other.
#[test]
fn an_error_is_not_tried_again_by_each_who_waited_for_it() {
    let cache = patient_cache();
    let (finish, finished) = oneshot::channel::<&str>();
    let load = || async { Err::<u32, _>(finished.await.unwrap()) };
    let mut leader = pin!(cache.get_or_load_async(&1, load));
    assert!(poll(leader.as_mut()).is_pending());
    let call = || Box::pin(cache.get_or_load_async(&1, || ready(Err::<u32, _>("again"))));
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
    cache.validate();
}
