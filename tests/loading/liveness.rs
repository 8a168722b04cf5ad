//! Futures that are alive but not polled, loaders that hang, and the results of other callers meanwhile.

use crate::common::TEST_TIMEOUT;
use futures_util::StreamExt;
use futures_util::stream;
use hotset::__private::validate;
use hotset::{BuildError, LoadError, LocalCache, ManualClock};
use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;

type Cache = LocalCache<u64, u64>;

/// A lease whose end tests await. Between two steps of a test, not even a busy machine takes so long.
const LEASE: Duration = Duration::from_millis(500);

/// A lease for tests in which loads may lose their leases at any time.
const SHORT_LEASE: Duration = Duration::from_millis(50);

const OLD: u64 = 1;
const NEW: u64 = 2;

fn cache_with(permits: usize) -> Cache {
    cache_with_lease(permits, LEASE)
}

fn cache_with_lease(permits: usize, lease: Duration) -> Cache {
    Cache::builder()
        .capacity(1_000)
        .max_concurrent_loads(permits)
        .lease(lease)
        .build()
        .unwrap()
}

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap()
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future without a runtime, so that only the timer thread of the cache can wake it at a deadline.
fn run<F: Future>(future: F) -> F::Output {
    let start = Instant::now();
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        assert!(start.elapsed() < TEST_TIMEOUT, "timed out");
        thread::park_timeout(TEST_TIMEOUT);
    }
}

/// Runs a future in a runtime.
fn run_in_tokio<F: Future>(future: F) -> F::Output {
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    let timed = async { tokio::time::timeout(TEST_TIMEOUT, future).await };
    runtime.block_on(timed).expect("timed out")
}

/// Evaluates an expression twice, and runs one of the two futures without a runtime and the other in one.
macro_rules! by_each_executor {
    ($future:expr) => {
        run($future);
        run_in_tokio($future);
    };
}

fn poll<F: Future>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
}

