//! Single flight: of all callers who want one key, one loads and the others wait for it.
//!
//! After Go's `singleflight`, with what production adds: a leader that fails to land (a panic, a
//! dropped future) hands over to exactly one waiter; one that loads for longer than its lease is
//! superseded by exactly one waiter; and a write to the key *revokes* the flight, as invalidations
//! kill memcached's leases (Nishtala et al., "Scaling Memcache at Facebook", NSDI 2013): its
//! callers get its value, but it is not stored, and callers to come start a new flight.
//!
//! [`State`] is the state machine, pure; [`Flight`] puts it under a lock; [`Flights`] finds the
//! flight of a key. Waiting is by [`Waker`], so threads ([`blocking`]) and tasks ([`future`]) wait in
//! one queue, and what they do there (`wait.rs`) is written once.
//!
//! # Why a load that began before a write never stores
//!
//! The cache's side of the bargain, in this order:
//!
//! - a leader looks the key up and registers here under one shared hold of the shard's lock, then
//!   loads, then calls [`Flights::write`] and stores under one exclusive hold of it;
//! - every other writer calls [`Flights::write`] and writes under one such hold as well.
//!
//! If the leader's hold came first, the shard's lock makes its registration visible to the writer,
//! who revokes it. If the write came first, the load began after it. So `write` may trust a count of
//! what is registered without taking the table's lock. A flight that closes takes itself out of the
//! table at any time; whoever reads the lower count also sees that it may not store. One who takes a
//! flight over leads what has been registered since before, and nobody leads what is revoked.
//!
//! Locks are taken in this order: shard, table, state. None is held while user code runs, but for
//! `Eq` and `Clone` of keys under the table's.

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
#[cfg_attr(not(feature = "snapshot"), allow(dead_code))]
mod watch;

pub(crate) use bulkhead::{Bulkhead, Permit};
#[cfg(feature = "tokio")]
pub(crate) use context::is_loading;
pub(crate) use context::{LoaderId, Reentry, run_within};
pub(crate) use group::{Leaders, Waiting};
pub(crate) use leader::Leader;
#[cfg(feature = "tokio")]
pub(crate) use leader::Suspended;
pub(crate) use state::{Candidate, Superseded};
pub(crate) use wait::{Alarm, TooLate, until};
pub(crate) use waiter::{NotYet, Step, Waiter};
#[cfg(feature = "snapshot")]
pub(crate) use watch::Watcher;

use crate::error::AnyError;
use crate::held::{Held, assert_nothing_exclusive};
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Mutex, MutexGuard};
use context::is_within;
use equivalent::Equivalent;
use state::{Admission, State, Waiters, wake};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use table::Table;

/// What a load came to, for those who waited for it.
#[derive(Clone)]
pub(crate) enum Outcome<V> {
    Value(V),
    /// The load failed, and this is an older one.
    Stale(V),
    /// The load did not fail, but has no value for the key.
    Absent,
    Failed(Arc<AnyError>),
}

/// In `Flight::stored`: no generation may store any more.
const REVOKED: u32 = u32::MAX;

/// One key's load under way.
struct Flight<K, V> {
    hash: u64,
    key: K,
    /// Others may wait for it. An [`exclusive`](Flights::register_exclusive) one is not for them.
    joinable: bool,
    /// Somebody has joined: until then its leader is the only one who knows it. Under the table's
    /// lock, so relaxed.
    joined: AtomicBool,
    /// The newest generation that has stored, or [`REVOKED`]. Written under the table's lock, and
    /// read there by those who mean to store, so relaxed.
    stored: AtomicU32,
    /// Who boarded in this epoch or later may not have the outcome. Written before it.
    outdated_from: AtomicU64,
    state: Mutex<State>,
    /// Set before the phase is `Over`, unless waiters have to start anew.
    outcome: OnceLock<Outcome<V>>,
}

