//! `get_many_or_load`, for threads and tasks: the keys given to the loader, the results, and loads shared by batches
//! and single callers.

use crate::common::{Cache, Fixture, PAIRS, RUNTIME, WAYS, Way, let_others_run, seconds, until};
use hotset::__private::validate;
use hotset::{LoadError, Loaded, OpaqueError};
use std::collections::HashMap;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};
use std::thread;

type Pairs = Vec<(u32, Loaded<u64>)>;
type Found = Result<Vec<Option<u64>>, LoadError<&'static str>>;

/// Returns the result of a batch whose loader ends at once.
fn ask(
    way: Way,
    cache: &Cache,
    keys: &[u32],
    mut load: impl FnMut(Vec<u32>) -> Result<Pairs, &'static str>,
) -> Found {
    match way {
        Way::Thread => cache.get_many_or_load_entries(keys, load),
        Way::Task => {
            let load = |missing| std::future::ready(load(missing));
            RUNTIME.block_on(cache.get_many_or_load_entries_async(keys, load))
        }
    }
}

fn tenfold(missing: &[u32]) -> Pairs {
    let pair = |&key: &u32| (key, Loaded::new(u64::from(key) * 10));
    missing.iter().map(pair).collect()
}

#[test]
fn missing_keys_are_loaded_once_and_values_are_in_the_order_of_keys() {
    for way in WAYS {
        let cache = Cache::new(10);
        cache.insert(2, 22);
        let mut asked = Vec::new();
        let found = ask(way, &cache, &[3, 1, 2, 3, 1, 2], |missing| {
            asked.push(missing.clone());
            let mut pairs = tenfold(&missing);
            pairs.reverse();
            Ok(pairs)
        });
        let expected = [30, 10, 22, 30, 10, 22].map(Some);
        assert_eq!(found.unwrap(), expected);
        assert_eq!(asked, [[3, 1]]);
        let stats = cache.stats();
        assert_eq!((stats.hits, stats.misses, stats.loads), (1, 2, 1));
        let again = ask(way, &cache, &[1, 3], |_| Err("the loader was called"));
        assert_eq!(again.unwrap(), [Some(10), Some(30)]);
        let none = ask(way, &cache, &[], |_| Err("the loader was called"));
        assert_eq!(none.unwrap(), []);
        validate(&cache);
    }
}

#[test]
fn key_that_the_loader_leaves_out_is_none_and_key_that_it_adds_is_ignored() {
    for way in WAYS {
        let cache = Cache::new(10);
        cache.insert(4, 40);
        for _ in 0..2 {
            let found = ask(way, &cache, &[1, 2, 4], |missing| {
                assert!(missing == [1, 2] || missing == [2]);
                Ok([tenfold(&[1, 3]), vec![(4, Loaded::new(0))]].concat())
            });
            assert_eq!(found.unwrap(), [Some(10), None, Some(40)]);
        }
        // The last pair of a key counts.
        let found = ask(way, &cache, &[5], |_| {
            Ok(vec![(5, Loaded::new(1)), (5, Loaded::new(2))])
        });
        assert_eq!(found.unwrap(), [Some(2)]);
        assert_eq!((cache.get(&2), cache.get(&3)), (None, None));
        assert_eq!(cache.stats().loads, 3);
        validate(&cache);
    }
}

#[test]
fn loader_may_return_a_map_a_vector_or_another_iterator() {
    let cache = Cache::new(10);
    let map = HashMap::from([(1, 10), (2, 20)]);
    let found = cache.get_many_or_load(&[1, 2], |_| Ok::<_, Infallible>(map.clone()));
    assert_eq!(found.unwrap(), [Some(10), Some(20)]);
    let pairs = |missing: Vec<u32>| {
        let pairs = missing.into_iter().map(|key| (key, u64::from(key)));
        Ok::<_, Infallible>(pairs)
    };
    assert_eq!(cache.get_many_or_load(&[3], pairs).unwrap(), [Some(3)]);
    let some = |_| Ok::<_, Infallible>(Some((4, 4)));
    assert_eq!(cache.get_many_or_load(&[4], some).unwrap(), [Some(4)]);
}

