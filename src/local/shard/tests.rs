//! The work under one hold of a shard's lock is bounded, for any number of entries. All tests of the crate check that no
//! hold visits more slots than it may: see `WorkSlice`.

use crate::clock::{NEVER, Nanos, TimeSource};
use crate::local::budget::{Budget, Reservation};
use crate::local::removal::{RemovalCause, Removals};
use crate::local::shard::Times;
use crate::local::shard::hash::KeyHash;
use crate::local::shard::metadata::{Extra, Kinds, Origin};
use crate::local::shard::{FoundDead, NewEntry, Setup, Shard};
use crate::local::walk::Span;
use crate::policy::{AnyPolicy, EvictionPolicy, Policy};
use crate::storage::work_slice::WorkSlice;
use std::cmp::Reverse;
use std::sync::Arc;

const POLICIES: [Policy; 4] = [Policy::Lru, Policy::S3Fifo, Policy::Car, Policy::Adaptive];
const ENTRIES: u64 = 30_000;
/// The deadline of entries that expire. Other calls are made at time 0.
const EXPIRED: Nanos = 50;

/// A shard and its budget. Each call of a method of the shard stands for one hold of its lock.
struct LockGuardMark {
    shard: Shard<u64, u64>,
    budget: Arc<Budget>,
    /// The highest number of slots that one hold of [`insert`](Self::insert) has visited.
    most_work: u32,
}

