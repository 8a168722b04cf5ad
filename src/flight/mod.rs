//! Single flight: of all callers who want one key, one loads and the others wait for it.
//!
//! After Go's `singleflight`, with what production adds: a leader that fails to land (a panic, a
//! dropped future) hands over to exactly one waiter; one that loads for longer than its lease is
//! superseded by exactly one waiter; and a write to the key *revokes* the flight, as invalidations
//! kill memcached's leases (Nishtala et al., "Scaling Memcache at Facebook", NSDI 2013): its
//! callers get its value, but it is not stored, and callers to come start a new flight.
//!
//! [`State`] is the state machine, pure; [`Flight`] puts it under a lock; [`Flights`] finds the
//! flight of a key. Waiting is by [`Waker`], so threads ([`blocking`]) and tasks wait in one queue.
//!
//! # Why a load that began before a write never stores
//!
//! The cache's side of the bargain, in this order:
//!
//! - a leader registers here, *then* looks the key up under the shard's lock, then loads, then
//!   asks [`Leader::may_store`] and stores under one exclusive hold of the shard's lock;
//! - a writer calls [`Flights::revoke`] and writes under one exclusive hold of the shard's lock.
//!
//! If the leader's look-up came first, the shard's lock makes its registration visible to the
//! writer, who revokes it. If the write came first, the load began after it. So `revoke` may trust a
//! count of what is registered without taking the table's lock. A flight that closes takes itself
//! out of the table at any time; whoever reads the lower count also sees that it may not store.
//!
//! Locks are taken in this order: shard, table, state. None is held while user code runs, but for
//! `Eq` of keys under the table's.

pub(crate) mod blocking;
mod state;

pub(crate) use state::Candidate;

