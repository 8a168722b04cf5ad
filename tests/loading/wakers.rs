//! Wakers and timers are code of an executor: their panics and drops must not harm other callers.

use crate::common::TEST_TIMEOUT;
use hotset::{LoadError, LocalCache};
use std::convert::Infallible;
use std::future::{Future, pending, ready};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;
use tokio::sync::oneshot;

type Cache = LocalCache<u32, u32>;
type Call = Pin<Box<dyn Future<Output = Result<u32, LoadError<Infallible>>> + Send>>;

fn cache() -> Cache {
    let builder = Cache::builder().capacity(10).lease(Duration::MAX);
    builder.build().unwrap()
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>, waker: &Waker) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(waker))
}

#[derive(Default)]
struct WakeCounter(AtomicUsize);

impl Wake for WakeCounter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// A waker that panics, like that of an executor whose queue is full.
struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        resume_unwind(Box::new("the queue is full"))
    }
}

#[test]
fn waker_that_panics_does_not_strand_later_waiters() {
    let cache = cache();
    let (finish, finished) = oneshot::channel();
    let load = |_| async { Ok::<u32, Infallible>(finished.await.unwrap()) };
    let mut leader = Box::pin(cache.get_or_load_async(&1, load));
    assert!(poll(leader.as_mut(), Waker::noop()).is_pending());
    let ask = || Box::pin(cache.get_or_load_async(&1, |_| ready(Ok::<_, Infallible>(2))));
    let (mut first, mut second) = (ask(), ask());
    let wakes = Arc::new(WakeCounter::default());
    assert!(poll(first.as_mut(), &Arc::new(Panics).into()).is_pending());
    assert!(poll(second.as_mut(), &wakes.clone().into()).is_pending());
    finish.send(1).unwrap();
    let completion = AssertUnwindSafe(|| poll(leader.as_mut(), Waker::noop()));
    assert!(catch_unwind(completion).is_err());
    assert_eq!(wakes.0.load(SeqCst), 1);
    assert!(matches!(
        poll(second.as_mut(), Waker::noop()),
        Poll::Ready(Ok(1))
    ));
}

/// A waker that is the last owner of another call for the same key.
struct Owner(#[allow(dead_code)] Mutex<Call>);

impl Wake for Owner {
    fn wake(self: Arc<Self>) {}
}

fn hang(cache: &Cache) -> Call {
    let cache = cache.clone();
    Box::pin(async move {
        let hang = |_| pending::<Result<u32, Infallible>>();
        cache.get_or_load_async(&1, hang).await
    })
}

#[test]
fn waker_that_owns_a_waiter_is_dropped_without_a_lock() {
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        let cache = cache();
        let (mut leader, mut owned, mut moved) = (hang(&cache), hang(&cache), hang(&cache));
        assert!(poll(leader.as_mut(), Waker::noop()).is_pending());
        assert!(poll(owned.as_mut(), Waker::noop()).is_pending());
        let owner: Waker = Arc::new(Owner(Mutex::new(owned))).into();
        assert!(poll(moved.as_mut(), &owner).is_pending());
        drop(owner);
        // The call has moved to another task: the last reference to the waker of its old task is in the queue.
        assert!(poll(moved.as_mut(), Waker::noop()).is_pending());
        done.send(()).unwrap();
    });
    is_done
        .recv_timeout(TEST_TIMEOUT)
        .expect("the thread hangs");
}

#[cfg(feature = "tokio")]
#[tokio::test(start_paused = true)]
async fn paused_clock_that_is_ahead_delays_no_caller() {
    let started = std::time::Instant::now();
    tokio::time::advance(Duration::from_secs(3_600)).await;
    // If the second caller waited until the lease ends, the test would take too long.
    let builder = Cache::builder().capacity(10).lease(2 * TEST_TIMEOUT);
    let cache = builder.build().unwrap();
    let load = |_| async {
        // Simulates a load that takes some time. The paused clock of Tokio skips it.
        tokio::time::sleep(Duration::from_millis(10)).await;
        Ok::<_, Infallible>(1)
    };
    let ask = || cache.get_or_load_async(&1, load);
    let (first, second) = tokio::join!(ask(), ask());
    assert_eq!((first.unwrap(), second.unwrap()), (1, 1));
    assert_eq!(cache.stats().loads, 1);
    assert!(started.elapsed() < TEST_TIMEOUT);
}

#[test]
fn permit_is_free_again_if_the_waker_of_another_caller_panics_while_it_is_taken() {
    let lease = Duration::from_secs(1);
    let builder = Cache::builder().capacity(10).max_concurrent_loads(2);
    let cache = builder.lease(lease).build().unwrap();
    let hangs = |key: &'static u32| {
        let call = cache.get_or_load_async(key, |_| pending::<Result<u32, Infallible>>());
        Box::pin(call)
    };
    let (mut one, mut two, mut queued) = (hangs(&1), hangs(&2), hangs(&3));
    assert!(poll(one.as_mut(), Waker::noop()).is_pending());
    assert!(poll(two.as_mut(), Waker::noop()).is_pending());
    assert!(poll(queued.as_mut(), &Arc::new(Panics).into()).is_pending());
    // Both leases end. Only the next call notices this, so there is no condition to wait for.
    thread::sleep(lease);
    // The queued caller is offered one permit, and the other is free.
    let taken = catch_unwind(AssertUnwindSafe(|| poll(hangs(&4).as_mut(), Waker::noop())));
    assert!(taken.is_err());
    drop((one, two, queued));
    // Two loads begin at once, so both permits are free.
    let (mut five, mut six) = (hangs(&5), hangs(&6));
    assert!(poll(five.as_mut(), Waker::noop()).is_pending());
    assert!(poll(six.as_mut(), Waker::noop()).is_pending());
    let stats = cache.stats();
    assert_eq!((stats.loads, stats.queued), (4, 1));
}
