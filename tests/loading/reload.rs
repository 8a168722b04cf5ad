//! `refresh` and `refresh_with`: loads of keys that may have a live value.

use crate::common::{
    Answer, Cache, Fixture, PAIRS, RUNTIME, TEST_TIMEOUT, WAYS, Way, let_others_run, seconds, until,
};
use hotset::__private::validate;
use hotset::{Compute, LoadError, Loaded, LocalCache, LocalCacheBuilder};
use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc;
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;
use tokio::sync::oneshot;

type Finding = Result<u64, &'static str>;

const OLD: u64 = 10;
const NEW: u64 = 20;

fn fixture() -> Fixture {
    fixture_with(|builder| builder)
}

/// Returns a cache whose key 1 has the value [`OLD`].
fn fixture_with(
    set_up: impl FnOnce(LocalCacheBuilder<u32, u64>) -> LocalCacheBuilder<u32, u64>,
) -> Fixture {
    let f = Fixture::new(|builder| set_up(builder.time_to_live(seconds(100))));
    f.cache.insert_loaded(1, Loaded::new(OLD).tags(["tag"]));
    f
}

/// Refreshes key 1 with a loader that ends at once.
fn refresh(way: Way, cache: &Cache, finding: Finding) -> Answer {
    match way {
        Way::Thread => cache.refresh(&1, |_| finding),
        Way::Task => RUNTIME.block_on(cache.refresh_async(&1, |_| async { finding })),
    }
}

fn refresh_with(
    way: Way,
    cache: &Cache,
    key: u32,
    load: impl FnOnce(Option<u64>) -> Finding,
) -> Answer {
    match way {
        Way::Thread => cache.refresh_with(&key, load),
        Way::Task => {
            RUNTIME.block_on(cache.refresh_with_async(&key, |old| async move { load(old) }))
        }
    }
}

/// A refresh of key 1 in its own thread or task.
struct Refresh {
    finish: oneshot::Sender<Finding>,
    started: mpsc::Receiver<()>,
    answer: mpsc::Receiver<Answer>,
}

impl Refresh {
    /// Starts a refresh.
    fn call(way: Way, cache: &Cache) -> Self {
        let (finish, finished) = oneshot::channel::<Finding>();
        let (start, started) = mpsc::channel();
        let (send, answer) = mpsc::channel();
        let cache = cache.clone();
        match way {
            Way::Thread => drop(thread::spawn(move || {
                let answer = cache.refresh(&1, |_| {
                    start.send(()).unwrap();
                    finished.blocking_recv().unwrap()
                });
                let _ = send.send(answer);
            })),
            Way::Task => drop(RUNTIME.spawn(async move {
                let load = |_| async move {
                    start.send(()).unwrap();
                    finished.await.unwrap()
                };
                let _ = send.send(cache.refresh_async(&1, load).await);
            })),
        }
        Self {
            finish,
            started,
            answer,
        }
    }

    /// Starts a refresh, and waits until its loader runs.
    fn load(way: Way, cache: &Cache) -> Self {
        let refresh = Self::call(way, cache);
        refresh.started.recv_timeout(TEST_TIMEOUT).unwrap();
        refresh
    }

    /// Returns the result of the refresh. If its own loader runs, the loader returns `finding`.
    fn finish(self, finding: Finding) -> Answer {
        // The send fails if the refresh has joined another load.
        let _ = self.finish.send(finding);
        self.answer.recv_timeout(TEST_TIMEOUT).unwrap()
    }
}

#[test]
fn old_value_is_served_while_a_refresh_runs() {
    for (refreshing, others) in PAIRS {
        let f = fixture();
        let refresh = Refresh::load(refreshing, &f.cache);
        assert_eq!(others.hit(&f.cache, 1), OLD);
        assert_eq!(f.cache.get(&1), Some(OLD));
        f.clock.set(seconds(50));
        assert_eq!(refresh.finish(Ok(NEW)).unwrap(), NEW);
        assert_eq!(f.cache.get(&1), Some(NEW));
        assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(100)));
        let stats = f.cache.stats();
        assert_eq!((stats.loads, stats.refreshes, stats.misses), (1, 1, 0));
        validate(&f.cache);
    }
}

