//! The loads in flight of one shard, by key.

use crate::single_flight::InFlightLoad;
use crate::single_flight::write_log::WriteLog;
use crate::storage::allocated::{AllocatedBytes, arc_bytes};
use hashbrown::HashTable;
use std::alloc::Layout;
use std::sync::Arc;

/// A table of loads. Most often it has at most one load, which is stored inline, so that a miss accesses no memory here
/// except the cache line of the lock.
pub(crate) struct Table<K, V> {
    first: Option<Arc<InFlightLoad<K, V>>>,
    others: HashTable<Arc<InFlightLoad<K, V>>>,
    /// The log of writes, if there is an observer.
    pub(crate) log: Option<Box<WriteLog>>,
}

impl<K, V> Table<K, V> {
    pub(crate) const fn new() -> Self {
        Self {
            first: None,
            others: HashTable::new(),
            log: None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.others.len()
    }

    pub(crate) fn insert(&mut self, load: Arc<InFlightLoad<K, V>>) {
        if self.first.is_none() {
            self.first = Some(load);
        } else {
            let hash = |other: &Arc<InFlightLoad<K, V>>| other.hash;
            self.others.insert_unique(load.hash, load, hash);
        }
    }

    pub(crate) fn find(
        &self,
        hash: u64,
        is_it: impl Fn(&Arc<InFlightLoad<K, V>>) -> bool,
    ) -> Option<&Arc<InFlightLoad<K, V>>> {
        let is_it = |other: &Arc<InFlightLoad<K, V>>| other.hash == hash && is_it(other);
        match &self.first {
            Some(first) if is_it(first) => Some(first),
            _ if self.others.is_empty() => None,
            _ => self.others.find(hash, is_it),
        }
    }

    /// Removes a load and returns it.
    pub(crate) fn take(
        &mut self,
        hash: u64,
        is_it: impl Fn(&Arc<InFlightLoad<K, V>>) -> bool,
    ) -> Option<Arc<InFlightLoad<K, V>>> {
        let is_it = |other: &Arc<InFlightLoad<K, V>>| other.hash == hash && is_it(other);
        if self.first.as_ref().is_some_and(is_it) {
            return self.first.take();
        }
        if self.others.is_empty() {
            return None;
        }
        let found = self.others.find_entry(hash, is_it).ok()?;
        Some(found.remove().0)
    }

    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Arc<InFlightLoad<K, V>>> {
        self.first.take().into_iter().chain(self.others.drain())
    }
}

impl<K, V> AllocatedBytes for Table<K, V> {
    fn allocated_bytes(&self) -> usize {
        // The waiters of the loads are not included, because each load has a lock of its own.
        let loads = self.len() * arc_bytes(Layout::new::<InFlightLoad<K, V>>());
        loads + self.others.allocated_bytes() + self.log.allocated_bytes()
    }
}
