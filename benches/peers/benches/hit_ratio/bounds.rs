//! A load of entries with different sizes and times to live.

use ahash::RandomState;
use hotset::{LocalCache, ManualClock, Policy};
use peers::traces;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// The number of accesses, one in each millisecond.
const ACCESSES: usize = 800_000;
/// The mean size of an entry is about 23.
const CAPACITIES: [u64; 3] = [20_000, 100_000, 400_000];

/// Returns the size of a key's entry: 1, 4, 16 or 64, each for as many keys.
fn size_of(key: u64) -> u32 {
    1 << (hash(key) % 4 * 2)
}

/// Returns the time to live of a key's entry, in milliseconds. A third of the keys has a short one.
fn time_to_live_of(key: u64) -> u64 {
    if hash(key) / 4 % 3 == 0 {
        5_000
    } else {
        1_000_000
    }
}

fn hash(key: u64) -> u64 {
    key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32
}

/// Returns the fraction of the accesses in the second half that are hits. `access` gets the key and the time.
#[allow(clippy::cast_precision_loss)]
fn hit_ratio(keys: &[u64], mut access: impl FnMut(u64, u64) -> bool) -> f64 {
    let half = keys.len() / 2;
    let steps = (0..).zip(keys);
    let hits = steps.filter(|&(now, &key)| access(key, now) && now >= half as u64);
    hits.count() as f64 / (keys.len() - half) as f64
}

fn hotset(policy: Policy, capacity: u64, keys: &[u64]) -> f64 {
    let clock = ManualClock::new();
    let cache: LocalCache<u64, (), _> = LocalCache::builder()
        .max_weight(capacity)
        .weigher(|&key, ()| size_of(key).into())
        .expire_after(|&key, ()| Some(Duration::from_millis(time_to_live_of(key))))
        .clock(clock.clone())
        .policy(policy)
        .hasher(RandomState::with_seeds(1, 2, 3, 4))
        .build()
        .expect("settings are valid");
    hit_ratio(keys, |key, _| {
        clock.advance(Duration::from_millis(1));
        let hit = cache.get(&key).is_some();
        if !hit {
            cache.insert(key, ());
        }
        hit
    })
}

/// The clock of moka cannot be set, so that entries are removed here when they expire.
fn moka(capacity: u64, keys: &[u64]) -> f64 {
    let cache = moka::sync::Cache::builder()
        .max_capacity(capacity)
        .weigher(|&key, ()| size_of(key))
        .build();
    let mut deadlines = BinaryHeap::new();
    hit_ratio(keys, |key, now| {
        while let Some(&Reverse((deadline, expired))) = deadlines.peek() {
            if deadline > now {
                break;
            }
            deadlines.pop();
            cache.invalidate(&expired);
        }
        let hit = cache.get(&key).is_some();
        if !hit {
            cache.insert(key, ());
            deadlines.push(Reverse((now + time_to_live_of(key), key)));
        }
        cache.run_pending_tasks();
        hit
    })
}

/// Replays the load and prints a table.
pub fn compare() {
    println!("| trace | total size | hotset, `Lru` | hotset, `Adaptive` | moka |");
    println!("| --- | --: | --: | --: | --: |");
    for trace in traces::generate(ACCESSES) {
        for capacity in CAPACITIES {
            let ratios = [
                hotset(Policy::Lru, capacity, &trace.keys),
                hotset(Policy::Adaptive, capacity, &trace.keys),
                moka(capacity, &trace.keys),
            ];
            let ratios = ratios.map(|ratio| format!("{:.1}", ratio * 100.0));
            println!("| {} | {capacity} | {} |", trace.name, ratios.join(" | "));
        }
    }
}