#[test]
fn each_entry_has_the_settings_of_its_loaded_value() {
    for way in WAYS {
        let f = Fixture::new(|builder| builder.time_to_live(seconds(10)));
        let found = ask(way, &f.cache, &[1, 2, 3], |_| {
            Ok(vec![
                (1, Loaded::new(1).ttl(seconds(5))),
                (2, Loaded::new(2).tags(["tag"])),
                (3, Loaded::new(3).ttl(seconds(0))),
            ])
        });
        assert_eq!(found.unwrap(), [1, 2, 3].map(Some));
        let left = [1, 2, 3].map(|key| f.cache.remaining_ttl(&key));
        assert_eq!(left, [Some(seconds(5)), Some(seconds(10)), None]);
        f.cache.invalidate_tag("tag");
        assert_eq!((f.cache.get(&1), f.cache.get(&2)), (Some(1), None));
        validate(&f.cache);
    }
}

#[test]
fn error_is_not_cached_and_leaves_other_entries() {
    for way in WAYS {
        let cache = Cache::new(10);
        cache.insert(1, 10);
        let found = ask(way, &cache, &[1, 2, 3], |_| Err("no"));
        assert!(matches!(found, Err(LoadError::Failed(error)) if *error == "no"));
        assert_eq!(cache.len(), 1);
        let found = ask(way, &cache, &[1, 2, 3], |missing| Ok(tenfold(&missing)));
        assert_eq!(found.unwrap(), [10, 20, 30].map(Some));
        validate(&cache);
    }
}

#[test]
fn batch_waits_for_keys_that_others_load_and_loads_the_rest() {
    for (single, batch) in PAIRS {
        let cache = Cache::new(10);
        let load = single.load(&cache, 1);
        thread::scope(|scope| {
            let found = scope.spawn(|| {
                ask(batch, &cache, &[1, 2], |missing| {
                    assert_eq!(missing, [2]);
                    Ok(tenfold(&missing))
                })
            });
            // The batch loads the keys that it leads before it waits for others.
            until(|| cache.contains_key(&2));
            assert_eq!(load.find(11), 11);
            assert_eq!(found.join().unwrap().unwrap(), [Some(11), Some(20)]);
        });
        let stats = cache.stats();
        assert_eq!((stats.loads, stats.coalesced), (2, 1));
        validate(&cache);
    }
}

#[test]
fn batch_that_waits_for_a_load_that_fails_returns_its_error() {
    for (single, batch) in PAIRS {
        let cache = Cache::new(10);
        let load = single.load(&cache, 1);
        thread::scope(|scope| {
            let found = scope.spawn(|| ask(batch, &cache, &[1, 2], |asked| Ok(tenfold(&asked))));
            until(|| cache.contains_key(&2));
            let_others_run();
            assert!(load.finish(Err("no")).is_err());
            // A batch that was too late to wait loads the key itself.
            match found.join().unwrap() {
                Err(LoadError::Failed(error)) => assert_eq!(*error, "no"),
                found => assert_eq!(found.unwrap(), [Some(10), Some(20)]),
            }
        });
        assert_eq!(cache.get(&2), Some(20));
        validate(&cache);
    }
}

#[test]
fn batch_loads_a_key_itself_after_an_error_of_another_type() {
    for single in WAYS {
        let cache = Cache::new(10);
        let load = single.load(&cache, 1);
        thread::scope(|scope| {
            let found = scope.spawn(|| {
                cache.get_many_or_load(&[1, 2], |missing| {
                    Ok::<_, Infallible>(missing.into_iter().map(|key| (key, u64::from(key))))
                })
            });
            until(|| cache.contains_key(&2));
            assert!(load.finish(Err("no")).is_err());
            assert_eq!(found.join().unwrap().unwrap(), [Some(1), Some(2)]);
        });
        validate(&cache);
    }
}

