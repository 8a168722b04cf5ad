//! Which keys are written to while somebody watches: what is older than the watch must not be stored under
//! them.
//!
//! A flight tells that of one key. Who has a million keys watches all of a shard, and takes note of what
//! is written instead.

use crate::single_flight::Flights;
use foldhash::fast::RandomState;
use std::collections::HashSet;

/// With so many it is as if all keys were written to.
const MOST: usize = 1 << 16;

/// Hashes of keys that were written to since the first of those came who watch now.
#[derive(Default)]
pub(crate) struct Watch {
    watchers: usize,
    written: HashSet<u64, RandomState>,
    all: bool,
}

impl Watch {
    pub(crate) fn note(&mut self, hash: u64) {
        if self.written.len() < MOST {
            self.written.insert(hash);
        } else {
            self.note_all();
        }
    }

    pub(crate) fn note_all(&mut self) {
        self.all = true;
        self.written = HashSet::default();
    }
}

/// While it lives, writes to the shard are noted.
pub(crate) struct Watcher<'a, K, V>(&'a Flights<K, V>);

impl<K: Eq, V> Flights<K, V> {
    /// Called under the shard's shared lock: what is written after that is noted.
    pub(crate) fn watch(&self) -> Watcher<'_, K, V> {
        let mut table = self.table.lock();
        table.watch.get_or_insert_default().watchers += 1;
        self.count(&table);
        Watcher(self)
    }
}

impl<K, V> Watcher<'_, K, V> {
    /// Was nothing written to this key since the watch began, and is nobody about to? Asked under the
    /// shard's exclusive lock, which is kept until the answer has been acted upon.
    pub(crate) fn is_untouched(&self, hash: u64) -> bool {
        let table = self.0.table.lock();
        let watch = table.watch.as_ref();
        let written = watch.is_none_or(|watch| watch.all || watch.written.contains(&hash));
        !written && table.find(hash, |_| true).is_none()
    }
}

impl<K, V> Drop for Watcher<'_, K, V> {
    fn drop(&mut self) {
        let mut table = self.0.table.lock();
        let is_last = table.watch.as_mut().is_none_or(|watch| {
            watch.watchers -= 1;
            watch.watchers == 0
        });
        if is_last {
            table.watch = None;
        }
        self.0.count(&table);
    }
}

#[cfg(all(test, not(any(loom_models, shuttle_models))))]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_noted_while_somebody_watches() {
        let flights = Flights::<u64, ()>::new();
        let write = |key: u64| flights.write(key, &key, None).unwrap().done();
        write(1);
        let first = flights.watch();
        write(2);
        let second = flights.watch();
        assert!(first.is_untouched(1) && !first.is_untouched(2));
        drop(first);
        // More than it would have to know, and no less.
        assert!(!second.is_untouched(2));
        drop(second);
        assert!(flights.watch().is_untouched(2));
        assert_eq!(flights.len(), 0);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let flights = Flights::<u64, ()>::new();
        let watcher = flights.watch();
        for key in 0..=MOST as u64 {
            assert!(watcher.is_untouched(MOST as u64 + 1));
            flights.write(key, &key, None).unwrap().done();
        }
        assert!(!watcher.is_untouched(MOST as u64 + 1));
        let table = flights.table.lock();
        let watch = table.watch.as_ref();
        assert!(watch.is_some_and(|watch| watch.written.capacity() == 0));
    }
}
