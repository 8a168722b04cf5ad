//! A log of the keys of a shard that are written to. A value that was read before such a write must not be stored.
//!
//! For one key, a registered load detects writes. A restore of a million entries observes a whole shard instead, and
//! the shard logs the keys that are written to.

use crate::single_flight::InFlightLoads;
use crate::storage::allocated::AllocatedBytes;
use ahash::RandomState;
use hashbrown::HashSet;

/// The maximum number of keys in a log. If more are written to, all keys count as written to.
const MAX_WRITTEN_KEYS: usize = 1 << 16;

/// The hashes of the keys that were written to since the oldest observer was created.
#[derive(Default)]
pub(crate) struct WriteLog {
    /// The number of observers.
    observers: usize,
    written: HashSet<u64, RandomState>,
    /// `true` if all keys count as written to.
    all: bool,
}

impl WriteLog {
    pub(crate) fn record(&mut self, hash: u64) {
        if self.all {
            return;
        }
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

impl AllocatedBytes for WriteLog {
    fn allocated_bytes(&self) -> usize {
        self.written.allocated_bytes()
    }
}

/// An observer of the writes to a shard. While it lives, they are logged.
pub(crate) struct WriteObserver<'a, K, V>(&'a InFlightLoads<K, V>);

impl<K: Eq, V> InFlightLoads<K, V> {
    /// Starts to log writes. Called under the shard's shared lock, so each later write is logged.
    pub(crate) fn observe_writes(&self) -> WriteObserver<'_, K, V> {
        let mut table = self.table.lock();
        table.log.get_or_insert_default().observers += 1;
        self.update_registered(&table);
        WriteObserver(self)
    }
}

impl<K, V> WriteObserver<'_, K, V> {
    /// Checks that there was no write to this key since the observer was created, and that no load of it is in flight.
    /// Called under the shard's exclusive lock, which is held until the caller has acted upon the result.
    pub(crate) fn is_unwritten(&self, hash: u64) -> bool {
        let table = self.0.table.lock();
        let log = table.log.as_ref();
        let written = log.is_none_or(|log| log.all || log.written.contains(&hash));
        !written && table.find(hash, |_| true).is_none()
    }
}

impl<K, V> Drop for WriteObserver<'_, K, V> {
    fn drop(&mut self) {
        let mut table = self.0.table.lock();
        let is_last = table.log.as_mut().is_none_or(|log| {
            log.observers -= 1;
            log.observers == 0
        });
        if is_last {
            table.log = None;
        }
        self.0.update_registered(&table);
    }
}

#[cfg(all(test, not(any(loom_models, shuttle_models))))]
mod tests {
    use super::*;

    #[test]
    fn writes_are_logged_while_there_is_an_observer() {
        let in_flight = InFlightLoads::<u64, ()>::new();
        let write = |key: u64| in_flight.begin_write(key, &key, None).unwrap().finish();
        write(1);
        let first = in_flight.observe_writes();
        write(2);
        let second = in_flight.observe_writes();
        assert!(first.is_unwritten(1) && !first.is_unwritten(2));
        drop(first);
        // The log that both observers share is kept until the last of them is dropped.
        assert!(!second.is_unwritten(2));
        drop(second);
        assert!(in_flight.observe_writes().is_unwritten(2));
        assert_eq!(in_flight.len(), 0);
    }

    #[test]
    fn write_log_is_bounded() {
        let in_flight = InFlightLoads::<u64, ()>::new();
        let observer = in_flight.observe_writes();
        for key in 0..=MAX_WRITTEN_KEYS as u64 {
            assert!(observer.is_unwritten(MAX_WRITTEN_KEYS as u64 + 1));
            in_flight.begin_write(key, &key, None).unwrap().finish();
        }
        assert!(!observer.is_unwritten(MAX_WRITTEN_KEYS as u64 + 1));
        let table = in_flight.table.lock();
        let log = table.log.as_ref();
        assert!(log.is_some_and(|log| log.written.capacity() == 0));
    }
}