/// Runs callers that join while a batch loads keys 1 and 2 and then ends.
fn during_a_batch(
    batch: Way,
    waits: Way,
    key: u32,
    result: impl Fn() -> Result<Pairs, &'static str> + Sync,
) -> (Cache, crate::common::Answer) {
    let cache = Cache::new(10);
    let waiter = Mutex::new(None);
    let call = AssertUnwindSafe(|| {
        ask(batch, &cache, &[1, 2], |_| {
            *waiter.lock().unwrap() = Some(waits.wait(&cache, key));
            result()
        })
    });
    let _ = catch_unwind(call);
    let waiter = waiter.into_inner().unwrap().unwrap();
    let answer = waiter.answer(Ok(Loaded::new(99)));
    validate(&cache);
    (cache, answer)
}

#[test]
fn single_callers_share_the_load_of_a_batch() {
    for (batch, waits) in PAIRS {
        let (cache, answer) = during_a_batch(batch, waits, 2, || Ok(tenfold(&[1, 2])));
        assert_eq!(answer.unwrap(), 20);
        assert_eq!(cache.stats().loads, 1);
    }
}

#[test]
fn single_caller_loads_a_key_that_the_batch_left_out() {
    for (batch, waits) in PAIRS {
        let (cache, answer) = during_a_batch(batch, waits, 2, || Ok(tenfold(&[1])));
        assert_eq!(answer.unwrap(), 99);
        assert_eq!((cache.get(&1), cache.get(&2)), (Some(10), Some(99)));
    }
}

#[test]
fn waiter_for_a_batch_that_panics_loads() {
    for (batch, waits) in PAIRS {
        for key in [1, 2] {
            let panic = || resume_unwind(Box::new("panic"));
            let (cache, answer) = during_a_batch(batch, waits, key, panic);
            assert_eq!(answer.unwrap(), 99);
            assert_eq!(cache.get(&key), Some(99));
            assert_eq!(cache.stats().load_failures, 1);
        }
    }
}

#[test]
fn waiter_for_a_batch_that_is_dropped_loads() {
    for waits in WAYS {
        let cache = Cache::new(10);
        let load = |_| std::future::pending::<Result<HashMap<u32, u64>, &str>>();
        let mut batch = Box::pin(cache.get_many_or_load_async(&[1, 2], load));
        let poll = batch.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll.is_pending());
        let waiters = [1, 2].map(|key| waits.wait(&cache, key));
        drop(batch);
        assert_eq!(waiters.map(|waiter| waiter.find(5)), [5, 5]);
        validate(&cache);
    }
}

#[test]
fn write_during_a_batch_revokes_the_load_of_its_key_only() {
    for way in WAYS {
        let cache = Cache::builder().capacity(10).shards(1).build().unwrap();
        let found = ask(way, &cache, &[1, 2, 3, 4], |missing| {
            cache.remove(&1);
            cache.insert(2, 22);
            cache.invalidate_tag("three");
            let mut pairs = tenfold(&missing);
            pairs[2].1 = Loaded::new(30).tags(["three"]);
            Ok(pairs)
        });
        assert_eq!(found.unwrap(), [10, 20, 30, 40].map(Some));
        let cached = [1, 2, 3, 4].map(|key| cache.get(&key));
        assert_eq!(cached, [None, Some(22), None, Some(40)]);
        assert_eq!(cache.stats().outdated, 3);
        validate(&cache);
    }
}

#[test]
fn loader_that_calls_for_a_key_of_its_batch_gets_recursive() {
    for way in WAYS {
        let cache = Cache::new(10);
        let found = ask(way, &cache, &[1, 2], |missing| {
            let inner = cache.get_or_load(&2, |_| Ok::<_, &str>(0));
            assert!(matches!(inner, Err(LoadError::Recursive)));
            let inner = ask(Way::Thread, &cache, &[3, 1], |asked| Ok(tenfold(&asked)));
            assert!(matches!(inner, Err(LoadError::Recursive)));
            Ok(tenfold(&missing))
        });
        assert_eq!(found.unwrap(), [Some(10), Some(20)]);
        validate(&cache);
    }
}

