//! `get_or_load` for threads: who loads, who waits, and what each gets.

use hotset::{LoadError, Loaded, LocalCache};
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

type Cache = LocalCache<u32, u32>;

/// A lease that a test waits out; long beside what a busy machine keeps a thread waiting.
const SHORT: Duration = Duration::from_millis(300);
/// What a test waits for at the most before it fails.
const PATIENCE: Duration = Duration::from_secs(60);

fn cache_with_lease(lease: Duration) -> Cache {
    Cache::builder().capacity(100).lease(lease).build().unwrap()
}

/// Waits for a condition that other threads bring about.
fn until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain");
        thread::yield_now();
    }
}

/// Callers who have missed: the misses that are counted before the flight is boarded.
fn misses(cache: &Cache, at_least: u64) -> impl Fn() -> bool {
    let cache = cache.clone();
    move || cache.stats().misses >= at_least
}

#[test]
fn a_thousand_threads_on_one_missing_key_make_one_load() {
    let cache = cache_with_lease(Duration::MAX);
    let loads = AtomicUsize::new(0);
    let gate = Barrier::new(1_000);
    thread::scope(|scope| {
        for _ in 0..1_000 {
            scope.spawn(|| {
                gate.wait();
                let value = cache.get_or_load(&7, |key| {
                    // All who miss are here before the load ends.
                    until(misses(&cache, 1_000));
                    loads.fetch_add(1, SeqCst);
                    Ok::<_, Infallible>(key * 6)
                });
                assert_eq!(value.unwrap(), 42);
            });
        }
    });
    assert_eq!(loads.load(SeqCst), 1);
    let stats = cache.stats();
    assert_eq!((stats.loads, stats.coalesced, stats.inserts), (1, 999, 1));
    assert_eq!(stats.load_times.count(), 1);
    cache.validate();
}

#[test]
fn loads_of_different_keys_do_not_wait_for_each_other() {
    let cache = Cache::builder().capacity(100).shards(1).build().unwrap();
    let gate = Barrier::new(8);
    thread::scope(|scope| {
        for key in 0..8 {
            let (cache, gate) = (&cache, &gate);
            scope.spawn(move || {
                // The barrier opens only if all eight loaders run at one time.
                let load = |_: &u32| {
                    gate.wait();
                    Ok::<_, Infallible>(key)
                };
                assert_eq!(cache.get_or_load(&key, load).unwrap(), key);
            });
        }
    });
}