/// Loads after other tasks have run.
async fn load(value: u64) -> Result<u64, Infallible> {
    let mut polls = 0;
    poll_fn(|cx| {
        polls += 1;
        cx.waker().wake_by_ref();
        if polls > 2 {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    Ok(value)
}

/// Loads all keys of a batch.
async fn load_all(keys: Vec<u64>) -> Result<Vec<(u64, u64)>, Infallible> {
    Ok(keys.into_iter().map(|key| (key, key * 10)).collect())
}

async fn hang(_: u64) -> Result<u64, Infallible> {
    pending().await
}

async fn asks(cache: &Cache, key: u64) -> u64 {
    cache
        .get_or_load_async(&key, |key| load(key * 10))
        .await
        .unwrap()
}

fn asks_blocking(cache: &Cache, key: u64) -> u64 {
    cache
        .get_or_load(&key, |key| Ok::<_, Infallible>(key * 10))
        .unwrap()
}

/// Runs a blocking call on its own thread, and fails if it hangs.
fn on_thread<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || send.send(call()));
    receive.recv_timeout(TEST_TIMEOUT).expect("timed out")
}

#[test]
fn permit_offered_to_an_unpolled_future_passes_to_other_callers() {
    async fn scenario() {
        let cache = cache_with(1);
        let mut first = Box::pin(asks(&cache, 1));
        let mut second = Box::pin(asks(&cache, 2));
        assert!(poll(&mut first).is_pending());
        assert!(poll(&mut second).is_pending());
        assert_eq!(first.await, 10);
        assert_eq!(asks(&cache, 3).await, 30);
        assert_eq!(second.await, 20);
        validate(&cache);
    }
    by_each_executor!(scenario());
}

#[test]
fn permit_offered_to_an_unpolled_future_passes_to_blocking_callers() {
    let cache = cache_with(1);
    let mut first = Box::pin(asks(&cache, 1));
    let mut second = Box::pin(asks(&cache, 2));
    assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
    drop(first);
    let other = cache.clone();
    assert_eq!(on_thread(move || asks_blocking(&other, 3)), 30);
    let other = cache.clone();
    let batch = on_thread(move || {
        let load =
            |keys: Vec<u64>| Ok::<_, Infallible>(keys.into_iter().map(|key| (key, key * 10)));
        other.get_many_or_load(&[4, 5], load).unwrap()
    });
    assert_eq!(batch, [Some(40), Some(50)]);
    drop(second);
    validate(&cache);
}

#[test]
fn unpolled_load_gives_its_permit_to_others_at_the_end_of_its_lease() {
    async fn scenario() {
        let cache = cache_with(1);
        let mut unpolled = Box::pin(asks(&cache, 1));
        assert!(poll(&mut unpolled).is_pending());
        assert_eq!(asks(&cache, 2).await, 20);
        assert_eq!(cache.stats().abandoned_loads, 1);
        // Its value is returned to its own caller.
        assert_eq!(unpolled.await, 10);
        assert_eq!(cache.get(&1), Some(10));
        validate(&cache);
    }
    by_each_executor!(scenario());
}

#[test]
fn unpolled_batch_in_the_queue_delays_other_callers_by_at_most_one_lease() {
    async fn scenario() {
        let cache = cache_with(1);
        let mut holder = Box::pin(asks(&cache, 9));
        assert!(poll(&mut holder).is_pending());
        let keys = [1, 2, 3];
        let mut batch = Box::pin(cache.get_many_or_load_async(&keys, load_all));
        assert!(poll(&mut batch).is_pending());
        assert_eq!(holder.await, 90);
        for key in [1, 2, 3, 4] {
            assert_eq!(asks(&cache, key).await, key * 10);
        }
        assert_eq!(batch.await.unwrap(), [Some(10), Some(20), Some(30)]);
        validate(&cache);
    }
    by_each_executor!(scenario());
}

#[test]
fn unpolled_leader_in_the_queue_delays_other_callers_by_at_most_one_lease() {
    async fn scenario() {
        let cache = cache_with(1);
        let mut holder = Box::pin(asks(&cache, 9));
        let mut leader = Box::pin(asks(&cache, 1));
        assert!(poll(&mut holder).is_pending() && poll(&mut leader).is_pending());
        let mut waiter = Box::pin(asks(&cache, 1));
        assert!(poll(&mut waiter).is_pending());
        assert_eq!(holder.await, 90);
        assert_eq!(waiter.await, 10);
        assert_eq!(leader.await, 10);
        assert_eq!(cache.stats().loads, 2);
        validate(&cache);
    }
    by_each_executor!(scenario());
}

#[test]
fn unpolled_waiter_that_was_woken_to_lead_delays_the_next_by_at_most_one_lease() {
    async fn scenario() {
        let cache = Cache::builder().capacity(10).lease(LEASE).build().unwrap();
        let mut leader = Box::pin(asks(&cache, 1));
        let mut unpolled = Box::pin(asks(&cache, 1));
        assert!(poll(&mut leader).is_pending() && poll(&mut unpolled).is_pending());
        let other = async {
            let mut leader = Some(leader);
            let mut waiter = pin!(asks(&cache, 1));
            poll_fn(|cx| {
                let answer = waiter.as_mut().poll(cx);
                leader = None;
                answer
            })
            .await
        };
        assert_eq!(other.await, 10);
        assert_eq!(unpolled.await, 10);
        validate(&cache);
    }
    by_each_executor!(scenario());
}

/// The body of the loop calls the cache while futures of the stream hold permits or wait in the queue.
#[test]
fn buffered_stream_whose_body_calls_the_cache_ends() {
    for permits in [1, 2, 5] {
        let cache = cache_with_lease(permits, SHORT_LEASE);
        let scenario = async {
            let rows = stream::iter(0..30)
                .map(|key| asks(&cache, key))
                .buffered(10);
            let mut rows = pin!(rows);
            let mut sum = 0;
            while let Some(row) = rows.next().await {
                sum += row + asks(&cache, 1_000 + row).await;
            }
            sum
        };
        let expected = (0..30)
            .map(|key| key * 10 + (1_000 + key * 10) * 10)
            .sum::<u64>();
        assert_eq!(run_in_tokio(scenario), expected);
        validate(&cache);
    }
}

#[test]
fn select_that_keeps_a_future_delays_no_other_caller_without_end() {
    let cache = cache_with(1);
    run_in_tokio(async {
        let mut slow = Box::pin(cache.get_or_load_async(&1, async |_| {
            yield_now().await;
            yield_now().await;
            Ok::<_, Infallible>(10)
        }));
        tokio::select! {
            biased;
            _ = &mut slow => panic!("it has just begun"),
            () = async {} => {}
        }
        assert_eq!(asks(&cache, 2).await, 20);
        assert_eq!(slow.await.unwrap(), 10);
    });
    validate(&cache);
}

#[test]
fn hanging_loader_of_one_key_leaves_permits_to_other_keys() {
    let cache = cache_with_lease(4, SHORT_LEASE);
    let runtime = runtime();
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let cache = cache.clone();
            runtime.spawn(async move { cache.get_or_load_async(&0, hang).await })
        })
        .collect();
    // The calls last for as many leases as there are permits, and some more.
    let start = Instant::now();
    for key in 1.. {
        let other = cache.clone();
        assert_eq!(on_thread(move || asks_blocking(&other, key)), key * 10);
        let other = cache.clone();
        let asking =
            async move { tokio::time::timeout(TEST_TIMEOUT, asks(&other, 1_000 + key)).await };
        assert!(runtime.block_on(asking).is_ok());
        if start.elapsed() > SHORT_LEASE * 8 && cache.stats().abandoned_loads > 4 {
            break;
        }
        thread::yield_now();
    }
    for caller in callers {
        caller.abort();
    }
}

