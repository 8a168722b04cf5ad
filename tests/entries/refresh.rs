//! Refreshes: loads of live entries.

use crate::common::{Cache, Fixture, PAIRS, RUNTIME, WAYS, Way, just_before, seconds};
use hotset::__private::validate;
use hotset::Loaded;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

const OLD: u64 = 10;
const NEW: u64 = 20;
const UNUSED: Result<u64, &str> = Err("the loader was called");

/// Returns a cache whose key 1 is due for a refresh.
fn due() -> Fixture {
    due_with(|builder| builder)
}

fn due_with(
    set_up: impl FnOnce(hotset::LocalCacheBuilder<u32, u64>) -> hotset::LocalCacheBuilder<u32, u64>,
) -> Fixture {
    let f = Fixture::new(|builder| {
        set_up(
            builder
                .time_to_live(seconds(100))
                .refresh_after(seconds(10)),
        )
    });
    f.cache.insert_loaded(1, Loaded::new(OLD).tags(["tag"]));
    f.clock.set(seconds(10));
    f
}

/// Requests the entry once, and returns the number of loads that this starts.
fn refreshes(f: &Fixture, way: Way) -> u64 {
    let before = f.cache.stats().loads;
    way.ask(&f.cache, 1, UNUSED).unwrap();
    f.cache.stats().loads - before
}

#[test]
fn entry_due_for_refresh_is_served_at_once_while_one_caller_loads_it() {
    for (refreshing, others) in PAIRS {
        let f = due();
        f.clock.set(just_before(seconds(10)));
        assert_eq!(refreshing.hit(&f.cache, 1), OLD);
        f.clock.set(seconds(10));
        assert_eq!(f.cache.stats().loads, 0);
        let refresh = refreshing.load(&f.cache, 1);
        for _ in 0..8 {
            assert_eq!(others.hit(&f.cache, 1), OLD);
        }
        assert_eq!(refresh.find(NEW), NEW);
        assert_eq!(others.hit(&f.cache, 1), NEW);
        let stats = f.cache.stats();
        assert_eq!((stats.refreshes, stats.loads, stats.misses), (1, 1, 0));
        assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(100)));
        validate(&f.cache);
    }
}

#[test]
fn refreshed_entry_is_due_again_at_the_same_age() {
    for way in WAYS {
        let f = due();
        way.ask(&f.cache, 1, Ok(NEW)).unwrap();
        f.clock.set(seconds(19));
        assert_eq!(refreshes(&f, way), 0);
        f.clock.set(seconds(20));
        assert_eq!(way.ask(&f.cache, 1, Ok(30)).unwrap(), 30);
        assert_eq!(f.cache.stats().refreshes, 2);
    }
}

#[test]
fn concurrent_callers_of_a_due_entry_refresh_it_once() {
    for _ in 0..20 {
        let f = due();
        let gate = Barrier::new(8);
        thread::scope(|scope| {
            for way in WAYS.repeat(4) {
                let (cache, gate) = (&f.cache, &gate);
                scope.spawn(move || {
                    gate.wait();
                    let value = way.ask(cache, 1, Ok(NEW)).unwrap();
                    assert!([OLD, NEW].contains(&value));
                });
            }
        });
        let stats = f.cache.stats();
        assert_eq!((stats.refreshes, stats.loads), (1, 1));
        assert_eq!(f.cache.get(&1), Some(NEW));
        validate(&f.cache);
    }
}

#[test]
fn lookup_iteration_and_batch_do_not_refresh() {
    for way in WAYS {
        let f = due();
        assert_eq!(f.cache.get(&1), Some(OLD));
        assert_eq!(f.cache.get_with(&1, |value| *value), Some(OLD));
        assert!(f.cache.contains_key(&1));
        assert_eq!(f.cache.iter().count(), 1);
        let batch = f
            .cache
            .get_many_or_load(&[1], |_| Ok::<_, Infallible>([(1, NEW)]));
        assert_eq!(batch.unwrap(), [Some(OLD)]);
        assert_eq!(f.cache.stats().loads, 0);
        assert_eq!(way.ask(&f.cache, 1, Ok(NEW)).unwrap(), NEW);
    }
}

#[test]
fn failed_refresh_keeps_the_value_and_is_not_tried_again_for_a_second() {
    for stale in [false, true] {
        for (refreshing, others) in PAIRS {
            let f = due_with(|builder| {
                if stale {
                    builder.stale_if_error(seconds(1))
                } else {
                    builder
                }
            });
            let refresh = refreshing.load(&f.cache, 1);
            assert_eq!(refresh.finish(Err("no")).unwrap(), OLD);
            f.clock.advance(just_before(seconds(1)));
            assert_eq!(refreshes(&f, others), 0);
            assert_eq!(f.cache.get(&1), Some(OLD));
            let stats = f.cache.stats();
            assert_eq!((stats.refreshes, stats.load_failures), (1, 1));
            if stale {
                f.clock.advance(Duration::from_nanos(1));
                assert_eq!(refreshes(&f, others), 1);
            }
            validate(&f.cache);
        }
    }
}

#[test]
fn write_during_a_refresh_prevails() {
    let writes: [(fn(&Cache), _); 7] = [
        (|cache| cache.retain(|_, _| false), None),
        (|cache| cache.retain(|_, _| true), Some(OLD)),
        (|cache| assert_eq!(cache.remove(&1), Some(OLD)), None),
        (Cache::clear, None),
        (|cache| cache.invalidate_tag("tag"), None),
        (|cache| cache.insert(1, 30), Some(30)),
        (
            |cache| assert_eq!(cache.update(&1, |_| Some(30)), Some(30)),
            Some(30),
        ),
    ];
    for way in WAYS {
        for (write, left) in writes {
            let f = due();
            let refresh = way.load(&f.cache, 1);
            write(&f.cache);
            let loaded = Loaded::new(NEW).tags(["tag"]);
            assert_eq!(refresh.finish(Ok(loaded)).unwrap(), NEW);
            assert_eq!(f.cache.get(&1), left);
            assert_eq!(f.cache.stats().outdated, 1);
            validate(&f.cache);
        }
    }
}

