//! The compared caches. None of them exceeds its capacity.

use foyer_memory::{CacheBuilder, EvictionConfig, LfuConfig, LruConfig, S3FifoConfig, SieveConfig};
use hotset::{LocalCache, Policy};
use std::collections::{BTreeSet, HashMap};

/// A function that returns the fraction of accesses that are hits in a cache of this capacity.
pub type Replay = fn(capacity: usize, keys: &[u64]) -> f64;

/// The caches with their names. The optimum is first, and exact LRU second.
pub const CACHES: [(&str, Replay); 12] = [
    ("Belady's optimum", optimum),
    ("LRU, exactly", |capacity, keys| {
        let mut cache = lru::LruCache::new(capacity.try_into().expect("a capacity above zero"));
        // `put` moves an existing key to the front.
        hit_ratio(keys, |key| cache.put(key, ()).is_some())
    }),
    ("hotset, `Lru`", |capacity, keys| {
        hotset(Policy::Lru, capacity, keys)
    }),
    ("hotset, `S3Fifo`", |capacity, keys| {
        hotset(Policy::S3Fifo, capacity, keys)
    }),
    ("hotset, `Car`", |capacity, keys| {
        hotset(Policy::Car, capacity, keys)
    }),
    ("hotset, `Adaptive`", |capacity, keys| {
        hotset(Policy::Adaptive, capacity, keys)
    }),
    ("`quick_cache`", |capacity, keys| {
        let cache = quick_cache::sync::Cache::new(capacity);
        fill(
            keys,
            |key| cache.get(&key).is_some(),
            |key| cache.insert(key, ()),
        )
    }),
    ("moka", |capacity, keys| {
        let cache = moka::sync::Cache::new(capacity as u64);
        let insert = |key| {
            cache.insert(key, ());
            // Without this it would exceed its capacity for some time.
            cache.run_pending_tasks();
        };
        let get = |key| {
            let hit = cache.get(&key).is_some();
            cache.run_pending_tasks();
            hit
        };
        fill(keys, get, insert)
    }),
    ("foyer, LRU", |capacity, keys| {
        foyer(LruConfig::default(), capacity, keys)
    }),
    ("foyer, LFU", |capacity, keys| {
        foyer(LfuConfig::default(), capacity, keys)
    }),
    ("foyer, S3-FIFO", |capacity, keys| {
        foyer(S3FifoConfig::default(), capacity, keys)
    }),
    ("foyer, SIEVE", |capacity, keys| {
        foyer(SieveConfig {}, capacity, keys)
    }),
];

#[allow(clippy::cast_precision_loss)]
fn hit_ratio(keys: &[u64], mut access: impl FnMut(u64) -> bool) -> f64 {
    let hits = keys.iter().filter(|&&key| access(key)).count();
    hits as f64 / keys.len() as f64
}

/// Gets each key, and inserts it on a miss.
fn fill(keys: &[u64], get: impl Fn(u64) -> bool, insert: impl Fn(u64)) -> f64 {
    hit_ratio(keys, |key| {
        let hit = get(key);
        if !hit {
            insert(key);
        }
        hit
    })
}

fn hotset(policy: Policy, capacity: usize, keys: &[u64]) -> f64 {
    let builder = LocalCache::builder().capacity(capacity).policy(policy);
    let cache: LocalCache<u64, ()> = builder.build().expect("settings are valid");
    fill(
        keys,
        |key| cache.get(&key).is_some(),
        |key| cache.insert(key, ()),
    )
}

fn foyer(eviction: impl Into<EvictionConfig>, capacity: usize, keys: &[u64]) -> f64 {
    let builder = CacheBuilder::new(capacity).with_eviction_config(eviction);
    let cache: foyer_memory::Cache<u64, ()> = builder.build();
    let insert = |key| {
        cache.insert(key, ());
    };
    fill(keys, |key| cache.get(&key).is_some(), insert)
}

/// Belady's algorithm: evicts the key whose next access is last, which may be the key just requested.
fn optimum(capacity: usize, keys: &[u64]) -> f64 {
    let mut next = vec![usize::MAX; keys.len()];
    let mut seen = HashMap::new();
    for (at, key) in keys.iter().enumerate().rev() {
        next[at] = seen.insert(*key, at).unwrap_or(usize::MAX);
    }
    // The cached keys in the order of their next accesses.
    let mut cached = BTreeSet::new();
    let mut at = 0;
    hit_ratio(keys, |key| {
        let hit = cached.remove(&(at, key));
        cached.insert((next[at], key));
        if cached.len() > capacity {
            cached.pop_last();
        }
        at += 1;
        hit
    })
}
