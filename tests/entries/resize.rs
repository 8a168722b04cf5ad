//! Changes of the bound of a cache that is in use.

use crate::common::{Fixture, TEST_TIMEOUT, seconds, until};
use hotset::__private::validate;
use hotset::{BuildError, Loaded, LocalCache, Policy, RemovalCause};
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;

const POLICIES: [Policy; 4] = [Policy::Lru, Policy::S3Fifo, Policy::Car, Policy::Adaptive];

#[test]
fn lower_capacity_is_exact_when_set_capacity_returns_for_every_policy() {
    for policy in POLICIES {
        for shards in [1, 16] {
            let cache = LocalCache::<u64, u64>::builder()
                .capacity(10_000)
                .shards(shards)
                .policy(policy)
                .build()
                .unwrap();
            (0..12_000).for_each(|key| cache.insert(key, key));
            let full = cache.len();
            assert!(full <= 10_000);
            for capacity in [9_999, 5_000, 128, 127, 17, 1] {
                cache.set_capacity(capacity).unwrap();
                assert_eq!(cache.len(), capacity, "{policy:?}");
                assert_eq!(cache.capacity(), Some(capacity as u64));
                validate(&cache);
                (20_000..20_100).for_each(|key| cache.insert(key, key));
                assert_eq!(cache.len(), capacity, "{policy:?}");
                validate(&cache);
            }
            cache.set_capacity(20_000).unwrap();
            (0..15_000).for_each(|key| cache.insert(key, key));
            assert!(cache.len() >= 15_000);
            assert!(
                (0..15_000).all(|key| cache.contains_key(&key)),
                "{policy:?}"
            );
            validate(&cache);
        }
    }
}

#[test]
fn lower_capacity_evicts_the_least_recently_used_entries() {
    let f = Fixture::new(|builder| builder.capacity(10));
    (0..10).for_each(|key| f.cache.insert(key, 0));
    assert_eq!(f.cache.get(&0), Some(0));
    f.cache.set_capacity(3).unwrap();
    let expected: Vec<_> = (1..8).map(|key| (key, 0, RemovalCause::Evicted)).collect();
    assert_eq!(f.take_notified(), expected);
    let stats = f.cache.stats();
    assert_eq!((stats.evicted, stats.refused), (7, 0));
    assert!([0, 8, 9].iter().all(|key| f.cache.contains_key(key)));
}

#[test]
fn expired_entry_that_a_lower_capacity_removes_is_reported_as_expired() {
    let f = Fixture::new(|builder| builder.capacity(10));
    f.cache.insert_with_ttl(1, 1, seconds(1));
    f.cache.insert(2, 2);
    f.clock.advance(seconds(1));
    f.cache.set_capacity(1).unwrap();
    assert_eq!(f.take_notified(), [(1, 1, RemovalCause::Expired)]);
    assert_eq!(f.cache.get(&2), Some(2));
}

#[test]
fn cache_with_a_capacity_of_zero_refuses_every_entry_until_it_grows() {
    for policy in POLICIES {
        let f = Fixture::new(|builder| builder.capacity(100).policy(policy));
        (0..100).for_each(|key| f.cache.insert(key, 0));
        f.cache.set_capacity(0).unwrap();
        assert_eq!((f.cache.len(), f.cache.capacity()), (0, Some(0)));
        assert_eq!(f.take_notified().len(), 100);
        f.cache.insert(1, 1);
        assert_eq!(f.cache.get_or_insert_with(&2, |_| 2), 2);
        assert_eq!(f.cache.update(&3, |_| Some(3)), Some(3));
        assert_eq!((f.cache.len(), f.cache.stats().refused), (0, 3));
        f.cache.set_capacity(2).unwrap();
        (0..5).for_each(|key| f.cache.insert(key, 0));
        assert_eq!(f.cache.len(), 2);
        validate(&f.cache);
    }
}