#[test]
fn refresh_of_an_absent_key_loads_it_and_is_not_counted_as_a_refresh() {
    for way in WAYS {
        let f = fixture();
        f.clock.set(seconds(100));
        assert_eq!(refresh(way, &f.cache, Ok(NEW)).unwrap(), NEW);
        f.cache.clear();
        assert_eq!(refresh(way, &f.cache, Ok(NEW)).unwrap(), NEW);
        let stats = f.cache.stats();
        assert_eq!((stats.loads, stats.refreshes), (2, 0));
        assert_eq!(f.cache.get(&1), Some(NEW));
    }
}

#[test]
fn concurrent_refreshes_share_one_load() {
    for (leading, waiting) in PAIRS {
        let f = fixture();
        let leader = Refresh::load(leading, &f.cache);
        let waiters: Vec<_> = (0..4).map(|_| Refresh::call(waiting, &f.cache)).collect();
        let_others_run();
        assert_eq!(leader.finish(Ok(NEW)).unwrap(), NEW);
        for waiter in waiters {
            // A waiter that came too late for this load runs its own loader.
            assert_eq!(waiter.finish(Ok(NEW)).unwrap(), NEW);
        }
        let stats = f.cache.stats();
        assert_eq!(stats.loads, stats.refreshes);
        assert_eq!(stats.loads + stats.coalesced, 5);
        validate(&f.cache);
    }
}

#[test]
fn refresh_joins_a_load_in_flight_and_a_load_joins_a_refresh() {
    for (first, second) in PAIRS {
        let f = fixture();
        f.cache.clear();
        let load = first.load(&f.cache, 1);
        let refresh = pinned_refresh(&f.cache);
        assert_eq!(load.find(NEW), NEW);
        assert_eq!(RUNTIME.block_on(refresh).unwrap(), NEW);
        f.cache.clear();
        let refresh = Refresh::load(first, &f.cache);
        let load = second.wait(&f.cache, 1);
        assert_eq!(refresh.finish(Ok(30)).unwrap(), 30);
        assert_eq!(load.answer(Err("called")).unwrap(), 30);
        assert_eq!(f.cache.stats().loads, 2);
        validate(&f.cache);
    }
}

/// Returns a refresh that has been polled once, and whose loader must not run.
fn pinned_refresh(cache: &Cache) -> std::pin::Pin<Box<dyn Future<Output = Answer>>> {
    let cache = cache.clone();
    let mut refresh = Box::pin(async move {
        cache
            .refresh_async(&1, |_| async { Err("the loader was called") })
            .await
    });
    let mut cx = Context::from_waker(Waker::noop());
    assert!(refresh.as_mut().poll(&mut cx).is_pending());
    refresh
}

#[test]
fn refresh_joins_the_refresh_that_a_hit_began() {
    for way in WAYS {
        let f = fixture_with(|builder| builder.refresh_after(seconds(1)));
        f.clock.set(seconds(1));
        let load = way.load(&f.cache, 1);
        let refresh = pinned_refresh(&f.cache);
        assert_eq!(load.find(NEW), NEW);
        assert_eq!(RUNTIME.block_on(refresh).unwrap(), NEW);
        let stats = f.cache.stats();
        assert_eq!((stats.loads, stats.refreshes), (1, 1));
    }
}

#[test]
fn hit_does_not_begin_a_second_refresh_while_one_is_in_flight() {
    for (refreshing, hitting) in PAIRS {
        let f = fixture_with(|builder| builder.refresh_after(seconds(1)));
        f.clock.set(seconds(1));
        let refresh = Refresh::load(refreshing, &f.cache);
        for _ in 0..3 {
            assert_eq!(hitting.hit(&f.cache, 1), OLD);
            f.clock.advance(seconds(2));
        }
        assert_eq!(refresh.finish(Ok(NEW)).unwrap(), NEW);
        assert_eq!(f.cache.stats().refreshes, 1);
    }
}

/// A write, and the value of the key after it.
type Write = (fn(&Cache), Option<u64>);

