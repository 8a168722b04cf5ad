//! A load that began before a write to its key never stores its result.

use hotset::{LocalCache, RemovalCause};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, mpsc};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

type Cache = LocalCache<u32, u64>;
type Loading<'scope> = ScopedJoinHandle<'scope, u64>;

const PATIENCE: Duration = Duration::from_secs(60);
/// What the loads under way find, and what loads after the write find.
const OLD: u64 = 10;
const NEW: u64 = 20;

fn until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain");
        thread::yield_now();
    }
}

/// Starts a load of key 1 that finds `OLD` and goes on until it is told to end.
fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    cache: &Cache,
) -> (mpsc::Sender<()>, Loading<'scope>) {
    let (finish, finished) = mpsc::channel();
    let (started, is_started) = mpsc::channel();
    let cache = cache.clone();
    let loading = scope.spawn(move || {
        let load = |_: &u32| {
            started.send(()).unwrap();
            finished.recv_timeout(PATIENCE).unwrap();
            Ok::<_, Infallible>(OLD)
        };
        cache.get_or_load(&1, load).unwrap()
    });
    is_started.recv_timeout(PATIENCE).unwrap();
    (finish, loading)
}

/// Writes while key 1 is being loaded; the load must not store, whatever the write left.
fn a_load_under_way_does_not_store(cache: &Cache, write: impl FnOnce(&Cache)) {
    thread::scope(|scope| {
        let (finish, loading) = start(scope, cache);
        write(cache);
        let left = cache.get(&1);
        finish.send(()).unwrap();
        assert_eq!(loading.join().unwrap(), OLD);
        assert_eq!(cache.get(&1), left);
    });
    assert_eq!(cache.stats().outdated, 1);
    cache.validate();
}

#[test]
fn not_after_remove() {
    a_load_under_way_does_not_store(&Cache::new(10), |cache| assert_eq!(cache.remove(&1), None));
}

#[test]
fn not_after_insert() {
    a_load_under_way_does_not_store(&Cache::new(10), |cache| cache.insert(1, NEW));
}

#[test]
fn not_after_clear() {
    a_load_under_way_does_not_store(&Cache::new(10), Cache::clear);
}

#[test]
fn not_after_an_update() {
    a_load_under_way_does_not_store(&Cache::new(10), |cache| {
        assert_eq!(
            cache.update(&1, |value| value.copied().or(Some(NEW))),
            Some(NEW)
        );
    });
    a_load_under_way_does_not_store(&Cache::new(10), |cache| {
        assert_eq!(cache.update(&1, |_| None), None);
    });
}

#[test]
fn not_after_an_insert_that_was_refused() {
    let cache = Cache::builder()
        .max_weight(10)
        .weigher(|_, &v| v)
        .build()
        .unwrap();
    a_load_under_way_does_not_store(&cache, |cache| cache.insert(1, 11));
    assert_eq!(cache.get(&1), None);
}

#[test]
fn not_after_an_insert_that_has_expired_or_was_evicted_since() {
    let cache = Cache::new(1);
    a_load_under_way_does_not_store(&cache, |cache| {
        cache.insert_with_ttl(1, NEW, Duration::ZERO);
        cache.insert(1, NEW);
        cache.insert(2, 0);
    });
    assert_eq!(cache.get(&1), None);
}

#[test]
fn not_after_the_loader_itself_has_written() {
    let cache = Cache::new(10);
    let loaded = cache.get_or_load(&1, |_| {
        cache.insert(1, NEW);
        Ok::<_, Infallible>(OLD)
    });
    assert_eq!((loaded.unwrap(), cache.get(&1)), (OLD, Some(NEW)));
}

#[test]
fn a_write_to_another_key_is_no_reason() {
    let cache = Cache::builder().capacity(10).shards(1).build().unwrap();
    thread::scope(|scope| {
        let (finish, loading) = start(scope, &cache);
        cache.insert(2, 0);
        cache.remove(&2);
        cache.retain(|_, _| false);
        finish.send(()).unwrap();
        loading.join().unwrap();
    });
    assert_eq!(cache.get(&1), Some(OLD));
}

#[test]
fn who_comes_after_the_write_loads_anew_while_the_old_load_goes_on() {
    let remove = |cache: &Cache| assert_eq!(cache.remove(&1), None);
    for write in [Cache::clear, remove] {
        let cache = Cache::new(10);
        thread::scope(|scope| {
            let (finish, loading) = start(scope, &cache);
            write(&cache);
            let anew = cache.get_or_load(&1, |_| Ok::<_, Infallible>(NEW));
            assert_eq!(anew.unwrap(), NEW);
            finish.send(()).unwrap();
            assert_eq!(loading.join().unwrap(), OLD);
        });
        assert_eq!(cache.get(&1), Some(NEW));
        cache.validate();
    }
}

