//! The calls of a cache that are recorded.

use crate::model::{Id, Key, is_tagged};
use hotset::{Compute, LoadError, Loaded, LocalCache, LocalCacheBuilder};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::thread;
use std::time::Duration;

/// The tag of some entries.
const TAG: &str = "tag";

/// A cache whose calls are recorded.
pub trait Subject: Sync {
    fn get(&self, key: Key) -> Option<Id>;
    fn insert(&self, key: Key, id: Id);
    fn remove(&self, key: Key) -> Option<Id>;
    fn invalidate(&self, key: Key);

    /// Replaces the value by what `change` returns for it, and returns that.
    fn update(&self, key: Key, change: &mut dyn FnMut(Option<Id>) -> Option<Id>) -> Option<Id>;

    /// Returns the value. If there is none, runs `load` and stores its result.
    ///
    /// # Errors
    ///
    /// Returns the error of a load.
    fn get_or_load(&self, key: Key, load: &mut dyn FnMut() -> Result<Id, Id>) -> Result<Id, Id>;
    fn clear(&self);
    fn invalidate_tag(&self);
}

thread_local! {
    static RANDOM: RefCell<SmallRng> = RefCell::new(SmallRng::seed_from_u64(0));
}

/// Sets the seed of the pauses of this thread.
pub fn seed_pauses(seed: u64) {
    RANDOM.set(SmallRng::seed_from_u64(seed));
}

/// Lets another thread run, sometimes.
pub fn pause() {
    if RANDOM.with_borrow_mut(|random| random.random_ratio(1, 4)) {
        thread::yield_now();
    }
}

/// A key whose comparisons and hashes take a while, so that calls overlap.
#[derive(Debug, Clone, Eq)]
pub struct SlowKey(Key);

impl Hash for SlowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        pause();
        self.0.hash(state);
    }
}

impl PartialEq for SlowKey {
    fn eq(&self, other: &Self) -> bool {
        pause();
        self.0 == other.0
    }
}

/// A value whose clones take a while.
#[derive(Debug, PartialEq, Eq)]
pub struct SlowValue(Id);

impl Clone for SlowValue {
    fn clone(&self) -> Self {
        pause();
        Self(self.0)
    }
}

/// The error of a load.
#[derive(Debug)]
struct Failure(Id);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "load {} has failed", self.0)
    }
}

impl Error for Failure {}

/// Returns the builder of a cache with such keys and values. It gets a bound from its caller.
pub fn builder() -> LocalCacheBuilder<SlowKey, SlowValue> {
    // Waiters take over a load at the end of its lease, which no load here exceeds on any machine.
    LocalCache::builder().lease(Duration::from_secs(3_600))
}

impl Subject for LocalCache<SlowKey, SlowValue> {
    fn get(&self, key: Key) -> Option<Id> {
        self.get(&SlowKey(key)).map(|value| value.0)
    }

    fn insert(&self, key: Key, id: Id) {
        if is_tagged(id) {
            self.insert_loaded(SlowKey(key), Loaded::new(SlowValue(id)).tags([TAG]));
        } else {
            self.insert(SlowKey(key), SlowValue(id));
        }
    }

    fn remove(&self, key: Key) -> Option<Id> {
        self.remove(&SlowKey(key)).map(|value| value.0)
    }

    fn invalidate(&self, key: Key) {
        self.invalidate(&SlowKey(key));
    }

    fn update(&self, key: Key, change: &mut dyn FnMut(Option<Id>) -> Option<Id>) -> Option<Id> {
        let mut new = None;
        let computed = self.compute(&SlowKey(key), |value| {
            new = change(value.map(|value| value.0));
            match new {
                Some(id) => Compute::Put(SlowValue(id)),
                None => Compute::Remove,
            }
        });
        assert_eq!(computed.map(|value| value.0), new);
        new
    }

    fn get_or_load(&self, key: Key, load: &mut dyn FnMut() -> Result<Id, Id>) -> Result<Id, Id> {
        let load = |_: &SlowKey| {
            let id = load().map_err(Failure)?;
            let loaded = Loaded::new(SlowValue(id));
            Ok(if is_tagged(id) {
                loaded.tags([TAG])
            } else {
                loaded
            })
        };
        let returned = self.get_or_load_entry(&SlowKey(key), load);
        returned
            .map(|value| value.0)
            .map_err(|error: LoadError<Failure>| error.as_inner().unwrap().0)
    }

    fn clear(&self) {
        self.clear();
    }

    fn invalidate_tag(&self) {
        self.invalidate_tag(TAG);
    }
}