#[test]
fn value_is_not_stored_if_the_key_is_written_to_during_a_refresh() {
    let writes: [Write; 7] = [
        (|cache| cache.insert(1, 30), Some(30)),
        (|cache| cache.invalidate(&1), None),
        (|cache| cache.invalidate_tag("tag"), None),
        (Cache::clear, None),
        (|cache| cache.retain(|_, _| false), None),
        (
            |cache| assert_eq!(cache.update(&1, |_| Some(30)), Some(30)),
            Some(30),
        ),
        (|cache| assert!(cache.set_ttl(&1, seconds(7))), Some(OLD)),
    ];
    for way in WAYS {
        for (index, (write, left)) in writes.into_iter().enumerate() {
            let f = fixture();
            let refresh = Refresh::load(way, &f.cache);
            write(&f.cache);
            assert_eq!(refresh.finish(Ok(NEW)).unwrap(), NEW);
            assert_eq!(f.cache.get(&1), left, "{index}");
            assert_eq!(f.cache.stats().outdated, 1);
            validate(&f.cache);
        }
    }
}

#[test]
fn refresh_after_an_invalidation_does_not_join_an_older_load() {
    for way in WAYS {
        let f = fixture();
        let older = Refresh::load(way, &f.cache);
        f.cache.invalidate(&1);
        assert_eq!(refresh(way, &f.cache, Ok(NEW)).unwrap(), NEW);
        assert_eq!(older.finish(Ok(5)).unwrap(), 5);
        assert_eq!(f.cache.get(&1), Some(NEW));
        validate(&f.cache);
    }
}

#[test]
fn failed_refresh_returns_the_error_and_keeps_the_value() {
    for way in WAYS {
        let f = fixture_with(|builder| builder.refresh_after(seconds(50)));
        let error = refresh(way, &f.cache, Err("no")).unwrap_err();
        assert!(matches!(error, LoadError::Failed(error) if *error == "no"));
        assert_eq!(f.cache.get(&1), Some(OLD));
        assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(100)));
        // The next call tries again.
        assert_eq!(refresh(way, &f.cache, Ok(NEW)).unwrap(), NEW);
        let stats = f.cache.stats();
        assert_eq!(
            (stats.loads, stats.load_failures, stats.refreshes),
            (2, 1, 2)
        );
    }
}

#[test]
fn failed_refresh_returns_the_old_value_with_stale_if_error() {
    for way in WAYS {
        let f = fixture_with(|builder| builder.stale_if_error(seconds(10)));
        assert_eq!(refresh(way, &f.cache, Err("no")).unwrap(), OLD);
        assert_eq!(
            (f.cache.stats().load_failures, f.cache.stats().stale),
            (1, 0)
        );
        assert_eq!(refresh(way, &f.cache, Ok(NEW)).unwrap(), NEW);
        f.clock.set(seconds(105));
        assert_eq!(f.cache.get(&1), None);
        assert_eq!(refresh(way, &f.cache, Err("no")).unwrap(), NEW);
        assert_eq!(f.cache.stats().stale, 1);
        // The failure is recent, so a caller of `get_or_load` gets the stale value. A refresh loads.
        assert_eq!(way.hit(&f.cache, 1), NEW);
        assert_eq!(refresh(way, &f.cache, Ok(30)).unwrap(), 30);
        assert_eq!(f.cache.get(&1), Some(30));
        f.clock.set(seconds(1_000));
        assert!(refresh(way, &f.cache, Err("no")).is_err());
        validate(&f.cache);
    }
}

#[test]
fn waiters_of_a_failed_refresh_get_its_error() {
    for way in WAYS {
        let f = fixture();
        let leader = Refresh::load(way, &f.cache);
        let waiter = pinned_refresh(&f.cache);
        assert!(leader.finish(Err("no")).is_err());
        let error = RUNTIME.block_on(waiter).unwrap_err();
        assert_eq!(error.as_inner(), Some(&"no"));
        assert_eq!(f.cache.get(&1), Some(OLD));
    }
}

#[test]
fn refresh_waits_for_a_permit() {
    for (loading, refreshing) in PAIRS {
        let f = fixture_with(|builder| builder.max_concurrent_loads(1));
        let load = loading.load(&f.cache, 2);
        let refresh = Refresh::call(refreshing, &f.cache);
        until(|| f.cache.stats().queued == 1);
        assert!(refresh.started.try_recv().is_err());
        assert_eq!(f.cache.get(&1), Some(OLD));
        load.find(0);
        refresh.started.recv_timeout(TEST_TIMEOUT).unwrap();
        assert_eq!(refresh.finish(Ok(NEW)).unwrap(), NEW);
        assert_eq!(f.cache.stats().refreshes, 1);
        validate(&f.cache);
    }
}

