//! The leader of a load, which runs the loader.

use crate::clock::Instant;
use crate::single_flight::context::{Entered, LoaderId};
use crate::single_flight::state::{Candidate, Superseded, wake};
use crate::single_flight::{InFlightLoad, InFlightLoads, KeyWrite, Outcome};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::task::Waker;

/// The caller that loads. If it is dropped before it has completed the load, it hands over to a waiter.
pub(crate) struct Leader<'a, K, V> {
    pub(crate) in_flight: &'a InFlightLoads<K, V>,
    pub(crate) load: Arc<InFlightLoad<K, V>>,
    pub(crate) generation: u32,
    /// The time at which it became the leader, or began to load.
    pub(crate) since: Instant,
    /// The epoch at the start of the load, or an earlier one.
    pub(crate) epoch: u64,
    /// The activity of the leader that it superseded, if there was one.
    pub(crate) supersedes: Option<Superseded>,
    /// `true` once it has completed, abandoned or suspended its load. It stays `false` if the leader is superseded.
    pub(crate) over: bool,
}

impl<'a, K, V> Leader<'a, K, V> {
    pub(crate) fn new(
        in_flight: &'a InFlightLoads<K, V>,
        load: Arc<InFlightLoad<K, V>>,
        generation: u32,
        candidate: Candidate,
    ) -> Self {
        Self {
            in_flight,
            load,
            generation,
            since: candidate.now,
            epoch: candidate.epoch,
            supersedes: None,
            over: false,
        }
    }

    /// Starts the lease of a leader that has its permit and is about to load. Returns `false` if it was superseded.
    pub(crate) fn begin(&mut self, candidate: Candidate) -> bool {
        self.since = candidate.now;
        self.epoch = candidate.epoch;
        self.load.state.lock().begin(self.generation, candidate)
    }

    /// Extends the lease of this leader, which waits for a permit and was polled, so that it is known to be alive.
    pub(crate) fn extend_lease(&self, candidate: Candidate) {
        self.load
            .state
            .lock()
            .extend_lease(self.generation, candidate);
    }

    /// Marks this thread as running the loader while the result lives: a call for the same key is recursive.
    pub(crate) fn enter(&self, loader: LoaderId) -> impl Drop + use<K, V> {
        Entered::new(Arc::as_ptr(&self.load), loader)
    }

    /// Withholds the outcome from callers that joined in the epoch `from` or later.
    pub(crate) fn outdate(&self, from: u64) {
        self.load.outdated_from.fetch_min(from, Relaxed);
    }

    /// Checks whether this leader may write without [`begin_write`](InFlightLoads::begin_write), because its load is
    /// the only registered one, and no leader of it has stored. Called under the shard's exclusive lock, which is held
    /// until the write is finished by [`finish_lone_write`](Self::finish_lone_write).
    #[inline]
    pub(crate) fn is_alone(&self) -> bool {
        // A load that is not revoked is registered, unless it ends just now. So it is the one that is counted.
        self.in_flight.registered.load(Acquire) == 1 && self.load.stored.load(Relaxed) == 0
    }

    /// Finishes a write that [`is_alone`](Self::is_alone) has allowed. If no caller waits for this leader, this ends
    /// its load too.
    #[inline]
    pub(crate) fn finish_lone_write(&mut self) {
        let in_flight = self.in_flight;
        let mut table = in_flight.table.lock();
        if self.load.joined.load(Relaxed) {
            self.load.stored.store(self.generation, Relaxed);
            KeyWrite::by(in_flight, table, self).finish();
        } else {
            in_flight.unregister(&mut table, &self.load);
            self.over = true;
        }
    }

    /// Gives up the borrow of the table, for a task that will [`resume`](InFlightLoads::resume).
    #[cfg(feature = "tokio")]
    pub(crate) fn suspend(mut self) -> SuspendedLeader<K, V> {
        self.over = true;
        SuspendedLeader {
            load: Arc::clone(&self.load),
            generation: self.generation,
            since: self.since,
            epoch: self.epoch,
        }
    }

    /// Ends the load with the result of `outcome`, which is called only if a caller waits. Does nothing if the leader
    /// was superseded.
    ///
    /// # Panics
    ///
    /// Panics if `outcome` does. The waiters then start again.
    pub(crate) fn complete(mut self, outcome: impl FnOnce() -> Outcome<V>) {
        self.finish(outcome);
    }

    /// Ends the load like [`complete`](Self::complete), but leaves the leader where it is.
    #[inline]
    pub(crate) fn finish(&mut self, outcome: impl FnOnce() -> Outcome<V>) {
        if !self.over {
            self.finish_shared(outcome);
        }
    }

    #[inline(never)]
    fn finish_shared(&mut self, outcome: impl FnOnce() -> Outcome<V>) {
        if !self.load.state.lock().prepare_completion(self.generation) {
            return;
        }
        self.in_flight
            .unregister(&mut self.in_flight.table.lock(), &self.load);
        // No caller can join from here on.
        if self.load.state.lock().is_awaited() {
            let outcome = outcome();
            // It is still empty, because only one leader gets past `prepare_completion`.
            let _ = self.load.outcome.set(outcome);
        }
        let waiters = self.load.state.lock().end();
        self.over = true;
        wake(waiters.into_iter().filter_map(|(_, waker)| waker));
    }
}

impl<K, V> Leader<'_, K, V> {
    /// Hands the load over to a waiter, like dropping the leader, but returns the waiters to wake.
    pub(crate) fn abandon(&mut self) -> Vec<Waker> {
        if self.over || !self.load.state.lock().is_led(self.generation) {
            return Vec::new();
        }
        self.over = true;
        self.in_flight
            .transition_deferred(&self.load, |state| state.abandon(self.generation))
    }

    #[cold]
    fn hand_over(&mut self) {
        wake(self.abandon());
    }
}

impl<K, V> Drop for Leader<'_, K, V> {
    #[inline]
    fn drop(&mut self) {
        if !self.over {
            self.hand_over();
        }
    }
}

/// A leader without a borrow of the table. It must be [resumed](InFlightLoads::resume), even if only to be dropped.
#[cfg(feature = "tokio")]
pub(crate) struct SuspendedLeader<K, V> {
    load: Arc<InFlightLoad<K, V>>,
    generation: u32,
    since: Instant,
    epoch: u64,
}

#[cfg(feature = "tokio")]
impl<K, V> InFlightLoads<K, V> {
    /// Returns the leader of a load of this table.
    pub(crate) fn resume(&self, suspended: SuspendedLeader<K, V>) -> Leader<'_, K, V> {
        Leader {
            in_flight: self,
            load: suspended.load,
            generation: suspended.generation,
            since: suspended.since,
            epoch: suspended.epoch,
            supersedes: None,
            over: false,
        }
    }
}
