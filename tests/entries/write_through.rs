//! Changes of the database and of the cache in one call.

use crate::common::{Cache, RUNTIME, WAYS, Way, seconds};
use hotset::__private::validate;
use hotset::{Loaded, LocalCache};
use std::convert::Infallible;
use std::future::{Future, pending};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::task::{Context, Waker};
use std::thread;

/// Changes the database by `write`, and the cache, as a thread or as a task.
fn change<E>(
    way: Way,
    cache: &Cache,
    loaded: Loaded<u64>,
    write: impl FnOnce(u64) -> Result<(), E>,
) -> Result<(), E> {
    match way {
        Way::Thread => cache.write_through_loaded(1, loaded, |&value| write(value)),
        Way::Task => {
            let write = |value| async move { write(value) };
            RUNTIME.block_on(cache.write_through_loaded_async(1, loaded, write))
        }
    }
}

#[allow(clippy::unnecessary_wraps)] // A write.
fn succeeds(_: u64) -> Result<(), Infallible> {
    Ok(())
}

#[test]
fn readers_get_the_old_value_until_the_write_has_returned() {
    for way in WAYS {
        let cache = Cache::new(10);
        cache.insert(1, 10);
        let written = change(way, &cache, Loaded::new(20), |value| {
            assert_eq!((value, cache.get(&1)), (20, Some(10)));
            Ok::<_, Infallible>(())
        });
        assert_eq!((written, cache.get(&1)), (Ok(()), Some(20)));
    }
}

#[test]
fn short_forms_store_with_the_settings_of_the_cache() {
    let build = Cache::builder().capacity(10).time_to_live(seconds(60));
    let cache = build.build().unwrap();
    let old = Loaded::new(10).ttl(seconds(9)).tags(["old"]);
    for way in WAYS {
        cache.insert_loaded(1, old.clone());
        match way {
            Way::Thread => cache.write_through(1, 20, |value| succeeds(*value)),
            Way::Task => RUNTIME.block_on(cache.write_through_async(1, 20, async |_| Ok(()))),
        }
        .unwrap();
        assert!(cache.remaining_ttl(&1).unwrap() > seconds(50));
        cache.invalidate_tag("old");
        assert_eq!(cache.get(&1), Some(20));
    }
}

#[test]
fn loaded_value_is_stored_with_its_own_settings() {
    for way in WAYS {
        let cache = Cache::new(10);
        let loaded = Loaded::new(20).ttl(seconds(9)).tags(["new"]);
        change(way, &cache, loaded, succeeds).unwrap();
        assert!(cache.remaining_ttl(&1).unwrap() <= seconds(9));
        cache.invalidate_tag("new");
        assert_eq!(cache.get(&1), None);
    }
}

#[test]
fn uncached_value_removes_the_old_one() {
    for way in WAYS {
        let cache = Cache::new(10);
        cache.insert(1, 10);
        change(way, &cache, Loaded::uncached(20), succeeds).unwrap();
        assert_eq!(cache.get(&1), None);
    }
}

#[test]
fn failed_write_leaves_the_entry_unchanged() {
    for way in WAYS {
        let cache = Cache::new(10);
        cache.insert(1, 10);
        let failed = change(way, &cache, Loaded::new(20), |_| Err("down"));
        assert_eq!((failed, cache.get(&1)), (Err("down"), Some(10)));
        // The key can be written to and loaded again.
        cache.invalidate(&1);
        assert_eq!(way.ask(&cache, 1, Ok(30)).unwrap(), 30);
    }
}

#[test]
fn write_that_panics_invalidates_the_key() {
    for way in WAYS {
        let cache = Cache::new(10);
        cache.insert(1, 10);
        let write = |_| -> Result<(), Infallible> { panic!("write") };
        let panicking = || change(way, &cache, Loaded::new(20), write);
        catch_unwind(AssertUnwindSafe(panicking)).unwrap_err();
        assert_eq!(cache.get(&1), None);
        validate(&cache);
    }
}

#[test]
fn weigher_that_panics_after_the_write_invalidates_the_key() {
    for way in WAYS {
        let build = Cache::builder().max_weight(10);
        let build = build.weigher(|_, value| if *value == 20 { panic!("weigher") } else { 1 });
        let cache = build.build().unwrap();
        cache.insert(1, 10);
        let panicking = || change(way, &cache, Loaded::new(20), succeeds);
        catch_unwind(AssertUnwindSafe(panicking)).unwrap_err();
        assert_eq!(cache.get(&1), None);
        validate(&cache);
    }
}