#[test]
fn caller_that_misses_during_a_refresh_waits_for_it() {
    for (refreshing, waiting) in PAIRS {
        let f = due();
        let refresh = refreshing.load(&f.cache, 1);
        f.clock.set(seconds(100));
        assert_eq!(f.cache.get(&1), None);
        let waiter = waiting.wait(&f.cache, 1);
        assert_eq!(refresh.find(NEW), NEW);
        assert_eq!(waiter.answer(Err("called")).unwrap(), NEW);
        assert_eq!(f.cache.stats().loads, 1);
        validate(&f.cache);
    }
}

#[test]
fn lost_refresh_is_made_again_after_the_lease() {
    let dropped = |f: &Fixture| {
        let load = |_| std::future::pending::<Result<u64, &str>>();
        let mut refresh = pin!(f.cache.get_or_load_async(&1, load));
        let poll = refresh
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll.is_pending());
    };
    let panicking = |f: &Fixture| {
        let load = |_: &u32| -> Result<u64, &str> { resume_unwind(Box::new("panic")) };
        let call = AssertUnwindSafe(|| f.cache.get_or_load(&1, load));
        assert!(catch_unwind(call).is_err());
    };
    let losses: [fn(&Fixture); 2] = [dropped, panicking];
    for lose in losses {
        for way in WAYS {
            let f = due_with(|builder| builder.lease(seconds(5)));
            lose(&f);
            validate(&f.cache);
            assert_eq!(way.hit(&f.cache, 1), OLD);
            f.clock.set(seconds(15));
            assert_eq!(way.ask(&f.cache, 1, Ok(NEW)).unwrap(), NEW);
        }
    }
}

#[test]
fn refresh_does_not_wait_for_a_permit() {
    for (loads, refreshing) in PAIRS {
        let f = due_with(|builder| builder.max_concurrent_loads(1));
        let load = loads.load(&f.cache, 2);
        assert_eq!(refreshing.hit(&f.cache, 1), OLD);
        load.find(0);
        let stats = f.cache.stats();
        assert_eq!((stats.refreshes, stats.loads, stats.queued), (0, 1, 0));
        validate(&f.cache);
    }
}

#[test]
fn refreshing_loader_may_read_its_own_key() {
    let f = due();
    let refreshed = f.cache.get_or_load(&1, |_| {
        let old = f.cache.get_or_load(&1, |_| UNUSED).unwrap();
        Ok::<_, &str>(old + 1)
    });
    assert_eq!(refreshed.unwrap(), OLD + 1);
    let f = due();
    let load = async |_| {
        let old = f.cache.get_or_load_async(&1, async |_| UNUSED).await;
        Ok::<_, &str>(old.unwrap() + 1)
    };
    let refreshed = RUNTIME.block_on(f.cache.get_or_load_async(&1, load));
    assert_eq!(refreshed.unwrap(), OLD + 1);
}

const TRIES: u32 = 2_000;

/// Returns the share of entries that are refreshed at this time before their deadline, in units of the time that their
/// load took.
fn refreshed_share(way: Way, beta: f64, left: f64) -> f64 {
    let ttl = seconds(1_000);
    let f = Fixture::new(|builder| {
        let builder = builder.capacity(1_000_000).early_refresh(beta);
        builder.time_to_live(ttl)
    });
    // In one batch, so that all loads took the same time.
    let keys: Vec<u32> = (0..TRIES).collect();
    let load = |missing: Vec<u32>| {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(5) {}
        Ok::<_, Infallible>(missing.into_iter().map(|key| (key, OLD)))
    };
    f.cache.get_many_or_load(&keys, load).unwrap();
    let load_time = f.cache.stats().load_times.total();
    f.clock.set(ttl.saturating_sub(load_time.mul_f64(left)));
    let refreshed = AtomicU64::new(0);
    for key in keys {
        way.ask(&f.cache, key, Ok(NEW)).unwrap();
        refreshed.fetch_add(u64::from(f.cache.get(&key) == Some(NEW)), SeqCst);
    }
    assert_eq!(f.cache.stats().refreshes, refreshed.load(SeqCst));
    f64::from(u32::try_from(refreshed.into_inner()).unwrap()) / f64::from(TRIES)
}

#[test]
fn probability_of_early_refresh_grows_as_the_deadline_approaches() {
    for way in WAYS {
        for (beta, left) in [(1.0, 0.1), (1.0, 1.0), (1.0, 3.0), (3.0, 3.0), (0.5, 1.0)] {
            let (share, expected) = (refreshed_share(way, beta, left), (-left / beta).exp());
            // This is more than five standard deviations.
            assert!(
                (share - expected).abs() < 0.06,
                "{left}: {share}, {expected}"
            );
        }
        assert!(refreshed_share(way, 1.0, 100.0) == 0.0);
    }
}

#[test]
fn inserted_entry_is_not_refreshed_early() {
    let f = Fixture::new(|builder| builder.early_refresh(1_000.0));
    f.cache.insert_with_ttl(1, OLD, seconds(1));
    f.clock.set(just_before(seconds(1)));
    assert_eq!(refreshes(&f, Way::Thread), 0);
}