#[cfg(feature = "tokio")]
#[tokio::test(start_paused = true)]
async fn refresh_that_waits_too_long_for_a_permit_or_a_load_returns_wait_timeout() {
    for stale in [false, true] {
        let f = fixture_with(|builder| {
            let builder = builder.max_concurrent_loads(1).wait_timeout(seconds(2));
            if stale {
                builder.stale_if_error(seconds(10))
            } else {
                builder
            }
        });
        let mut cx = Context::from_waker(Waker::noop());
        let load = |_| pending::<Finding>();
        let mut hanging = Box::pin(f.cache.get_or_load_async(&2, load));
        assert!(hanging.as_mut().poll(&mut cx).is_pending());
        let start = tokio::time::Instant::now();
        let result = f
            .cache
            .refresh_async(&1, async |_| Ok::<_, &str>(NEW))
            .await;
        assert!(matches!(result, Err(LoadError::WaitTimeout)), "{result:?}");
        assert!((seconds(2)..seconds(3)).contains(&start.elapsed()));
        let result = f
            .cache
            .refresh_async(&2, async |_| Ok::<_, &str>(NEW))
            .await;
        assert!(matches!(result, Err(LoadError::WaitTimeout)), "{result:?}");
        assert_eq!(f.cache.get(&1), Some(OLD));
        drop(hanging);
        validate(&f.cache);
    }
}

#[test]
fn recursive_refresh_fails_and_other_keys_may_be_refreshed() {
    let f = fixture();
    let refreshed = f.cache.refresh(&1, |_| {
        assert_eq!(f.cache.get(&1), Some(OLD));
        assert_eq!(f.cache.get_or_load(&1, |_| Err("called")).unwrap(), OLD);
        let result = f.cache.refresh(&1, |_| Ok::<_, &str>(30));
        assert!(matches!(result, Err(LoadError::Recursive)), "{result:?}");
        let other = f.cache.refresh(&2, |_| Ok::<_, &str>(5));
        Ok::<_, &str>(other.unwrap())
    });
    assert_eq!(refreshed.unwrap(), 5);
    let load = async |_| {
        let result = f.cache.refresh_async(&1, async |_| Ok::<_, &str>(30)).await;
        assert!(matches!(result, Err(LoadError::Recursive)), "{result:?}");
        Ok::<_, &str>(6)
    };
    assert_eq!(
        RUNTIME.block_on(f.cache.refresh_async(&1, load)).unwrap(),
        6
    );
    assert_eq!(f.cache.get(&1), Some(6));
    validate(&f.cache);
}

#[test]
fn panic_in_a_refresh_keeps_the_value() {
    for way in WAYS {
        let f = fixture();
        let panicking = || {
            let load = |_| -> Finding { resume_unwind(Box::new("panic")) };
            refresh_with(way, &f.cache, 1, load)
        };
        assert!(catch_unwind(AssertUnwindSafe(panicking)).is_err());
        assert_eq!(f.cache.get(&1), Some(OLD));
        assert_eq!(refresh(way, &f.cache, Ok(NEW)).unwrap(), NEW);
        validate(&f.cache);
    }
}

#[test]
fn dropped_refresh_hands_over_to_a_waiter() {
    for waiting in WAYS {
        let f = fixture();
        let mut cx = Context::from_waker(Waker::noop());
        let mut refreshing = Box::pin(f.cache.refresh_async(&1, |_| pending::<Finding>()));
        assert!(refreshing.as_mut().poll(&mut cx).is_pending());
        let waiter = Refresh::call(waiting, &f.cache);
        let_others_run();
        assert!(waiter.started.try_recv().is_err());
        drop(refreshing);
        waiter.started.recv_timeout(TEST_TIMEOUT).unwrap();
        assert_eq!(waiter.finish(Ok(NEW)).unwrap(), NEW);
        assert_eq!(f.cache.get(&1), Some(NEW));
        validate(&f.cache);
    }
}