#[test]
fn panic_of_the_listener_reaches_the_caller() {
    for way in WAYS {
        let build = Cache::builder().capacity(10);
        let cache = build.on_removal(|_, _, _| panic!("listener"));
        let cache = cache.build().unwrap();
        cache.insert(1, 10);
        // The invalidation that follows calls the listener as well, while this panic unwinds.
        let panicking = || change(way, &cache, Loaded::new(20), succeeds);
        catch_unwind(AssertUnwindSafe(panicking)).unwrap_err();
        assert_ne!(cache.get(&1), Some(10));
        validate(&cache);
    }
}

#[test]
fn value_is_not_stored_if_the_key_is_changed_during_the_write() {
    type Interference = fn(&Cache);
    let interferences: [(&str, Interference); 6] = [
        ("insert", |cache| cache.insert(1, 30)),
        ("invalidate", |cache| cache.invalidate(&1)),
        ("clear", LocalCache::clear),
        ("the tag of the new value", |cache| {
            cache.invalidate_tag("new");
        }),
        ("a load", |cache| {
            cache.invalidate(&1);
            assert_eq!(Way::Thread.ask(cache, 1, Ok(30)).unwrap(), 30);
        }),
        ("another write", |cache| {
            cache.write_through(1, 30, |_| Ok::<_, ()>(())).unwrap();
        }),
    ];
    for (what, interfere) in interferences {
        for way in WAYS {
            let cache = Cache::new(10);
            cache.insert(1, 10);
            let written = change(way, &cache, Loaded::new(20).tags(["new"]), |_| {
                interfere(&cache);
                Ok::<_, Infallible>(())
            });
            assert_eq!((written, cache.get(&1)), (Ok(()), None), "{what}, {way:?}");
        }
    }
}

#[test]
fn load_in_flight_does_not_store_its_result_after_the_write() {
    for (loader, writer) in crate::common::PAIRS {
        let cache = Cache::new(10);
        let load = loader.load(&cache, 1);
        change(writer, &cache, Loaded::new(20), succeeds).unwrap();
        assert_eq!(load.find(10), 10);
        assert_eq!(cache.get(&1), Some(20));
    }
}

#[test]
fn dropped_future_invalidates_the_key_once_the_write_has_begun() {
    let cache = Cache::new(10);
    cache.insert(1, 10);
    drop(cache.write_through_async(1, 20, |_| pending::<Result<(), Infallible>>()));
    assert_eq!(cache.get(&1), Some(10));
    {
        let mut write = pin!(cache.write_through_async(1, 20, |_| pending::<Result<(), ()>>()));
        let mut context = Context::from_waker(Waker::noop());
        assert!(write.as_mut().poll(&mut context).is_pending());
        assert_eq!(cache.get(&1), Some(10));
    }
    assert_eq!(cache.get(&1), None);
    assert_eq!(Way::Task.ask(&cache, 1, Ok(30)).unwrap(), 30);
}

#[test]
fn concurrent_writers_leave_the_value_of_the_database_or_none() {
    let cache = Cache::new(10);
    let database = Arc::new(AtomicU64::new(0));
    for round in 0..200 {
        thread::scope(|scope| {
            for writer in 0..4 {
                let (cache, database) = (&cache, &database);
                scope.spawn(move || {
                    let write = |value: u64| {
                        database.store(value, SeqCst);
                        Ok::<_, Infallible>(())
                    };
                    let way = WAYS[writer % 2];
                    let value = round * 4 + writer as u64;
                    change(way, cache, Loaded::new(value), write).unwrap();
                });
            }
            scope.spawn(|| {
                let load = |_: &u32| Ok::<_, Infallible>(database.load(SeqCst));
                cache.get_or_load(&1, load).unwrap();
            });
        });
        if let Some(cached) = cache.get(&1) {
            assert_eq!(cached, database.load(SeqCst));
        }
    }
    validate(&cache);
}

#[test]
fn future_of_a_write_can_be_sent_to_another_thread() {
    fn check<F: Future + Send>(_: F) {}

    let cache = Cache::new(10);
    check(cache.write_through_async(1, 20, async |_| Ok::<_, Infallible>(())));
}
