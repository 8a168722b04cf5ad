//! Concurrent writers and readers: no reader finds a value older than the last invalidation, and updates are atomic.

use crate::common::{Cache, RUNTIME};
use hotset::__private::validate;
use hotset::RemovalCause;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;

const OLD: u64 = 10;
const NEW: u64 = 20;

/// Writers change a database and then invalidate the key. Readers read through the cache. After an invalidation, no
/// reader may find the value from before the change.
#[test]
fn concurrent_reader_never_finds_a_value_older_than_the_last_invalidation() {
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
                    let value = if reader % 2 == 0 {
                        cache.get_or_load(&key, load)
                    } else {
                        let load = async |key| load(&key);
                        RUNTIME.block_on(cache.get_or_load_async(&key, load))
                    };
                    let value = value.unwrap();
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
    validate(&cache);
}

#[test]
fn concurrent_updates_and_inserts_are_atomic() {
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
                    // A write to the key in between: the change is made again, from the written value.
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
    validate(&cache);
}

#[test]
fn retain_does_not_remove_a_value_that_its_closure_has_not_seen() {
    let removed = Arc::new(Mutex::new(Vec::new()));
    let listener = {
        let removed = removed.clone();
        move |_, value, cause| removed.lock().unwrap().push((value, cause))
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