#[test]
fn lower_weight_is_kept_when_set_max_weight_returns_for_every_policy() {
    for policy in POLICIES {
        for shards in [1, 8] {
            let cache = LocalCache::<u64, u64>::builder()
                .max_weight(100_000)
                .weigher(|_, weight| *weight)
                .shards(shards)
                .policy(policy)
                .build()
                .unwrap();
            (0..5_000).for_each(|key| cache.insert(key, key % 40));
            for weight in [99_999, 50_000, 1_000, 39, 1, 0] {
                cache.set_max_weight(weight).unwrap();
                assert!(cache.weight() <= weight);
                assert_eq!(cache.capacity(), Some(weight));
                validate(&cache);
            }
            assert!(cache.is_empty());
            cache.set_max_weight(u64::MAX).unwrap();
            cache.insert(1, u64::MAX);
            assert_eq!(cache.weight(), u64::MAX);
            validate(&cache);
        }
    }
}

#[test]
fn change_of_a_bound_that_the_cache_does_not_have_fails_and_names_the_right_method() {
    let entries: LocalCache<u64, u64> = LocalCache::new(10);
    let weighed = LocalCache::<u64, u64>::builder()
        .max_weight(10)
        .weigher(|_, _| 1)
        .build()
        .unwrap();
    let unbounded = LocalCache::<u64, u64>::builder()
        .unbounded()
        .build()
        .unwrap();
    let text = |result: Result<(), BuildError>| result.unwrap_err().to_string();
    let of_entries = "set_max_weight changes the bound of a cache that was built with max_weight: use set_capacity if \
                      it was built with capacity";
    let of_weight = "set_capacity changes the number of entries of a cache that was built with capacity: use \
                     set_max_weight if it was built with max_weight";
    assert_eq!(text(entries.set_max_weight(5)), of_entries);
    assert_eq!(text(weighed.set_capacity(5)), of_weight);
    assert_eq!(text(unbounded.set_capacity(5)), of_weight);
    assert_eq!(text(unbounded.set_max_weight(5)), of_entries);
    assert_eq!(
        (entries.capacity(), weighed.capacity()),
        (Some(10), Some(10))
    );
}

#[test]
fn concurrent_insertions_and_changes_of_the_capacity_keep_the_last_bound() {
    for policy in POLICIES {
        let cache = LocalCache::<u64, u64>::builder()
            .capacity(1_000)
            .shards(4)
            .policy(policy)
            .build()
            .unwrap();
        let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            for writer in 0..2 {
                let (cache, stop, written) = (&cache, &stop, &written);
                scope.spawn(move || {
                    while !stop.load(SeqCst) {
                        let key = written.fetch_add(1, SeqCst);
                        cache.insert(key * 2 + writer, key);
                    }
                });
            }
            let resizing: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        for capacity in [10, 900, 0, 1, 300, 64].repeat(20) {
                            cache.set_capacity(capacity).unwrap();
                        }
                    })
                })
                .collect();
            for thread in resizing {
                thread.join().unwrap();
            }
            cache.set_capacity(50).unwrap();
            assert!(cache.len() <= 50);
            stop.store(true, SeqCst);
        });
        assert!(cache.len() <= 50);
        validate(&cache);
    }
}

#[test]
fn listener_may_change_the_capacity() {
    let handle: Arc<Mutex<Option<LocalCache<u32, u32>>>> = Arc::default();
    let listening = Arc::clone(&handle);
    let cache = LocalCache::builder()
        .capacity(100)
        .on_removal(move |_, _, _| {
            let cache = listening.lock().unwrap().clone();
            let cache = cache.unwrap();
            cache.set_capacity(5).unwrap();
        })
        .build()
        .unwrap();
    *handle.lock().unwrap() = Some(cache.clone());
    (0..100).for_each(|key| cache.insert(key, key));
    cache.set_capacity(50).unwrap();
    assert_eq!((cache.len(), cache.capacity()), (5, Some(5)));
    *handle.lock().unwrap() = None;
    validate(&cache);
}

#[test]
fn lower_capacity_is_exact_although_the_listener_panics() {
    let calls = Arc::new(AtomicU64::new(0));
    let counting = Arc::clone(&calls);
    let cache = LocalCache::<u64, u64>::builder()
        .capacity(1_000)
        .shards(2)
        .on_removal(move |_, _, _| {
            counting.fetch_add(1, SeqCst);
            resume_unwind(Box::new("panic"));
        })
        .build()
        .unwrap();
    (0..1_000).for_each(|key| cache.insert(key, key));
    assert_eq!(calls.load(SeqCst), 0);
    let shrink = AssertUnwindSafe(|| cache.set_capacity(3));
    assert!(catch_unwind(shrink).is_err());
    assert_eq!((cache.len(), calls.load(SeqCst)), (3, 997));
    validate(&cache);
}

