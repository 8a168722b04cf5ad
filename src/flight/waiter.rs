//! One who waits for another's load.

use super::leader::Leader;
use super::state::{Candidate, State, Turn};
use super::{Flight, Flights, Outcome};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Waker;
use std::time::Instant;

/// One who waits for a leader. Dropped before it is told that the wait is over, it leaves.
pub(crate) struct Waiter<'a, K, V> {
    flights: &'a Flights<K, V>,
    flight: Arc<Flight<K, V>>,
    /// `None` once it is told.
    ticket: Option<u64>,
    /// When it came.
    epoch: u64,
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

/// One who waits is told nothing yet: it asks again when woken, and at `again`.
pub(crate) struct NotYet {
    pub(crate) again: Option<Instant>,
}

impl<'a, K, V> Waiter<'a, K, V> {
    pub(super) fn new(
        flights: &'a Flights<K, V>,
        flight: Arc<Flight<K, V>>,
        ticket: u64,
        candidate: Candidate,
    ) -> Self {
        Self {
            flights,
            flight,
            ticket: Some(ticket),
            epoch: candidate.epoch,
        }
    }

    /// Asks for its turn; after an answer other than `NotYet` it is asked no more.
    pub(crate) fn poll(
        &mut self,
        candidate: Candidate,
        waker: &Waker,
    ) -> Result<Step<'a, K, V>, NotYet> {
        let Some(ticket) = self.ticket else {
            return Ok(Step::BoardAgain);
        };
        // Cloned before the lock is taken, and what is left of it dropped after.
        let mut waker = Some(waker.clone());
        let turn = self.flight.state.lock().poll(ticket, candidate, &mut waker);
        drop(waker);
        if let Turn::Wait { again } = turn {
            return Err(NotYet { again });
        }
        self.ticket = None;
        if let Turn::Lead {
            generation,
            supersedes,
        } = turn
        {
            let mut leader = Leader::new(
                self.flights,
                Arc::clone(&self.flight),
                generation,
                candidate,
            );
            leader.supersedes = supersedes;
            // Nobody leads what cannot be stored: dropping the leader ends the flight for all who
            // wait in it.
            if !self.flight.is_revoked() {
                return Ok(Step::Lead(leader));
            }
        } else if self.flight.outcome.get().is_some()
            && self.epoch < self.flight.outdated_from.load(Relaxed)
        {
            return Ok(Step::Landed(Landed(Arc::clone(&self.flight))));
        }
        Ok(Step::BoardAgain)
    }
}

impl<K, V> Waiter<'_, K, V> {
    /// Lets other waiters lead until this one is polled again: its caller is about to be busy with
    /// another load.
    pub(crate) fn step_back(&mut self) {
        self.step(State::step_back);
    }

    /// Runs a step that may make another waiter the one to lead. The waiter's own waker is dropped
    /// without a lock.
    fn step(&self, step: impl FnOnce(&mut State, u64) -> (Option<Waker>, Option<Waker>)) {
        if let Some(ticket) = self.ticket {
            let mut own = None;
            self.flights.step_away(&self.flight, |state| {
                let (woken, left) = step(state, ticket);
                own = left;
                woken
            });
        }
    }
}

impl<K, V> Drop for Waiter<'_, K, V> {
    fn drop(&mut self) {
        self.step(State::leave);
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
