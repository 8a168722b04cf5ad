//! User code that calls the cache from which it is called.

use hotset::__private::validate;
use hotset::{LocalCache, RemovalCause};
use std::convert::Infallible;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, Weak};

/// Returns a cache with one shard, so that all calls use the same lock.
fn one_shard<K: Eq, V>(capacity: usize) -> hotset::LocalCacheBuilder<K, V> {
    LocalCache::builder().capacity(capacity).shards(1)
}

/// A value whose drop writes to and reads from its cache.
#[derive(Clone)]
struct Noisy {
    id: u32,
    home: Arc<OnceLock<LocalCache<u32, Noisy>>>,
    drops: Arc<AtomicUsize>,
}

impl Drop for Noisy {
    fn drop(&mut self) {
        self.drops.fetch_add(1, SeqCst);
        if let Some(cache) = self.home.get() {
            assert!(cache.get_with(&1_000, |_| ()).is_none());
            cache.remove(&(self.id + 1));
            cache.remove_expired();
        }
    }
}

#[test]
fn drop_may_call_the_cache() {
    let home = Arc::new(OnceLock::new());
    let drops = Arc::new(AtomicUsize::new(0));
    let noisy = |id| Noisy {
        id,
        home: home.clone(),
        drops: drops.clone(),
    };
    let cache = one_shard(3).build().unwrap();
    home.set(cache.clone()).unwrap_or_else(|_| unreachable!());
    for id in 0..50 {
        cache.insert(id * 2, noisy(id * 2));
        cache.insert(id * 2, noisy(id * 2));
        let loaded = cache.get_or_load(&(id * 2 + 1), |_| Ok::<_, Infallible>(noisy(id)));
        drop(loaded);
    }
    cache.retain(|key, _| key % 4 == 0);
    cache.update(&4, |_| None);
    cache.clear();
    assert!(cache.is_empty());
    assert!(drops.load(SeqCst) >= 150);
    validate(&cache);
}

#[test]
fn listener_may_call_the_cache() {
    type Cache = LocalCache<u32, u32>;
    let home: Arc<OnceLock<Weak<Cache>>> = Arc::default();
    let evicted = Arc::new(AtomicUsize::new(0));
    let listener = {
        let (home, evicted) = (home.clone(), evicted.clone());
        move |key: u32, value: u32, cause| {
            let cache = home.get().and_then(Weak::upgrade).unwrap();
            assert!(cache.get(&key) != Some(value) || cause == RemovalCause::Replaced);
            // Each evicted entry is inserted again once, which evicts another.
            if cause == RemovalCause::Evicted && value < 100 {
                evicted.fetch_add(1, SeqCst);
                cache.insert(key, value + 100);
            }
        }
    };
    let cache: Arc<Cache> = Arc::new(one_shard(5).on_removal(listener).build().unwrap());
    home.set(Arc::downgrade(&cache)).unwrap();
    for key in 0..20 {
        cache.insert(key, key);
    }
    assert_eq!(cache.len(), 5);
    assert!(evicted.load(SeqCst) >= 15);
    validate(&cache);
}

fn factorial(cache: &LocalCache<u32, u64>, n: u32) -> u64 {
    let load = |&n: &u32| {
        let below = if n == 0 { 1 } else { factorial(cache, n - 1) };
        Ok::<_, Infallible>(below * u64::from(n.max(1)))
    };
    cache.get_or_load(&n, load).unwrap()
}

#[test]
fn loader_may_call_the_cache() {
    let cache = one_shard(100).build().unwrap();
    assert_eq!(factorial(&cache, 10), 3_628_800);
    assert_eq!(cache.len(), 11);
    validate(&cache);
}

type Write = fn(&LocalCache<u32, u32>, &LocalCache<u32, u32>);

#[test]
fn closure_of_get_with_may_read_and_panics_if_it_writes() {
    // This holds for the same shard, another shard and another cache, because each could be part of a cycle.
    let other: LocalCache<u32, u32> = LocalCache::new(10);
    for shards in [1, 8] {
        let builder = LocalCache::builder().capacity(10).shards(shards);
        let cache: LocalCache<u32, u32> = builder.build().unwrap();
        cache.insert(1, 2);
        cache.insert(2, 3);
        let nested = cache.get_with(&1, |next| {
            assert_eq!((cache.len(), other.get(next)), (2, None));
            cache.get_with(next, |value| cache.get(&1).unwrap() + value)
        });
        assert_eq!(nested, Some(Some(5)));

        let writes: [Write; 5] = [
            |cache, _| cache.insert(9, 9),
            |_, other| other.insert(9, 9),
            |cache, _| assert_eq!(cache.remove(&1), None),
            |cache, _| cache.clear(),
            |cache, _| drop(cache.get_or_load(&9, |_| Ok::<_, Infallible>(9))),
        ];
        for write in writes {
            let inside = AssertUnwindSafe(|| cache.get_with(&1, |_| write(&cache, &other)));
            let panic = catch_unwind(inside).unwrap_err();
            let message = panic.downcast_ref::<String>().unwrap();
            assert!(message.contains("may only read"), "{message}");
            validate(&cache);
        }
        cache.insert(3, 4);
        assert_eq!(cache.len(), 3);
    }
}

