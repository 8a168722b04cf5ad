//! Tests that the work under one hold of a shard's lock is bounded, for any number of entries. In addition, all tests
//! of the crate check that no hold visits more slots than it may: see `WorkSlice`.

use crate::clock::{NEVER, Nanos, TimeSource};
use crate::local::budget::{Budget, Reservation};
use crate::local::removal::{RemovalCause, Removals};
use crate::local::shard::entry::NewEntry;
use crate::local::shard::hash::KeyHash;
use crate::local::shard::metadata::{ColumnSet, EntryMetadata, Provenance};
use crate::local::shard::{FoundDead, HitTime, PlainEntry, Setup, Shard};
use crate::local::walk::Span;
use crate::policy::{EvictionPolicy, Policy, ShardPolicies};
use crate::storage::work_slice::WorkSlice;
use std::cmp::Reverse;
use std::sync::Arc;

const POLICIES: [Policy; 4] = [Policy::Lru, Policy::S3Fifo, Policy::Car, Policy::Adaptive];
const ENTRIES: u64 = 30_000;
/// The deadline of entries that expire. Calls that need not see them expire are made at time 0.
const EXPIRED: Nanos = 50;

/// A shard and its budget. Each call of a method of the shard stands for one hold of its lock.
struct TestShard {
    shard: Shard<u64, u64>,
    budget: Arc<Budget>,
    /// The highest number of slots that one hold of [`insert`](Self::insert) has visited.
    max_work: u32,
}

impl TestShard {
    fn new(policy: Policy, limit: u64, weighted: bool) -> Self {
        Self::with_expected_entries(0, policy, limit, weighted)
    }

