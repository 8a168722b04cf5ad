//! The waiters of a flight.

use crate::single_flight::leader::Leader;
use crate::single_flight::state::{Candidate, State, Superseded, Turn};
use crate::single_flight::{Flight, Flights, Outcome};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Waker;
use std::time::Instant;

/// A caller that waits for the leader of a flight. Dropped before it has an answer, it leaves the queue.
pub(crate) struct Waiter<'a, K, V> {
    flights: &'a Flights<K, V>,
    flight: Arc<Flight<K, V>>,
    /// Its place in the queue. `None` once it has an answer.
    ticket: Option<u64>,
    /// The epoch in which it came.
    epoch: u64,
}

/// The answer to a waiter, after which it waits no longer.
pub(crate) enum Step<'a, K, V> {
    /// The leader has an outcome for it.
    Completed(Completed<K, V>),
    /// It is the leader now.
    Lead(Leader<'a, K, V>),
    /// The flight has ended without an outcome for the waiter, whose caller starts again.
    BoardAgain {
        /// The leader that the waiter superseded, if that is why the flight has ended.
        supersedes: Option<Superseded>,
    },
}

impl<K, V> Step<'_, K, V> {
    /// Returns what the leader that the waiter superseded was doing, if there was one.
    pub(crate) const fn supersedes(&self) -> Option<Superseded> {
        match self {
            Self::Lead(leader) => leader.supersedes,
            Self::BoardAgain { supersedes } => *supersedes,
            Self::Completed(_) => None,
        }
    }
}

/// The answer to a caller that has to wait: it asks again when woken, and at `again` at the latest.
pub(crate) struct Pending {
    pub(crate) again: Option<Instant>,
}

impl<'a, K, V> Waiter<'a, K, V> {
    pub(crate) fn new(
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

    /// Asks for an answer. Not called again after an answer other than `Pending`.
    pub(crate) fn poll(
        &mut self,
        candidate: Candidate,
        waker: &Waker,
    ) -> Result<Step<'a, K, V>, Pending> {
        let Some(ticket) = self.ticket else {
            return Ok(Step::BoardAgain { supersedes: None });
        };
        // The waker is cloned before the lock is taken, and the one that is left is dropped after.
        let mut waker = Some(waker.clone());
        let turn = self.flight.state.lock().poll(ticket, candidate, &mut waker);
        drop(waker);
        if let Turn::Wait { again } = turn {
            return Err(Pending { again });
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
            // A result that cannot be stored is not worth a load: dropping the leader ends the flight for all
            // of its waiters.
            if self.flight.is_revoked() {
                return Ok(Step::BoardAgain { supersedes });
            }
            return Ok(Step::Lead(leader));
        }
        if self.flight.outcome.get().is_some()
            && self.epoch < self.flight.outdated_from.load(Relaxed)
        {
            return Ok(Step::Completed(Completed(Arc::clone(&self.flight))));
        }
        Ok(Step::BoardAgain { supersedes: None })
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
pub(crate) struct Completed<K, V>(Arc<Flight<K, V>>);

impl<K, V> Completed<K, V> {
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
