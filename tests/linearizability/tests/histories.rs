//! Histories of `LocalCache` under concurrency.
//!
//! `HOTSET_OPERATIONS` sets the number of operations of all tests together.

use hotset::{LocalCache, LocalCacheBuilder, Policy};
use linearizability::history::{Order, Workload, check};
use linearizability::subject::{SlowKey, SlowValue, builder};
use std::time::Duration;

type Builder = LocalCacheBuilder<SlowKey, SlowValue>;
type Cache = LocalCache<SlowKey, SlowValue>;

/// The number of tests among which the operations are divided.
const TESTS: usize = 4;

/// Checks histories of three to eight threads that use `keys` keys. Each history has a new cache, with another policy
/// than the one before.
fn assert_linearizable<const EVICTIONS: bool>(
    keys: u8,
    order: Order,
    set_up: impl Fn(Builder) -> Builder,
) {
    let operations = std::env::var("HOTSET_OPERATIONS").ok();
    let operations: usize = operations.map_or(50_000, |operations| operations.parse().unwrap());
    let policies = [Policy::Lru, Policy::S3Fifo, Policy::Car, Policy::Adaptive];
    let new_cache = |seed| -> Cache {
        let policy = policies[usize::try_from(seed % 4).unwrap()];
        set_up(builder().policy(policy)).build().unwrap()
    };
    let workload = |seed| Workload {
        threads: usize::try_from(seed % 6).unwrap() + 3,
        calls: 8,
        keys,
    };
    let checked = check::<_, EVICTIONS>(new_cache, workload, order, operations / TESTS);
    if let Err(history) = checked {
        panic!("{history}");
    }
}

/// Operations on all keys take effect at once in a cache of one shard.
#[test]
fn one_shard_has_one_order_of_all_operations() {
    assert_linearizable::<false>(2, Order::Whole, |builder| builder.capacity(100).shards(1));
}

/// A listener and a time to live make insertions take the general path.
#[test]
fn cache_with_listener_and_time_to_live_has_an_order_for_each_key() {
    assert_linearizable::<false>(3, Order::EachKey, |builder| {
        let builder = builder.capacity(100).on_removal(|_, _, _| {});
        builder.time_to_live(Duration::from_secs(3_600))
    });
}

#[test]
fn cache_without_settings_has_an_order_for_each_key() {
    assert_linearizable::<false>(4, Order::EachKey, |builder| builder.capacity(100).shards(4));
}

/// An entry that was evicted is not served again.
#[test]
fn full_cache_has_an_order_for_each_key_with_evictions() {
    assert_linearizable::<true>(4, Order::EachKey, |builder| builder.capacity(2));
}
