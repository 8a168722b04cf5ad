//! The leader of a flight, which loads.

use crate::single_flight::context::{Entered, LoaderId};
use crate::single_flight::state::{Candidate, Superseded, wake};
use crate::single_flight::{Flight, Flights, Outcome};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Waker;
use std::time::Instant;

/// The caller that loads. Dropped before it has landed, it hands over to a waiter.
pub(crate) struct Leader<'a, K, V> {
    pub(crate) flights: &'a Flights<K, V>,
    pub(crate) flight: Arc<Flight<K, V>>,
    pub(crate) generation: u32,
    /// The time at which it took the lead, or began to load.
    pub(crate) since: Instant,
    /// The epoch at the start of the load, or an earlier one.
    pub(crate) epoch: u64,
    /// The activity of the leader in whose place it loads, if it superseded one.
    pub(crate) supersedes: Option<Superseded>,
    /// Whether it leads no longer.
    pub(crate) over: bool,
}

impl<'a, K, V> Leader<'a, K, V> {
    pub(crate) fn new(
        flights: &'a Flights<K, V>,
        flight: Arc<Flight<K, V>>,
        generation: u32,
        candidate: Candidate,
    ) -> Self {
        Self {
            flights,
            flight,
            generation,
            since: candidate.now,
            epoch: candidate.epoch,
            supersedes: None,
            over: false,
        }
    }

    /// Starts the lease of a leader that has got its permit and is about to load. Returns `false` if it was
    /// superseded.
    pub(crate) fn begin(&mut self, candidate: Candidate) -> bool {
        self.since = candidate.now;
        self.epoch = candidate.epoch;
        self.flight.state.lock().begin(self.generation, candidate)
    }

    /// Shows that this leader is alive while it waits for a permit.
    pub(crate) fn prolong(&self, candidate: Candidate) {
        self.flight.state.lock().prolong(self.generation, candidate);
    }

    /// Marks this thread as running the loader while the result lives: a call for the same key is recursive.
    pub(crate) fn enter(&self, loader: LoaderId) -> impl Drop + use<K, V> {
        Entered::by(Arc::as_ptr(&self.flight), loader)
    }

    /// Withholds the outcome from callers that came in the epoch `from` or later.
    pub(crate) fn outdate(&self, from: u64) {
        self.flight.outdated_from.fetch_min(from, Relaxed);
    }

    /// Gives up the borrow of the table, for a task that will [`resume`](Flights::resume).
    #[cfg(feature = "tokio")]
    pub(crate) fn suspend(mut self) -> Suspended<K, V> {
        self.over = true;
        Suspended {
            flight: Arc::clone(&self.flight),
            generation: self.generation,
            since: self.since,
            epoch: self.epoch,
        }
    }

    /// Ends the flight with the result of `outcome`, which is called only if a caller waits. Does nothing if the
    /// leader was superseded.
    ///
    /// # Panics
    ///
    /// Panics if `outcome` does. The waiters then start again.
    pub(crate) fn complete(mut self, outcome: impl FnOnce() -> Outcome<V>) {
        if self.over || !self.flight.state.lock().prepare_completion(self.generation) {
            return;
        }
        self.flights
            .close(&mut self.flights.table.lock(), &self.flight);
        // No caller can join from here on.
        if self.flight.state.lock().is_awaited() {
            let outcome = outcome();
            // It is still empty, because only one leader gets past `prepare_completion`.
            let _ = self.flight.outcome.set(outcome);
        }
        let waiters = self.flight.state.lock().end();
        self.over = true;
        wake(waiters.into_iter().filter_map(|(_, waker)| waker));
    }
}

impl<K, V> Leader<'_, K, V> {
    /// Hands the flight over to a waiter, like dropping the leader, but returns the waiters to wake.
    pub(crate) fn abandon(&mut self) -> Vec<Waker> {
        if self.over || !self.flight.state.lock().is_led(self.generation) {
            return Vec::new();
        }
        self.over = true;
        self.flights
            .step_aside(&self.flight, |state| state.abandon(self.generation))
    }
}

impl<K, V> Drop for Leader<'_, K, V> {
    fn drop(&mut self) {
        wake(self.abandon());
    }
}

/// A leader without a borrow of the table. It must be resumed, even if only to be dropped.
#[cfg(feature = "tokio")]
pub(crate) struct Suspended<K, V> {
    flight: Arc<Flight<K, V>>,
    generation: u32,
    since: Instant,
    epoch: u64,
}

#[cfg(feature = "tokio")]
impl<K, V> Flights<K, V> {
    pub(crate) fn resume(&self, suspended: Suspended<K, V>) -> Leader<'_, K, V> {
        Leader {
            flights: self,
            flight: suspended.flight,
            generation: suspended.generation,
            since: suspended.since,
            epoch: suspended.epoch,
            supersedes: None,
            over: false,
        }
    }
}
