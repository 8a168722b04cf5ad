//! Tags: names that entries share, to invalidate all of them at once, however many there are.
//!
//! An entry remembers the *epoch*, the number of invalidations before its load began, and holds its
//! tags; a tag remembers the epoch of its last invalidation. So an invalidation is one store, and a
//! hit on an entry with tags compares. A load remembers its epoch when it begins, before anybody
//! knows what tags it will return.
//!
//! A cache that can *forget* has a floor as well: what is of an older epoch is dead, tags or not.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use crate::local::DefaultHasher;
use parking_lot::{Mutex, MutexGuard};

struct Tag {
    #[cfg_attr(not(feature = "snapshot"), allow(dead_code))]
    name: Arc<str>,
    /// The epoch of its last invalidation.
    invalidated: AtomicU64,
}

/// The tags of a cache.
pub(crate) struct Tags {
    epoch: Arc<AtomicU64>,
    floor: Arc<AtomicU64>,
    known: Mutex<Known>,
}

/// The tags of entries, and those invalidated lately: a load under way may still return them.
struct Known {
    by_name: HashMap<Arc<str>, Arc<Tag>, DefaultHasher>,
    /// No tag that is not known was invalidated after this.
    forgotten: u64,
    /// With this many, those that no entry has are forgotten.
    full: usize,
}

const FIRST_FULL: usize = 64;

impl Tags {
    pub(crate) fn new() -> Self {
        Self {
            epoch: Arc::default(),
            floor: Arc::default(),
            known: Mutex::new(Known {
                by_name: HashMap::default(),
                forgotten: 0,
                full: FIRST_FULL,
            }),
        }
    }

    /// How many invalidations there were. Read before a load begins, or after one has returned, by
    /// whomever: the value is never older than what happened before.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Acquire)
    }

    pub(crate) fn shared_epoch(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.epoch)
    }

    pub(crate) fn shared_floor(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.floor)
    }

    /// What an entry with tags keeps, if its load began in `epoch`.
    pub(crate) fn tag(&self, names: &[Arc<str>], epoch: u64) -> Option<Box<Tagged>> {
        if names.is_empty() {
            return None;
        }
        let mut known = self.known.lock();
        let tags = names.iter().map(|name| known.get(name)).collect();
        Some(Box::new(Tagged { epoch, tags }))
    }

    pub(crate) fn invalidate(&self, name: &str) {
        let mut known = self.known.lock();
        let tag = match known.by_name.get(name) {
            Some(tag) => Arc::clone(tag),
            None => known.get(&Arc::from(name)),
        };
        self.raise_epoch(&tag.invalidated, &known);
    }

    /// Whatever is of an older epoch than the one that begins now is dead.
    #[cfg(feature = "redis")]
    pub(crate) fn forget(&self) {
        self.raise_epoch(&self.floor, &self.known.lock());
    }

    /// Nothing is dead, and what begins now is told from what began before.
    #[cfg(feature = "redis")]
    pub(crate) fn begin_epoch(&self) {
        self.raise_epoch(&AtomicU64::new(0), &self.known.lock());
    }

    /// Begins an epoch and notes it in `of`. Under the lock, so that epochs rise. Who sees the new
    /// epoch sees what it is of.
    fn raise_epoch(&self, of: &AtomicU64, _: &MutexGuard<'_, Known>) {
        let epoch = self.epoch.load(Relaxed) + 1;
        of.store(epoch, Relaxed);
        self.epoch.store(epoch, Release);
    }
}

impl Known {
    fn get(&mut self, name: &Arc<str>) -> Arc<Tag> {
        if let Some(tag) = self.by_name.get(name) {
            return Arc::clone(tag);
        }
        if self.by_name.len() >= self.full {
            self.forget();
        }
        let tag = Arc::new(Tag {
            name: Arc::clone(name),
            invalidated: AtomicU64::new(self.forgotten),
        });
        self.by_name.insert(Arc::clone(name), Arc::clone(&tag));
        tag
    }

    /// Forgets tags that no entry has. A load under way that returns one of them is taken for
    /// outdated if it began before the last of their invalidations.
    fn forget(&mut self) {
        let forgotten = &mut self.forgotten;
        self.by_name.retain(|_, tag| {
            let held = Arc::strong_count(tag) > 1;
            if !held {
                *forgotten = (*forgotten).max(tag.invalidated.load(Relaxed));
            }
            held
        });
        self.full = (self.by_name.len() * 2).max(FIRST_FULL);
    }
}

/// The tags of one entry.
#[derive(Clone)]
pub(crate) struct Tagged {
    epoch: u64,
    tags: Box<[Arc<Tag>]>,
}

impl Tagged {
    /// Was none of the tags invalidated since the load began? Whoever comes after an invalidation
    /// sees its store, so relaxed.
    pub(crate) fn is_current(&self) -> bool {
        let mut tags = self.tags.iter();
        tags.all(|tag| tag.invalidated.load(Relaxed) <= self.epoch)
    }

    #[cfg(feature = "snapshot")]
    pub(crate) fn names(&self) -> impl Iterator<Item = Arc<str>> {
        self.tags.iter().map(|tag| Arc::clone(&tag.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    #[test]
    fn an_invalidation_counts_for_what_began_before_it() {
        let tags = Tags::new();
        let early = tags.epoch();
        let entry = tags.tag(&names(&["a", "b"]), early).unwrap();
        let other = tags.tag(&names(&["c"]), early).unwrap();
        assert!(entry.is_current());
        tags.invalidate("b");
        assert!(!entry.is_current() && other.is_current());
        assert!(!tags.tag(&names(&["b"]), early).unwrap().is_current());
        assert!(tags.tag(&names(&["b"]), tags.epoch()).unwrap().is_current());
        assert!(tags.tag(&[], early).is_none());
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_forgotten_is_outdated() {
        let tags = Tags::new();
        let held = tags.tag(&names(&["held"]), tags.epoch()).unwrap();
        let early = tags.epoch();
        for n in 0..10_000 {
            tags.invalidate(&format!("tag {n}"));
        }
        assert!(tags.known.lock().by_name.len() <= 2 * FIRST_FULL);
        assert!(held.is_current());
        assert!(!tags.tag(&names(&["tag 0"]), early).unwrap().is_current());
        assert!(
            tags.tag(&names(&["tag 0"]), tags.epoch())
                .unwrap()
                .is_current()
        );
        tags.invalidate("held");
        assert!(!held.is_current());
    }
}
