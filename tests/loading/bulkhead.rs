//! `max_concurrent_loads`: the number of loaders that run at one time, and the queue of the others.

use crate::common::{Answer, Cache, PAIRS, RUNTIME, WAYS, Way, let_others_run, until};
use hotset::__private::validate;
use hotset::LoadError;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

const UNUSED: Result<u64, &str> = Err("the loader was called");

fn cache_with_max_loads(loads: usize) -> Cache {
    let builder = Cache::builder().capacity(1_000).lease(Duration::MAX);
    builder.max_concurrent_loads(loads).build().unwrap()
}

fn poll<F: Future>(future: &mut Pin<&mut F>) -> Poll<F::Output> {
    let future = future.as_mut();
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// The number of loaders that run at one time, and its maximum.
#[derive(Default)]
struct Gauge {
    now: AtomicU32,
    most: AtomicU32,
}

impl Gauge {
    fn enter(&self) {
        let now = self.now.fetch_add(1, SeqCst) + 1;
        self.most.fetch_max(now, SeqCst);
    }

    fn leave(&self) {
        self.now.fetch_sub(1, SeqCst);
    }
}

#[test]
fn number_of_loaders_never_exceeds_max_concurrent_loads() {
    for most in [1, 2, 3] {
        let cache = cache_with_max_loads(most);
        let gauge = Gauge::default();
        thread::scope(|scope| {
            for (caller, way) in (0..).zip(WAYS.repeat(4)) {
                let (cache, gauge) = (&cache, &gauge);
                scope.spawn(move || {
                    for step in 0..200_u32 {
                        // Other callers request some of the keys, too.
                        let key = if step % 3 == 0 {
                            step
                        } else {
                            step * 8 + caller
                        };
                        let blocking = |_: &u32| {
                            gauge.enter();
                            thread::yield_now();
                            gauge.leave();
                            Ok::<_, Infallible>(0)
                        };
                        let task = async |_| {
                            gauge.enter();
                            tokio::task::yield_now().await;
                            gauge.leave();
                            Ok::<_, Infallible>(0)
                        };
                        match way {
                            Way::Thread => cache.get_or_load(&key, blocking).unwrap(),
                            Way::Task => RUNTIME
                                .block_on(cache.get_or_load_async(&key, task))
                                .unwrap(),
                        };
                    }
                });
            }
        });
        assert!(gauge.most.load(SeqCst) <= u32::try_from(most).unwrap());
        validate(&cache);
    }
}

#[test]
fn max_concurrent_loads_run_together_and_the_next_waits() {
    for (loads, waits) in PAIRS {
        let cache = cache_with_max_loads(2);
        let (one, two) = (loads.load(&cache, 1), waits.load(&cache, 2));
        assert_eq!(cache.stats().queued, 0);
        let three = waits.call(&cache, 3);
        until(|| cache.stats().queued == 1);
        assert!(!three.has_started());
        assert_eq!(one.find(10), 10);
        three.started();
        assert_eq!((three.find(30), two.find(20)), (30, 20));
        let stats = cache.stats();
        assert_eq!((stats.queued, stats.loads), (1, 3));
        validate(&cache);
    }
}

#[test]
fn hit_and_waiter_for_the_same_key_need_no_permit() {
    for (loads, waits) in PAIRS {
        let cache = cache_with_max_loads(1);
        cache.insert(2, 20);
        let load = loads.load(&cache, 1);
        assert_eq!(waits.hit(&cache, 2), 20);
        let waiter = waits.wait(&cache, 1);
        assert_eq!(load.find(10), 10);
        assert_eq!(waiter.answer(Err("called")).unwrap(), 10);
        assert_eq!(cache.stats().loads, 1);
        validate(&cache);
    }
}

/// Futures that are polled by hand, so that their order in the queue is certain.
#[test]
fn permits_are_granted_in_the_order_of_arrival() {
    for loads in WAYS {
        while !permits_are_granted_in_order(loads) {}
    }
}

/// The time after which an offer of a permit lapses.
const OFFER_TIMEOUT: Duration = Duration::from_millis(5);

/// Checks the order in which four queued callers and a later one get the only permit. Returns `false` if this took so
/// long that an offer of the permit has lapsed.
fn permits_are_granted_in_order(loads: Way) -> bool {
    let cache = cache_with_max_loads(1);
    let order = Mutex::new(Vec::new());
    let load = loads.load(&cache, 0);
    let future = |key: u32| {
        let (cache, order) = (&cache, &order);
        async move {
            let load = async |key| {
                order.lock().unwrap().push(key);
                Ok::<_, Infallible>(0)
            };
            cache.get_or_load_async(&key, load).await
        }
    };
    let mut callers = [1, 2, 3, 4, 5].map(|key| Box::pin(future(key)));
    for caller in &mut callers[..4] {
        assert!(poll(&mut caller.as_mut()).is_pending());
    }
    assert_eq!(cache.stats().queued, 4);
    let begun = Instant::now();
    load.find(0);
    // The fifth caller arrives now, behind the others.
    for (key, gets_permit) in [
        (5, false),
        (3, false),
        (2, false),
        (1, true),
        (4, false),
        (5, false),
        (2, true),
        (5, false),
        (3, true),
        (5, false),
        (4, true),
        (5, true),
    ] {
        let is_ready = poll(&mut callers[key - 1].as_mut()).is_ready();
        if is_ready != gets_permit {
            assert!(begun.elapsed() >= OFFER_TIMEOUT, "caller {key}");
            return false;
        }
    }
    assert_eq!(*order.lock().unwrap(), [1, 2, 3, 4, 5]);
    validate(&cache);
    true
}

#[test]
fn queued_caller_that_times_out_yields_to_the_next() {
    for way in WAYS {
        for loads in WAYS {
            let cache = Cache::builder()
                .capacity(10)
                .max_concurrent_loads(1)
                .wait_timeout(Duration::from_millis(50))
                .build()
                .unwrap();
            let load = loads.load(&cache, 1);
            assert!(matches!(
                way.ask(&cache, 2, UNUSED),
                Err(LoadError::WaitTimeout)
            ));
            load.find(10);
            assert_eq!(way.ask(&cache, 3, Ok(30)).unwrap(), 30);
            assert_eq!(way.ask(&cache, 2, Ok(20)).unwrap(), 20);
            validate(&cache);
        }
    }
}

#[test]
fn queued_caller_that_is_dropped_yields_to_the_next() {
    for (loads, waits) in PAIRS {
        let cache = cache_with_max_loads(1);
        let load = loads.load(&cache, 0);
        let one = &async |_: u32| -> Result<u64, &str> {
            unreachable!("the caller is dropped before it loads")
        };
        let mut first = Box::pin(cache.get_or_load_async(&1, one));
        let mut admitted = Box::pin(cache.get_or_load_async(&2, one));
        assert!(poll(&mut first.as_mut()).is_pending());
        assert!(poll(&mut admitted.as_mut()).is_pending());
        let next = waits.call(&cache, 3);
        until(|| cache.stats().queued == 3);
        drop(first);
        load.find(0);
        // This caller may load now, but is dropped before it is polled.
        drop(admitted);
        next.started();
        assert_eq!(next.find(30), 30);
        validate(&cache);
    }
}

#[test]
fn permit_is_released_after_success_error_panic_and_drop() {
    for way in WAYS {
        let cache = cache_with_max_loads(1);
        assert!(way.ask(&cache, 1, Err("no")).is_err());
        let load = |_: &u32| -> Result<u64, &str> { resume_unwind(Box::new("panic")) };
        assert!(catch_unwind(AssertUnwindSafe(|| cache.get_or_load(&1, load))).is_err());
        let panicking = cache.clone();
        let task = RUNTIME.spawn(async move {
            let load = async |_| -> Result<u64, &str> { resume_unwind(Box::new("panic")) };
            panicking.get_or_load_async(&1, load).await
        });
        assert!(RUNTIME.block_on(task).unwrap_err().is_panic());
        {
            let load = |_| std::future::pending::<Result<u64, &str>>();
            let mut dropped = pin!(cache.get_or_load_async(&1, load));
            assert!(poll(&mut dropped).is_pending());
            assert_eq!(cache.stats().queued, 0);
        }
        let batch = |_| -> Result<Vec<(u32, u64)>, &str> { resume_unwind(Box::new("panic")) };
        let call = AssertUnwindSafe(|| cache.get_many_or_load(&[1, 2], batch));
        assert!(catch_unwind(call).is_err());
        // A key that was stored meanwhile is not loaded.
        let holder = way.load(&cache, 9);
        let queued = way.call(&cache, 1);
        until(|| cache.stats().queued == 1);
        cache.insert(1, 10);
        holder.find(90);
        assert_eq!(queued.answer(Err("called")).unwrap(), 10);
        assert_eq!(way.ask(&cache, 2, Ok(20)).unwrap(), 20);
        assert_eq!(cache.stats().queued, 1);
        validate(&cache);
    }
}

/// A load of key 1 that, after `meanwhile`, loads key 2.
fn outer(way: Way, cache: &Cache, meanwhile: impl FnOnce()) -> Answer {
    let two = async |_| Ok::<_, &str>(20);
    match way {
        Way::Thread => cache.get_or_load(&1, |_| {
            meanwhile();
            let two = cache.get_or_load(&2, |_| Ok::<_, &str>(20));
            Ok(two.unwrap() + 1)
        }),
        Way::Task => RUNTIME.block_on(cache.get_or_load_async(&1, async |_| {
            meanwhile();
            tokio::task::yield_now().await;
            let two = cache.get_or_load_async(&2, two).await;
            Ok(two.unwrap() + 1)
        })),
    }
}

#[test]
fn load_within_a_load_needs_no_second_permit() {
    for way in WAYS {
        let cache = cache_with_max_loads(1);
        assert_eq!(outer(way, &cache, || ()).unwrap(), 21);
        let stats = cache.stats();
        assert_eq!((stats.loads, stats.queued), (2, 0));
        validate(&cache);
    }
}

#[test]
fn load_within_a_load_supersedes_a_queued_load_of_the_same_key() {
    for (loads, queues) in PAIRS {
        let cache = cache_with_max_loads(1);
        let queued = Mutex::new(Vec::new());
        let others_queue = || {
            let call = queues.call(&cache, 2);
            until(|| cache.stats().queued == 1);
            let_others_run();
            queued
                .lock()
                .unwrap()
                .extend([call, queues.wait(&cache, 2)]);
        };
        assert_eq!(outer(loads, &cache, others_queue).unwrap(), 21);
        for call in queued.into_inner().unwrap() {
            assert_eq!(call.answer(Err("called")).unwrap(), 20);
        }
        assert_eq!(cache.stats().loads, 2);
        validate(&cache);
    }
}

#[test]
fn queued_caller_loads_when_the_lease_of_a_hanging_load_ends() {
    let lease = Duration::from_millis(500);
    for (loads, waits) in PAIRS {
        let cache = Cache::builder().capacity(10).lease(lease);
        let cache = cache.max_concurrent_loads(1).build().unwrap();
        let hanging = loads.load(&cache, 1);
        let queued = waits.call(&cache, 2);
        queued.started();
        assert_eq!(cache.stats().abandoned_loads, 1);
        assert_eq!((queued.find(20), hanging.find(10)), (20, 10));
        // The end of the abandoned load has released no permit of another load.
        let next = loads.load(&cache, 3);
        let before = cache.stats().queued;
        let queued = waits.call(&cache, 4);
        // On a busy machine the lease of the load before may have ended by now.
        until(|| cache.stats().queued > before || queued.has_started());
        assert_eq!(next.find(30), 30);
        assert_eq!(queued.find(40), 40);
        validate(&cache);
    }
}

#[test]
fn batch_needs_one_permit() {
    for loads in WAYS {
        let cache = cache_with_max_loads(1);
        let holder = loads.load(&cache, 1);
        let mut batch = pin!(cache.get_many_or_load_async(&[2, 3, 4], async |missing| {
            assert_eq!(missing, [2, 3, 4]);
            Ok::<_, Infallible>(missing.into_iter().map(|key| (key, 0)))
        }));
        assert!(poll(&mut batch).is_pending());
        assert_eq!(cache.stats().queued, 1);
        holder.find(10);
        assert!(matches!(poll(&mut batch), Poll::Ready(Ok(found)) if found == [Some(0); 3]));
        assert_eq!(cache.stats().loads, 2);
    }
}

/// Loads within loads, batches, panics, timeouts and dropped futures, all at once: every call ends, and all permits are
/// released.
#[test]
fn random_calls_lose_no_permit() {
    let cache = Cache::builder()
        .capacity(8)
        .max_concurrent_loads(2)
        .wait_timeout(Duration::from_millis(20))
        .build()
        .unwrap();
    thread::scope(|scope| {
        for seed in 0..6_u32 {
            let cache = &cache;
            scope.spawn(move || {
                let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
                for _ in 0..1_000 {
                    state ^= state << 13;
                    state ^= state >> 17;
                    state ^= state << 5;
                    random_call(cache, state);
                }
            });
        }
    });
    validate(&cache);
    let (one, two) = (Way::Thread.load(&cache, 100), Way::Task.load(&cache, 101));
    assert_eq!((one.find(1), two.find(2)), (1, 2));
}

fn random_call(cache: &Cache, random: u32) {
    let (key, other) = (random % 11, random / 16 % 11);
    let load = |_: &u32| match random >> 8 & 15 {
        0 => Err("refused"),
        1 => resume_unwind(Box::new("panic")),
        2..6 => match cache.get_or_load(&other, |_| Ok::<_, &str>(u64::from(other))) {
            Ok(_) => Ok(u64::from(key)),
            Err(_) => Err("refused"),
        },
        _ => Ok(u64::from(key)),
    };
    match random >> 16 & 7 {
        0 => drop(cache.remove(&key)),
        1 => {
            let load = async |key| {
                tokio::task::yield_now().await;
                Ok::<_, &str>(u64::from(key))
            };
            let mut dropped = pin!(cache.get_or_load_async(&key, load));
            let _ = poll(&mut dropped);
        }
        2 => {
            let load = |missing: Vec<u32>| {
                Ok::<_, &str>(missing.into_iter().map(|key| (key, u64::from(key))))
            };
            if let Ok(found) = cache.get_many_or_load(&[key, other], load) {
                assert_eq!(found, [Some(u64::from(key)), Some(u64::from(other))]);
            }
        }
        _ => {
            let call = AssertUnwindSafe(|| cache.get_or_load(&key, load));
            if let Ok(Ok(value)) = catch_unwind(call) {
                assert_eq!(value, u64::from(key));
            }
        }
    }
}
