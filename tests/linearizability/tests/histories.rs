//! Histories of `LocalCache` under concurrency.
//!
//! `HOTSET_OPERATIONS` sets the number of operations of all tests together.

use hotset::{LocalCache, Policy};
use linearizability::history::{Order, Workload, check};
use linearizability::subject::{SlowKey, SlowValue, builder};

type Cache = LocalCache<SlowKey, SlowValue>;

/// The number of tests among which the operations are divided.
const TESTS: usize = 4;

/// Returns the number of operations of a test.
fn operations() -> usize {
    let operations = std::env::var("HOTSET_OPERATIONS").ok();
    let operations = operations.map_or(50_000, |operations| operations.parse().unwrap());
    operations / TESTS
}

fn policy(seed: u64) -> Policy {
    let policies = [Policy::Lru, Policy::S3Fifo, Policy::Car, Policy::Adaptive];
    policies[usize::try_from(seed % 4).unwrap()]
}

/// Returns the workload of a history, with three to eight threads.
fn workload(seed: u64, keys: u8) -> Workload {
    Workload {
        threads: usize::try_from(seed % 6).unwrap() + 3,
        calls: 8,
        keys,
    }
}

fn assert_linearizable(result: Result<(), String>) {
    if let Err(history) = result {
        panic!("{history}");
    }
}

/// Operations on all keys take effect at once in a cache of one shard.
#[test]
fn one_shard_has_one_order_of_all_operations() {
    let new_cache = |seed| -> Cache {
        let cache = builder().capacity(100).shards(1).policy(policy(seed));
        cache.build().unwrap()
    };
    let workload = |seed| workload(seed, 2);
    assert_linearizable(check::<_, false>(
        new_cache,
        workload,
        Order::Whole,
        operations(),
    ));
}

/// A listener and a time to live make insertions take the general path.
#[test]
fn cache_with_listener_and_time_to_live_has_an_order_for_each_key() {
    let new_cache = |seed| -> Cache {
        let cache = builder().capacity(100).policy(policy(seed));
        let cache = cache.time_to_live(std::time::Duration::from_secs(3_600));
        cache.on_removal(|_, _, _| {}).build().unwrap()
    };
    let workload = |seed| workload(seed, 3);
    assert_linearizable(check::<_, false>(
        new_cache,
        workload,
        Order::EachKey,
        operations(),
    ));
}

#[test]
fn cache_without_settings_has_an_order_for_each_key() {
    let new_cache = |seed| -> Cache {
        let cache = builder().capacity(100).shards(4).policy(policy(seed));
        cache.build().unwrap()
    };
    let workload = |seed| workload(seed, 4);
    assert_linearizable(check::<_, false>(
        new_cache,
        workload,
        Order::EachKey,
        operations(),
    ));
}

/// An entry that was evicted is not served again.
#[test]
fn full_cache_has_an_order_for_each_key_with_evictions() {
    let new_cache = |seed| -> Cache {
        let cache = builder().capacity(2).policy(policy(seed));
        cache.build().unwrap()
    };
    let workload = |seed| workload(seed, 4);
    assert_linearizable(check::<_, true>(
        new_cache,
        workload,
        Order::EachKey,
        operations(),
    ));
}
