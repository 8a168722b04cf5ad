//! Expired values that are served when a load fails.

use crate::common::{Cache, Fixture, PAIRS, RUNTIME, WAYS, Way, just_before, seconds};
use hotset::__private::validate;
use hotset::{LoadError, Loaded, RemovalCause};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

const OLD: u64 = 10;
const NEW: u64 = 20;
const DOWN: Result<u64, &str> = Err("the database is down");

/// Returns a cache whose key 1 has just expired. Its value may be served stale for a minute.
fn expired() -> Fixture {
    expired_with(|builder| builder.stale_if_error(seconds(60)))
}

fn expired_with(
    set_up: impl FnOnce(hotset::LocalCacheBuilder<u32, u64>) -> hotset::LocalCacheBuilder<u32, u64>,
) -> Fixture {
    let f = Fixture::new(|builder| set_up(builder.time_to_live(seconds(10))));
    f.cache.insert_loaded(1, Loaded::new(OLD).tags(["tag"]));
    f.clock.set(seconds(10));
    f
}

fn assert_load_fails(f: &Fixture, way: Way) {
    match way.ask(&f.cache, 1, DOWN) {
        Err(LoadError::Failed(error)) => assert_eq!(*error, "the database is down"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn leader_and_waiters_of_a_failed_load_get_the_stale_value() {
    for (loads, waits) in PAIRS {
        let f = expired();
        let load = loads.load(&f.cache, 1);
        let waiter = waits.wait(&f.cache, 1);
        assert_eq!(load.finish(Err("no")).unwrap(), OLD);
        assert_eq!(waiter.answer(Err("called")).unwrap(), OLD);
        let stats = f.cache.stats();
        assert_eq!((stats.stale, stats.loads, stats.load_failures), (2, 1, 1));
        validate(&f.cache);
    }
}

#[test]
fn failed_load_returns_the_error_without_stale_if_error() {
    for way in WAYS {
        let f = expired_with(|builder| builder.refresh_after(seconds(1)));
        assert_load_fails(&f, way);
        assert_eq!(f.cache.stats().stale, 0);
    }
}

#[test]
fn failed_load_is_not_tried_again_for_a_second() {
    for (first, others) in PAIRS {
        let f = expired();
        for round in 1..5 {
            assert_eq!(first.ask(&f.cache, 1, DOWN).unwrap(), OLD);
            for _ in 0..2 {
                assert_eq!(others.ask(&f.cache, 1, Ok(NEW)).unwrap(), OLD);
                f.clock.advance(just_before(Duration::from_millis(500)));
            }
            assert_eq!(others.ask(&f.cache, 1, Ok(NEW)).unwrap(), OLD);
            f.clock.advance(Duration::from_nanos(2));
            let stats = f.cache.stats();
            assert_eq!((stats.loads, stats.stale), (round, 4 * round));
        }
        assert_eq!(others.ask(&f.cache, 1, Ok(NEW)).unwrap(), NEW);
        assert_eq!(first.hit(&f.cache, 1), NEW);
        assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(10)));
        validate(&f.cache);
    }
}

#[test]
fn stale_value_is_served_without_a_permit_in_the_second_after_a_failure() {
    for (first, others) in PAIRS {
        let f = expired_with(|builder| {
            let builder = builder.stale_if_error(seconds(60));
            builder.max_concurrent_loads(1)
        });
        assert_eq!(first.ask(&f.cache, 1, DOWN).unwrap(), OLD);
        let holder = first.load(&f.cache, 2);
        assert_eq!(others.ask(&f.cache, 1, DOWN).unwrap(), OLD);
        holder.find(0);
        assert_eq!(f.cache.stats().queued, 0);
    }
}

#[test]
fn value_older_than_stale_if_error_is_not_served() {
    for way in WAYS {
        let f = expired();
        f.clock.set(just_before(seconds(70)));
        assert_eq!(way.ask(&f.cache, 1, DOWN).unwrap(), OLD);
        // It is not served in the second after a failure either.
        f.clock.set(seconds(70));
        assert_load_fails(&f, way);
        assert_eq!(f.cache.stats().loads, 2);
        validate(&f.cache);
    }
}

const REMOVALS: [fn(&Cache); 6] = [
    |cache| assert_eq!(cache.remove(&1), None),
    Cache::clear,
    |cache| cache.invalidate_tag("tag"),
    |cache| cache.retain(|_, _| unreachable!("it has expired")),
    |cache| cache.insert_with_ttl(1, NEW, Duration::ZERO),
    |cache| assert_eq!(cache.update(&1, |_| None), None),
];

#[test]
fn removed_or_invalidated_value_is_not_served_stale() {
    for way in WAYS {
        for remove in REMOVALS {
            let f = expired();
            remove(&f.cache);
            assert_load_fails(&f, way);
        }
    }
}

#[test]
fn value_removed_during_the_load_is_not_served_stale() {
    for (loads, comes_after) in PAIRS {
        for remove in REMOVALS {
            let f = expired();
            let load = loads.load(&f.cache, 1);
            remove(&f.cache);
            assert!(load.finish(Err("no")).is_err());
            assert_load_fails(&f, comes_after);
            validate(&f.cache);
        }
    }
}

#[test]
fn key_removed_after_a_failure_is_loaded_at_once() {
    for way in WAYS {
        for remove in REMOVALS {
            let f = expired();
            assert_eq!(way.ask(&f.cache, 1, DOWN).unwrap(), OLD);
            remove(&f.cache);
            assert_eq!(way.ask(&f.cache, 1, Ok(NEW)).unwrap(), NEW);
            assert_eq!(f.cache.stats().loads, 2);
        }
    }
}

#[test]
fn stale_value_is_served_only_after_a_failed_load() {
    for fails in [false, true] {
        let f = expired();
        if fails {
            Way::Thread.ask(&f.cache, 1, DOWN).unwrap();
        }
        assert_eq!(f.cache.get(&1), None);
        assert_eq!(f.cache.get_with(&1, |value| *value), None);
        assert!(!f.cache.contains_key(&1));
        assert_eq!(f.cache.remaining_ttl(&1), None);
        assert_eq!(f.cache.iter().count(), 0);
        f.cache.retain(|_, _| unreachable!("none is live"));
        f.cache.update(&1, |value| {
            assert_eq!(value, None);
            None
        });
        assert_eq!(f.cache.remove(&1), None);
    }
}

#[test]
fn stale_value_is_kept_as_long_as_it_may_serve() {
    let f = expired();
    f.clock.set(just_before(seconds(70)));
    assert_eq!(f.cache.remove_expired(), 0);
    (2..20).for_each(|key| f.cache.insert_with_ttl(key, 0, Duration::MAX));
    assert_eq!(f.cache.len(), 19);
    assert_eq!(f.cache.stats().entries, 19);
    f.clock.set(seconds(70));
    assert_eq!(f.cache.remove_expired(), 1);
    assert_eq!(f.take_notified(), [(1, OLD, RemovalCause::Expired)]);
    assert_eq!(f.cache.len(), 18);
    validate(&f.cache);
}

#[test]
fn writes_remove_values_that_are_too_old_to_serve() {
    let f = expired();
    (2..1_000).for_each(|key| f.cache.insert(key, 0));
    for (second, len) in [(70, 999), (79, 999), (80, 1)] {
        f.clock.set(seconds(second));
        (0..1_000).for_each(|_| f.cache.insert_with_ttl(1, NEW, Duration::MAX));
        assert_eq!(f.cache.len(), len);
    }
    validate(&f.cache);
}

#[test]
fn stale_value_is_evicted_if_there_is_no_room() {
    let f = expired_with(|builder| builder.capacity(10).stale_if_error(Duration::MAX));
    (2..12).for_each(|key| f.cache.insert(key, 0));
    assert_eq!(f.cache.len(), 10);
    assert_eq!(f.take_notified(), [(1, OLD, RemovalCause::Expired)]);
    assert_load_fails(&f, Way::Thread);
}

#[test]
fn stale_value_without_age_limit_is_always_served() {
    let f = expired_with(|builder| builder.stale_if_error(Duration::MAX));
    f.clock.set(Duration::MAX);
    assert_eq!(f.cache.remove_expired(), 0);
    assert_eq!(Way::Thread.ask(&f.cache, 1, DOWN).unwrap(), OLD);
}

#[test]
fn panic_of_the_loader_is_not_masked_by_a_stale_value_and_the_next_caller_loads() {
    let f = expired();
    let load = |_: &u32| -> Result<u64, &str> { resume_unwind(Box::new("panic")) };
    let call = AssertUnwindSafe(|| f.cache.get_or_load(&1, load));
    assert!(catch_unwind(call).is_err());
    let cache = f.cache.clone();
    let task = RUNTIME.spawn(async move {
        let load = async |_| -> Result<u64, &str> { resume_unwind(Box::new("panic")) };
        cache.get_or_load_async(&1, load).await
    });
    assert!(RUNTIME.block_on(task).unwrap_err().is_panic());
    for way in WAYS {
        assert_eq!(way.ask(&f.cache, 1, DOWN).unwrap(), OLD);
        f.clock.advance(seconds(1));
    }
    let stats = f.cache.stats();
    assert_eq!((stats.stale, stats.loads), (2, 4));
    validate(&f.cache);
}

#[test]
fn dropped_load_does_not_count_as_failed() {
    let f = expired();
    {
        let load = |_| std::future::pending::<Result<u64, &str>>();
        let mut dropped = pin!(f.cache.get_or_load_async(&1, load));
        let poll = dropped
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll.is_pending());
    }
    assert_eq!(Way::Task.ask(&f.cache, 1, Ok(NEW)).unwrap(), NEW);
    validate(&f.cache);
}
