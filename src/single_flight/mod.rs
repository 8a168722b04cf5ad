//! Single flight: of all callers that want one key, one loads and the others wait for it.
//!
//! Modelled on Go's `singleflight`, with three additions. A leader that ends without an outcome (a panic, a dropped
//! future) hands over to exactly one waiter. A leader that loads for longer than its lease is superseded by exactly one
//! waiter. A write to the key *revokes* the load, like an invalidation ends a lease of memcached (Nishtala et al.,
//! "Scaling Memcache at Facebook", NSDI 2013): the callers of the load get its value, but it is not stored, and later
//! callers start a new load.
//!
//! [`State`] is the state machine, which is pure. [`InFlightLoad`] puts it under a lock. [`InFlightLoads`] finds the
//! load of a key. Callers wait by [`Waker`], so threads ([`blocking`]) and tasks ([`future`]) wait in one queue, and
//! the code for it (`wait.rs`) is written once.
//!
//! # Why a load that began before a write never stores
//!
//! The cache does the following, in this order:
//!
//! - A leader looks the key up and registers here while it holds the shard's lock shared. Then it loads. Then it
//!   calls [`InFlightLoads::begin_write`] and stores while it holds the shard's lock exclusively.
//! - Every other writer calls [`InFlightLoads::begin_write`] and writes while it holds the shard's lock exclusively.
//!
//! If the leader held the lock first, the lock makes its registration visible to the writer, which revokes the load.
//! If the writer held it first, the load began after the write. So `begin_write` may rely on the number of registered
//! loads without acquiring the table's lock. A load that ends may be unregistered at any time; a thread that reads the
//! lower number also sees that the load may not store. A waiter that takes over a load leads one that was registered
//! before, and no waiter leads a revoked load.
//!
//! Locks are acquired in this order: shard, table, state. The only user code that runs under the table's lock is `Eq`
//! and `Clone` of keys. None runs under the lock of a state.

pub(crate) mod blocking;
mod bulkhead;
mod context;
pub(crate) mod future;
mod group;
mod leader;
mod permits;
mod state;
mod table;
mod timer;
mod wait;
mod waiter;
mod write;
#[cfg_attr(not(feature = "snapshot"), allow(dead_code))]
mod write_log;

pub(crate) use crate::single_flight::bulkhead::{Bulkhead, Permit, Queued};
#[cfg(feature = "tokio")]
pub(crate) use crate::single_flight::context::is_loading;
pub(crate) use crate::single_flight::context::{Reentry, run_within};
pub(crate) use crate::single_flight::group::{LeaderGroup, WaiterGroup};
pub(crate) use crate::single_flight::leader::Leader;
#[cfg(feature = "tokio")]
pub(crate) use crate::single_flight::leader::SuspendedLeader;
pub(crate) use crate::single_flight::state::{Candidate, Superseded};
pub(crate) use crate::single_flight::wait::{TimedOut, Timer, poll_until};
pub(crate) use crate::single_flight::waiter::{Answer, Pending, Waiter};
pub(crate) use crate::single_flight::write::{KeyWrite, Outdated};
#[cfg(feature = "snapshot")]
pub(crate) use crate::single_flight::write_log::WriteObserver;

use crate::error::{AnyError, LoadError};
use crate::single_flight::context::is_running;
use crate::single_flight::state::{Admission, State, Waiters, wake};
use crate::single_flight::table::Table;
use crate::storage::allocated::AllocatedBytes;
use crate::sync::reentrancy::{LockGuardMark, assert_no_exclusive_lock_held, is_writing};
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Mutex};
use crate::traits::key::LookupKey;
use equivalent::Equivalent;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::{Arc, OnceLock};
use std::task::Waker;

/// The outcome of a load, for its waiters.
#[derive(Clone)]
pub(crate) enum Outcome<V> {
    Value(V),
    /// An expired value, because the load failed.
    Stale(V),
    /// The load succeeded, but returned no value for the key.
    Absent,
    Failed(LoadError<AnyError>),
}

/// The value of `InFlightLoad::stored` with which no generation may store.
const REVOKED: u32 = u32::MAX;

/// The load of one key in flight.
pub(crate) struct InFlightLoad<K, V> {
    hash: u64,
    key: K,
    /// `false` for an [update](InFlightLoads::register_update), for which no other caller may wait.
    joinable: bool,
    /// `true` once a caller has joined. Until then only the leader has a reference to this load. Accessed under the
    /// table's lock, and therefore relaxed.
    joined: AtomicBool,
    /// The newest generation that has stored, or [`REVOKED`]. Written under the table's lock. A leader that is about to
    /// store reads it under this lock, or after it has read that no load is registered. So it is accessed relaxed.
    stored: AtomicU32,
    /// The first epoch whose callers may not get the outcome. Written before the outcome.
    outdated_from: AtomicU64,
    state: Mutex<State>,
    /// The outcome. Set before the phase is `Over`, unless waiters have to start again.
    outcome: OnceLock<Outcome<V>>,
}