#[test]
fn loader_that_awaits_a_spawned_load_of_the_same_cache_ends() {
    let cache = cache_with(1);
    let other = cache.clone();
    let load_outer = async move |_| {
        let inner = tokio::spawn(async move { asks(&other, 2).await });
        Ok::<_, Infallible>(inner.await.unwrap() + 1)
    };
    let outer = cache.get_or_load_async(&1, load_outer);
    assert_eq!(
        runtime()
            .block_on(async { tokio::time::timeout(TEST_TIMEOUT, outer).await.unwrap() })
            .unwrap(),
        21
    );
    // The outer load held its permit for longer than its lease.
    assert_eq!(cache.stats().abandoned_loads, 1);
}

#[test]
fn bounded_caches_whose_loaders_load_from_each_other_end() {
    let caches = [(), ()].map(|()| cache_with_lease(1, SHORT_LEASE));
    let barrier = Arc::new(std::sync::Barrier::new(2));
    let callers = [0, 1].map(|mine| {
        let (caches, barrier) = (caches.clone(), Arc::clone(&barrier));
        move || {
            let key = mine as u64 + 1;
            let load = |key: &u64| {
                barrier.wait();
                let other = &caches[1 - mine];
                Ok::<_, Infallible>(asks_blocking(other, key + 10))
            };
            caches[mine].get_or_load(&key, load).unwrap()
        }
    });
    let [one, two] = callers;
    let other = thread::spawn(two);
    assert_eq!(on_thread(one), 110);
    assert_eq!(other.join().unwrap(), 120);
}

#[test]
fn superseded_load_without_a_bulkhead_is_counted_as_abandoned() {
    let cache = Cache::builder().capacity(10).lease(LEASE).build().unwrap();
    let mut hanging = Box::pin(cache.get_or_load_async(&1, hang));
    assert!(poll(&mut hanging).is_pending());
    assert_eq!(run(asks(&cache, 1)), 10);
    assert_eq!(cache.stats().abandoned_loads, 1);
    drop(hanging);
    validate(&cache);
}