impl<K, V> Flight<K, V> {
    fn launch(hash: u64, key: K, joinable: bool, state: State) -> Arc<Self> {
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

    fn is_revoked(&self) -> bool {
        self.stored.load(Relaxed) == REVOKED
    }
}

/// The flights over one shard.
#[repr(align(64))]
pub(crate) struct Flights<K, V> {
    /// The length of `table`, and one if somebody watches, so that writes see without a lock that there is
    /// nothing to revoke or to note.
    registered: AtomicUsize,
    /// A flight is here until it lands, is revoked, or has neither leader nor waiter; so the table
    /// never drops the last reference, and with it a key, under its lock.
    table: Mutex<Table<K, V>>,
}

/// How a caller comes aboard.
pub(crate) enum Boarding<'a, K, V> {
    Lead(Leader<'a, K, V>),
    Wait(Waiter<'a, K, V>),
    /// The caller's thread runs the loader of this very flight.
    Recursive(Reentry),
}

/// What became of looking for a flight to board.
enum Join<'a, K, V> {
    Boarded(Boarding<'a, K, V>),
    /// There is none; or there was one of an older epoch, which is out of the table now.
    Launch {
        replaces: bool,
    },
}

impl<K: Eq, V> Flights<K, V> {
    pub(crate) fn new() -> Self {
        Self {
            registered: AtomicUsize::new(0),
            table: Mutex::new(Table::new()),
        }
    }

    /// Joins the key's flight, or starts one. Called under the shard's shared lock, in one hold with
    /// the look-up that found nothing.
    ///
    /// # Panics
    ///
    /// If this thread holds a lock exclusively.
    pub(crate) fn board(&self, hash: u64, key: &K, candidate: Candidate) -> Boarding<'_, K, V>
    where
        K: Clone,
    {
        assert_nothing_exclusive("load into");
        let mut table = self.table.lock();
        let replaces = match self.join(&mut table, hash, key, candidate) {
            Join::Boarded(boarding) => return boarding,
            Join::Launch { replaces } => replaces,
        };
        // The key is cloned under the lock: a flight for nothing would be dropped under the shard's.
        let _held = Held::exclusively();
        let state = State::led(candidate, replaces);
        let flight = Flight::launch(hash, key.clone(), true, state);
        Boarding::Lead(self.register(&mut table, flight, candidate))
    }

    /// A flight nobody joins: for a read, a decision and a write that shall be one. It may store
    /// unless the key was written to since. Several for one key exclude each other that way.
    pub(crate) fn register_exclusive(
        &self,
        hash: u64,
        key: K,
        candidate: Candidate,
    ) -> Leader<'_, K, V> {
        let flight = Flight::launch(hash, key, false, State::led(candidate, false));
        self.register(&mut self.table.lock(), flight, candidate)
    }

    fn register(
        &self,
        table: &mut Table<K, V>,
        flight: Arc<Flight<K, V>>,
        candidate: Candidate,
    ) -> Leader<'_, K, V> {
        table.insert(Arc::clone(&flight));
        self.count(table);
        Leader::new(self, flight, 1, candidate)
    }

    fn join(
        &self,
        table: &mut Table<K, V>,
        hash: u64,
        key: &K,
        candidate: Candidate,
    ) -> Join<'_, K, V> {
        let _held = Held::exclusively();
        let is_it = |other: &Arc<Flight<K, V>>| other.joinable && other.key == *key;
        let Some(flight) = table.find(hash, is_it) else {
            return Join::Launch { replaces: false };
        };
        if is_within(Arc::as_ptr(flight)) {
            return Join::Boarded(Boarding::Recursive(Reentry::into(Arc::as_ptr(flight))));
        }
        flight.joined.store(true, Relaxed);
        let admission = flight.state.lock().admit(candidate);
        Join::Boarded(match admission {
            Admission::Lead { generation } => {
                Boarding::Lead(Leader::new(self, Arc::clone(flight), generation, candidate))
            }
            Admission::Wait { ticket } => {
                Boarding::Wait(Waiter::new(self, Arc::clone(flight), ticket, candidate))
            }
            Admission::Replace => {
                let flight = Arc::clone(flight);
                self.close(table, &flight);
                return Join::Launch { replaces: true };
            }
        })
    }

    /// Begins a write to a key: no flight for it may store from now on, but for the leader's own.
    /// Called under the shard's exclusive lock, which is kept until the write is done.
    ///
    /// # Errors
    ///
    /// If there is a leader and it may not write: the key was written to since it registered, or a
    /// later leader of its flight has stored.
    #[inline(always)]
    pub(crate) fn write<'a, 'f, Q>(
        &'a self,
        hash: u64,
        key: &Q,
        leader: Option<&'a mut Leader<'f, K, V>>,
    ) -> Result<Writing<'a, 'f, K, V>, Outdated>
    where
        Q: Equivalent<K> + ?Sized,
    {
        // Where nothing is registered a leader's flight is closed, and says so itself.
        let is_quiet = self.registered.load(Acquire) == 0;
        if is_quiet && leader.is_none() {
            // Most writes: nothing here but a load, and nothing to pass on through memory.
            return Ok(Writing {
                flights: self,
                table: None,
                leader: None,
            });
        }
        self.write_against(hash, key, leader, is_quiet)
    }

    /// As [`write`](Self::write), where there is a leader or something to revoke.
    fn write_against<'a, 'f, Q>(
        &'a self,
        hash: u64,
        key: &Q,
        leader: Option<&'a mut Leader<'f, K, V>>,
        is_quiet: bool,
    ) -> Result<Writing<'a, 'f, K, V>, Outdated>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let mut table = (!is_quiet).then(|| self.table.lock());
        if let Some(leader) = &leader {
            let stored = &leader.flight.stored;
            if stored.load(Relaxed) > leader.generation {
                return Err(Outdated);
            }
            stored.store(leader.generation, Relaxed);
        }
        if let Some(table) = &mut table {
            let is_leaders = |other: &Arc<Flight<K, V>>| {
                let leader = leader.as_ref();
                leader.is_some_and(|leader| Arc::ptr_eq(&leader.flight, other))
            };
            let is_it =
                |other: &Arc<Flight<K, V>>| !is_leaders(other) && key.equivalent(&other.key);
            while let Some(flight) = table.take(hash, is_it) {
                flight.stored.store(REVOKED, Relaxed);
                self.count(table);
            }
            if let Some(watch) = &mut table.watch {
                watch.note(hash);
            }
        }
        Ok(Writing {
            flights: self,
            table,
            leader,
        })
    }

    /// As a [`write`](Self::write) to every key.
    pub(crate) fn revoke_all(&self) {
        let mut table = self.table.lock();
        for flight in table.drain() {
            flight.stored.store(REVOKED, Relaxed);
        }
        if let Some(watch) = &mut table.watch {
            watch.note_all();
        }
        self.count(&table);
    }
}

