//! Insertions into a full cache without optional settings take a shorter path. A removal listener makes a cache take
//! the general path, so the contents of two caches that differ by a listener only are the same after any operations.

use ahash::RandomState;
use hotset::__private::validate;
use hotset::{LocalCache, ManualClock, Policy, Stats};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::Config;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::convert::Infallible;
use std::time::Duration;

type Cache = LocalCache<u16, u64, RandomState>;

#[derive(Debug, Clone)]
enum Op {
    Insert(u16),
    InsertWithTtl(u16, u64),
    InsertWithTag(u16),
    Get(u16),
    GetOrLoad(u16),
    Remove(u16),
    SetCapacity(usize),
    Advance(u64),
}

fn op(keys: u16) -> impl Strategy<Value = Op> {
    let key = 0..keys;
    prop_oneof![
        12 => key.clone().prop_map(Op::Insert),
        6 => key.clone().prop_map(Op::Get),
        3 => key.clone().prop_map(Op::GetOrLoad),
        1 => (key.clone(), 1..200_u64).prop_map(|(key, ttl)| Op::InsertWithTtl(key, ttl)),
        1 => key.prop_map(Op::Remove),
        1 => (0..60_u64).prop_map(Op::Advance),
    ]
}

fn caches(policy: Policy, capacity: usize, ttl: Option<u64>) -> (ManualClock, [Cache; 2]) {
    let clock = ManualClock::new();
    // The time zero has a meaning of its own.
    clock.set(Duration::from_micros(1));
    let builder = || {
        let builder = LocalCache::builder()
            .capacity(capacity)
            .shards(1)
            .policy(policy)
            .clock(clock.clone());
        match ttl {
            Some(ttl) => builder.time_to_live(Duration::from_nanos(ttl)),
            None => builder,
        }
    };
    let hasher = || RandomState::with_seeds(1, 2, 3, 4);
    let plain = builder().hasher(hasher()).build().unwrap();
    let general = builder().on_removal(|_, _, _| {});
    (clock, [plain, general.hasher(hasher()).build().unwrap()])
}

/// Executes an operation, and returns the value that it returns, if any.
fn execute(cache: &Cache, op: &Op, id: u64) -> Option<u64> {
    match *op {
        Op::Insert(key) => {
            cache.insert(key, id);
            None
        }
        Op::InsertWithTtl(key, ttl) => {
            cache.insert_with_ttl(key, id, Duration::from_nanos(ttl));
            None
        }
        Op::InsertWithTag(key) => {
            cache.insert_loaded(key, hotset::Loaded::new(id).tags(["tag"]));
            None
        }
        Op::Get(key) => cache.get(&key),
        Op::GetOrLoad(key) => cache.get_or_load(&key, |_| Ok::<_, Infallible>(id)).ok(),
        Op::Remove(key) => cache.remove(&key),
        Op::SetCapacity(capacity) => {
            cache.set_capacity(capacity).unwrap();
            None
        }
        Op::Advance(_) => None,
    }
}

fn contents(cache: &Cache) -> Vec<(u16, u64)> {
    let mut entries: Vec<_> = cache.iter().collect();
    entries.sort_unstable();
    entries
}

/// Returns the counts that do not depend on time.
fn counts(stats: &Stats) -> [u64; 7] {
    [
        stats.hits,
        stats.misses,
        stats.inserts,
        stats.replaced,
        stats.evicted,
        stats.expired,
        stats.removed,
    ]
}

/// Executes the operations on both caches, and checks that they have the same results and contents.
fn assert_same_effects(policy: Policy, capacity: usize, ttl: Option<u64>, ops: &[Op]) {
    let (clock, caches) = caches(policy, capacity, ttl);
    for (id, op) in (0..).zip(ops) {
        if let Op::Advance(nanos) = op {
            clock.advance(Duration::from_nanos(*nanos));
        }
        let [plain, general] = caches.each_ref().map(|cache| execute(cache, op, id));
        assert_eq!(plain, general, "{op:?}");
    }
    let [plain, general] = &caches;
    assert_eq!(contents(plain), contents(general));
    assert_eq!(counts(&plain.stats()), counts(&general.stats()));
    caches.iter().for_each(validate);
}

/// A case that proptest has found: the capacity grows while some entries have deadlines, which the adaptive policy
/// compares with the duration of its ticks.
#[test]
fn adaptive_cache_that_grows_with_deadlines_chooses_the_same_victims() {
    for seed in 1..40 {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut key = || random.random_range(0..300_u16);
        let mut ops = Vec::new();
        for at in 0..500_u64 {
            ops.push(match at % 16 {
                0 => Op::InsertWithTtl(key(), 20 + at % 180),
                3 | 7 | 12 => Op::GetOrLoad(key()),
                5 | 9 => Op::Get(key()),
                11 if at % 5 == 0 => Op::Advance(at % 60),
                _ => Op::Insert(key()),
            });
            if at == 300 {
                ops.extend([Op::InsertWithTag(key()), Op::SetCapacity(77)]);
            }
        }
        assert_same_effects(Policy::Adaptive, 7, None, &ops);
    }
}

proptest! {
    #![proptest_config(Config { cases: 200, ..Config::default() })]

    #[test]
    fn plain_insertions_have_the_effect_of_general_ones(
        policy in prop::sample::select(vec![Policy::Lru, Policy::S3Fifo, Policy::Car, Policy::Adaptive]),
        capacity in prop::sample::select(vec![1_usize, 2, 7, 50, 200]),
        ttl in prop::option::of(20..400_u64),
        ops in vec(op(300), 1..600),
        late in vec(
            prop_oneof![
                (1..300_usize).prop_map(Op::SetCapacity),
                (0..300_u16).prop_map(Op::InsertWithTag),
            ],
            0..3,
        ),
        rest in vec(op(300), 0..300),
    ) {
        let mut ops = ops;
        ops.extend(late);
        ops.extend(rest);
        assert_same_effects(policy, capacity, ttl, &ops);
    }
}