#[test]
fn superseded_load_whose_key_was_invalidated_meanwhile_is_counted_as_abandoned() {
    let invalidations: [fn(&Cache); 3] = [
        |cache| assert_eq!(cache.remove(&1), None),
        |cache| cache.retain(|_, _| true),
        Cache::clear,
    ];
    for invalidate in invalidations {
        let cache = Cache::builder().capacity(10).lease(LEASE).build().unwrap();
        let mut hanging = Box::pin(cache.get_or_load_async(&1, hang));
        assert!(poll(&mut hanging).is_pending());
        let mut waiter = Box::pin(asks(&cache, 1));
        let mut batch = Box::pin(cache.get_many_or_load_async(&[1], load_all));
        assert!(poll(&mut waiter).is_pending() && poll(&mut batch).is_pending());
        invalidate(&cache);
        // Either the batch finds that the lease has ended, or the other caller does.
        assert_eq!(run(batch).unwrap(), [Some(10)]);
        assert_eq!(run(waiter), 10);
        assert_eq!(cache.stats().abandoned_loads, 1);
        drop(hanging);
        validate(&cache);
    }
}

#[test]
fn hanging_batch_gives_its_permit_to_others_at_the_end_of_its_lease() {
    async fn scenario() {
        let cache = cache_with(1);
        let load = |_| pending::<Result<Vec<(u64, u64)>, Infallible>>();
        let mut hanging = Box::pin(cache.get_many_or_load_async(&[1, 2], load));
        assert!(poll(&mut hanging).is_pending());
        for key in [1, 2, 3] {
            assert_eq!(asks(&cache, key).await, key * 10);
        }
        assert_eq!(cache.stats().abandoned_loads, 1);
        drop(hanging);
        validate(&cache);
    }
    by_each_executor!(scenario());
}

/// Returns a cache whose key 1 has just expired.
fn expired(
    set_up: impl FnOnce(hotset::LocalCacheBuilder<u64, u64>) -> hotset::LocalCacheBuilder<u64, u64>,
) -> Cache {
    let clock = ManualClock::new();
    let builder = Cache::builder()
        .capacity(100)
        .time_to_live(Duration::from_secs(10))
        .stale_if_error(Duration::from_secs(60))
        .clock(clock.clone());
    let cache = set_up(builder).build().unwrap();
    cache.insert_loaded(1, hotset::Loaded::new(OLD).tags(["tag"]));
    clock.set(Duration::from_secs(11));
    cache
}

/// Either setting ends a wait with the expired value.
type SetUp = fn(hotset::LocalCacheBuilder<u64, u64>) -> hotset::LocalCacheBuilder<u64, u64>;

const SETTINGS: [SetUp; 2] = [
    |builder| builder.wait_timeout(Duration::from_millis(20)),
    |builder| builder.stale_if_slow(Duration::from_millis(20)),
];

/// Requests key 1 in a task, on a thread and in a batch, while a load that does not end is in flight.
fn assert_callers_get_the_expired_value(cache: &Cache) {
    assert_eq!(run(asks(cache, 1)), OLD);
    let other = cache.clone();
    assert_eq!(on_thread(move || asks_blocking(&other, 1)), OLD);
    let other = cache.clone();
    let batch = on_thread(move || {
        let load = |_| Ok::<[(u64, u64); 0], Infallible>([]);
        other.get_many_or_load(&[1], load).unwrap()
    });
    assert_eq!(batch, [Some(OLD)]);
    #[cfg(feature = "tokio")]
    {
        let detached = cache.detached();
        let asking = detached.get_or_load_async(&1, |_| load(NEW));
        assert_eq!(run_in_tokio(asking).unwrap(), OLD);
    }
    let callers = if cfg!(feature = "tokio") { 4 } else { 3 };
    let stats = cache.stats();
    assert_eq!((stats.stale, stats.loads), (callers, 1));
}

