//! User code that calls the cache it is called from.

use hotset::{LocalCache, RemovalCause};
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, Weak};

/// One shard, so that whatever is called meets the same lock.
fn one_shard<K: Eq, V>(capacity: usize) -> hotset::Builder<K, V> {
    LocalCache::builder().capacity(capacity).shards(1)
}

/// Its drop writes to and reads from the cache that it was in.
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
            cache.evict_expired();
        }
    }
}

#[test]
fn a_drop_may_call_the_cache() {
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
    cache.validate();
}

#[test]
fn a_listener_may_call_the_cache() {
    type Cache = LocalCache<u32, u32>;
    let home: Arc<OnceLock<Weak<Cache>>> = Arc::default();
    let evicted = Arc::new(AtomicUsize::new(0));
    let listener = {
        let (home, evicted) = (home.clone(), evicted.clone());
        move |key: &u32, value: &u32, cause| {
            let cache = home.get().and_then(Weak::upgrade).unwrap();
            assert!(cache.get(key) != Some(*value) || cause == RemovalCause::Replaced);
            // What is evicted is put back once, which evicts another.
            if cause == RemovalCause::Evicted && *value < 100 {
                evicted.fetch_add(1, SeqCst);
                cache.insert(*key, value + 100);
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
    cache.validate();
}

fn factorial(cache: &LocalCache<u32, u64>, n: u32) -> u64 {
    let load = |&n: &u32| {
        let below = if n == 0 { 1 } else { factorial(cache, n - 1) };
        Ok::<_, Infallible>(below * u64::from(n.max(1)))
    };
    cache.get_or_load(&n, load).unwrap()
}

#[test]
fn a_loader_may_call_the_cache() {
    let cache = one_shard(100).build().unwrap();
    assert_eq!(factorial(&cache, 10), 3_628_800);
    assert_eq!(cache.len(), 11);
    cache.validate();
}

#[test]
fn what_get_with_calls_may_read_and_panics_where_it_writes() {
    let cache: LocalCache<u32, u32> = one_shard(10).build().unwrap();
    cache.insert(1, 2);
    cache.insert(2, 3);
    let nested = cache.get_with(&1, |next| {
        assert_eq!(cache.len(), 2);
        cache.get_with(next, |value| cache.get(&1).unwrap() + value)
    });
    assert_eq!(nested, Some(Some(5)));

    for write in [
        |cache: &LocalCache<u32, u32>| cache.insert(9, 9),
        |cache: &LocalCache<u32, u32>| {
            cache.remove(&1);
        },
        LocalCache::clear,
        |cache: &LocalCache<u32, u32>| drop(cache.get_or_load(&9, |_| Ok::<_, Infallible>(9))),
    ] {
        let inside = AssertUnwindSafe(|| cache.get_with(&1, |_| write(&cache)));
        let panic = catch_unwind(inside).unwrap_err();
        let message = panic.downcast_ref::<String>().unwrap();
        assert!(message.contains("must not write to it"), "{message}");
        cache.validate();
    }
    cache.insert(3, 4);
    assert_eq!(cache.len(), 3);
}

#[test]
fn a_weigher_and_a_hasher_may_call_the_cache() {
    let home: Arc<OnceLock<LocalCache<u32, u32>>> = Arc::default();
    let weigher = {
        let home = home.clone();
        move |key: &u32, _: &u32| {
            home.get()
                .map_or(1, |cache| cache.get(&(key / 2)).map_or(1, u64::from))
        }
    };
    let cache = LocalCache::builder()
        .max_weight(100)
        .weigher(weigher)
        .build()
        .unwrap();
    home.set(cache.clone()).unwrap();
    for key in 0..50 {
        cache.insert(key, 2);
    }
    assert!(cache.weight() <= 100);
    cache.validate();
}
