//! `get_or_load` beyond the cases of `get_or_load/`: the settings of loaded entries, and all cases at once.

use crate::common::until;
use hotset::__private::validate;
use hotset::{Loaded, LocalCache};
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;
use std::time::{Duration, Instant};

type Cache = LocalCache<u32, u32>;

#[test]
fn loader_sets_time_to_live_and_weight_of_its_entry() {
    let cache: Cache = LocalCache::builder()
        .max_weight(10)
        .weigher(|_, _| 1)
        .time_to_live(Duration::from_secs(1))
        .build()
        .unwrap();
    let loaded = Loaded::new(5).ttl(Duration::from_secs(3_600)).weight(8);
    cache
        .get_or_load_entry(&1, |_| Ok::<_, Infallible>(loaded))
        .unwrap();
    assert_eq!(cache.weight(), 8);
    assert!(cache.remaining_ttl(&1).unwrap() > Duration::from_secs(3_000));

    let heavy = cache.get_or_load_entry(&2, |_| Ok::<_, Infallible>(Loaded::new(6).weight(11)));
    assert_eq!(heavy.unwrap(), 6);
    assert_eq!((cache.get(&2), cache.stats().refused), (None, 1));
    let short = cache.get_or_load_entry(&3, |_| {
        Ok::<_, Infallible>(Loaded::new(7).ttl(Duration::ZERO))
    });
    assert_eq!((short.unwrap(), cache.get(&3)), (7, None));
    validate(&cache);
}

/// Loads, failures, panics, takeovers, timeouts, writes and removals of few keys, all at once:
/// every call ends, every value is one that was loaded for its key, and no load is left behind.
#[test]
fn random_calls_and_writes_leave_no_caller_waiting() {
    let cache = Cache::builder()
        .capacity(8)
        .lease(Duration::from_millis(1))
        .wait_timeout(Duration::from_millis(20))
        .build()
        .unwrap();
    thread::scope(|scope| {
        for seed in 0..16_u32 {
            let cache = &cache;
            scope.spawn(move || {
                let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
                for _ in 0..2_000 {
                    state ^= state << 13;
                    state ^= state >> 17;
                    state ^= state << 5;
                    random_call(cache, state);
                }
            });
        }
    });
    validate(&cache);
}

fn random_call(cache: &Cache, random: u32) {
    let key = random % 5;
    let load = |_: &u32| match random >> 8 & 15 {
        0 => Err("refused"),
        1 => resume_unwind(Box::new("panic")),
        2 => {
            let start = Instant::now();
            until(|| start.elapsed() > Duration::from_millis(2));
            Ok(key * 100 + 1)
        }
        _ => Ok(key * 100 + 2),
    };
    match random >> 16 & 15 {
        0 => drop(cache.remove(&key)),
        1 => cache.insert(key, key * 100),
        2 => cache.clear(),
        3 => drop(cache.update(&key, |value| Some(*value?))),
        _ => {
            let call = AssertUnwindSafe(|| cache.get_or_load(&key, load));
            if let Ok(Ok(value)) = catch_unwind(call) {
                assert_eq!(value / 100, key);
            }
        }
    }
}