#[test]
fn refresh_that_was_never_polled_or_was_dropped_delays_no_other_caller() {
    for way in WAYS {
        let f = fixture();
        drop(f.cache.refresh_async(&1, |_| pending::<Finding>()));
        let mut refreshing = Box::pin(f.cache.refresh_async(&1, |_| pending::<Finding>()));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(refreshing.as_mut().poll(&mut cx).is_pending());
        drop(refreshing);
        assert_eq!(refresh(way, &f.cache, Ok(NEW)).unwrap(), NEW);
        assert_eq!(f.cache.stats().coalesced, 0);
    }
}

#[cfg(feature = "tokio")]
#[tokio::test(start_paused = true)]
async fn hanging_refresh_is_superseded_after_the_lease() {
    let f = fixture_with(|builder| builder.lease(seconds(3)));
    let (finish, finished) = oneshot::channel::<Finding>();
    let cache = f.cache.clone();
    let hanging = tokio::spawn(async move {
        let load = |_| async { finished.await.unwrap() };
        cache.refresh_async(&1, load).await
    });
    tokio::task::yield_now().await;
    let start = tokio::time::Instant::now();
    let refreshed = f
        .cache
        .refresh_async(&1, async |_| Ok::<_, &str>(NEW))
        .await;
    assert_eq!(refreshed.unwrap(), NEW);
    assert!((seconds(3)..seconds(4)).contains(&start.elapsed()));
    assert_eq!(f.cache.stats().abandoned_loads, 1);
    finish.send(Ok(5)).unwrap();
    assert_eq!(hanging.await.unwrap().unwrap(), 5);
    // The value of the superseded load is older, and not stored.
    assert_eq!(f.cache.get(&1), Some(NEW));
    validate(&f.cache);
}

#[cfg(feature = "tokio")]
#[tokio::test(start_paused = true)]
async fn refresh_that_waits_is_not_given_the_old_value_by_stale_if_slow() {
    let f = fixture_with(|builder| {
        builder
            .stale_if_error(seconds(10))
            .stale_if_slow(seconds(1))
    });
    let (finish, finished) = oneshot::channel::<Finding>();
    let mut loading = Box::pin(
        f.cache
            .refresh_async(&1, |_| async { finished.await.unwrap() }),
    );
    let mut cx = Context::from_waker(Waker::noop());
    assert!(loading.as_mut().poll(&mut cx).is_pending());
    let cache = f.cache.clone();
    let waiter = tokio::spawn(async move {
        let load = async |_| Err::<u64, _>("the loader was called");
        cache.refresh_async(&1, load).await
    });
    tokio::time::sleep(seconds(5)).await;
    assert!(!waiter.is_finished());
    finish.send(Ok(NEW)).unwrap();
    assert_eq!(loading.await.unwrap(), NEW);
    assert_eq!(waiter.await.unwrap().unwrap(), NEW);
    assert_eq!(f.cache.stats().stale, 0);
    validate(&f.cache);
}

#[test]
fn refresh_does_not_wait_for_a_compute_and_is_not_revoked_by_one_that_keeps_the_entry() {
    for way in WAYS {
        let f = fixture();
        let mut change = Box::pin(f.cache.compute_async(&1, |_| pending::<Compute<u64>>()));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(change.as_mut().poll(&mut cx).is_pending());
        assert_eq!(refresh(way, &f.cache, Ok(NEW)).unwrap(), NEW);
        assert_eq!(f.cache.get(&1), Some(NEW));
        drop(change);
        let refreshing = Refresh::load(way, &f.cache);
        let kept = f.cache.compute(&1, |_| Compute::Keep);
        assert_eq!(kept, Some(NEW));
        assert_eq!(refreshing.finish(Ok(30)).unwrap(), 30);
        assert_eq!(f.cache.get(&1), Some(30));
        validate(&f.cache);
    }
}

#[test]
fn refreshed_entry_that_was_evicted_meanwhile_is_stored_again() {
    for way in WAYS {
        let f = Fixture::new(|builder| builder.capacity(2));
        f.cache.insert(1, OLD);
        let refreshing = Refresh::load(way, &f.cache);
        f.cache.insert(2, 0);
        f.cache.insert(3, 0);
        assert_eq!(f.cache.get(&1), None);
        assert_eq!(refreshing.finish(Ok(NEW)).unwrap(), NEW);
        assert_eq!(f.cache.get(&1), Some(NEW));
        assert_eq!(f.cache.stats().refreshes, 1);
        validate(&f.cache);
    }
}