type Ask = fn(&LocalCache<Curious, u32>);

/// A key that calls the cache while it is compared.
struct Curious {
    id: u32,
    ask: Ask,
    home: Arc<OnceLock<LocalCache<Curious, u32>>>,
}

impl Clone for Curious {
    fn clone(&self) -> Self {
        Self {
            ask: |_| (),
            home: self.home.clone(),
            ..*self
        }
    }
}

impl Hash for Curious {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl PartialEq for Curious {
    fn eq(&self, other: &Self) -> bool {
        for key in [self, other] {
            (key.ask)(key.home.get().unwrap());
        }
        self.id == other.id
    }
}

impl Eq for Curious {}

#[test]
fn eq_that_calls_the_cache_panics_instead_of_waiting_for_itself() {
    let home = Arc::new(OnceLock::new());
    let key = |ask: Ask| Curious {
        id: 1,
        ask,
        home: home.clone(),
    };
    let plain = key(|_| ());
    let cache: LocalCache<Curious, u32> = one_shard(10).build().unwrap();
    home.set(cache.clone()).unwrap_or_else(|_| unreachable!());
    cache.insert(plain.clone(), 1);
    let asks: [Ask; 3] = [
        LocalCache::clear,
        |cache| assert!(cache.stats().hits < 100),
        |cache| assert!(cache.memory_usage() > 0),
    ];
    for ask in asks {
        // An insertion over an entry compares keys, and so does a call for a key with a load in flight.
        let curious = key(ask);
        let writes = catch_unwind(AssertUnwindSafe(|| cache.insert(curious.clone(), 2)));
        assert!(writes.is_ok(), "a clone does not call the cache");
        let writes = catch_unwind(AssertUnwindSafe(|| cache.insert(key(ask), 2)));
        assert!(writes.is_err());
        validate(&cache);
        let loaded = cache.get_or_load(
            &Curious {
                id: 2,
                ..plain.clone()
            },
            |_| {
                let inner = Curious { id: 2, ..key(ask) };
                let load = || cache.get_or_load(&inner, |_| Ok::<_, Infallible>(3));
                let _ = catch_unwind(AssertUnwindSafe(load));
                Ok::<_, Infallible>(4)
            },
        );
        assert_eq!(loaded.unwrap(), 4);
        cache.remove(&Curious {
            id: 2,
            ..plain.clone()
        });
        validate(&cache);
    }
    // The keys refer to the cache, which would never be dropped.
    cache.clear();
}

#[test]
fn captures_of_a_closure_are_dropped_without_the_lock_on_a_miss() {
    struct Writes(LocalCache<u32, u32>);
    impl Drop for Writes {
        fn drop(&mut self) {
            self.0.insert(1, 1);
        }
    }
    let cache: LocalCache<u32, u32> = one_shard(10).build().unwrap();
    let writes = Writes(cache.clone());
    assert_eq!(cache.get_with(&2, move |_| drop(writes)), None);
    assert_eq!(cache.get(&1), Some(1));
}

#[test]
fn weigher_may_call_the_cache() {
    let home: Arc<OnceLock<Weak<LocalCache<u32, u32>>>> = Arc::default();
    let weigher = {
        let home = home.clone();
        move |key: &u32, _: &u32| {
            let cache = home.get().and_then(Weak::upgrade);
            cache.map_or(1, |cache| cache.get(&(key / 2)).map_or(1, u64::from))
        }
    };
    let cache = LocalCache::builder()
        .max_weight(100)
        .weigher(weigher)
        .build()
        .unwrap();
    let cache = Arc::new(cache);
    home.set(Arc::downgrade(&cache)).unwrap();
    for key in 0..50 {
        cache.insert(key, 2);
    }
    assert!(cache.weight() <= 100);
    validate(&cache);
}

thread_local! {
    /// The cache that `Reading` reads.
    static READ: std::cell::RefCell<Option<LocalCache<u32, u32>>> =
        const { std::cell::RefCell::new(None) };
}

/// A key whose `Eq` and `Clone` read another cache.
struct Reading(u32);

impl Hash for Reading {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

fn read_other() {
    READ.with_borrow(|other| assert_eq!(other.as_ref().unwrap().get(&1), Some(1)));
}

impl PartialEq for Reading {
    fn eq(&self, other: &Self) -> bool {
        read_other();
        self.0 == other.0
    }
}

impl Eq for Reading {}

impl Clone for Reading {
    fn clone(&self) -> Self {
        read_other();
        Self(self.0)
    }
}

#[test]
fn eq_and_clone_may_read_another_cache_right_after_a_write_to_it() {
    for reads in [0, 1, 15, 16, 17] {
        let other = LocalCache::new(10);
        other.insert(1, 1);
        for _ in 0..reads {
            other.get(&1);
        }
        READ.set(Some(other));
        let cache = one_shard(10).build().unwrap();
        cache.insert(Reading(1), 1);
        cache.insert(Reading(1), 2);
        cache.remove(&Reading(1));
        let loaded = cache.get_or_load(&Reading(1), |_| Ok::<_, Infallible>(3));
        assert_eq!(loaded.unwrap(), 3);
        assert_eq!(cache.get(&Reading(1)), Some(3));
        validate(&cache);
    }
}