#[test]
fn waiter_of_a_hanging_load_gets_the_expired_value() {
    for set_up in SETTINGS {
        let cache = expired(set_up);
        let mut leader = Box::pin(cache.get_or_load_async(&1, hang));
        assert!(poll(&mut leader).is_pending());
        assert_callers_get_the_expired_value(&cache);
        drop(leader);
        validate(&cache);
    }
}

#[test]
fn batch_takes_expired_values_and_waits_for_the_other_keys() {
    let cache = expired(|builder| builder.stale_if_slow(Duration::from_millis(20)));
    let keys = [1, 2, 3];
    let mut leader = Box::pin(
        cache.get_many_or_load_async(&keys, |_| pending::<Result<Vec<(u64, u64)>, Infallible>>()),
    );
    assert!(poll(&mut leader).is_pending());
    let mut waiter = Box::pin(cache.get_many_or_load_async(&keys, load_all));
    while cache.stats().stale == 0 {
        assert!(poll(&mut waiter).is_pending());
        thread::yield_now();
    }
    assert!(poll(&mut waiter).is_pending());
    drop(leader);
    assert_eq!(run(waiter).unwrap(), [Some(OLD), Some(20), Some(30)]);
    assert_eq!(cache.stats().stale, 1);
}

#[test]
fn batch_whose_expired_value_is_removed_continues_to_wait_for_a_permit() {
    let slow = Duration::from_millis(20);
    let cache = expired(|builder| builder.stale_if_slow(slow).max_concurrent_loads(1));
    let mut holder = Box::pin(cache.get_or_load_async(&2, hang));
    let start = Instant::now();
    let mut batch = Box::pin(cache.get_many_or_load_async(&[1], load_all));
    assert!(poll(&mut holder).is_pending() && poll(&mut batch).is_pending());
    cache.remove(&1);
    while start.elapsed() < 2 * slow {
        assert!(poll(&mut batch).is_pending());
        thread::yield_now();
    }
    drop(holder);
    assert_eq!(run(batch).unwrap(), [Some(10)]);
    assert_eq!((cache.stats().stale, cache.stats().queued), (0, 1));
    validate(&cache);
}

#[test]
fn caller_that_finds_all_permits_taken_gets_the_expired_value() {
    for set_up in SETTINGS {
        let cache = expired(|builder| set_up(builder).max_concurrent_loads(1));
        let mut holder = Box::pin(cache.get_or_load_async(&2, hang));
        assert!(poll(&mut holder).is_pending());
        assert_callers_get_the_expired_value(&cache);
        drop(holder);
        validate(&cache);
    }
}

#[test]
fn waiter_without_an_expired_value_continues_to_wait_after_stale_if_slow() {
    let cache = expired(|builder| builder.stale_if_slow(Duration::from_millis(20)));
    let (finish, finished) = tokio::sync::oneshot::channel();
    let mut leader = Box::pin(
        cache.get_or_load_async(&2, async |_| Ok::<_, Infallible>(finished.await.unwrap())),
    );
    assert!(poll(&mut leader).is_pending());
    let mut waiter = Box::pin(asks(&cache, 2));
    run_in_tokio(async {
        let waited = tokio::time::timeout(Duration::from_millis(60), &mut waiter).await;
        assert!(waited.is_err());
    });
    finish.send(NEW).unwrap();
    assert_eq!(run(leader).unwrap(), NEW);
    assert_eq!(run(waiter), NEW);
    assert_eq!(cache.stats().stale, 0);
}