#[test]
fn refresh_with_gets_the_live_value_or_none() {
    for way in WAYS {
        let f = fixture_with(|builder| builder.stale_if_error(seconds(10)));
        let refreshed = refresh_with(way, &f.cache, 1, |old| {
            assert_eq!(old, Some(OLD));
            Ok(NEW)
        });
        assert_eq!(refreshed.unwrap(), NEW);
        f.clock.set(seconds(50));
        // A value that is returned again has a new time to live.
        let same = refresh_with(way, &f.cache, 1, |old| old.ok_or("none"));
        assert_eq!(same.unwrap(), NEW);
        assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(100)));
        let absent = refresh_with(way, &f.cache, 2, |old| Ok(u64::from(old.is_none())));
        assert_eq!(absent.unwrap(), 1);
        f.clock.set(seconds(150));
        let expired = refresh_with(way, &f.cache, 1, |old| Ok(u64::from(old.is_none())));
        assert_eq!(expired.unwrap(), 1);
        let stats = f.cache.stats();
        assert_eq!((stats.loads, stats.refreshes, stats.hits), (4, 2, 0));
    }
}

#[test]
fn refresh_with_does_not_store_a_value_based_on_an_overwritten_one() {
    for way in WAYS {
        let f = fixture();
        let refreshed = refresh_with(way, &f.cache, 1, |old| {
            f.cache.insert(1, 50);
            Ok(old.unwrap() + 1)
        });
        assert_eq!(refreshed.unwrap(), OLD + 1);
        assert_eq!(f.cache.get(&1), Some(50));
    }
}

#[test]
fn refreshed_value_with_a_zero_time_to_live_removes_the_old_value() {
    for way in WAYS {
        let f = Fixture::new(|builder| {
            builder.expire_after(|_, &value| (value == NEW).then_some(Duration::ZERO))
        });
        f.cache.insert(1, OLD);
        assert_eq!(refresh(way, &f.cache, Ok(NEW)).unwrap(), NEW);
        assert_eq!((f.cache.get(&1), f.cache.stats().refused), (None, 1));
    }
}

#[test]
fn callers_with_different_error_types_share_a_refreshed_value_but_no_error() {
    let f = fixture();
    let leader = Refresh::load(Way::Thread, &f.cache);
    let cache = f.cache.clone();
    let mut other = Box::pin(async move {
        let load = async |_| Err::<u64, String>("other".to_string());
        cache.refresh_async(&1, load).await
    });
    let mut cx = Context::from_waker(Waker::noop());
    assert!(other.as_mut().poll(&mut cx).is_pending());
    assert!(leader.finish(Err("no")).is_err());
    // The caller cannot return the error of the shared load, so it runs its own loader.
    let error = RUNTIME.block_on(other).unwrap_err();
    assert_eq!(error.as_inner().unwrap(), "other");
    let joined = Refresh::call(Way::Task, &f.cache);
    assert_eq!(joined.finish(Ok(NEW)).unwrap(), NEW);
}

#[test]
fn refreshed_entry_keeps_its_tags_and_its_weight() {
    let builder = LocalCache::builder().max_weight(100).weigher(|_, _| 1);
    let cache: LocalCache<u32, u64> = builder.build().unwrap();
    cache.insert_loaded(1, Loaded::new(OLD).tags(["tag"]).weight(7));
    let refreshed = cache.refresh(&1, |_| Ok::<_, &str>(NEW));
    assert_eq!((refreshed.unwrap(), cache.weight()), (NEW, 7));
    // The loader returns the current value again, for example after the status 304 of a web server.
    let kept = cache.refresh_with(&1, |current| current.ok_or("absent"));
    assert_eq!((kept.unwrap(), cache.weight()), (NEW, 7));
    cache.invalidate_tag("tag");
    assert_eq!(cache.get(&1), None);
    // The value is not stored if its tag is invalidated during the load.
    cache.insert_loaded(1, Loaded::new(OLD).tags(["tag"]));
    let kept = cache.refresh_with(&1, |current| {
        cache.invalidate_tag("tag");
        current.ok_or("absent")
    });
    assert_eq!((kept.unwrap(), cache.get(&1)), (OLD, None));
    validate(&cache);
}