/// Eight callers miss together, and get the errors that are returned.
fn eight_errors(cache: &Cache) -> Vec<Arc<String>> {
    let call = || {
        let result = cache.get_or_load(&1, |_| {
            until(misses(cache, 8));
            // A miss is counted just before the caller boards: let the last one get there.
            (0..100).for_each(|_| thread::yield_now());
            Err::<u32, _>("no connection".to_string())
        });
        match result {
            Err(LoadError::Failed(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    thread::scope(|scope| {
        let callers: Vec<_> = (0..8).map(|_| scope.spawn(call)).collect();
        let errors = callers.into_iter().map(|caller| caller.join().unwrap());
        errors.collect()
    })
}

/// A caller who boards after the load has failed loads anew, so this tries until none did.
#[test]
fn an_error_reaches_all_who_waited_and_is_not_cached() {
    let all_shared_one = (0..1_000).any(|_| {
        let cache = cache_with_lease(Duration::MAX);
        let errors = eight_errors(&cache);
        assert_eq!(*errors[0], "no connection");
        let shares = |error: &Arc<String>| errors.iter().filter(|e| Arc::ptr_eq(e, error)).count();
        let stats = cache.stats();
        assert_eq!((stats.load_failures, stats.inserts), (stats.loads, 0));
        assert_eq!(stats.coalesced, 8 - stats.loads);
        assert_eq!(cache.get_or_load(&1, |_| Ok::<_, String>(5)).unwrap(), 5);
        cache.validate();
        shares(&errors[0]) == 8
    });
    assert!(all_shared_one);
}

#[test]
fn a_waiter_with_another_error_type_calls_its_own_loader() {
    let cache = cache_with_lease(Duration::MAX);
    thread::scope(|scope| {
        let leader = scope.spawn(|| {
            cache.get_or_load(&1, |_| {
                until(misses(&cache, 2));
                Err::<u32, _>("a string".to_string())
            })
        });
        until(misses(&cache, 1));
        let waiter = cache.get_or_load(&1, |_| Err::<u32, _>(404_u16));
        assert!(matches!(waiter, Err(LoadError::Failed(code)) if *code == 404));
        assert!(leader.join().unwrap().is_err());
    });
    cache.validate();
}

#[test]
fn a_panic_reaches_its_own_caller_and_exactly_one_waiter_leads() {
    let cache = cache_with_lease(Duration::MAX);
    let loads = AtomicUsize::new(0);
    thread::scope(|scope| {
        let leader = scope.spawn(|| {
            let load = || {
                cache.get_or_load(&1, |_| -> Result<u32, Infallible> {
                    until(misses(&cache, 9));
                    resume_unwind(Box::new("the loader's panic"))
                })
            };
            let panic = catch_unwind(AssertUnwindSafe(load)).unwrap_err();
            assert_eq!(panic.downcast_ref(), Some(&"the loader's panic"));
        });
        until(misses(&cache, 1));
        for _ in 0..8 {
            scope.spawn(|| {
                let value = cache.get_or_load(&1, |_| {
                    loads.fetch_add(1, SeqCst);
                    Ok::<_, Infallible>(11)
                });
                assert_eq!(value.unwrap(), 11);
            });
        }
        leader.join().unwrap();
    });
    assert_eq!(loads.load(SeqCst), 1);
    let stats = cache.stats();
    assert_eq!((stats.loads, stats.load_failures), (2, 1));
    cache.validate();
}

/// A leader that loads until it is told to go on, after its lease.
struct SlowLeader<'scope> {
    finish: mpsc::Sender<u32>,
    thread: thread::ScopedJoinHandle<'scope, Result<u32, LoadError<Infallible>>>,
}

impl<'scope> SlowLeader<'scope> {
    fn start(scope: &'scope thread::Scope<'scope, '_>, cache: &Cache, key: u32) -> Self {
        let (finish, finished) = mpsc::channel();
        let (started, is_started) = mpsc::channel();
        let cache = cache.clone();
        let thread = scope.spawn(move || {
            cache.get_or_load(&key, |_| {
                started.send(()).unwrap();
                Ok::<_, Infallible>(finished.recv_timeout(PATIENCE).unwrap())
            })
        });
        is_started.recv_timeout(PATIENCE).unwrap();
        Self { finish, thread }
    }

    fn finish(self, value: u32) {
        self.finish.send(value).unwrap();
        assert_eq!(self.thread.join().unwrap().unwrap(), value);
    }
}

#[test]
fn after_the_lease_exactly_one_waiter_leads_and_the_late_value_is_its_callers_alone() {
    let cache = cache_with_lease(SHORT);
    let loads = AtomicUsize::new(0);
    thread::scope(|scope| {
        let slow = SlowLeader::start(scope, &cache, 1);
        thread::scope(|waiters| {
            for _ in 0..8 {
                waiters.spawn(|| {
                    let value = cache.get_or_load(&1, |_| {
                        loads.fetch_add(1, SeqCst);
                        Ok::<_, Infallible>(2)
                    });
                    assert_eq!(value.unwrap(), 2);
                });
            }
        });
        assert_eq!(loads.load(SeqCst), 1);
        slow.finish(1);
    });
    // The newer value stays.
    assert_eq!(cache.get(&1), Some(2));
    assert_eq!(cache.stats().outdated, 1);
    cache.validate();
}

#[test]
fn a_late_value_is_stored_if_nothing_newer_was() {
    let cache = cache_with_lease(SHORT);
    thread::scope(|scope| {
        let first = SlowLeader::start(scope, &cache, 1);
        // Waits out the lease of the first, and then is slow itself.
        let second = SlowLeader::start(scope, &cache, 1);
        first.finish(1);
        assert_eq!(cache.get(&1), Some(1));
        second.finish(2);
        assert_eq!(cache.get(&1), Some(2));
    });
    cache.validate();
}

#[test]
fn a_late_value_is_not_stored_after_its_successor_failed() {
    let cache = cache_with_lease(SHORT);
    thread::scope(|scope| {
        let slow = SlowLeader::start(scope, &cache, 1);
        let error = cache.get_or_load(&1, |_| Err::<u32, _>("refused"));
        assert!(matches!(error, Err(LoadError::Failed(_))));
        // Nobody could tell the slow one of this any more.
        cache.remove(&1);
        slow.finish(1);
    });
    assert_eq!(cache.get(&1), None);
    cache.validate();
}

#[test]
fn a_leader_in_time_is_not_superseded() {
    let cache = cache_with_lease(Duration::MAX);
    thread::scope(|scope| {
        let slow = SlowLeader::start(scope, &cache, 1);
        let waiter = scope.spawn(|| cache.get_or_load(&1, |_| Err::<u32, _>("not asked")));
        until(misses(&cache, 2));
        slow.finish(9);
        assert_eq!(waiter.join().unwrap().unwrap(), 9);
    });
}

#[test]
fn a_waiters_deadline_passes_for_it_alone() {
    let cache = Cache::builder()
        .capacity(100)
        .wait_timeout(SHORT)
        .build()
        .unwrap();
    thread::scope(|scope| {
        let slow = SlowLeader::start(scope, &cache, 1);
        let started = Instant::now();
        let result = cache.get_or_load(&1, |_| Ok::<_, Infallible>(2));
        assert!(matches!(result, Err(LoadError::WaitTimeout)));
        assert!(started.elapsed() >= SHORT);
        slow.finish(1);
    });
    assert_eq!(cache.get(&1), Some(1));
    cache.validate();
}

#[test]
fn a_loader_that_asks_for_its_own_key_is_told_and_other_keys_work() {
    let cache = Cache::new(10);
    let load_one = |_: &u32| {
        let two = cache.get_or_load(&2, |_| {
            // The key of an outer loader is as recursive as one's own.
            let one = cache.get_or_load(&1, |_| Ok::<_, Infallible>(0));
            assert!(matches!(one, Err(LoadError::Recursive)));
            Ok::<_, Infallible>(20)
        });
        Ok::<_, Infallible>(two.unwrap() + 1)
    };
    assert_eq!(cache.get_or_load(&1, load_one).unwrap(), 21);
    assert_eq!((cache.get(&1), cache.get(&2)), (Some(21), Some(20)));
    cache.validate();
}

#[test]
fn two_loaders_that_wait_for_each_other_are_freed_by_the_lease() {
    let cache = cache_with_lease(SHORT);
    let gate = Barrier::new(2);
    thread::scope(|scope| {
        for (mine, other) in [(1, 2), (2, 1)] {
            let (cache, gate) = (&cache, &gate);
            scope.spawn(move || {
                let load = |_: &u32| {
                    gate.wait();
                    let other = cache.get_or_load(&other, |_| Ok::<_, Infallible>(0));
                    Ok::<_, Infallible>(other.unwrap() + mine)
                };
                cache.get_or_load(&mine, load).unwrap();
            });
        }
    });
    cache.validate();
}

#[test]
fn a_loader_sets_its_entrys_ttl_and_weight() {
    let cache: Cache = LocalCache::builder()
        .max_weight(10)
        .weigher(|_, _| 1)
        .time_to_live(Duration::from_secs(1))
        .build()
        .unwrap();
    let loaded = Loaded::new(5).ttl(Duration::from_secs(3_600)).weight(8);
    cache
        .get_or_load(&1, |_| Ok::<_, Infallible>(loaded))
        .unwrap();
    assert_eq!(cache.weight(), 8);
    assert!(cache.remaining_ttl(&1).unwrap() > Duration::from_secs(3_000));

    let heavy = cache.get_or_load(&2, |_| Ok::<_, Infallible>(Loaded::new(6).weight(11)));
    assert_eq!(heavy.unwrap(), 6);
    assert_eq!((cache.get(&2), cache.stats().refused), (None, 1));
    let short = cache.get_or_load(&3, |_| {
        Ok::<_, Infallible>(Loaded::new(7).ttl(Duration::ZERO))
    });
    assert_eq!((short.unwrap(), cache.get(&3)), (7, None));
    cache.validate();
}

/// Loads, failures, panics, takeovers, timeouts, writes and removals of few keys, all at once:
/// every call ends, every value is one that was loaded for its key, and nothing is left behind.
#[test]
fn a_storm_leaves_nobody_waiting() {
    let cache = Cache::builder()
        .capacity(8)
        .lease(Duration::from_millis(1))
        .wait_timeout(Duration::from_millis(20))
        .build()
        .unwrap();
    thread::scope(|scope| {
        for seed in 0..16_u32 {
            let cache = &cache;
            scope.spawn(move || {
                let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
                for _ in 0..2_000 {
                    state ^= state << 13;
                    state ^= state >> 17;
                    state ^= state << 5;
                    storm_step(cache, state);
                }
            });
        }
    });
    cache.validate();
}

fn storm_step(cache: &Cache, random: u32) {
    let key = random % 5;
    let load = |_: &u32| match random >> 8 & 15 {
        0 => Err("refused"),
        1 => resume_unwind(Box::new("panic")),
        2 => {
            let start = Instant::now();
            until(|| start.elapsed() > Duration::from_millis(2));
            Ok(key * 100 + 1)
        }
        _ => Ok(key * 100 + 2),
    };
    match random >> 16 & 15 {
        0 => drop(cache.remove(&key)),
        1 => cache.insert(key, key * 100),
        2 => cache.clear(),
        3 => drop(cache.update(&key, |value| Some(*value?))),
        _ => {
            let call = AssertUnwindSafe(|| cache.get_or_load(&key, load));
            if let Ok(Ok(value)) = catch_unwind(call) {
                assert_eq!(value / 100, key);
            }
        }
    }
}
