//! Caches with planted faults, which the check has to refuse.

use hotset::LocalCache;
use linearizability::history::{Order, Workload, check};
use linearizability::model::{Id, KEYS, Key};
use linearizability::subject::{SlowKey, SlowValue, Subject, builder, pause};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

type Cache = LocalCache<SlowKey, SlowValue>;

/// The number of operations within which a fault has to be found. Most are found within a few hundred.
const OPERATIONS: usize = 1_000_000;

/// A fault of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// `get_or_load` consists of a lookup, a load and an insertion, so it stores a value after an invalidation.
    StoreAfterInvalidation,
    /// `update` consists of a lookup and a replacement, so an update in between is lost.
    LostUpdate,
    /// Lookups return the value of an earlier lookup, if there was one a short time ago.
    ReadOfCopy,
    /// `clear` removes one key after the other.
    PiecemealClear,
}

/// A cache with a fault.
struct WrongCache {
    cache: Cache,
    fault: Fault,
    /// The result of the last lookup of each key: 0 for nothing.
    copies: [AtomicU64; KEYS],
}

impl WrongCache {
    fn new(fault: Fault) -> Self {
        Self {
            cache: builder().capacity(100).shards(1).build().unwrap(),
            fault,
            copies: Default::default(),
        }
    }
}

impl Subject for WrongCache {
    fn get(&self, key: Key) -> Option<Id> {
        if self.fault == Fault::ReadOfCopy {
            let copy = self.copies[usize::from(key)].swap(0, SeqCst);
            if copy > 0 {
                return Some(copy);
            }
            let found = Subject::get(&self.cache, key);
            self.copies[usize::from(key)].store(found.unwrap_or(0), SeqCst);
            return found;
        }
        Subject::get(&self.cache, key)
    }

    fn insert(&self, key: Key, id: Id) {
        Subject::insert(&self.cache, key, id);
    }

    fn remove(&self, key: Key) -> Option<Id> {
        Subject::remove(&self.cache, key)
    }

    fn invalidate(&self, key: Key) {
        Subject::invalidate(&self.cache, key);
    }

    fn update(&self, key: Key, change: &mut dyn FnMut(Option<Id>) -> Option<Id>) -> Option<Id> {
        if self.fault != Fault::LostUpdate {
            return Subject::update(&self.cache, key, change);
        }
        let new = change(Subject::get(&self.cache, key));
        Subject::update(&self.cache, key, &mut |_| new)
    }

    fn get_or_load(&self, key: Key, load: &mut dyn FnMut() -> Result<Id, Id>) -> Result<Id, Id> {
        if self.fault != Fault::StoreAfterInvalidation {
            return Subject::get_or_load(&self.cache, key, load);
        }
        if let Some(id) = Subject::get(&self.cache, key) {
            return Ok(id);
        }
        let id = load()?;
        Subject::insert(&self.cache, key, id);
        Ok(id)
    }

    fn clear(&self) {
        if self.fault != Fault::PiecemealClear {
            return Subject::clear(&self.cache);
        }
        for key in 0..4 {
            Subject::invalidate(&self.cache, key);
            pause();
        }
    }

    fn invalidate_tag(&self) {
        Subject::invalidate_tag(&self.cache);
    }
}

/// Checks a cache of one thread or of several ones.
fn check_with(fault: Fault, threads: usize, order: Order, operations: usize) -> Result<(), String> {
    let workload = |_| Workload {
        threads,
        calls: 8,
        keys: 2,
    };
    check::<_, false>(|_| WrongCache::new(fault), workload, order, operations)
}

/// Checks that a fault is found with several threads. One thread alone does not show it, so it is the concurrency that
/// is checked.
fn assert_refused(fault: Fault, order: Order) {
    if fault != Fault::ReadOfCopy {
        let alone = check_with(fault, 1, order, 2_000);
        assert_eq!(alone, Ok(()));
    }
    let history = check_with(fault, 4, order, OPERATIONS).unwrap_err();
    println!("{history}");
}

#[test]
fn cache_without_a_fault_is_accepted() {
    let checked = check_with(Fault::None, 4, Order::Whole, 5_000);
    assert_eq!(checked, Ok(()));
}

#[test]
fn load_that_is_stored_after_an_invalidation_is_refused() {
    assert_refused(Fault::StoreAfterInvalidation, Order::EachKey);
}

#[test]
fn lost_update_is_refused() {
    assert_refused(Fault::LostUpdate, Order::EachKey);
}

#[test]
fn read_of_a_copy_is_refused() {
    assert_refused(Fault::ReadOfCopy, Order::EachKey);
}

#[test]
fn clear_in_several_steps_is_refused() {
    assert_refused(Fault::PiecemealClear, Order::Whole);
}
