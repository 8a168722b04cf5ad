//! `compute`, its fallible form, and their async forms.

use crate::common::{Cache, Fixture, RUNTIME, WAYS, seconds};
use hotset::__private::validate;
use hotset::{Compute, Loaded, LocalCache, RemovalCause};
use std::cell::Cell;
use std::future::{Future, pending, ready};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::thread;

/// The four methods, in the form of the most general one.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    Compute,
    Fallible,
    Async,
    FallibleAsync,
}

const FORMS: [Form; 4] = [
    Form::Compute,
    Form::Fallible,
    Form::Async,
    Form::FallibleAsync,
];

impl Form {
    fn call(
        self,
        cache: &Cache,
        key: u32,
        mut change: impl FnMut(Option<u64>) -> Compute<u64>,
    ) -> Option<u64> {
        match self {
            Self::Compute => cache.compute(&key, |value| change(value.copied())),
            Self::Fallible => cache
                .try_compute(&key, |value| Ok::<_, &str>(change(value.copied())))
                .unwrap(),
            Self::Async => {
                RUNTIME.block_on(cache.compute_async(&key, |value| ready(change(value))))
            }
            Self::FallibleAsync => {
                let change = |value| ready(Ok::<_, &str>(change(value)));
                RUNTIME
                    .block_on(cache.try_compute_async(&key, change))
                    .unwrap()
            }
        }
    }
}

/// Returns a cache whose key 1 has the value 10, a tag, and a time to live of a minute. Other entries live longer.
fn fixture() -> Fixture {
    let f = Fixture::new(|builder| builder.time_to_live(seconds(1_000)));
    f.cache
        .insert_loaded(1, Loaded::new(10).ttl(seconds(60)).tags(["tag"]));
    f
}

#[test]
fn put_replaces_the_value_and_keeps_time_to_live_and_tags() {
    for form in FORMS {
        let f = fixture();
        f.clock.set(seconds(20));
        let value = form.call(&f.cache, 1, |value| Compute::Put(value.unwrap() + 1));
        assert_eq!((value, f.cache.get(&1)), (Some(11), Some(11)));
        assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(40)));
        assert_eq!(f.take_notified(), [(1, 10, RemovalCause::Replaced)]);
        f.cache.invalidate_tag("tag");
        assert_eq!(f.cache.get(&1), None);
        validate(&f.cache);
    }
}

#[test]
fn put_keeps_the_explicit_weight() {
    let cache = LocalCache::<u32, u64>::builder()
        .max_weight(100)
        .weigher(|_, value| *value)
        .build()
        .unwrap();
    cache.insert_loaded(1, Loaded::new(10).weight(7));
    cache.insert(2, 10);
    for form in FORMS {
        for key in [1, 2] {
            form.call(&cache, key, |_| Compute::Put(20));
        }
        assert_eq!(cache.weight(), 27);
    }
    // A value that is too heavy is returned, but not stored, and the former one is removed.
    assert_eq!(cache.compute(&2, |_| Compute::Put(101)), Some(101));
    assert_eq!((cache.get(&2), cache.stats().refused), (None, 1));
    validate(&cache);
}

#[test]
fn put_of_an_absent_key_stores_an_entry_with_the_settings_of_the_cache() {
    for form in FORMS {
        let f = fixture();
        let value = form.call(&f.cache, 2, |value| {
            assert_eq!(value, None);
            Compute::Put(5)
        });
        assert_eq!(value, Some(5));
        assert_eq!(f.cache.remaining_ttl(&2), Some(seconds(1_000)));
        f.clock.set(seconds(60));
        let value = form.call(&f.cache, 1, |value| Compute::Put(value.unwrap_or(99)));
        assert_eq!(value, Some(99));
        assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(1_000)));
        assert_eq!(f.take_notified(), [(1, 10, RemovalCause::Expired)]);
    }
}

#[test]
fn keep_changes_nothing() {
    for form in FORMS {
        let f = fixture();
        let before = f.cache.stats();
        f.clock.set(seconds(20));
        assert_eq!(form.call(&f.cache, 1, |_| Compute::Keep), Some(10));
        assert_eq!(form.call(&f.cache, 2, |_| Compute::Keep), None);
        assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(40)));
        let after = f.cache.stats();
        assert_eq!(
            (
                after.inserts,
                after.replaced,
                after.removed,
                after.outdated,
                after.loads
            ),
            (
                before.inserts,
                before.replaced,
                before.removed,
                before.outdated,
                before.loads
            )
        );
        assert!(f.take_notified().is_empty());
        validate(&f.cache);
    }
}