/// Whether the waiter has boarded the flight cannot be seen from outside; it mostly has once its
/// miss is counted, so this tries until it had.
#[test]
fn who_waited_before_the_write_gets_the_old_loads_value() {
    let waited = (0..1_000).any(|_| {
        let cache = Cache::new(10);
        let value = thread::scope(|scope| {
            let (finish, loading) = start(scope, &cache);
            let waiter = scope.spawn(|| cache.get_or_load(&1, |_| Ok::<_, Infallible>(NEW)));
            until(|| cache.stats().misses == 2);
            (0..100).for_each(|_| thread::yield_now());
            cache.remove(&1);
            finish.send(()).unwrap();
            assert_eq!(loading.join().unwrap(), OLD);
            waiter.join().unwrap().unwrap()
        });
        assert!([OLD, NEW].contains(&value));
        value == OLD && cache.get(&1).is_none()
    });
    assert!(waited);
}

/// A database, its readers through the cache, and writers who change it and then invalidate: after
/// the invalidation nobody may find the value from before the change.
#[test]
fn no_reader_finds_a_value_older_than_the_last_invalidation() {
    let cache = Cache::builder().capacity(64).shards(2).build().unwrap();
    let database: [AtomicU64; 4] = Default::default();
    let invalidated: [AtomicU64; 4] = Default::default();
    let writers = [(); 4].map(|()| Mutex::new(()));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for reader in 0..4_usize {
            let (cache, database, invalidated, done) = (&cache, &database, &invalidated, &done);
            scope.spawn(move || {
                let mut at = reader;
                while !done.load(SeqCst) {
                    at = (at + 1) % 4;
                    let oldest_allowed = invalidated[at].load(SeqCst);
                    let load = |_: &u32| Ok::<_, Infallible>(database[at].load(SeqCst));
                    let key = u32::try_from(at).unwrap();
                    let value = cache.get_or_load(&key, load).unwrap();
                    assert!(value >= oldest_allowed, "{value} after {oldest_allowed}");
                }
            });
        }
        let changes = (0..4_usize).map(|writer| {
            let (cache, database, invalidated) = (&cache, &database, &invalidated);
            let writers = &writers;
            scope.spawn(move || {
                for step in 0..5_000 {
                    let at = (writer + step) % 4;
                    let key = u32::try_from(at).unwrap();
                    let _one_at_a_time = writers[at].lock().unwrap();
                    let version = database[at].fetch_add(1, SeqCst) + 1;
                    match step % 7 {
                        0 => cache.clear(),
                        1 => cache.insert(key, version),
                        _ => {
                            cache.remove(&key);
                        }
                    }
                    invalidated[at].store(version, SeqCst);
                }
            })
        });
        for change in changes.collect::<Vec<_>>() {
            change.join().unwrap();
        }
        done.store(true, SeqCst);
    });
    cache.validate();
}

#[test]
fn updates_are_atomic_among_each_other_and_with_inserts() {
    let cache = Cache::new(10);
    let replaced = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..1_000 {
                    cache.update(&1, |count| Some(count.map_or(1, |count| count + 1)));
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..1_000 {
                let key_2 = cache.update(&2, |count| {
                    // A write to the key in between: the change is made again, from what it left.
                    if replaced.fetch_add(1, SeqCst) % 2 == 0 {
                        cache.insert(2, 100);
                    }
                    count.map(|count| count + 1)
                });
                assert_eq!(key_2, Some(101));
            }
        });
    });
    assert_eq!(cache.get(&1), Some(8_000));
    cache.validate();
}

#[test]
fn retain_does_not_take_out_a_value_that_it_was_not_asked_about() {
    let removed = std::sync::Arc::new(Mutex::new(Vec::new()));
    let listener = {
        let removed = removed.clone();
        move |_: &u32, value: &u64, cause| removed.lock().unwrap().push((*value, cause))
    };
    let cache = Cache::builder()
        .capacity(10)
        .on_removal(listener)
        .build()
        .unwrap();
    cache.insert(1, OLD);
    let mut asked = Vec::new();
    cache.retain(|_, value| {
        if *value == OLD {
            cache.insert(1, NEW);
        }
        asked.push(*value);
        *value == NEW
    });
    assert_eq!(asked, [OLD, NEW]);
    assert_eq!(cache.get(&1), Some(NEW));
    assert_eq!(*removed.lock().unwrap(), [(OLD, RemovalCause::Replaced)]);
}
