//! The one who loads.

use super::context::{Entered, LoaderId};
use super::state::{Candidate, Superseded, wake};
use super::{Flight, Flights, Outcome};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Waker;
use std::time::Instant;

/// The one who loads. Dropped without landing, it hands over to a waiter.
pub(crate) struct Leader<'a, K, V> {
    pub(super) flights: &'a Flights<K, V>,
    pub(super) flight: Arc<Flight<K, V>>,
    pub(super) generation: u32,
    /// When it took the lead, or began to load.
    pub(crate) since: Instant,
    /// What it loads is at least of this epoch.
    pub(crate) epoch: u64,
    /// The leader in whose place it loads.
    pub(crate) supersedes: Option<Superseded>,
    /// It has landed.
    pub(super) over: bool,
}

impl<'a, K, V> Leader<'a, K, V> {
    pub(super) fn new(
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

    /// One that had no permit has one now and is about to load. `false` if it was superseded.
    pub(crate) fn begin(&mut self, candidate: Candidate) -> bool {
        self.since = candidate.now;
        self.epoch = candidate.epoch;
        self.flight.state.lock().begin(self.generation, candidate)
    }

    /// Shows that this leader is alive while it waits for a permit.
    pub(crate) fn prolong(&self, candidate: Candidate) {
        self.flight.state.lock().prolong(self.generation, candidate);
    }

    /// This thread runs the loader while the result lives: a call for the same key is recursive.
    pub(crate) fn enter(&self, loader: LoaderId) -> impl Drop + use<K, V> {
        Entered::by(Arc::as_ptr(&self.flight), loader)
    }

    /// Who boards in this epoch or later may not have what this leader lands with.
    pub(crate) fn outdate(&self, from: u64) {
        self.flight.outdated_from.fetch_min(from, Relaxed);
    }

    /// Lets go of the table's lifetime, for a task that will [`resume`](Flights::resume).
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

    /// Ends the flight with what `outcome` gives, which is asked only if someone waits. A leader
    /// that was superseded ends nothing.
    ///
    /// # Panics
    ///
    /// If `outcome` does; the waiters then start anew.
    pub(crate) fn land(mut self, outcome: impl FnOnce() -> Outcome<V>) {
        if self.over || !self.flight.state.lock().prepare_landing(self.generation) {
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
        self.over = true;
        wake(waiters.into_iter().filter_map(|(_, waker)| waker));
    }
}

impl<K, V> Leader<'_, K, V> {
    /// Hands the flight over to a waiter, as dropping the leader does, but returns the waiters to
    /// wake.
    pub(super) fn abandon(&mut self) -> Vec<Waker> {
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

/// A leader between two places. It must be resumed, if only to be dropped.
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