use crate::error::AnyError;
use crate::held::{Held, assert_holds_nothing};
use equivalent::Equivalent;
use hashbrown::HashTable;
use parking_lot::Mutex;
use state::{Admission, State, Turn, Waiters, wake};
use std::sync::atomic::{
    AtomicU32, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::Instant;

/// What a load came to, for those who waited for it.
#[derive(Clone)]
pub(crate) enum Outcome<V> {
    Value(V),
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
    /// The newest generation that has stored, or [`REVOKED`]. Compared and raised under the
    /// shard's exclusive lock when storing, so relaxed.
    stored: AtomicU32,
    state: Mutex<State>,
    /// Set before the phase is `Over`, unless waiters have to start anew.
    outcome: OnceLock<Outcome<V>>,
}

impl<K, V> Flight<K, V> {
    fn launch(hash: u64, key: K, joinable: bool, leader: Candidate) -> Arc<Self> {
        Arc::new(Self {
            hash,
            key,
            joinable,
            stored: AtomicU32::new(0),
            state: Mutex::new(State::led(leader)),
            outcome: OnceLock::new(),
        })
    }

    fn is_revoked(&self) -> bool {
        self.stored.load(Relaxed) == REVOKED
    }
}

/// The flights over one shard.
pub(crate) struct Flights<K, V> {
    /// The length of `table`, so that writes see without a lock that there is nothing to revoke.
    registered: AtomicUsize,
    /// A flight is here until it lands, is revoked, or has neither leader nor waiter; so the table
    /// never drops the last reference, and with it a key, under its lock.
    table: Mutex<HashTable<Arc<Flight<K, V>>>>,
}

/// How a caller comes aboard.
pub(crate) enum Boarding<'a, K, V> {
    Lead(Leader<'a, K, V>),
    Wait(Waiter<'a, K, V>),
    /// This very thread leads the flight.
    Recursive,
}

impl<K: Eq, V> Flights<K, V> {
    pub(crate) fn new() -> Self {
        Self {
            registered: AtomicUsize::new(0),
            table: Mutex::new(HashTable::new()),
        }
    }

    /// Joins the key's flight, or starts one.
    ///
    /// # Panics
    ///
    /// If this thread holds a lock: the flight's leader may wait for it.
    pub(crate) fn board(&self, hash: u64, key: &K, candidate: Candidate) -> Boarding<'_, K, V>
    where
        K: Clone,
    {
        assert_holds_nothing("load into");
        if let Some(boarding) = self.join(&self.table.lock(), hash, key, candidate) {
            return boarding;
        }
        let flight = Flight::launch(hash, key.clone(), true, candidate);
        let mut table = self.table.lock();
        // Somebody else may have been quicker.
        if let Some(boarding) = self.join(&table, hash, key, candidate) {
            drop(table);
            // Not as it returns: a panic in a `drop` of the key would leak a place in the queue.
            drop(flight);
            return boarding;
        }
        Boarding::Lead(self.register(&mut table, flight))
    }

    /// A flight nobody joins: for a read, a decision and a write that shall be one. It may store
    /// unless the key was written to since. Several for one key exclude each other that way.
    pub(crate) fn register_exclusive(
        &self,
        hash: u64,
        key: K,
        candidate: Candidate,
    ) -> Leader<'_, K, V> {
        let flight = Flight::launch(hash, key, false, candidate);
        self.register(&mut self.table.lock(), flight)
    }

    fn register(
        &self,
        table: &mut HashTable<Arc<Flight<K, V>>>,
        flight: Arc<Flight<K, V>>,
    ) -> Leader<'_, K, V> {
        table.insert_unique(flight.hash, Arc::clone(&flight), |other| other.hash);
        self.count(table);
        Leader {
            flights: self,
            flight,
            generation: 1,
        }
    }

    fn join(
        &self,
        table: &HashTable<Arc<Flight<K, V>>>,
        hash: u64,
        key: &K,
        candidate: Candidate,
    ) -> Option<Boarding<'_, K, V>> {
        let _held = Held::exclusively();
        let is_it =
            |other: &Arc<Flight<K, V>>| other.joinable && other.hash == hash && other.key == *key;
        let flight = Arc::clone(table.find(hash, is_it)?);
        let admission = flight.state.lock().admit(candidate);
        Some(match admission {
            Admission::Lead { generation } => Boarding::Lead(Leader {
                flights: self,
                flight,
                generation,
            }),
            Admission::Wait { ticket } => Boarding::Wait(Waiter {
                flights: self,
                flight,
                ticket: Some(ticket),
            }),
            Admission::Recursive => Boarding::Recursive,
        })
    }

    /// The key is being written to: no flight for it may store, but for `except`'s. Called under
    /// the shard's exclusive lock, before the write.
    pub(crate) fn revoke<Q>(&self, hash: u64, key: &Q, except: Option<&Leader<'_, K, V>>)
    where
        Q: Equivalent<K> + ?Sized,
    {
        if self.registered.load(Acquire) == 0 {
            return;
        }
        let spared = |other: &Arc<Flight<K, V>>| {
            except.is_some_and(|leader| Arc::ptr_eq(&leader.flight, other))
        };
        let mut table = self.table.lock();
        while let Ok(found) = table.find_entry(hash, |other| {
            other.hash == hash && !spared(other) && key.equivalent(&other.key)
        }) {
            let (flight, _) = found.remove();
            flight.stored.store(REVOKED, Relaxed);
            self.count(&table);
        }
    }

    /// As [`revoke`](Self::revoke), for every key.
    pub(crate) fn revoke_all(&self) {
        let mut table = self.table.lock();
        for flight in table.drain() {
            flight.stored.store(REVOKED, Relaxed);
        }
        self.count(&table);
    }
}

impl<K, V> Flights<K, V> {
    /// Takes a flight out of the table, if it is there still. No superseded leader of it may store
    /// after this: a write could not find the flight to revoke it.
    fn close(&self, table: &mut HashTable<Arc<Flight<K, V>>>, flight: &Arc<Flight<K, V>>) {
        flight.stored.store(REVOKED, Relaxed);
        if let Ok(found) = table.find_entry(flight.hash, |other| Arc::ptr_eq(other, flight)) {
            found.remove();
            self.count(table);
        }
    }

    /// A release: a writer who reads that a flight is gone sees that it may not store any more.
    fn count(&self, table: &HashTable<Arc<Flight<K, V>>>) {
        self.registered.store(table.len(), Release);
    }

