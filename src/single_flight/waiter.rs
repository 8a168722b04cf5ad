//! The waiters of a load.

use crate::clock::Instant;
use crate::single_flight::leader::Leader;
use crate::single_flight::state::{Candidate, State, Superseded, Turn};
use crate::single_flight::{InFlightLoad, InFlightLoads, Outcome};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Waker;

/// A caller that waits for the leader of a load. If it is dropped before it has an answer, it leaves the queue.
pub(crate) struct Waiter<'a, K, V> {
    in_flight: &'a InFlightLoads<K, V>,
    load: Arc<InFlightLoad<K, V>>,
    /// Its ticket in the queue. `None` once it has an answer.
    ticket: Option<u64>,
    /// The epoch in which it joined.
    epoch: u64,
}

/// The answer to a waiter, which ends its wait.
pub(crate) enum Answer<'a, K, V> {
    /// The load has ended with an outcome for it.
    Completed(Completed<K, V>),
    /// It is the leader now.
    Lead(Leader<'a, K, V>),
    /// The load has ended without an outcome for this waiter. Its caller starts again.
    Retry {
        /// The activity of the leader that the waiter superseded, if that ended the load.
        supersedes: Option<Superseded>,
    },
}

impl<K, V> Answer<'_, K, V> {
    /// Returns the activity of the leader that the waiter superseded, if there was one.
    pub(crate) const fn supersedes(&self) -> Option<Superseded> {
        match self {
            Self::Lead(leader) => leader.supersedes,
            Self::Retry { supersedes } => *supersedes,
            Self::Completed(_) => None,
        }
    }
}

/// The answer to a caller that has to wait. It asks again when it is woken, and at `again` at the latest.
pub(crate) struct Pending {
    pub(crate) again: Option<Instant>,
}

impl<'a, K, V> Waiter<'a, K, V> {
    pub(crate) fn new(
        in_flight: &'a InFlightLoads<K, V>,
        load: Arc<InFlightLoad<K, V>>,
        ticket: u64,
        candidate: Candidate,
    ) -> Self {
        Self {
            in_flight,
            load,
            ticket: Some(ticket),
            epoch: candidate.epoch,
        }
    }

    /// Asks for an answer. Not called again after an answer other than `Pending`.
    pub(crate) fn poll(
        &mut self,
        candidate: Candidate,
        waker: &Waker,
    ) -> Result<Answer<'a, K, V>, Pending> {
        let Some(ticket) = self.ticket else {
            return Ok(Answer::Retry { supersedes: None });
        };
        // The waker is cloned before the lock is acquired, and the one that is left is dropped after its release.
        let mut waker = Some(waker.clone());
        let turn = self.load.state.lock().poll(ticket, candidate, &mut waker);
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
                self.in_flight,
                Arc::clone(&self.load),
                generation,
                candidate,
            );
            leader.supersedes = supersedes;
            // A load whose result cannot be stored is not worth running. Dropping the leader ends it for all of its
            // waiters.
            if self.load.is_revoked() {
                return Ok(Answer::Retry { supersedes });
            }
            return Ok(Answer::Lead(leader));
        }
        if self.load.outcome.get().is_some() && self.epoch < self.load.outdated_from.load(Relaxed) {
            return Ok(Answer::Completed(Completed(Arc::clone(&self.load))));
        }
        Ok(Answer::Retry { supersedes: None })
    }
}

impl<K, V> Waiter<'_, K, V> {
    /// Lets other waiters lead until this one is polled again, because its caller is about to be busy with another
    /// load.
    pub(crate) fn mark_busy(&mut self) {
        self.step(State::mark_busy);
    }

    /// Runs a step that may make another waiter the next leader. The waiter's own waker is dropped without a lock.
    fn step(&self, step: impl FnOnce(&mut State, u64) -> (Option<Waker>, Option<Waker>)) {
        if let Some(ticket) = self.ticket {
            let mut own = None;
            self.in_flight.transition(&self.load, |state| {
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

/// A load that has an outcome.
pub(crate) struct Completed<K, V>(Arc<InFlightLoad<K, V>>);

impl<K, V> Completed<K, V> {
    pub(crate) fn into_outcome(self) -> Outcome<V>
    where
        V: Clone,
    {
        let outcome = self.0.outcome.get().cloned();
        // Dropped before the outcome is returned, because a panic in a `drop` on return would leak it.
        drop(self);
        outcome.expect("a completed load has an outcome")
    }
}