/// A write was not done, since its key was written to after the leader set out.
#[derive(Debug)]
pub(crate) struct Outdated;

/// A write under way: nobody boards a flight of this shard meanwhile.
pub(crate) struct Writing<'a, 'f, K, V> {
    flights: &'a Flights<K, V>,
    table: Option<MutexGuard<'a, Table<K, V>>>,
    leader: Option<&'a mut Leader<'f, K, V>>,
}

impl<K, V> Writing<'_, '_, K, V> {
    pub(crate) fn is_leaders(&self) -> bool {
        self.leader.is_some()
    }

    /// The write is done. A leader for whom nobody waits has landed with it.
    #[inline(always)]
    pub(crate) fn done(self) {
        if self.leader.is_some() {
            self.land();
        }
    }

    fn land(self) {
        let (Some(leader), Some(mut table)) = (self.leader, self.table) else {
            return;
        };
        let flight = &leader.flight;
        if flight.joined.load(Relaxed) {
            let mut state = flight.state.lock();
            if !state.is_led(leader.generation) || state.is_awaited() {
                return;
            }
            state.end();
        }
        self.flights.close(&mut table, flight);
        leader.over = true;
    }
}

impl<K, V> Flights<K, V> {
    /// Takes a flight out of the table, if it is there still. No superseded leader of it may store
    /// after this: a write could not find the flight to revoke it.
    fn close(&self, table: &mut Table<K, V>, flight: &Arc<Flight<K, V>>) {
        flight.stored.store(REVOKED, Relaxed);
        let found = table.take(flight.hash, |other| Arc::ptr_eq(other, flight));
        if found.is_some() {
            self.count(table);
        }
    }

    /// A release: a writer who reads that a flight is gone sees that it may not store any more.
    fn count(&self, table: &Table<K, V>) {
        let watched = usize::from(table.watch.is_some());
        self.registered.store(table.len() + watched, Release);
    }

    /// Runs a step that may leave a flight without a leader, and wakes whom the step names. Where
    /// no waiter can lead, for there is none or the flight is revoked, that is its end; waiters
    /// then start anew, in a flight that others find.
    fn step_away(
        &self,
        flight: &Arc<Flight<K, V>>,
        step: impl FnOnce(&mut State) -> Option<Waker>,
    ) {
        wake(self.step_aside(flight, step));
    }

    /// Like [`step_away`](Self::step_away), but returns the waiters to wake.
    fn step_aside(
        &self,
        flight: &Arc<Flight<K, V>>,
        step: impl FnOnce(&mut State) -> Option<Waker>,
    ) -> Vec<Waker> {
        let mut table = self.table.lock();
        let mut state = flight.state.lock();
        let mut waiters = Waiters::new();
        let next = step(&mut state);
        let vacant = state.is_vacant();
        if vacant && (!state.is_awaited() || flight.is_revoked()) {
            self.close(&mut table, flight);
            waiters = state.end();
        }
        drop(state);
        drop(table);
        let sleeping = waiters.into_iter().filter_map(|(_, waker)| waker);
        next.into_iter().chain(sleeping).collect()
    }

    /// For tests: how many flights are registered.
    pub(crate) fn len(&self) -> usize {
        let table = self.table.lock();
        let watched = usize::from(table.watch.is_some());
        assert_eq!(table.len() + watched, self.registered.load(Relaxed));
        table.len()
    }
}

#[cfg(all(test, any(loom_models, shuttle_models)))]
mod models;
#[cfg(test)]
mod tests;
