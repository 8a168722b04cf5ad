//! The caches whose hit ratios are compared, each held to its capacity.

use foyer_memory::{CacheBuilder, EvictionConfig, LfuConfig, LruConfig, S3FifoConfig, SieveConfig};
use hotset::{LocalCache, Policy};
use std::collections::{BTreeSet, HashMap};

/// The fraction of accesses that are hits, in a cache of this capacity.
pub type Replay = fn(capacity: usize, keys: &[u64]) -> f64;

/// By name, the optimum first and exact LRU next.
pub const CACHES: [(&str, Replay); 12] = [
    ("Belady's optimum", optimum),
    ("LRU, exactly", |capacity, keys| {
        let mut cache = lru::LruCache::new(capacity.try_into().expect("a capacity above zero"));
        // It moves to the front what it puts in anew.
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
            // Else it holds more than its capacity for a while.
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

/// Inserts what is not there.
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

/// Belady's: evicts what is asked for again last, and does not admit what would be.
fn optimum(capacity: usize, keys: &[u64]) -> f64 {
    let mut next = vec![usize::MAX; keys.len()];
    let mut seen = HashMap::new();
    for (at, key) in keys.iter().enumerate().rev() {
        next[at] = seen.insert(*key, at).unwrap_or(usize::MAX);
    }
    // Keys that are held, by when they are asked for next.
    let mut held = BTreeSet::new();
    let mut at = 0;
    hit_ratio(keys, |key| {
        let hit = held.remove(&(at, key));
        held.insert((next[at], key));
        if held.len() > capacity {
            held.pop_last();
        }
        at += 1;
        hit
    })
}