#[test]
fn set_capacity_by_a_reader_panics_and_changes_nothing() {
    let cache: LocalCache<u64, u64> = LocalCache::new(10);
    (0..10).for_each(|key| cache.insert(key, key));
    let shrink = AssertUnwindSafe(|| cache.get_with(&1, |_| cache.set_capacity(3)));
    assert!(catch_unwind(shrink).is_err());
    assert_eq!((cache.capacity(), cache.len()), (Some(10), 10));
    validate(&cache);
    cache.set_capacity(2).unwrap();
    assert_eq!(cache.len(), 2);
    validate(&cache);
}

/// A key whose comparison waits for the test.
#[derive(Clone)]
struct SlowKey {
    compares: Option<Arc<(Barrier, Barrier)>>,
}

impl PartialEq for SlowKey {
    fn eq(&self, other: &Self) -> bool {
        for gate in [&self.compares, &other.compares].into_iter().flatten() {
            gate.0.wait();
            gate.1.wait();
        }
        true
    }
}

impl Eq for SlowKey {}

impl Hash for SlowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u32(1);
    }
}

#[test]
fn insertion_that_a_lower_bound_makes_too_heavy_is_refused() {
    let cache = LocalCache::<SlowKey, u64>::builder()
        .max_weight(1_000)
        .weigher(|_, weight| *weight)
        .build()
        .unwrap();
    cache.insert(SlowKey { compares: None }, 10);
    let gate = Arc::new((Barrier::new(2), Barrier::new(2)));
    let key = SlowKey {
        compares: Some(Arc::clone(&gate)),
    };
    let (send, inserted) = mpsc::channel();
    let inserting = cache.clone();
    // The thread is not joined, so that the test fails instead of hanging if the insertion never ends.
    thread::spawn(move || {
        inserting.insert(key, 500);
        send.send(()).unwrap();
    });
    // The insertion has found that its weight is within the bound, and holds the lock of the shard.
    gate.0.wait();
    let resizing = cache.clone();
    let resize = thread::spawn(move || resizing.set_max_weight(100).unwrap());
    until(|| cache.capacity() == Some(100));
    gate.1.wait();
    // The comparisons that follow do not wait.
    thread::spawn(move || {
        loop {
            gate.0.wait();
            gate.1.wait();
        }
    });
    inserted
        .recv_timeout(TEST_TIMEOUT)
        .expect("the insertion ends");
    resize.join().unwrap();
    assert_eq!((cache.len(), cache.stats().refused), (0, 1));
    validate(&cache);
}

#[test]
fn loaded_value_that_a_lower_bound_makes_too_heavy_reaches_its_caller() {
    let f = Fixture::new(|builder| builder.capacity(10));
    let loaded = f.cache.get_or_load_entry(&1, |_| {
        f.cache.set_capacity(0).unwrap();
        Ok::<_, &str>(Loaded::new(7))
    });
    assert_eq!(loaded.unwrap(), 7);
    assert_eq!((f.cache.len(), f.cache.stats().refused), (0, 1));
}

#[test]
fn raised_capacity_is_used_in_full_for_every_former_capacity() {
    for capacity in (1..300).step_by(3).chain((300..3_000).step_by(271)) {
        for shrink in [false, true] {
            for (shards, raised) in [(1, capacity + 1), (1, capacity * 4), (4, capacity * 3)] {
                let cache = LocalCache::<usize, u64>::builder()
                    .capacity(capacity)
                    .shards(shards)
                    .time_to_live(seconds(1_000))
                    .build()
                    .unwrap();
                let insert = |keys: Range<usize>| keys.for_each(|key| cache.insert(key, 0));
                insert(0..capacity);
                cache.set_capacity(raised).unwrap();
                insert(0..capacity / 2);
                if shrink {
                    cache.shrink_to_fit();
                }
                insert(capacity..raised * 2);
                assert_eq!(cache.len(), raised);
                validate(&cache);
            }
        }
    }
}