#[test]
fn value_that_was_invalidated_is_not_served_to_a_waiter() {
    let invalidations: [fn(&Cache); 3] = [
        |cache| assert_eq!(cache.remove(&1), None),
        |cache| cache.invalidate_tag("tag"),
        Cache::clear,
    ];
    for invalidate in invalidations {
        let cache = expired(|builder| builder.wait_timeout(Duration::from_millis(20)));
        invalidate(&cache);
        let mut leader = Box::pin(cache.get_or_load_async(&1, hang));
        assert!(poll(&mut leader).is_pending());
        let waited = run(cache.get_or_load_async(&1, |_| load(NEW)));
        assert!(matches!(waited, Err(LoadError::WaitTimeout)));
    }
}

#[test]
fn stale_if_slow_without_stale_if_error_is_refused() {
    let built = Cache::builder().capacity(1).stale_if_slow(LEASE).build();
    assert_eq!(built.unwrap_err(), BuildError::StaleIfSlowAlone);
}

#[cfg(feature = "tokio")]
mod detached {
    use super::*;

    #[test]
    fn caller_whose_load_hangs_gets_the_expired_value() {
        let at_the_end_of_the_lease =
            |builder: hotset::LocalCacheBuilder<u64, u64>| builder.lease(LEASE);
        for set_up in SETTINGS
            .into_iter()
            .chain([at_the_end_of_the_lease as fn(_) -> _])
        {
            let cache = expired(set_up);
            let runtime = runtime();
            let asking = async {
                let detached = cache.detached();
                let loading = detached.get_or_load_async(&1, hang);
                tokio::time::timeout(TEST_TIMEOUT, loading).await
            };
            assert_eq!(runtime.block_on(asking).expect("timed out").unwrap(), OLD);
            assert_eq!(cache.stats().stale, 1);
            runtime.shutdown_background();
        }
    }

    #[test]
    fn lease_after_which_a_caller_gets_the_expired_value_excludes_its_wait_for_a_permit() {
        let lease = Duration::from_millis(500);
        let cache = expired(|builder| builder.lease(lease).max_concurrent_loads(1));
        run_in_tokio(async {
            let mut holder = Box::pin(cache.get_or_load_async(&2, hang));
            assert!(poll(&mut holder).is_pending());
            // Gets its permit when the lease of the holder ends.
            let detached = cache.detached();
            let found = detached.get_or_load_async(&1, |_| load(NEW)).await;
            assert_eq!(found.unwrap(), NEW);
        });
        assert_eq!(cache.stats().stale, 0);
    }

    #[test]
    fn permit_offered_to_an_unpolled_caller_passes_to_other_callers() {
        let cache = cache_with(1);
        run_in_tokio(async {
            let detached = cache.detached();
            let mut first = Box::pin(asks(&cache, 1));
            let mut second = Box::pin(detached.get_or_load_async(&2, |_| load(20)));
            assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
            assert_eq!(first.await, 10);
            assert_eq!(asks(&cache, 3).await, 30);
            assert_eq!(second.await.unwrap(), 20);
        });
        validate(&cache);
    }

    #[test]
    fn hanging_load_gives_its_permit_to_others_at_the_end_of_its_lease() {
        let cache = cache_with(1);
        run_in_tokio(async {
            let detached = cache.detached();
            let mut hanging = Box::pin(detached.get_or_load_async(&1, hang));
            assert!(poll(&mut hanging).is_pending());
            assert_eq!(asks(&cache, 2).await, 20);
            assert_eq!(asks(&cache, 1).await, 10);
            assert_eq!(cache.stats().abandoned_loads, 1);
        });
    }

    #[test]
    fn load_continues_after_its_caller_got_the_expired_value() {
        let cache = expired(|builder| builder.stale_if_slow(Duration::from_millis(20)));
        let runtime = runtime();
        let (finish, finished) = tokio::sync::oneshot::channel();
        let load = move |_| async move { Ok::<_, Infallible>(finished.await.unwrap()) };
        assert_eq!(
            runtime
                .block_on(cache.detached().get_or_load_async(&1, load))
                .unwrap(),
            OLD
        );
        finish.send(NEW).unwrap();
        let start = Instant::now();
        while cache.get(&1) != Some(NEW) {
            assert!(start.elapsed() < TEST_TIMEOUT);
            thread::yield_now();
        }
    }

