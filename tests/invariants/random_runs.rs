//! Random operations on a cache, compared with the [model](crate::model).

use crate::model::{Bound, Key, Load, Model, Op, Setup, TagSet};
use hotset::Policy;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::test_runner::Config;
use std::ops::RangeInclusive;

/// Generates small steps of the clock, and sometimes one after which most entries have expired.
fn steps() -> impl Strategy<Value = u64> {
    prop_oneof![12 => 1..=3_u64, 1 => 1..=400_u64]
}

fn ops(keys: Key, budget: u64) -> impl Strategy<Value = Op> {
    // One eighth of the keys is requested often.
    let key = || prop_oneof![5 => 0..keys.div_ceil(8), 2 => 0..keys];
    // Usually several entries fit into the budget, and sometimes one exceeds it.
    let weight = || prop_oneof![9 => 0..=budget / 10 + 1, 1 => 0..=budget + budget / 10 + 1];
    let ttl = || prop_oneof![1 => Just(u64::MAX), 2 => 0..400_u64];
    // Most entries have few tags.
    let tags = || (any::<TagSet>(), any::<TagSet>()).prop_map(|(tags, others)| tags & others);
    let load = || {
        let load = (weight(), option::of(weight()), option::of(ttl()), tags());
        load.prop_map(|(weight, own_weight, ttl, tags)| Load {
            weight,
            own_weight,
            ttl,
            tags,
        })
    };
    prop_oneof![
        200 => (key(), weight()).prop_map(|(key, weight)| Op::Insert(key, weight)),
        40 => (key(), weight(), ttl()).prop_map(|(key, weight, ttl)| Op::InsertWithTtl(key, weight, ttl)),
        40 => (key(), load()).prop_map(|(key, load)| Op::InsertLoaded(key, load)),
        250 => key().prop_map(Op::Get),
        50 => key().prop_map(Op::GetWith),
        20 => key().prop_map(Op::Peek),
        100 => (key(), option::weighted(0.8, load())).prop_map(|(key, load)| Op::GetOrLoad(key, load)),
        30 => key().prop_map(Op::Remove),
        100 => (key(), option::weighted(0.8, weight())).prop_map(|(key, weight)| Op::Update(key, weight)),
        20 => key().prop_map(Op::Keep),
        50 => (key(), option::weighted(0.8, weight())).prop_map(|(key, weight)| Op::Refresh(key, weight)),
        50 => (key(), ttl()).prop_map(|(key, ttl)| Op::SetTtl(key, ttl)),
        10 => prop_oneof![0..=200_u64, Just(100)].prop_map(Op::Resize),
        2 => (0..=keys).prop_map(Op::Retain),
        1 => Just(Op::Clear),
        5 => Just(Op::EvictExpired),
        15 => (0..8_u8).prop_map(Op::InvalidateTag),
        100 => steps().prop_map(Op::Advance),
        10 => steps().prop_map(Op::SetBack),
    ]
}

fn runs(
    bounds: impl Strategy<Value = (Bound, Key)>,
    large: bool,
    length: RangeInclusive<usize>,
) -> impl Strategy<Value = (Setup, Vec<Op>)> {
    let lives = || option::of(1..=400_u64);
    let policies = prop_oneof![
        3 => Just(Policy::Lru),
        1 => Just(Policy::S3Fifo),
        1 => Just(Policy::Car),
        1 => Just(Policy::Adaptive),
    ];
    let setups = (policies, bounds, lives(), lives());
    setups.prop_flat_map(move |(policy, (bound, keys), time_to_live, time_to_idle)| {
        let (Bound::Entries(budget) | Bound::Weight(budget)) = bound;
        let setup = Setup {
            policy,
            bound,
            time_to_live,
            time_to_idle,
            keys,
            large,
        };
        (Just(setup), vec(ops(keys, budget), length.clone()))
    })
}

fn config(cases: u32) -> Config {
    Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    }
}

proptest! {
    #![proptest_config(config(80))]

    #[test]
    fn small_cache_is_an_exact_lru_with_expiration(
        (setup, ops) in runs(
            (1..=60_u64, 1..=130_u16).prop_map(|(entries, keys)| (Bound::Entries(entries), keys)),
            false,
            300..=900,
        )
    ) {
        Model::run(&setup, &ops);
    }

    #[test]
    fn weighted_cache_evicts_in_lru_order_and_only_if_room_is_needed(
        (setup, ops) in runs(
            (1..=300_u64, 1..=80_u16).prop_map(|(weight, keys)| (Bound::Weight(weight), keys)),
            false,
            300..=900,
        )
    ) {
        Model::run(&setup, &ops);
    }
}

proptest! {
    #![proptest_config(config(16))]

    #[test]
    fn large_cache_resolves_recency_to_a_64th_of_its_entries(
        (setup, ops) in runs(
            (128..=500_u64, 130..=700_u16).prop_map(|(entries, keys)| (Bound::Entries(entries), keys)),
            true,
            700..=2_000,
        )
    ) {
        Model::run(&setup, &ops);
    }
}