    /// Runs a step that may leave a flight without a leader, and wakes whom the step names. Where
    /// no waiter can lead, for there is none or the flight is revoked, that is its end; waiters
    /// then start anew, in a flight that others find.
    fn step_away(
        &self,
        flight: &Arc<Flight<K, V>>,
        step: impl FnOnce(&mut State) -> Option<Waker>,
    ) {
        let mut table = self.table.lock();
        let mut state = flight.state.lock();
        let mut woken = Waiters::new();
        if let Some(waker) = step(&mut state) {
            woken.push_back((0, Some(waker)));
        }
        let vacant = state.is_vacant();
        if vacant && (!state.is_awaited() || flight.is_revoked()) {
            self.close(&mut table, flight);
            woken.append(&mut state.end());
        }
        drop(state);
        drop(table);
        wake(woken);
    }

    /// For tests: how many flights are registered.
    pub(crate) fn len(&self) -> usize {
        let table = self.table.lock();
        assert_eq!(table.len(), self.registered.load(Relaxed));
        table.len()
    }
}

/// The one who loads. Dropped without landing, it hands over to a waiter.
pub(crate) struct Leader<'a, K, V> {
    flights: &'a Flights<K, V>,
    flight: Arc<Flight<K, V>>,
    generation: u32,
}

impl<K, V> Leader<'_, K, V> {
    /// May what this leader has loaded be stored? Not if the key was written to since, nor if a
    /// later leader of this flight has stored. Called under the shard's exclusive lock, and if it
    /// says yes, the value is stored under the same hold.
    pub(crate) fn may_store(&self) -> bool {
        self.flight.stored.fetch_max(self.generation, Relaxed) <= self.generation
    }

    /// Ends the flight with what `outcome` gives, which is asked only if someone waits. A leader
    /// that was superseded ends nothing.
    ///
    /// # Panics
    ///
    /// If `outcome` does; the waiters then start anew.
    pub(crate) fn land(self, outcome: impl FnOnce() -> Outcome<V>) {
        if !self.flight.state.lock().prepare_landing(self.generation) {
            return;
        }
        self.flights
            .close(&mut self.flights.table.lock(), &self.flight);
        // Nobody can join any more.
        if self.flight.state.lock().is_awaited() {
            let outcome = outcome();
            // Empty until now: one leader gets past `prepare_landing`.
            let _ = self.flight.outcome.set(outcome);
        }
        let waiters = self.flight.state.lock().end();
        wake(waiters);
    }
}

impl<K, V> Drop for Leader<'_, K, V> {
    fn drop(&mut self) {
        if self.flight.state.lock().is_led(self.generation) {
            self.flights
                .step_away(&self.flight, |state| state.abandon(self.generation));
        }
    }
}

/// One who waits for a leader. Dropped before it is told that the wait is over, it leaves.
pub(crate) struct Waiter<'a, K, V> {
    flights: &'a Flights<K, V>,
    flight: Arc<Flight<K, V>>,
    /// `None` once it is told.
    ticket: Option<u64>,
}

/// What a waiter is told.
pub(crate) enum Step<'a, K, V> {
    /// It has what the leader has.
    Landed(Landed<K, V>),
    /// It is the leader now.
    Lead(Leader<'a, K, V>),
    /// The flight is no more; it boards anew.
    BoardAgain,
}

/// A waiter is told nothing yet: it asks again when woken, and at `lease_end`.
pub(crate) struct NotYet {
    pub(crate) lease_end: Option<Instant>,
}

impl<'a, K, V> Waiter<'a, K, V> {
    /// Asks for its turn; after an answer other than `NotYet` it is asked no more.
    pub(crate) fn poll(
        &mut self,
        candidate: Candidate,
        waker: &Waker,
    ) -> Result<Step<'a, K, V>, NotYet> {
        let Some(ticket) = self.ticket else {
            return Ok(Step::BoardAgain);
        };
        let turn = self.flight.state.lock().poll(ticket, candidate, waker);
        if let Turn::Wait { lease_end } = turn {
            return Err(NotYet { lease_end });
        }
        self.ticket = None;
        if let Turn::Lead { generation } = turn {
            let leader = Leader {
                flights: self.flights,
                flight: Arc::clone(&self.flight),
                generation,
            };
            // Nobody leads what cannot be stored: dropping the leader ends the flight for all who
            // wait in it.
            if !self.flight.is_revoked() {
                return Ok(Step::Lead(leader));
            }
        } else if self.flight.outcome.get().is_some() {
            return Ok(Step::Landed(Landed(Arc::clone(&self.flight))));
        }
        Ok(Step::BoardAgain)
    }
}