impl LockGuardMark {
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
            budget: Arc::new(Budget::new(limit)),
            most_work: 0,
        }
    }

    fn hash(key: u64) -> KeyHash {
        KeyHash(key.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn insert(&mut self, key: u64, weight: u64, deadline: Nanos) {
        self.insert_in_slices(key, weight, deadline, |_| ());
    }

    /// Inserts an entry, and calls `between` after each hold of the lock except the last. Returns the number of holds.
    fn insert_in_slices(
        &mut self,
        key: u64,
        weight: u64,
        deadline: Nanos,
        mut between: impl FnMut(&Self),
    ) -> usize {
        let mut out = Removals::new(None);
        let budget = Arc::clone(&self.budget);
        let mut new = Some(NewEntry {
            hash: Self::hash(key),
            key,
            value: key,
            deadline,
            extra: Extra {
                weight,
                given_weight: false,
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
                return holds;
            }
            between(self);
        }
    }

    fn remove(&mut self, key: u64) {
        let mut out = Removals::new(None);
        let (hash, cause) = (Self::hash(key), RemovalCause::Removed);
        let removed = self
            .shard
            .remove(hash, &key, cause, &self.budget, 0, &mut out);
        assert!(removed);
    }

    fn fill(&mut self, weight: u64) {
        for key in 0..ENTRIES {
            self.insert(key, weight, NEVER);
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

    /// Checks the shard, and that no hold of the lock in [`insert`](Self::insert) has visited `limit` slots.
    fn validate_work(&self, policy: Policy, limit: u32) {
        let most = self.most_work;
        assert!(most < limit, "{policy:?}: {most} slots under one hold");
        self.validate();
    }
}

#[test]
fn write_to_a_shard_that_grows_or_is_updated_visits_few_slots() {
    for policy in POLICIES {
        let mut held = LockGuardMark::new(policy, u64::MAX, false);
        held.fill(1);
        for key in 0..3 * ENTRIES {
            held.insert(key * 7 % ENTRIES, 1, NEVER);
        }
        assert!((0..ENTRIES).all(|key| held.hit(key)));
        held.validate_work(policy, 800);
    }
}

#[test]
fn write_after_hits_on_all_entries_visits_few_slots() {
    for policy in POLICIES {
        let mut held = LockGuardMark::new(policy, ENTRIES, false);
        held.fill(1);
        for _ in 0..3 {
            assert!((0..ENTRIES).all(|key| held.hit(key)));
        }
        for key in ENTRIES..2 * ENTRIES {
            held.insert(key, 1, NEVER);
        }
        held.validate_work(policy, 5_000);
    }
}

#[test]
fn heavy_entry_evicts_others_in_slices_and_keeps_their_room_reserved() {
    for policy in POLICIES {
        let mut held = LockGuardMark::new(policy, ENTRIES, true);
        held.fill(1);
        let mut left = held.shard.len();
        let holds = held.insert_in_slices(ENTRIES, ENTRIES - 10, NEVER, |held| {
            assert!(held.shard.len() < left, "a hold has evicted nothing");
            left = held.shard.len();
            assert_eq!(held.shard.validate(), left);
            assert_eq!(held.budget.left(), 0, "other writes may take the room");
        });
        assert!(holds > 10, "{policy:?}: {holds} holds");
        assert!(held.hit(ENTRIES));
        held.validate_work(policy, 5_000);
    }
}

#[test]
fn eviction_from_mostly_vacant_slots_ends_with_a_victim_or_with_its_work_used_up() {
    for policy in POLICIES {
        let mut held = LockGuardMark::new(policy, u64::MAX, false);
        held.fill(1);
        (0..ENTRIES - 10).for_each(|key| held.remove(key));
        let (mut work, mut out) = (WorkSlice::new(), Removals::new(None));
        let evicted = held.shard.evict(0, &mut work, &mut out);
        assert_eq!(evicted.is_none(), work.is_used_up(), "{policy:?}");
        held.budget.release(evicted.unwrap_or(0));
        held.validate();
    }
}

#[test]
fn memory_is_freed_with_the_last_entry_whatever_removes_it() {
    let remove_all: [fn(&mut LockGuardMark); 3] = [
        |held| (0..ENTRIES).for_each(|key| held.remove(key)),
        |held| {
            let (mut out, budget) = (Removals::new(None), Arc::clone(&held.budget));
            while held.shard.len() > 0 {
                let freed = |weight| budget.release(weight);
                let work = &mut WorkSlice::new();
                held.shard.sweep(8, EXPIRED, freed, work, &mut out);
            }
        },
        |held| {
            let mut out = Removals::new(None);
            while held.shard.len() > 0 {
                let evicted = held.shard.evict(0, &mut WorkSlice::new(), &mut out);
                held.budget.release(evicted.unwrap_or(0));
            }
        },
    ];
    for policy in POLICIES {
        for remove_all in remove_all {
            let mut held = LockGuardMark::new(policy, u64::MAX, true);
            (0..ENTRIES).for_each(|key| held.insert(key, 3, EXPIRED));
            remove_all(&mut held);
            assert_eq!((held.shard.slab.end(), held.shard.slab.capacity()), (0, 0));
            let work = &mut WorkSlice::new();
            let victim = held.shard.policy.evict(&held.shard.slab, work);
            assert_eq!(victim, None);
            assert_eq!(held.budget.used(), 0);
            held.fill(2);
            held.validate();
        }
    }
}

#[test]
fn cleared_shard_has_no_slots_and_reports_each_entry_once_by_its_cause() {
    let mut held = LockGuardMark::new(Policy::Lru, u64::MAX, true);
    held.fill(3);
    (0..100).for_each(|key| held.insert(key, 5, EXPIRED - 1));
    let cleared = held.shard.clear(&held.budget);
    assert_eq!((held.budget.used(), held.shard.len()), (0, 0));
    assert_eq!(held.shard.blocks(), 0);
    let mut out = Removals::new(None);
    let dead = cleared.remove_all(EXPIRED, &mut out);
    assert!(dead != FoundDead::default());
    held.shard.recount(&dead);
    assert_eq!(out.len() as u64, ENTRIES);
    let mut stats = crate::Stats::default();
    held.shard.add_to(&mut stats);
    assert_eq!((stats.cleared, stats.expired), (ENTRIES - 100, 100));
    held.validate();
}

#[test]
fn shrunk_shard_keeps_entries_with_their_order_weights_and_deadlines() {
    for policy in POLICIES {
        let mut held = LockGuardMark::new(policy, u64::MAX, true);
        held.fill(3);
        for key in (0..ENTRIES).filter(|key| key % 100 != 0) {
            held.remove(key);
        }
        held.insert(200, 9, EXPIRED);
        let order = |held: &LockGuardMark| -> Vec<u64> {
            let (slots, since) = (0..u32::MAX, held.shard.time());
            let mut listed: Vec<_> = held.shard.clones_in(&Span { slots, since }, 1).collect();
            listed.sort_by_key(|listed| Reverse((listed.heat, listed.slot)));
            listed.into_iter().map(|listed| listed.item.0).collect()
        };
        let (before, mut out) = (order(&held), Removals::new(None));
        held.shard.shrink(&mut out);
        assert_eq!(order(&held), before, "{policy:?}");
        assert!(held.shard.slab.capacity() < 400);
        held.validate();
        let mut work = WorkSlice::new();
        let freed = held.shard.evict(EXPIRED, &mut work, &mut out);
        assert_eq!(freed, Some(9), "{policy:?}: the expired entry is not found");
        held.budget.release(9);
        held.fill(3);
        held.validate();
    }
}
