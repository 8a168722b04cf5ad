//! The work under one hold of a shard's lock is bounded, whatever the number of entries. That no hold visits
//! more slots than it may each test of the crate checks: see `WorkSlice`.

use super::{FoundDead, NewEntry, Setup, Shard};
use crate::clock::{NEVER, Nanos, TimeSource};
use crate::local::budget::{Budget, Reservation};
use crate::local::extras::{Extra, Kinds, Origin};
use crate::local::hash::KeyHash;
use crate::local::policy::{AnyPolicy, Eviction, Policy};
use crate::local::removal::{RemovalCause, Removals};
use crate::local::shard::Times;
use crate::local::walk::Span;
use crate::local::work::WorkSlice;
use std::cmp::Reverse;
use std::sync::Arc;

const POLICIES: [Policy; 4] = [Policy::Lru, Policy::S3Fifo, Policy::Car, Policy::Adaptive];
const ENTRIES: u64 = 30_000;

/// A shard under its lock, one hold after the other.
struct Held {
    shard: Shard<u64, u64>,
    budget: Budget,
    /// Of the calls of [`insert`](Self::insert).
    most_work: u32,
}

impl Held {
    fn new(policy: Policy, limit: u64, weighted: bool) -> Self {
        let setup = Setup {
            expected: 0,
            kinds: Kinds {
                weighted,
                ..Kinds::default()
            },
            grace: 0,
            ages: true,
            tag_epoch: Arc::default(),
            floor: None,
        };
        Self {
            shard: Shard::new(setup, AnyPolicy::new(policy, &Arc::default(), 0, 1)),
            budget: Budget::new(limit),
            most_work: 0,
        }
    }