impl<K, V> Drop for Waiter<'_, K, V> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.flights
                .step_away(&self.flight, |state| state.leave(ticket));
        }
    }
}

/// A flight that has landed.
pub(crate) struct Landed<K, V>(Arc<Flight<K, V>>);

impl<K, V> Landed<K, V> {
    pub(crate) fn into_outcome(self) -> Outcome<V>
    where
        V: Clone,
    {
        let outcome = self.0.outcome.get().cloned();
        // Before the outcome is on its way to the caller: a panic in a `drop` would leak it there.
        drop(self);
        outcome.expect("made only once the outcome is there")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::SeqCst;
    use std::task::Wake;
    use std::thread::{self, ThreadId};
    use std::time::Duration;

    const LEASE: Duration = Duration::from_secs(10);

    /// Threads are told apart by their ids alone, so one thread can play several.
    struct Cast {
        start: Instant,
        threads: Vec<ThreadId>,
    }

    impl Cast {
        fn new() -> Self {
            let id = |_| thread::spawn(|| thread::current().id()).join().unwrap();
            Self {
                start: Instant::now(),
                threads: (0..4).map(id).collect(),
            }
        }

        fn at(&self, thread: usize, seconds: u64) -> Candidate {
            let now = self.start + Duration::from_secs(seconds);
            Candidate::of(self.threads[thread], now, LEASE)
        }
    }

    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    /// A waiter with the bell that wakes it.
    struct Guest<'a> {
        waiter: Waiter<'a, u32, u32>,
        bell: Arc<Bell>,
    }

    impl<'a> Guest<'a> {
        fn board(flights: &'a Flights<u32, u32>, candidate: Candidate) -> Self {
            match flights.board(1, &1, candidate) {
                Boarding::Wait(waiter) => Self {
                    waiter,
                    bell: Arc::default(),
                },
                _ => panic!("there is no flight to wait for"),
            }
        }

        fn poll(&mut self, candidate: Candidate) -> Result<Step<'a, u32, u32>, NotYet> {
            self.waiter.poll(candidate, &self.bell.clone().into())
        }

        fn must_wait(&mut self, candidate: Candidate) -> Option<Instant> {
            match self.poll(candidate) {
                Err(NotYet { lease_end }) => lease_end,
                Ok(_) => panic!("it was told something"),
            }
        }

