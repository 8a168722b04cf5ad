//! Models of insertions while the limit changes, which run under loom and under shuttle.
//!
//! The shards of the model are stacks of weights. [`Model::insert`] and [`Model::set_limit`] use the budget in the same
//! order as `LocalCache::store` and `LocalCache::set_limit`.

use super::*;
use crate::sync::Mutex;
use crate::sync::schedules::scenarios;
use std::sync::Arc;
use std::sync::atomic::AtomicU64 as Monitor;

#[cfg(loom_models)]
use loom::thread;
#[cfg(shuttle_models)]
use shuttle::thread;

scenarios! {
    insertions_keep_the_limit
    insertion_that_evicts_in_both_shards_keeps_the_limit
    two_insertions_that_need_all_room_both_end
    lower_limit_holds_after_an_insertion_into_free_room
    lower_limit_holds_after_an_insertion_that_evicts
    limit_of_zero_empties_the_cache
    last_of_two_changes_of_the_limit_holds
    raised_limit_lets_a_waiting_insertion_proceed
    lower_limit_refuses_a_waiting_insertion
}

struct Model {
    budget: Budget,
    /// The weights of the entries of each shard, under the shard's lock.
    shards: [Mutex<Vec<u64>>; 2],
    /// The weight of all entries. Not an atomic of the model, so that counting orders nothing.
    stored: Monitor,
    /// The highest limit that is ever set.
    highest: u64,
}

impl Model {
    /// Creates a cache with this limit and with entries of these weights. No limit above `highest` may be set.
    fn new(limit: u64, highest: u64, shards: [&[u64]; 2]) -> Arc<Self> {
        let model = Self {
            budget: Budget::new(limit),
            shards: shards.map(|_| Mutex::new(Vec::new())),
            stored: Monitor::new(0),
            highest,
        };
        for (index, weights) in shards.into_iter().enumerate() {
            for &weight in weights {
                let mut room = Reservation::none(&model.budget);
                assert!(room.reach(weight));
                model.push(&mut model.shards[index].lock(), &mut room, weight);
            }
        }
        Arc::new(model)
    }

    fn spawn<T: Send + 'static>(
        self: &Arc<Self>,
        role: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let model = Arc::clone(self);
        thread::spawn(move || role(&model))
    }

    /// Adds an entry to a shard that is locked.
    fn push(&self, shard: &mut Vec<u64>, room: &mut Reservation<'_>, weight: u64) {
        room.spend(weight);
        shard.push(weight);
        let stored = self.stored.fetch_add(weight, Relaxed) + weight;
        assert!(stored <= self.highest, "{stored} is more than any limit");
    }

    /// Evicts an entry of a shard that is locked, and returns its weight.
    fn evict(&self, shard: &mut Vec<u64>) -> Option<u64> {
        let freed = shard.pop()?;
        self.stored.fetch_sub(freed, Relaxed);
        Some(freed)
    }

    /// Evicts entries of a shard until `room` has `weight`. Returns whether it has.
    fn make_room(&self, shard: &mut Vec<u64>, weight: u64, room: &mut Reservation<'_>) -> bool {
        while !room.reach(weight) {
            match self.evict(shard) {
                Some(freed) => room.add(freed),
                None => return false,
            }
        }
        true
    }

    /// Inserts an entry into a shard, and returns `true`, or `false` if the entry is heavier than the limit.
    fn insert(&self, home: usize, weight: u64) -> bool {
        let mut room = Reservation::none(&self.budget);
        while weight <= self.budget.limit() {
            let mut shard = self.shards[home].lock();
            if self.make_room(&mut shard, weight, &mut room) {
                self.push(&mut shard, &mut room, weight);
                return true;
            }
            drop(shard);
            let has_room = self.make_room(&mut self.shards[1 - home].lock(), weight, &mut room);
            if !has_room {
                room.give_back();
                thread::yield_now();
            }
        }
        false
    }

    /// Changes the limit, and evicts entries until it holds.
    fn set_limit(&self, limit: u64) {
        self.budget.set_limit(limit);
        while self.budget.is_exceeded() {
            let mut has_evicted = false;
            for shard in &self.shards {
                let mut shard = shard.lock();
                while self.budget.is_exceeded() {
                    let Some(freed) = self.evict(&mut shard) else {
                        break;
                    };
                    self.budget.release(freed);
                    has_evicted = true;
                }
            }
            if !has_evicted {
                thread::yield_now();
            }
        }
    }

    /// Checks that all that is used belongs to entries, and that the limit holds. Returns the weight of all entries.
    fn end(&self) -> u64 {
        let weights = self
            .shards
            .each_ref()
            .map(|shard| shard.lock().iter().sum());
        let stored = weights.iter().sum::<u64>();
        assert_eq!(
            self.budget.used(),
            stored,
            "a reservation is lost or counted twice"
        );
        assert!(stored <= self.budget.limit(), "the limit is exceeded");
        stored
    }
}