    fn hash(key: u64) -> KeyHash {
        KeyHash(key.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// Inserts an entry. Returns under how many holds that was, after each of which it calls `between`.
    fn insert(
        &mut self,
        key: u64,
        weight: u64,
        deadline: Nanos,
        mut between: impl FnMut(&mut Self, &Reservation<'_>),
    ) -> usize {
        let mut out = Removals::new(None);
        let budget = Budget::new(self.budget.limit());
        let budget = std::mem::replace(&mut self.budget, budget);
        let mut new = Some(NewEntry {
            hash: Self::hash(key),
            key,
            value: key,
            deadline,
            extra: Extra {
                given_weight: false,
                weight,
                origin: Origin::default(),
            },
        });
        let mut room = Reservation::none(&budget);
        let mut holds = 0;
        loop {
            let mut work = WorkSlice::new();
            let shard = &mut self.shard;
            let done = shard.insert(&mut new, &mut room, 0, &mut work, &mut out);
            holds += 1;
            self.most_work = self.most_work.max(work.done());
            assert!(done || work.is_used_up(), "there is nothing to evict");
            if done {
                break;
            }
            between(self, &room);
        }
        drop(room);
        self.budget = budget;
        holds
    }

    fn fill(&mut self, weight: u64) {
        for key in 0..ENTRIES {
            self.insert(key, weight, NEVER, |_, _| ());
        }
    }

    fn hit(&self, key: u64) -> bool {
        let clock = TimeSource::System;
        let times = Times {
            ahead: 1,
            clock: &clock,
        };
        self.shard.hit(Self::hash(key), &key, times).is_some()
    }

    fn validate(&self) {
        assert_eq!(self.shard.validate(), self.budget.used());
    }
}

#[test]
fn a_write_visits_few_slots_while_a_shard_grows_and_is_updated() {
    for policy in POLICIES {
        let mut held = Held::new(policy, u64::MAX, false);
        held.fill(1);
        for key in 0..3 * ENTRIES {
            held.insert(key * 7 % ENTRIES, 1, NEVER, |_, _| ());
        }
        let most = held.most_work;
        assert!(most < 800, "{policy:?}: {most} slots under one hold");
        assert!((0..ENTRIES).all(|key| held.hit(key)));
        held.validate();
    }
}

#[test]
fn a_write_visits_few_slots_after_all_entries_were_hit() {
    for policy in POLICIES {
        let mut held = Held::new(policy, ENTRIES, false);
        held.fill(1);
        for _ in 0..3 {
            assert!((0..ENTRIES).all(|key| held.hit(key)));
        }
        for key in ENTRIES..2 * ENTRIES {
            held.insert(key, 1, NEVER, |_, _| ());
        }
        let most = held.most_work;
        assert!(most < 5_000, "{policy:?}: {most} slots under one hold");
        held.validate();
    }
}

#[test]
fn a_heavy_entry_evicts_others_in_slices_and_holds_what_was_freed() {
    for policy in POLICIES {
        let mut held = Held::new(policy, ENTRIES, true);
        held.fill(1);
        let mut left = held.shard.len();
        let holds = held.insert(ENTRIES, ENTRIES - 10, NEVER, |held, _| {
            assert!(held.shard.len() < left, "a hold has evicted nothing");
            left = held.shard.len();
            assert!(held.shard.validate() == left);
        });
        assert!(holds > 10, "{policy:?}: {holds} holds");
        let most = held.most_work;
        assert!(most < 5_000, "{policy:?}: {most} slots under one hold");
        assert_eq!(held.budget.used(), held.shard.validate());
        assert!(held.hit(ENTRIES));
    }
}

#[test]
fn a_removal_visits_few_slots_though_most_are_vacant() {
    for policy in POLICIES {
        let mut held = Held::new(policy, u64::MAX, false);
        held.fill(1);
        // `remove` checks its work itself.
        for key in 0..ENTRIES {
            let mut out = Removals::new(None);
            let cause = RemovalCause::Removed;
            let hash = Held::hash(key);
            let removed = held
                .shard
                .remove(hash, &key, cause, &held.budget, 0, &mut out);
            assert!(removed);
            if key == ENTRIES - 10 {
                let mut work = WorkSlice::new();
                let evicted = held.shard.evict(0, &mut work, &mut out);
                assert_eq!(evicted.is_none(), work.is_used_up());
                break;
            }
        }
        let shard = &held.shard;
        assert!(shard.validate() < 11);
    }
}

#[test]
fn memory_is_released_with_the_last_entry_and_nothing_is_left_to_walk() {
    for policy in POLICIES {
        let mut held = Held::new(policy, u64::MAX, true);
        held.fill(3);
        let mut out = Removals::new(None);
        for key in 0..ENTRIES {
            let cause = RemovalCause::Removed;
            let (hash, budget) = (Held::hash(key), &held.budget);
            held.shard.remove(hash, &key, cause, budget, 0, &mut out);
        }
        assert_eq!((held.shard.slab.end(), held.shard.slab.capacity()), (0, 0));
        let work = &mut WorkSlice::new();
        let victim = held.shard.policy.evict(&held.shard.slab, work);
        assert_eq!(victim, None);
        assert_eq!(held.budget.used(), 0);
        held.fill(2);
        held.validate();
    }
}

#[test]
fn clear_leaves_nothing_to_walk_and_reports_each_entry_once_by_its_cause() {
    let mut held = Held::new(Policy::Lru, u64::MAX, true);
    held.fill(3);
    (0..100).for_each(|key| {
        held.insert(key, 5, 7, |_, _| ());
    });
    let cleared = held.shard.clear(&held.budget);
    assert_eq!((held.budget.used(), held.shard.len()), (0, 0));
    assert_eq!(held.shard.blocks(), 0);
    let mut out = Removals::new(None);
    let dead = cleared.remove_all(8, &mut out);
    assert!(dead != FoundDead::default());
    held.shard.recount(&dead);
    assert_eq!(out.len() as u64, ENTRIES);
    let mut stats = crate::Stats::default();
    held.shard.add_to(&mut stats);
    assert_eq!((stats.cleared, stats.expired), (ENTRIES - 100, 100));
    held.validate();
}

#[test]
fn shrinking_keeps_entries_their_order_and_what_is_noted_of_them() {
    for policy in POLICIES {
        let mut held = Held::new(policy, u64::MAX, true);
        held.fill(3);
        let mut out = Removals::new(None);
        for key in (0..ENTRIES).filter(|key| key % 100 != 0) {
            let cause = RemovalCause::Removed;
            let (hash, budget) = (Held::hash(key), &held.budget);
            held.shard.remove(hash, &key, cause, budget, 0, &mut out);
        }
        held.insert(200, 9, 50, |_, _| ());
        let order = |held: &Held| -> Vec<u64> {
            let (slots, since) = (0..u32::MAX, held.shard.time());
            let mut listed: Vec<_> = held.shard.clones_in(&Span { slots, since }, 1).collect();
            listed.sort_by_key(|listed| Reverse((listed.heat, listed.slot)));
            listed.into_iter().map(|listed| listed.item.0).collect()
        };
        let before = order(&held);
        held.shard.shrink(&mut out);
        assert_eq!(order(&held), before, "{policy:?}");
        assert!(held.shard.slab.capacity() < 400);
        held.validate();
        let mut work = WorkSlice::new();
        let freed = held.shard.evict(50, &mut work, &mut out);
        assert_eq!(freed, Some(9), "what has expired is found");
        held.budget.release(9);
        held.fill(3);
        held.validate();
    }
}
