//! Writes to keys, which revoke the loads in flight of these keys.

use crate::single_flight::table::Table;
use crate::single_flight::{InFlightLoad, InFlightLoads, Leader, REVOKED};
use crate::sync::MutexGuard;
use equivalent::Equivalent;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};

/// The error of a leader that may not write, because its key was written to after the leader had registered.
#[derive(Debug)]
pub(crate) struct Outdated;

/// A write in progress. No caller joins a load of this shard meanwhile.
pub(crate) struct KeyWrite<'a, 'f, K, V> {
    in_flight: &'a InFlightLoads<K, V>,
    table: Option<MutexGuard<'a, Table<K, V>>>,
    leader: Option<&'a mut Leader<'f, K, V>>,
}

impl<'a, 'f, K, V> KeyWrite<'a, 'f, K, V> {
    /// Returns the write of a leader that holds the table's lock.
    pub(super) fn by(
        in_flight: &'a InFlightLoads<K, V>,
        table: MutexGuard<'a, Table<K, V>>,
        leader: &'a mut Leader<'f, K, V>,
    ) -> Self {
        Self {
            in_flight,
            table: Some(table),
            leader: Some(leader),
        }
    }

    /// Ends the write. If no caller waits for the leader, this ends its load too.
    #[inline(always)]
    pub(crate) fn finish(self) {
        if self.leader.is_some() {
            self.complete();
        }
    }

    fn complete(self) {
        let (Some(leader), Some(mut table)) = (self.leader, self.table) else {
            return;
        };
        let load = &leader.load;
        if load.joined.load(Relaxed) {
            let mut state = load.state.lock();
            if !state.is_led(leader.generation) || state.is_awaited() {
                return;
            }
            state.end();
        }
        self.in_flight.unregister(&mut table, load);
        leader.over = true;
    }
}

impl<K: Eq, V> InFlightLoads<K, V> {
    /// Begins a write to a key, by `leader` or by another writer. From now on no other load of the key may store.
    /// Called under the shard's exclusive lock, which is held until the write is finished.
    ///
    /// # Errors
    ///
    /// Returns an error if `leader` may not write, because the key has been written to since it registered, or because
    /// a later leader of its load has stored.
    #[inline(always)]
    pub(crate) fn begin_write<'a, 'f, Q>(
        &'a self,
        hash: u64,
        key: &Q,
        leader: Option<&'a mut Leader<'f, K, V>>,
    ) -> Result<KeyWrite<'a, 'f, K, V>, Outdated>
    where
        Q: Equivalent<K> + ?Sized,
    {
        // If nothing is registered, the leader's load was unregistered, and its `stored` is `REVOKED`.
        let is_quiet = self.is_quiet();
        if is_quiet && leader.is_none() {
            // Most writes take this path: one atomic load, and a result that stays in registers.
            return Ok(KeyWrite {
                in_flight: self,
                table: None,
                leader: None,
            });
        }
        self.begin_contended_write(hash, key, leader, is_quiet)
    }

    /// Checks whether a write may proceed without [`begin_write`](Self::begin_write), because no load is registered.
    /// Called under the shard's exclusive lock.
    #[inline]
    pub(crate) fn is_quiet(&self) -> bool {
        self.registered.load(Acquire) == 0
    }

    /// Begins a write like [`begin_write`](Self::begin_write), if there is a leader or something to revoke.
    fn begin_contended_write<'a, 'f, Q>(
        &'a self,
        hash: u64,
        key: &Q,
        leader: Option<&'a mut Leader<'f, K, V>>,
        is_quiet: bool,
    ) -> Result<KeyWrite<'a, 'f, K, V>, Outdated>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let mut table = (!is_quiet).then(|| self.table.lock());
        if let Some(leader) = &leader {
            let stored = &leader.load.stored;
            if stored.load(Relaxed) > leader.generation {
                return Err(Outdated);
            }
            stored.store(leader.generation, Relaxed);
        }
        if let Some(table) = &mut table {
            let is_by_leader = |other: &Arc<InFlightLoad<K, V>>| {
                let leader = leader.as_ref();
                leader.is_some_and(|leader| Arc::ptr_eq(&leader.load, other))
            };
            let is_it = |other: &Arc<InFlightLoad<K, V>>| {
                !is_by_leader(other) && key.equivalent(&other.key)
            };
            while let Some(load) = table.take(hash, is_it) {
                load.stored.store(REVOKED, Relaxed);
                self.update_registered(table);
            }
            if let Some(log) = &mut table.log {
                log.record(hash);
            }
        }
        Ok(KeyWrite {
            in_flight: self,
            table,
            leader,
        })
    }

    /// Revokes all loads, like a [write](Self::begin_write) to every key.
    pub(crate) fn revoke_all(&self) {
        let mut table = self.table.lock();
        for load in table.drain() {
            load.stored.store(REVOKED, Relaxed);
        }
        if let Some(log) = &mut table.log {
            log.record_all();
        }
        self.update_registered(&table);
    }
}