fn insertions_keep_the_limit() {
    let model = Model::new(2, 2, [&[1], &[]]);
    let others = [0, 1].map(|home| model.spawn(move |model| model.insert(home, 1)));
    assert!(others.map(|other| other.join().unwrap()) == [true; 2]);
    assert_eq!(model.end(), 2);
}

fn insertion_that_evicts_in_both_shards_keeps_the_limit() {
    let model = Model::new(3, 3, [&[1], &[1, 1]]);
    let other = model.spawn(|model| model.insert(0, 3));
    assert!(model.insert(1, 1));
    assert!(other.join().unwrap());
    assert!(model.end() > 0);
}

/// Each of both may have reserved a part of the room that the other one waits for.
fn two_insertions_that_need_all_room_both_end() {
    let model = Model::new(2, 2, [&[1], &[1]]);
    let other = model.spawn(|model| model.insert(0, 2));
    assert!(model.insert(1, 2));
    assert!(other.join().unwrap());
    assert_eq!(model.end(), 2);
}

fn lower_limit_holds_after_an_insertion_into_free_room() {
    let model = Model::new(2, 2, [&[1], &[]]);
    let insertion = model.spawn(|model| model.insert(1, 1));
    model.set_limit(1);
    assert!(insertion.join().unwrap());
    model.end();
}

fn lower_limit_holds_after_an_insertion_that_evicts() {
    let model = Model::new(3, 3, [&[1, 1], &[1]]);
    let insertion = model.spawn(|model| model.insert(0, 2));
    model.set_limit(1);
    insertion.join().unwrap();
    model.end();
}

fn limit_of_zero_empties_the_cache() {
    let model = Model::new(2, 2, [&[1], &[]]);
    let insertion = model.spawn(|model| model.insert(0, 1));
    model.set_limit(0);
    insertion.join().unwrap();
    assert_eq!(model.end(), 0);
}

fn last_of_two_changes_of_the_limit_holds() {
    let model = Model::new(3, 3, [&[1, 1], &[1]]);
    let change = model.spawn(|model| model.set_limit(1));
    let insertion = model.spawn(|model| model.insert(0, 1));
    model.set_limit(2);
    change.join().unwrap();
    assert!(insertion.join().unwrap());
    model.end();
}

fn raised_limit_lets_a_waiting_insertion_proceed() {
    let model = Model::new(2, 3, [&[1], &[]]);
    // Another insertion has evicted an entry, and has not stored its own yet.
    let mut other = Reservation::none(&model.budget);
    other.add(model.evict(&mut model.shards[0].lock()).unwrap());
    let insertion = model.spawn(|model| model.insert(1, 2));
    model.set_limit(3);
    assert!(insertion.join().unwrap());
    model.push(&mut model.shards[0].lock(), &mut other, 1);
    assert_eq!(model.end(), 3);
}

fn lower_limit_refuses_a_waiting_insertion() {
    let model = Model::new(2, 2, [&[1], &[]]);
    let mut other = Reservation::none(&model.budget);
    other.add(model.evict(&mut model.shards[0].lock()).unwrap());
    let insertion = model.spawn(|model| model.insert(1, 2));
    model.set_limit(1);
    assert!(!insertion.join().unwrap());
    model.push(&mut model.shards[0].lock(), &mut other, 1);
    assert_eq!(model.end(), 1);
}