        fn leads(&mut self, candidate: Candidate) -> Leader<'a, u32, u32> {
            match self.poll(candidate) {
                Ok(Step::Lead(leader)) => leader,
                _ => panic!("it does not lead"),
            }
        }

        fn is_sent_away(&mut self, candidate: Candidate) -> bool {
            matches!(self.poll(candidate), Ok(Step::BoardAgain))
        }

        fn has_landed_with(&mut self, candidate: Candidate, expected: u32) -> bool {
            match self.poll(candidate) {
                Ok(Step::Landed(landed)) => {
                    matches!(landed.into_outcome(), Outcome::Value(value) if value == expected)
                }
                _ => false,
            }
        }

        fn rung(&self) -> usize {
            self.bell.0.load(SeqCst)
        }
    }

    fn lead(flights: &Flights<u32, u32>, candidate: Candidate) -> Leader<'_, u32, u32> {
        match flights.board(1, &1, candidate) {
            Boarding::Lead(leader) => leader,
            _ => panic!("somebody leads already"),
        }
    }

    #[test]
    fn all_who_wait_land_with_the_leader() {
        let (cast, flights) = (Cast::new(), Flights::new());
        let leader = lead(&flights, cast.at(0, 0));
        let mut early = Guest::board(&flights, cast.at(1, 1));
        assert_eq!(early.must_wait(cast.at(1, 1)), Some(cast.start + LEASE));
        // One that was never polled before the landing is told as well.
        let mut late = Guest::board(&flights, cast.at(2, 1));
        assert!(leader.may_store());
        leader.land(|| Outcome::Value(7));
        assert_eq!(early.rung(), 1);
        assert!(early.has_landed_with(cast.at(1, 2), 7));
        assert!(late.has_landed_with(cast.at(2, 2), 7));
        assert_eq!(flights.len(), 0);
    }

    #[test]
    fn nobody_is_asked_for_an_outcome_that_nobody_waits_for() {
        let (cast, flights) = (Cast::new(), Flights::new());
        lead(&flights, cast.at(0, 0)).land(|| panic!("asked"));
        assert_eq!(flights.len(), 0);
    }

    #[test]
    fn the_leaders_own_thread_is_told_that_it_is_recursive() {
        let (cast, flights) = (Cast::new(), Flights::new());
        let _leader = lead(&flights, cast.at(0, 0));
        assert!(matches!(
            flights.board(1, &1, cast.at(0, 1)),
            Boarding::Recursive
        ));
        assert!(matches!(
            flights.board(2, &2, cast.at(0, 1)),
            Boarding::Lead(_)
        ));
    }

    #[test]
    fn a_lost_leader_wakes_one_waiter_who_leads() {
        let (cast, flights) = (Cast::new(), Flights::new());
        let leader = lead(&flights, cast.at(0, 0));
        let mut guests = [1, 2].map(|thread| Guest::board(&flights, cast.at(thread, 0)));
        for (guest, thread) in guests.iter_mut().zip(1..) {
            guest.must_wait(cast.at(thread, 0));
        }
        drop(leader);
        let [first, second] = &mut guests;
        assert_eq!((first.rung(), second.rung()), (1, 0));
        let leader = first.leads(cast.at(1, 1));
        second.must_wait(cast.at(2, 1));
        leader.land(|| Outcome::Value(8));
        assert!(second.has_landed_with(cast.at(2, 2), 8));
    }

    #[test]
    fn a_waiter_that_was_woken_to_lead_and_goes_away_wakes_the_next() {
        let (cast, flights) = (Cast::new(), Flights::new());
        let leader = lead(&flights, cast.at(0, 0));
        let mut first = Guest::board(&flights, cast.at(1, 0));
        let mut second = Guest::board(&flights, cast.at(2, 0));
        first.must_wait(cast.at(1, 0));
        second.must_wait(cast.at(2, 0));
        drop(leader);
        drop(first);
        assert_eq!(second.rung(), 1);
        drop(second.leads(cast.at(2, 1)));
        // The last one out closes the flight.
        assert_eq!(flights.len(), 0);
    }

    #[test]
    fn a_newcomer_may_lead_before_the_woken_waiter_does() {
        let (cast, flights) = (Cast::new(), Flights::new());
        let leader = lead(&flights, cast.at(0, 0));
        let mut guest = Guest::board(&flights, cast.at(1, 0));
        guest.must_wait(cast.at(1, 0));
        drop(leader);
        let newcomer = lead(&flights, cast.at(2, 1));
        guest.must_wait(cast.at(1, 1));
        newcomer.land(|| Outcome::Value(9));
        assert!(guest.has_landed_with(cast.at(1, 2), 9));
    }

    #[test]
    fn after_the_lease_the_first_to_ask_leads_under_a_lease_of_its_own() {
        let (cast, flights) = (Cast::new(), Flights::new());
        let slow = lead(&flights, cast.at(0, 0));
        let mut first = Guest::board(&flights, cast.at(1, 1));
        let mut second = Guest::board(&flights, cast.at(2, 1));
        first.must_wait(cast.at(1, 9));
        let leader = first.leads(cast.at(1, 10));
        let lease_end = second.must_wait(cast.at(2, 10));
        assert_eq!(lease_end, Some(cast.start + 2 * LEASE));

        assert!(leader.may_store());
        assert!(!slow.may_store(), "something newer was stored");
        slow.land(|| panic!("superseded"));
        second.must_wait(cast.at(2, 11));
        leader.land(|| Outcome::Value(3));
        assert!(second.has_landed_with(cast.at(2, 11), 3));
    }

    #[test]
    fn a_superseded_leader_stores_as_long_as_its_successor_has_not() {
        let (cast, flights) = (Cast::new(), Flights::new());
        let slow = lead(&flights, cast.at(0, 0));
        let mut guest = Guest::board(&flights, cast.at(1, 1));
        let leader = guest.leads(cast.at(1, 10));
        assert!(slow.may_store());
        assert!(leader.may_store());
        assert!(!slow.may_store());
    }

    #[test]
    fn who_failed_to_land_in_time_may_not_store_once_nobody_could_revoke_it() {
        let (cast, flights) = (Cast::new(), Flights::new());
        let slow = lead(&flights, cast.at(0, 0));
        let mut guest = Guest::board(&flights, cast.at(1, 1));
        guest
            .leads(cast.at(1, 10))
            .land(|| Outcome::Failed(Arc::new("refused")));
        assert_eq!(flights.len(), 0);
        assert!(!slow.may_store());
    }

    #[test]
    fn a_revoked_flight_lands_with_those_aboard_and_newcomers_take_another() {
        let (cast, flights) = (Cast::new(), Flights::new());
        let leader = lead(&flights, cast.at(0, 0));
        let mut guest = Guest::board(&flights, cast.at(1, 0));
        flights.revoke(1, &1, None);
        assert!(!leader.may_store());
        let anew = lead(&flights, cast.at(2, 1));
        leader.land(|| Outcome::Value(4));
        assert!(guest.has_landed_with(cast.at(1, 1), 4));
        assert!(anew.may_store());
    }

    #[test]
    fn nobody_leads_a_revoked_flight_all_start_anew() {
        let (cast, flights) = (Cast::new(), Flights::new());
        let leader = lead(&flights, cast.at(0, 0));
        let mut guests = [1, 2].map(|thread| Guest::board(&flights, cast.at(thread, 0)));
        for (guest, thread) in guests.iter_mut().zip(1..) {
            guest.must_wait(cast.at(thread, 0));
        }
        flights.revoke_all();
        drop(leader);
        for (guest, thread) in guests.iter_mut().zip(1..) {
            assert_eq!(guest.rung(), 1);
            assert!(guest.is_sent_away(cast.at(thread, 1)));
        }
        assert_eq!(flights.len(), 0);
    }

    #[test]
    fn a_revoked_flight_is_not_waited_for_after_its_lease() {
        let (cast, flights) = (Cast::new(), Flights::new());
        let slow = lead(&flights, cast.at(0, 0));
        let mut first = Guest::board(&flights, cast.at(1, 0));
        let mut second = Guest::board(&flights, cast.at(2, 0));
        second.must_wait(cast.at(2, 0));
        flights.revoke(1, &1, None);
        assert!(first.is_sent_away(cast.at(1, 10)));
        assert_eq!(second.rung(), 1);
        assert!(second.is_sent_away(cast.at(2, 10)));
        slow.land(|| panic!("superseded"));
    }

    #[test]
    fn an_exclusive_flight_is_revoked_by_others_but_not_by_itself() {
        let (cast, flights) = (Cast::new(), Flights::new());
        let mine = flights.register_exclusive(1, 1, cast.at(0, 0));
        let other = flights.register_exclusive(1, 1, cast.at(1, 0));
        let loading = lead(&flights, cast.at(2, 0));
        assert!(mine.may_store());
        flights.revoke(1, &1, Some(&mine));
        assert!(mine.may_store() && !other.may_store() && !loading.may_store());
        assert_eq!(flights.len(), 1);
        drop(mine);
        assert_eq!(flights.len(), 0);
    }

    #[test]
    fn an_outcome_that_panics_sends_all_who_wait_away() {
        let (cast, flights) = (Cast::new(), Flights::new());
        let leader = lead(&flights, cast.at(0, 0));
        let mut guest = Guest::board(&flights, cast.at(1, 0));
        guest.must_wait(cast.at(1, 0));
        let land = std::panic::AssertUnwindSafe(|| leader.land(|| panic!("Clone")));
        assert!(std::panic::catch_unwind(land).is_err());
        assert_eq!(guest.rung(), 1);
        assert!(guest.is_sent_away(cast.at(1, 1)));
        assert_eq!(flights.len(), 0);
    }
}