#[test]
fn remove_removes_only_the_entry_of_its_key() {
    for form in FORMS {
        let f = fixture();
        f.cache.insert(2, 20);
        assert_eq!(form.call(&f.cache, 1, |_| Compute::Remove), None);
        assert_eq!(form.call(&f.cache, 3, |_| Compute::Remove), None);
        assert_eq!(f.take_notified(), [(1, 10, RemovalCause::Removed)]);
        assert_eq!(f.cache.len(), 1);
        validate(&f.cache);
    }
}

#[test]
fn error_leaves_the_entry_and_loads_in_flight() {
    for way in WAYS {
        for form in [Form::Fallible, Form::FallibleAsync] {
            let f = fixture();
            let load = way.load(&f.cache, 2);
            for key in [1, 2] {
                let result = if form == Form::Fallible {
                    f.cache.try_compute(&key, |_| Err("no"))
                } else {
                    RUNTIME.block_on(f.cache.try_compute_async(&key, |_| ready(Err("no"))))
                };
                assert_eq!(result, Err("no"));
            }
            assert_eq!(load.find(7), 7);
            assert_eq!((f.cache.get(&1), f.cache.get(&2)), (Some(10), Some(7)));
            assert!(f.take_notified().is_empty());
            validate(&f.cache);
        }
    }
}

#[test]
fn keep_does_not_revoke_a_load_in_flight() {
    for way in WAYS {
        for form in FORMS {
            let f = fixture();
            let load = way.load(&f.cache, 2);
            assert_eq!(form.call(&f.cache, 2, |_| Compute::Keep), None);
            assert_eq!(load.find(7), 7);
            assert_eq!(f.cache.get(&2), Some(7));
            assert_eq!(f.cache.stats().outdated, 0);
        }
    }
}

#[test]
fn load_in_flight_does_not_overwrite_a_change() {
    for way in WAYS {
        for form in FORMS {
            for change in [Compute::Put(5), Compute::Remove] {
                let f = fixture();
                let load = way.load(&f.cache, 2);
                let value = form.call(&f.cache, 2, |_| change);
                assert_eq!(load.find(7), 7);
                assert_eq!(f.cache.get(&2), value, "{form:?} {change:?}");
                validate(&f.cache);
            }
        }
    }
}

#[test]
fn load_that_ends_during_a_change_is_not_stored_or_is_seen_by_the_change() {
    for way in WAYS {
        for form in FORMS {
            let f = fixture();
            let mut load = Some(way.load(&f.cache, 2));
            let mut seen = Vec::new();
            let value = form.call(&f.cache, 2, |value| {
                seen.push(value);
                if let Some(load) = load.take() {
                    assert_eq!(load.find(7), 7);
                }
                Compute::Put(value.unwrap_or(0) + 1)
            });
            // Either the loaded value is not stored, or the change is based on it.
            let expected = if seen.len() == 1 { 1 } else { 8 };
            assert_eq!((value, f.cache.get(&2)), (Some(expected), Some(expected)));
            validate(&f.cache);
        }
    }
}

/// A write, and the value of the key after it.
type Write = (fn(&Cache), Option<u64>);

#[test]
fn change_is_repeated_after_a_write_during_it() {
    let writes: [Write; 6] = [
        (|cache| cache.insert(1, 50), Some(50)),
        (|cache| cache.invalidate(&1), None),
        (|cache| cache.invalidate_tag("tag"), None),
        (Cache::clear, None),
        (
            |cache| assert!(cache.compute(&1, |_| Compute::Put(50)).is_some()),
            Some(50),
        ),
        (|cache| assert!(cache.set_ttl(&1, seconds(5))), Some(10)),
    ];
    for form in FORMS {
        for (index, (write, second)) in writes.into_iter().enumerate() {
            for change in [Compute::Put(1), Compute::Remove] {
                let f = fixture();
                let mut seen = Vec::new();
                let value = form.call(&f.cache, 1, |value| {
                    if seen.is_empty() {
                        write(&f.cache);
                    }
                    seen.push(value);
                    change
                });
                let expected = if change == Compute::Remove {
                    None
                } else {
                    Some(1)
                };
                assert_eq!(value, expected);
                assert_eq!(f.cache.get(&1), expected);
                assert_eq!(seen, [Some(10), second], "{form:?} {index} {change:?}");
                if index == 5 && expected.is_some() {
                    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(5)));
                }
                validate(&f.cache);
            }
        }
    }
}