    fn with_expected_entries(
        expected_entries: usize,
        policy: Policy,
        limit: u64,
        weighted: bool,
    ) -> Self {
        let setup = Setup {
            expected_entries,
            columns: ColumnSet {
                weights: weighted,
                ..ColumnSet::default()
            },
            grace: 0,
            has_read_times: true,
            tag_epoch: Arc::default(),
            min_live: None,
        };
        Self {
            shard: Shard::new(setup, ShardPolicies::new(policy, 1).of_shard(0)),
            budget: Arc::new(Budget::new(limit)),
            max_work: 0,
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
        let mut new = NewEntry {
            hash: Self::hash(key),
            key,
            value: key,
            deadline,
            metadata: EntryMetadata {
                weight,
                is_explicit_weight: false,
                provenance: Provenance::default(),
            },
        };
        let mut room = Reservation::none(&budget);
        let mut holds = 0;
        loop {
            let mut work = WorkSlice::new();
            let shard = &mut self.shard;
            let existing = shard.slot_of(new.hash, &key);
            let result = shard.insert(new, existing, &mut room, 0, &mut work, &mut out);
            holds += 1;
            self.max_work = self.max_work.max(work.done());
            match result {
                Ok(()) => return holds,
                Err(not_inserted) => new = not_inserted,
            }
            assert!(work.is_used_up(), "there is nothing to evict");
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

    /// Inserts an entry by the short path, and returns whether that was possible.
    fn insert_plain(&mut self, key: u64) -> bool {
        let hash = Self::hash(key);
        let new = PlainEntry {
            hash,
            key,
            value: key,
            deadline: NEVER,
            age: 0,
        };
        let place = self.shard.look_up_plain(hash, &key, 0);
        place.is_some_and(|place| self.shard.store_plain(place, new, 0).is_ok())
    }

    fn fill(&mut self, weight: u64) {
        for key in 0..ENTRIES {
            self.insert(key, weight, NEVER);
        }
    }

    fn hit(&self, key: u64) -> bool {
        let clock = TimeSource::System;
        let time = HitTime {
            early: 1,
            clock: &clock,
        };
        self.shard.hit(Self::hash(key), &key, time).is_some()
    }

    fn validate(&self) {
        assert_eq!(self.shard.validate(), self.budget.used());
    }

    /// Checks the shard, and that no hold of the lock in [`insert`](Self::insert) has visited `limit` slots.
    fn validate_work(&self, policy: Policy, limit: u32) {
        let max = self.max_work;
        assert!(max < limit, "{policy:?}: {max} slots under one hold");
        self.validate();
    }
}

#[test]
fn write_to_a_shard_that_grows_or_is_updated_visits_few_slots() {
    for policy in POLICIES {
        let mut test = TestShard::new(policy, u64::MAX, false);
        test.fill(1);
        for key in 0..3 * ENTRIES {
            test.insert(key * 7 % ENTRIES, 1, NEVER);
        }
        assert!((0..ENTRIES).all(|key| test.hit(key)));
        test.validate_work(policy, 800);
    }
}

#[test]
fn write_after_hits_on_all_entries_visits_few_slots() {
    for policy in POLICIES {
        let mut test = TestShard::new(policy, ENTRIES, false);
        test.fill(1);
        for _ in 0..3 {
            assert!((0..ENTRIES).all(|key| test.hit(key)));
        }
        for key in ENTRIES..2 * ENTRIES {
            test.insert(key, 1, NEVER);
        }
        test.validate_work(policy, 5_000);
    }
}

#[test]
fn heavy_entry_evicts_others_in_slices_and_keeps_their_room_reserved() {
    for policy in POLICIES {
        let mut test = TestShard::new(policy, ENTRIES, true);
        test.fill(1);
        let mut left = test.shard.len();
        let holds = test.insert_in_slices(ENTRIES, ENTRIES - 10, NEVER, |test| {
            assert!(test.shard.len() < left, "a hold has evicted nothing");
            left = test.shard.len();
            assert_eq!(test.shard.validate(), left);
            assert_eq!(test.budget.left(), 0, "other writes may take the room");
        });
        assert!(holds > 10, "{policy:?}: {holds} holds");
        assert!(test.hit(ENTRIES));
        test.validate_work(policy, 5_000);
    }
}

#[test]
fn eviction_from_mostly_vacant_slots_ends_with_a_victim_or_with_its_work_used_up() {
    for policy in POLICIES {
        let mut test = TestShard::new(policy, u64::MAX, false);
        test.fill(1);
        (0..ENTRIES - 10).for_each(|key| test.remove(key));
        let (mut work, mut out) = (WorkSlice::new(), Removals::new(None));
        let evicted = test.shard.evict(0, &mut work, &mut out);
        assert_eq!(evicted.is_none(), work.is_used_up(), "{policy:?}");
        test.budget.release(evicted.unwrap_or(0));
        test.validate();
    }
}

#[test]
fn memory_is_freed_with_the_last_entry_whatever_removes_it() {
    let remove_all: [fn(&mut TestShard); 3] = [
        |test| (0..ENTRIES).for_each(|key| test.remove(key)),
        |test| {
            let (mut out, budget) = (Removals::new(None), Arc::clone(&test.budget));
            while test.shard.len() > 0 {
                let freed = |weight| budget.release(weight);
                let work = &mut WorkSlice::new();
                test.shard.sweep(8, EXPIRED, freed, work, &mut out);
            }
        },
        |test| {
            let mut out = Removals::new(None);
            while test.shard.len() > 0 {
                let evicted = test.shard.evict(0, &mut WorkSlice::new(), &mut out);
                test.budget.release(evicted.unwrap_or(0));
            }
        },
    ];
    for policy in POLICIES {
        for remove_all in remove_all {
            let mut test = TestShard::new(policy, u64::MAX, true);
            (0..ENTRIES).for_each(|key| test.insert(key, 3, EXPIRED));
            remove_all(&mut test);
            assert_eq!((test.shard.slab.end(), test.shard.slab.capacity()), (0, 0));
            let work = &mut WorkSlice::new();
            let victim = test.shard.policy.evict(&test.shard.slab, work);
            assert_eq!(victim, None);
            assert_eq!(test.budget.used(), 0);
            test.fill(2);
            test.validate();
        }
    }
}

#[test]
fn cleared_shard_has_no_slots_and_reports_each_entry_once_by_its_cause() {
    let mut test = TestShard::new(Policy::Lru, u64::MAX, true);
    test.fill(3);
    (0..100).for_each(|key| test.insert(key, 5, EXPIRED - 1));
    let cleared = test.shard.clear(&test.budget);
    assert_eq!((test.budget.used(), test.shard.len()), (0, 0));
    assert_eq!(test.shard.blocks(), 0);
    let mut out = Removals::new(None);
    let dead = cleared.remove_all(EXPIRED, &mut out);
    assert!(dead != FoundDead::default());
    test.shard.recount(&dead);
    assert_eq!(out.len() as u64, ENTRIES);
    let mut stats = crate::Stats::default();
    test.shard.add_to(&mut stats);
    assert_eq!((stats.cleared, stats.expired), (ENTRIES - 100, 100));
    test.validate();
}

#[test]
fn shrunk_shard_keeps_order_weights_and_deadlines_of_its_entries() {
    for policy in POLICIES {
        let mut test = TestShard::new(policy, u64::MAX, true);
        test.fill(3);
        for key in (0..ENTRIES).filter(|key| key % 100 != 0) {
            test.remove(key);
        }
        test.insert(200, 9, EXPIRED);
        let order = |test: &TestShard| -> Vec<u64> {
            let (slots, since) = (0..u32::MAX, test.shard.time());
            let mut listed: Vec<_> = test.shard.clones_in(&Span { slots, since }, 1).collect();
            listed.sort_by_key(|listed| Reverse((listed.heat, listed.slot)));
            listed.into_iter().map(|listed| listed.item.0).collect()
        };
        let (before, mut out) = (order(&test), Removals::new(None));
        test.shard.shrink(&mut out);
        assert_eq!(order(&test), before, "{policy:?}");
        assert!(test.shard.slab.capacity() < 400);
        test.validate();
        let mut work = WorkSlice::new();
        let freed = test.shard.evict(EXPIRED, &mut work, &mut out);
        assert_eq!(freed, Some(9), "{policy:?}: the expired entry is not found");
        test.budget.release(9);
        test.fill(3);
        test.validate();
    }
}

#[test]
fn shard_with_more_entries_than_expected_grows_before_it_is_full() {
    for expected in [100, 1_000, 8_192, 13_000, 29_999] {
        let mut test = TestShard::new(Policy::Lru, ENTRIES, false);
        test.shard.setup.expected_entries = expected;
        // An insertion into a full shard panics.
        test.fill(1);
        assert_eq!(u64::from(test.shard.slab.len()), ENTRIES);
    }
}

#[test]
fn shard_with_the_expected_entries_does_not_grow_again() {
    let entries = usize::try_from(ENTRIES).unwrap();
    let mut test = TestShard::new(Policy::Lru, ENTRIES, false);
    test.shard.setup.expected_entries = entries;
    test.fill(1);
    assert!(!test.shard.slab.is_growing());
    assert!(test.shard.slab.capacity() < entries + entries / 60);
}

#[test]
fn insertion_into_a_full_index_takes_the_short_path() {
    // An index has room for three quarters of a power of two.
    for entries in [96_u32, 1_536, 12_288] {
        for policy in POLICIES {
            let size = entries as usize;
            let mut shard = TestShard::with_expected_entries(size, policy, entries.into(), false);
            // The growth to the expected size ends after some writes.
            for key in 0..3 * u64::from(entries) {
                shard.insert(key, 1, NEVER);
            }
            assert!(shard.shard.index.is_full(), "{entries}");
            for key in 10_000..20_000 {
                assert!(shard.insert_plain(key), "{entries}, {policy:?}");
            }
            assert_eq!(shard.shard.validate(), u64::from(entries));
            assert!(shard.shard.index.is_full() && !shard.shard.needs_spare_table());
        }
    }
}