impl<K, V> InFlightLoad<K, V> {
    fn new(hash: u64, key: K, joinable: bool, state: State) -> Arc<Self> {
        Arc::new(Self {
            hash,
            key,
            joinable,
            joined: AtomicBool::new(false),
            stored: AtomicU32::new(0),
            outdated_from: AtomicU64::new(u64::MAX),
            state: Mutex::new(state),
            outcome: OnceLock::new(),
        })
    }

    /// Begins another load in the memory of this one, which has ended and which no caller had joined.
    fn restart(&mut self, hash: u64, key: K, candidate: Candidate, replaces: bool) {
        let Self {
            hash: own_hash,
            key: own_key,
            joinable,
            joined,
            stored,
            outdated_from,
            state,
            outcome,
        } = self;
        debug_assert!(outcome.get().is_none() && !joined.load(Relaxed));
        *own_hash = hash;
        *own_key = key;
        *joinable = true;
        stored.store(0, Relaxed);
        outdated_from.store(u64::MAX, Relaxed);
        state.get_mut().restart(candidate, replaces);
    }

    fn is_revoked(&self) -> bool {
        self.stored.load(Relaxed) == REVOKED
    }
}

/// The loads in flight of the keys of one shard.
#[repr(align(64))]
pub(crate) struct InFlightLoads<K, V> {
    /// The length of `table`, plus one if it has a write log, so that writers see without a lock that there is nothing
    /// to revoke or to record.
    registered: AtomicUsize,
    /// The registered loads. A load is registered until it has an outcome, is revoked, or has neither leader nor
    /// waiter. So the table never drops the last reference, and with it a key, under its lock.
    table: Mutex<Table<K, V>>,
}

/// The role of a caller in a load.
pub(crate) enum Role<'a, K, V> {
    Lead(Leader<'a, K, V>),
    Wait(Waiter<'a, K, V>),
    /// The caller's thread runs the loader of this load.
    Recursive(Reentry),
}

/// The result of the search for a load to join.
enum Join<'a, K, V> {
    Found(Role<'a, K, V>),
    /// There is none. If there was one of an older epoch, the new load `replaces` it.
    StartNew {
        replaces: bool,
    },
}

impl<K: Eq, V> InFlightLoads<K, V> {
    pub(crate) fn new() -> Self {
        Self {
            registered: AtomicUsize::new(0),
            table: Mutex::new(Table::new()),
        }
    }

    /// Joins the load of a key in flight, or starts one. Called under the shard's shared lock, which is not released
    /// between the lookup that found nothing and this call.
    ///
    /// # Panics
    ///
    /// Panics if this thread holds a lock exclusively.
    pub(crate) fn join_or_lead<Q>(&self, hash: u64, key: &Q, candidate: Candidate) -> Role<'_, K, V>
    where
        Q: LookupKey<K> + ?Sized,
    {
        self.join_or_lead_with(hash, key, || candidate)
    }

    /// Joins or leads like [`join_or_lead`](Self::join_or_lead). `candidate` is called under the table's lock, and runs
    /// no code of the user. So the terms of a leader stay in registers.
    #[inline(always)]
    pub(crate) fn join_or_lead_with<Q>(
        &self,
        hash: u64,
        key: &Q,
        candidate: impl Fn() -> Candidate,
    ) -> Role<'_, K, V>
    where
        Q: LookupKey<K> + ?Sized,
    {
        assert_no_exclusive_lock_held("load into");
        let mut table = self.table.lock();
        // `Eq` and `Clone` of keys run from here on.
        let _guard_mark = LockGuardMark::writing();
        let replaces = match self.join(&mut table, hash, key, &candidate) {
            Join::Found(role) => return role,
            Join::StartNew { replaces } => replaces,
        };
        let candidate = candidate();
        // The key is cloned under the table's lock. If it were cloned before, a clone that is not needed would be
        // dropped under the shard's lock.
        let key = key.to_key();
        let restarted = table.restart_unused(key, |unused, key| {
            unused.restart(hash, key, candidate, replaces);
        });
        let load = restarted.unwrap_or_else(|key| {
            InFlightLoad::new(hash, key, true, State::led(candidate, replaces))
        });
        Role::Lead(self.register(&mut table, load, candidate))
    }

    /// Registers an update: an operation that reads a key, runs user code, and writes the key as one step. No caller
    /// joins it. Its leader may store unless the key has been written to since the registration. So of several updates
    /// of one key only the first to write stores.
    pub(crate) fn register_update(
        &self,
        hash: u64,
        key: K,
        candidate: Candidate,
    ) -> Leader<'_, K, V> {
        assert_no_exclusive_lock_held("write to");
        let load = InFlightLoad::new(hash, key, false, State::led(candidate, false));
        self.register(&mut self.table.lock(), load, candidate)
    }

    #[inline(always)]
    fn register(
        &self,
        table: &mut Table<K, V>,
        load: Arc<InFlightLoad<K, V>>,
        candidate: Candidate,
    ) -> Leader<'_, K, V> {
        table.insert(Arc::clone(&load));
        // The sum that `update_registered` would compute, in fewer instructions. Only this thread writes it now.
        let registered = self.registered.load(Relaxed) + 1;
        self.registered.store(registered, Release);
        Leader::new(self, load, 1, candidate)
    }

    #[inline(always)]
    fn join<Q>(
        &self,
        table: &mut Table<K, V>,
        hash: u64,
        key: &Q,
        candidate: impl Fn() -> Candidate,
    ) -> Join<'_, K, V>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let is_it = |other: &Arc<InFlightLoad<K, V>>| other.joinable && key.equivalent(&other.key);
        match table.find(hash, is_it) {
            Some(load) => self.join_load(&Arc::clone(load), table, candidate()),
            None => Join::StartNew { replaces: false },
        }
    }

    /// Joins a load that was found in the table.
    #[cold]
    fn join_load(
        &self,
        load: &Arc<InFlightLoad<K, V>>,
        table: &mut Table<K, V>,
        candidate: Candidate,
    ) -> Join<'_, K, V> {
        if is_running(Arc::as_ptr(load)) {
            return Join::Found(Role::Recursive(Reentry::new(Arc::as_ptr(load))));
        }
        load.joined.store(true, Relaxed);
        let admission = load.state.lock().admit(candidate);
        Join::Found(match admission {
            Admission::Lead { generation } => {
                Role::Lead(Leader::new(self, Arc::clone(load), generation, candidate))
            }
            Admission::Wait { ticket } => {
                Role::Wait(Waiter::new(self, Arc::clone(load), ticket, candidate))
            }
            Admission::Replace => {
                self.unregister(table, load);
                return Join::StartNew { replaces: true };
            }
        })
    }
}