#[test]
fn concurrent_changes_of_one_key_are_all_applied() {
    let cache = Cache::new(10);
    thread::scope(|scope| {
        for form in FORMS {
            let cache = &cache;
            scope.spawn(move || {
                for _ in 0..500 {
                    form.call(cache, 1, |value| Compute::Put(value.unwrap_or(0) + 1));
                }
            });
        }
    });
    assert_eq!(cache.get(&1), Some(2_000));
    validate(&cache);
}

#[test]
fn dropped_future_changes_nothing() {
    let f = fixture();
    for started in [false, true] {
        let mut change = pin!(f.cache.compute_async(&1, |_| pending::<Compute<u64>>()));
        if started {
            let mut cx = Context::from_waker(Waker::noop());
            assert!(change.as_mut().poll(&mut cx).is_pending());
            // The change in progress does not delay other callers.
            assert_eq!(f.cache.get(&1), Some(10));
        }
    }
    assert_eq!(f.cache.get(&1), Some(10));
    assert_eq!(f.cache.compute(&1, |_| Compute::Put(11)), Some(11));
    validate(&f.cache);
}

#[test]
fn change_in_progress_does_not_delay_a_load_or_a_write() {
    for way in WAYS {
        let f = fixture();
        let mut change = Box::pin(f.cache.compute_async(&2, |_| pending::<Compute<u64>>()));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(change.as_mut().poll(&mut cx).is_pending());
        assert_eq!(way.ask(&f.cache, 2, Ok(7)).unwrap(), 7);
        assert_eq!(f.cache.get(&2), Some(7));
        f.cache.insert(2, 8);
        drop(change);
        assert_eq!(f.cache.get(&2), Some(8));
        validate(&f.cache);
    }
}

#[test]
fn change_may_compute_and_load_other_keys_and_read_its_own() {
    for form in FORMS {
        let f = fixture();
        let value = form.call(&f.cache, 1, |value| {
            let other = f.cache.compute(&2, |_| Compute::Put(5)).unwrap();
            let loaded = f.cache.get_or_insert_with(&3, |_| 7);
            assert_eq!(f.cache.get(&1), value);
            Compute::Put(other + loaded)
        });
        assert_eq!(value, Some(12));
        assert_eq!(f.cache.len(), 3);
        validate(&f.cache);
    }
}

#[test]
fn change_may_load_its_own_key() {
    for form in FORMS {
        let f = fixture();
        let calls = Cell::new(0);
        let value = form.call(&f.cache, 2, |value| {
            calls.set(calls.get() + 1);
            let loaded = f.cache.get_or_insert_with(&2, |_| 7);
            Compute::Put(value.unwrap_or(0) + loaded)
        });
        // The load is a write, so the change is repeated once.
        assert_eq!((value, calls.get()), (Some(14), 2), "{form:?}");
        validate(&f.cache);
    }
}

#[test]
fn panic_in_a_change_leaves_the_entry() {
    for form in FORMS {
        let f = fixture();
        let call = || form.call(&f.cache, 1, |_| resume_unwind(Box::new("panic")));
        assert!(catch_unwind(AssertUnwindSafe(call)).is_err());
        assert_eq!(f.cache.get(&1), Some(10));
        assert_eq!(form.call(&f.cache, 1, |_| Compute::Put(1)), Some(1));
        validate(&f.cache);
    }
}

#[test]
fn entry_that_expires_during_a_change_is_absent_when_the_change_is_repeated() {
    for form in FORMS {
        let f = fixture();
        let mut seen = Vec::new();
        form.call(&f.cache, 1, |value| {
            seen.push(value);
            f.clock.set(seconds(60));
            Compute::Put(1)
        });
        assert_eq!(seen, [Some(10), None]);
        assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(1_000)));
    }
}

#[test]
fn change_is_not_counted_as_a_lookup() {
    for form in FORMS {
        let f = fixture();
        form.call(&f.cache, 1, |_| Compute::Keep);
        form.call(&f.cache, 2, |_| Compute::Put(1));
        let stats = f.cache.stats();
        assert_eq!((stats.hits, stats.misses, stats.loads), (0, 0, 0));
    }
}

#[test]
fn change_of_a_key_in_borrowed_form_finds_the_entry() {
    let cache: LocalCache<String, Arc<str>> = LocalCache::new(10);
    let value = cache.compute("key", |_| Compute::Put("value".into()));
    assert_eq!(value.as_deref(), Some("value"));
    let changed = cache.compute_async("key", |value| async move {
        match value {
            Some(value) => Compute::Put(value.to_uppercase().into()),
            None => Compute::Keep,
        }
    });
    assert_eq!(RUNTIME.block_on(changed).as_deref(), Some("VALUE"));
    assert_eq!(cache.get("key").as_deref(), Some("VALUE"));
}