#[test]
fn failed_batch_gets_stale_values_if_all_missing_keys_have_one() {
    for way in WAYS {
        let f = Fixture::new(|builder| builder.stale_if_error(seconds(60)));
        f.cache.insert_with_ttl(1, 10, seconds(1));
        f.cache.insert_with_ttl(2, 20, seconds(1));
        f.clock.set(seconds(1));
        let found = ask(way, &f.cache, &[1, 2, 3], |_| Err("no"));
        assert!(matches!(found, Err(LoadError::Failed(_))));
        let found = ask(way, &f.cache, &[1, 2], |_| Err("no"));
        assert_eq!(found.unwrap(), [Some(10), Some(20)]);
        // The second batch came within a second of the failure of the first, so it did not load.
        assert_eq!(f.cache.stats().loads, 1);
        validate(&f.cache);
    }
}

/// Batches and single loads of the same keys in all orders do not wait for each other in a circle.
#[test]
fn overlapping_batches_never_wait_for_each_other() {
    let cache = Cache::new(4);
    thread::scope(|scope| {
        for (seed, way) in (0..8_u32).zip(WAYS.repeat(4)) {
            let cache = &cache;
            scope.spawn(move || {
                for step in 0..500 {
                    let at = |n: u32| (seed * 3 + step * n) % 8;
                    let keys = [at(1), at(3), at(5), at(7)];
                    let found = ask(way, cache, &keys, |missing| {
                        thread::yield_now();
                        Ok(tenfold(&missing))
                    });
                    let expected = keys.map(|key| Some(u64::from(key) * 10));
                    assert_eq!(found.unwrap(), expected);
                    let single = way.ask(cache, at(2), Ok(u64::from(at(2)) * 10));
                    assert_eq!(single.unwrap(), u64::from(at(2)) * 10);
                    cache.remove(&at(4));
                }
            });
        }
    });
    validate(&cache);
}

#[test]
fn batch_loader_is_not_called_before_the_first_poll() {
    let cache = Cache::new(10);
    let load = async |_| -> Result<Vec<(u32, u64)>, &str> { unreachable!("not polled") };
    drop(cache.get_many_or_load_async(&[1], load));
    assert_eq!(cache.stats().misses, 0);
}

#[test]
fn batch_counts_no_second_lookup_after_an_error_of_another_type() {
    let cache = Cache::new(10);
    let mut cx = Context::from_waker(Waker::noop());
    let (fail, failed) = tokio::sync::oneshot::channel::<()>();
    let mut failing = Box::pin(cache.get_or_load_async(&1, |_| async {
        failed.await.unwrap();
        Err::<u64, _>(OpaqueError(404))
    }));
    assert!(failing.as_mut().poll(&mut cx).is_pending());
    let asked = Mutex::new(Vec::new());
    let mut batch = Box::pin(cache.get_many_or_load_entries_async(&[1, 2], |missing| {
        asked.lock().unwrap().push(missing.clone());
        std::future::ready(Ok::<_, &str>(tenfold(&missing)))
    }));
    assert!(batch.as_mut().poll(&mut cx).is_pending());
    fail.send(()).unwrap();
    assert!(failing.as_mut().poll(&mut cx).is_ready());
    let Poll::Ready(found) = batch.as_mut().poll(&mut cx) else {
        panic!("the batch waits for its own load")
    };
    assert_eq!(found.unwrap(), [Some(10), Some(20)]);
    assert_eq!(*asked.lock().unwrap(), [[2], [1]]);
    drop((failing, batch));
    let stats = cache.stats();
    assert_eq!((stats.misses, stats.loads, stats.coalesced), (3, 3, 0));
    validate(&cache);
}
