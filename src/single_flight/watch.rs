//! Which keys are written to while somebody watches: what is older than the watch must not be stored under
//! them.
//!
//! A flight tells that of one key. Who has a million keys watches all of a shard, and takes note of what
//! is written instead.

use crate::single_flight::InFlightLoads;
use foldhash::fast::RandomState;
use std::collections::HashSet;

/// With so many it is as if all keys were written to.
const MAX_WRITTEN_KEYS: usize = 1 << 16;

/// Hashes of keys that were written to since the first of those came who watch now.
#[derive(Default)]
pub(crate) struct WriteLog {
    watchers: usize,
    written: HashSet<u64, RandomState>,
    all: bool,
}

impl WriteLog {
    pub(crate) fn record(&mut self, hash: u64) {
        if self.written.len() < MAX_WRITTEN_KEYS {
            self.written.insert(hash);
        } else {
            self.record_all();
        }
    }

    pub(crate) fn record_all(&mut self) {
        self.all = true;
        self.written = HashSet::default();
    }
}

/// While it lives, writes to the shard are noted.
pub(crate) struct WriteObserver<'a, K, V>(&'a InFlightLoads<K, V>);

impl<K: Eq, V> InFlightLoads<K, V> {
    /// Called under the shard's shared lock: what is written after that is noted.
    pub(crate) fn observe_writes(&self) -> WriteObserver<'_, K, V> {
        let mut table = self.table.lock();
        table.watch.get_or_insert_default().watchers += 1;
        self.count(&table);
        WriteObserver(self)
    }
}

impl<K, V> WriteObserver<'_, K, V> {
    /// Was nothing written to this key since the watch began, and is nobody about to? Asked under the
    /// shard's exclusive lock, which is kept until the answer has been acted upon.
    pub(crate) fn is_unwritten(&self, hash: u64) -> bool {
        let table = self.0.table.lock();
        let watch = table.watch.as_ref();
        let written = watch.is_none_or(|watch| watch.all || watch.written.contains(&hash));
        !written && table.find(hash, |_| true).is_none()
    }
}

impl<K, V> Drop for WriteObserver<'_, K, V> {
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
        let in_flight = InFlightLoads::<u64, ()>::new();
        let write = |key: u64| in_flight.begin_write(key, &key, None).unwrap().finish();
        write(1);
        let first = in_flight.observe_writes();
        write(2);
        let second = in_flight.observe_writes();
        assert!(first.is_unwritten(1) && !first.is_unwritten(2));
        drop(first);
        // More than it would have to know, and no less.
        assert!(!second.is_unwritten(2));
        drop(second);
        assert!(in_flight.observe_writes().is_unwritten(2));
        assert_eq!(in_flight.len(), 0);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let in_flight = InFlightLoads::<u64, ()>::new();
        let watcher = in_flight.observe_writes();
        for key in 0..=MAX_WRITTEN_KEYS as u64 {
            assert!(watcher.is_unwritten(MAX_WRITTEN_KEYS as u64 + 1));
            in_flight.begin_write(key, &key, None).unwrap().finish();
        }
        assert!(!watcher.is_unwritten(MAX_WRITTEN_KEYS as u64 + 1));
        let table = in_flight.table.lock();
        let watch = table.watch.as_ref();
        assert!(watch.is_some_and(|watch| watch.written.capacity() == 0));
    }
}