impl<K, V> InFlightLoads<K, V> {
    /// Removes a load from the table, if it is still there. No superseded leader of it may store after this, because a
    /// write could not find the load to revoke it.
    #[inline(always)]
    fn unregister(&self, table: &mut Table<K, V>, load: &Arc<InFlightLoad<K, V>>) {
        load.stored.store(REVOKED, Relaxed);
        if let Some(load) = table.remove(load) {
            table.keep_unused(load);
            let registered = self.registered.load(Relaxed) - 1;
            self.registered.store(registered, Release);
        }
    }

    /// Updates `registered`, with release ordering: a writer that reads that a load was unregistered also sees that
    /// this load may not store.
    fn update_registered(&self, table: &Table<K, V>) {
        let logged = usize::from(table.log.is_some());
        self.registered.store(table.len() + logged, Release);
    }

    /// Runs a step that may leave a load without a leader, and wakes the waiter that the step returns. If no waiter can
    /// lead, because there is none or the load is revoked, the load ends, and its waiters start again with a load that
    /// is in the table.
    fn transition(
        &self,
        load: &Arc<InFlightLoad<K, V>>,
        step: impl FnOnce(&mut State) -> Option<Waker>,
    ) {
        wake(self.transition_deferred(load, step));
    }

    /// Like [`transition`](Self::transition), but returns the wakers instead of waking them.
    fn transition_deferred(
        &self,
        load: &Arc<InFlightLoad<K, V>>,
        step: impl FnOnce(&mut State) -> Option<Waker>,
    ) -> Vec<Waker> {
        let mut table = self.table.lock();
        let mut state = load.state.lock();
        let mut waiters = Waiters::new();
        let next = step(&mut state);
        let vacant = state.is_vacant();
        if vacant && (!state.is_awaited() || load.is_revoked()) {
            self.unregister(&mut table, load);
            waiters = state.end();
        }
        drop(state);
        drop(table);
        let sleeping = waiters.into_iter().filter_map(|(_, waker)| waker);
        next.into_iter().chain(sleeping).collect()
    }

    /// Returns the number of registered loads, for tests.
    pub(crate) fn len(&self) -> usize {
        let table = self.table.lock();
        let logged = usize::from(table.log.is_some());
        assert_eq!(table.len() + logged, self.registered.load(Relaxed));
        table.len()
    }
}

impl<K, V> AllocatedBytes for InFlightLoads<K, V> {
    fn allocated_bytes(&self) -> usize {
        // The `Eq` and `Clone` of keys may call this under the table's lock, and then must not wait for it.
        let table = if is_writing() {
            self.table.try_lock()
        } else {
            Some(self.table.lock())
        };
        table.map_or(0, |table| table.allocated_bytes())
    }
}

#[cfg(all(test, any(loom_models, shuttle_models)))]
mod models;
#[cfg(test)]
mod tests;