    #[test]
    fn caller_without_an_expired_value_gets_a_wait_timeout_and_the_load_continues() {
        let cache = Cache::builder()
            .capacity(10)
            .wait_timeout(Duration::from_millis(20))
            .build()
            .unwrap();
        let runtime = runtime();
        let detached = cache.detached();
        let asking = detached.get_or_load_async(&1, hang);
        assert!(matches!(
            runtime.block_on(asking),
            Err(LoadError::WaitTimeout)
        ));
        runtime.shutdown_background();
    }
}

thread_local! {
    /// Runs other jobs, like a thread of a work-stealing pool that waits for a part of its job.
    static JOBS: RefCell<Vec<Box<dyn FnOnce()>>> = const { RefCell::new(Vec::new()) };
}

type Runs = RefCell<Vec<u64>>;
type Handle = fn(&Cache, &Runs, u64) -> Result<u64, LoadError<Infallible>>;

/// Computes a value in a work-stealing pool: runs other jobs of the thread meanwhile.
#[allow(clippy::unnecessary_wraps)] // It is a loader.
fn compute(runs: &Runs, request: u64) -> Result<u64, Infallible> {
    while let Some(job) = JOBS.with_borrow_mut(Vec::pop) {
        job();
    }
    runs.borrow_mut().push(request);
    Ok(request)
}

/// Request handlers whose loaders compute in a work-stealing pool.
const HANDLERS: [Handle; 2] = [
    |cache, runs, request| cache.get_or_load(&1, |_| compute(runs, request)),
    |cache, runs, request| run(cache.get_or_load_async(&1, async |_| compute(runs, request))),
];

#[test]
fn call_in_a_job_stolen_by_the_loader_of_its_key_runs_its_own_loader() {
    HANDLERS.into_iter().for_each(check_stolen_jobs);
}

fn check_stolen_jobs(handle: Handle) {
    let cache = Rc::new(Cache::new(10));
    let runs = Rc::new(RefCell::new(Vec::new()));
    let answers = Rc::new(RefCell::new(Vec::new()));
    for request in 2..=4 {
        let (cache, runs, answers) = (Rc::clone(&cache), Rc::clone(&runs), Rc::clone(&answers));
        let job = move || {
            let answer = handle(&cache, &runs, request).unwrap();
            answers.borrow_mut().push(answer);
        };
        JOBS.with_borrow_mut(|jobs| jobs.push(Box::new(job)));
    }
    assert_eq!(handle(&cache, &runs, 1).unwrap(), 1);
    answers.borrow_mut().sort_unstable();
    assert_eq!(*answers.borrow(), [2, 3, 4]);
    assert_eq!(runs.borrow().len(), 4);
    // The values of the other loads are for their own callers.
    assert_eq!((cache.get(&1), cache.stats().inserts), (Some(1), 1));
    validate(&cache);
}

/// A loader that calls for its own key from the same place in the code, like a recursive function.
fn ask_in_a_circle(cache: &Cache, depth: &RefCell<usize>) -> Result<u64, String> {
    let load = |_: &u64| {
        *depth.borrow_mut() += 1;
        ask_in_a_circle(cache, depth)
    };
    cache.get_or_load(&1, load).map_err(|error| match error {
        LoadError::Failed(error) => String::clone(&error),
        error => error.to_string(),
    })
}

#[test]
fn endless_recursion_ends_with_an_error() {
    let cache = Cache::new(10);
    let depth = RefCell::new(0);
    let error = ask_in_a_circle(&cache, &depth).unwrap_err();
    assert_eq!(error, LoadError::<Infallible>::Recursive.to_string());
    assert!(*depth.borrow() < 20);
    validate(&cache);
}
