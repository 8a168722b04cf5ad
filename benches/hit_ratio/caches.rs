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
        hit_ratio(keys, |key| {
            let hit = cache.get(&key).is_some();
            if !hit {
                cache.put(key, ());
            }
            hit
        })
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
        hit_ratio(keys, |key| {
            let hit = cache.get(&key).is_some();
            if !hit {
                cache.insert(key, ());
            }
            hit
        })
    }),
    ("moka", |capacity, keys| {
        let cache = moka::sync::Cache::new(capacity as u64);
        hit_ratio(keys, |key| {
            let hit = cache.get(&key).is_some();
            if !hit {
                cache.insert(key, ());
            }
            // Else it holds more than its capacity for a while.
            cache.run_pending_tasks();
            hit
        })
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

fn hotset(policy: Policy, capacity: usize, keys: &[u64]) -> f64 {
    let builder = LocalCache::builder().capacity(capacity).policy(policy);
    let cache: LocalCache<u64, ()> = builder.build().expect("settings are valid");
    hit_ratio(keys, |key| {
        let hit = cache.get(&key).is_some();
        if !hit {
            cache.insert(key, ());
        }
        hit
    })
}

fn foyer(eviction: impl Into<EvictionConfig>, capacity: usize, keys: &[u64]) -> f64 {
    let builder = CacheBuilder::new(capacity).with_eviction_config(eviction);
    let cache: foyer_memory::Cache<u64, ()> = builder.build();
    hit_ratio(keys, |key| {
        let hit = cache.get(&key).is_some();
        if !hit {
            cache.insert(key, ());
        }
        hit
    })
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
