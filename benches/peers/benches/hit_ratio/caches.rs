//! The compared caches. None of them exceeds its capacity, except moka where its name says so.

use ahash::RandomState;
use foyer_memory::{CacheBuilder, EvictionConfig, LfuConfig, LruConfig, S3FifoConfig, SieveConfig};
use hotset::{LocalCache, Policy};
use std::collections::{BTreeSet, HashMap};

/// A function that returns the fraction of the accesses in the second half of the trace that are hits, in a cache of
/// this capacity. The seed is that of the hashes, in caches for which one can be set.
pub type Replay = fn(capacity: usize, keys: &[u64], seed: u64) -> f64;

/// The number of runs for a cache whose hit ratio depends on the hashes of the keys.
pub const RUNS: u64 = 10;

/// The caches: the name, the number of runs, and how to replay a trace. The optimum is first, and exact LRU second.
pub const CACHES: [(&str, u64, Replay); 13] = [
    ("Belady's optimum", 1, optimum),
    ("LRU, exactly", 1, |capacity, keys, _| {
        let mut cache = lru::LruCache::new(capacity.try_into().expect("a capacity above zero"));
        // `put` moves an existing key to the front.
        hit_ratio(keys, |key| cache.put(key, ()).is_some())
    }),
    ("hotset, `Lru`", RUNS, |capacity, keys, seed| {
        hotset(Policy::Lru, capacity, keys, seed)
    }),
    ("hotset, `S3Fifo`", RUNS, |capacity, keys, seed| {
        hotset(Policy::S3Fifo, capacity, keys, seed)
    }),
    ("hotset, `Car`", RUNS, |capacity, keys, seed| {
        hotset(Policy::Car, capacity, keys, seed)
    }),
    ("hotset, `Adaptive`", RUNS, |capacity, keys, seed| {
        hotset(Policy::Adaptive, capacity, keys, seed)
    }),
    ("`quick_cache`", RUNS, |capacity, keys, _| {
        let cache = quick_cache::sync::Cache::new(capacity);
        fill(
            keys,
            |key| cache.get(&key).is_some(),
            |key| cache.insert(key, ()),
        )
    }),
    ("moka, as used", 1, |capacity, keys, _| {
        // It does its maintenance from time to time, and exceeds its capacity until then.
        let cache = moka::sync::Cache::new(capacity as u64);
        fill(
            keys,
            |key| cache.get(&key).is_some(),
            |key| cache.insert(key, ()),
        )
    }),
    ("moka, maintained", 1, |capacity, keys, _| {
        let cache = moka::sync::Cache::new(capacity as u64);
        let insert = |key| {
            cache.insert(key, ());
            cache.run_pending_tasks();
        };
        let get = |key| {
            let hit = cache.get(&key).is_some();
            cache.run_pending_tasks();
            hit
        };
        fill(keys, get, insert)
    }),
    ("foyer, LRU", 1, |capacity, keys, _| {
        foyer(LruConfig::default(), capacity, keys)
    }),
    ("foyer, LFU", 1, |capacity, keys, _| {
        foyer(LfuConfig::default(), capacity, keys)
    }),
    ("foyer, S3-FIFO", 1, |capacity, keys, _| {
        foyer(S3FifoConfig::default(), capacity, keys)
    }),
    ("foyer, SIEVE", 1, |capacity, keys, _| {
        foyer(SieveConfig {}, capacity, keys)
    }),
];

/// Returns the fraction of hits in the second half. The first half fills the cache.
#[allow(clippy::cast_precision_loss)]
fn hit_ratio(keys: &[u64], mut access: impl FnMut(u64) -> bool) -> f64 {
    let (first, second) = keys.split_at(keys.len() / 2);
    for &key in first {
        access(key);
    }
    let hits = second.iter().filter(|&&key| access(key)).count();
    hits as f64 / second.len() as f64
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

fn hotset(policy: Policy, capacity: usize, keys: &[u64], seed: u64) -> f64 {
    let cache: LocalCache<u64, (), _> = LocalCache::builder()
        .capacity(capacity)
        .policy(policy)
        .hasher(RandomState::with_seeds(seed, 2, 3, 4))
        .build()
        .expect("settings are valid");
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
fn optimum(capacity: usize, keys: &[u64], _: u64) -> f64 {
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
