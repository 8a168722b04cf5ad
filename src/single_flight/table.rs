//! The loads in flight of one shard, by key.

use crate::single_flight::InFlightLoad;
use crate::single_flight::write_log::WriteLog;
use crate::storage::allocated::{AllocatedBytes, arc_bytes};
use hashbrown::HashTable;
use std::alloc::Layout;
use std::mem::needs_drop;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

type Loads<K, V> = HashTable<Arc<InFlightLoad<K, V>>>;

/// A table of loads. Most often it has at most one load, which is stored inline, so that a miss accesses no memory here
/// except the cache line of the lock.
pub(crate) struct Table<K, V> {
    first: Option<Arc<InFlightLoad<K, V>>>,
    /// The loads beside the first one. In a box, so that the table and its lock are in one cache line.
    others: Option<Box<Loads<K, V>>>,
    /// A load that has ended and that no caller has joined. The next load uses its memory.
    spare: Option<Arc<InFlightLoad<K, V>>>,
    /// The log of writes, if there is an observer.
    pub(crate) log: Option<Box<WriteLog>>,
}

impl<K, V> Table<K, V> {
    pub(crate) const fn new() -> Self {
        Self {
            first: None,
            others: None,
            spare: None,
            log: None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        let others = self.others.as_ref().map_or(0, |others| others.len());
        usize::from(self.first.is_some()) + others
    }

    pub(crate) fn insert(&mut self, load: Arc<InFlightLoad<K, V>>) {
        if self.first.is_none() {
            self.first = Some(load);
        } else {
            self.insert_other(load);
        }
    }

    #[cold]
    fn insert_other(&mut self, load: Arc<InFlightLoad<K, V>>) {
        let hash = |other: &Arc<InFlightLoad<K, V>>| other.hash;
        let others = self.others.get_or_insert_default();
        others.insert_unique(load.hash, load, hash);
    }

    pub(crate) fn find(
        &self,
        hash: u64,
        is_it: impl Fn(&Arc<InFlightLoad<K, V>>) -> bool,
    ) -> Option<&Arc<InFlightLoad<K, V>>> {
        let is_it = |other: &Arc<InFlightLoad<K, V>>| other.hash == hash && is_it(other);
        match &self.first {
            Some(first) if is_it(first) => Some(first),
            _ => self.others.as_ref()?.find(hash, is_it),
        }
    }

    /// Removes this load and returns it, if it is there.
    #[inline(always)]
    pub(crate) fn remove(
        &mut self,
        load: &Arc<InFlightLoad<K, V>>,
    ) -> Option<Arc<InFlightLoad<K, V>>> {
        if self
            .first
            .as_ref()
            .is_some_and(|first| Arc::ptr_eq(first, load))
        {
            return self.first.take();
        }
        self.remove_other(load)
    }

    #[cold]
    #[inline(never)]
    fn remove_other(&mut self, load: &Arc<InFlightLoad<K, V>>) -> Option<Arc<InFlightLoad<K, V>>> {
        self.take(load.hash, |other| Arc::ptr_eq(other, load))
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
        let found = self.others.as_mut()?.find_entry(hash, is_it).ok()?;
        Some(found.remove().0)
    }

    /// Keeps the memory of a load that was removed from the table, if no caller has joined it. The key of the load
    /// remains there, so this is only for keys without a destructor.
    pub(crate) fn keep_unused(&mut self, load: Arc<InFlightLoad<K, V>>) {
        if !needs_drop::<K>() && !load.joined.load(Relaxed) {
            self.spare = Some(load);
        }
    }

    /// Takes memory for a new load and restarts it with `restart`. Returns the argument of `restart` if there is no
    /// memory that nothing refers to any more.
    #[inline]
    pub(crate) fn restart_unused<A>(
        &mut self,
        argument: A,
        restart: impl FnOnce(&mut InFlightLoad<K, V>, A),
    ) -> Result<Arc<InFlightLoad<K, V>>, A> {
        // Its last leader may still have a reference. Its memory is then freed by whichever reference is dropped last.
        if let Some(mut spare) = self.spare.take() {
            if let Some(unused) = Arc::get_mut(&mut spare) {
                restart(unused, argument);
                return Ok(spare);
            }
        }
        Err(argument)
    }

    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Arc<InFlightLoad<K, V>>> {
        let others = self.others.iter_mut().flat_map(|others| others.drain());
        self.first.take().into_iter().chain(others)
    }
}

impl<K, V> AllocatedBytes for Table<K, V> {
    fn allocated_bytes(&self) -> usize {
        // The waiters of the loads are not included, because each load has a lock of its own.
        let loads = self.len() + usize::from(self.spare.is_some());
        let loads = loads * arc_bytes(Layout::new::<InFlightLoad<K, V>>());
        loads + self.others.allocated_bytes() + self.log.allocated_bytes()
    }
}
