//! The wait of a caller for a load in flight or for a permit, and the expired value that it may get if the wait takes
//! too long.

use crate::clock::{Instant, Nanos, precise_now};
use crate::error::{AnyError, LoadError};
use crate::local::shard::Shard;
use crate::local::shard::hash::KeyHash;
use crate::local::{KeyLocation, LocalCache};
use crate::single_flight::{
    Answer, Bulkhead, Candidate, Leader, Outcome, Pending, Permit, Queued, Superseded, TimedOut,
    Timer, poll_until,
};
use crate::stats::Count;
use equivalent::Equivalent;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::task::Context;

/// A function that looks for a value to serve in place of a loaded one. The `bool` is `true` if the value is live.
type FindStale<K, V, Q> = for<'s> fn(&'s Shard<K, V>, KeyHash, &Q, Nanos) -> Option<(&'s V, bool)>;

/// The limits of a caller's wait.
#[derive(Clone, Copy)]
pub(crate) struct WaitLimits {
    /// The end of the wait. `None` if the wait has no limit.
    pub(crate) deadline: Option<Instant>,
    /// The time from which the caller accepts an expired value. If `None`, it accepts one at the deadline.
    pub(crate) stale_from: Option<Instant>,
}

impl WaitLimits {
    /// Returns the next time at which the caller has to act.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.deadline.into_iter().chain(self.stale_from).min()
    }

    /// Checks whether the deadline has passed.
    pub(crate) fn is_over(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| deadline <= precise_now())
    }

    /// Waits until `ready` returns a value. `stale` looks for an expired value to serve instead. It is called at
    /// `stale_from` and again at the deadline.
    ///
    /// # Errors
    ///
    /// Returns [`WaitFailure::Stale`] with the value of `stale` if it finds one, and [`WaitFailure::TimedOut`] if it
    /// finds none at the deadline.
    pub(crate) async fn wait<T, I>(
        &self,
        timer: &mut impl Timer,
        mut ready: impl FnMut(&mut Context<'_>) -> Result<T, Pending>,
        stale: impl Fn() -> Option<I>,
    ) -> Result<T, WaitFailure<I>> {
        let mut stale_from = self.stale_from;
        let ready_or_stale = |cx: &mut Context<'_>| {
            let again = match ready(cx) {
                Ok(value) => return Ok(Ok(value)),
                Err(Pending { again }) => again,
            };
            if stale_from.take_if(|from| *from <= precise_now()).is_some() {
                if let Some(instead) = stale() {
                    return Ok(Err(WaitFailure::Stale(instead)));
                }
            }
            let again = again.into_iter().chain(stale_from).min();
            Err(Pending { again })
        };
        let result = poll_until(timer, self.deadline, ready_or_stale).await;
        result.unwrap_or_else(|TimedOut| {
            Err(stale().map_or(WaitFailure::TimedOut, WaitFailure::Stale))
        })
    }
}

/// The reason why a wait ended before its result was ready.
pub(crate) enum WaitFailure<I> {
    /// An expired value is served instead.
    Stale(I),
    /// The deadline has passed, and there is no expired value to serve.
    TimedOut,
}

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// Counts a load without a permit as abandoned if a waiter has superseded it. A load with a permit is counted by
    /// the bulkhead, when the permit ends.
    pub(crate) fn count_superseded(&self, answer: &Answer<'_, K, V>) {
        if answer.supersedes() == Some(Superseded::Loading) {
            self.inner.counters.count(Count::Abandoned);
        }
    }

    /// Returns the limits for a caller that begins to wait now.
    pub(crate) fn wait_limits(&self) -> WaitLimits {
        let slow = self.inner.settings.stale_if_slow;
        WaitLimits {
            deadline: self.wait_deadline(),
            stale_from: slow.and_then(|after| precise_now().checked_add(after)),
        }
    }

    /// Waits until `ready` returns a value. When a limit of the wait is reached, looks for an expired value of `key` to
    /// serve instead.
    pub(crate) async fn wait_for<Q, T>(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &Q,
        wait_limits: &WaitLimits,
        timer: &mut impl Timer,
        ready: impl FnMut(&mut Context<'_>) -> Result<T, Pending>,
    ) -> Result<T, WaitFailure<Outcome<V>>>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let stale = || self.stale_for_waiter(location, key);
        wait_limits.wait(timer, ready, stale).await
    }

    /// Returns the result of a call whose wait took too long.
    pub(crate) fn stale_or_timeout<Q>(
        &self,
        key: &Q,
        waited: WaitFailure<Outcome<V>>,
    ) -> Result<V, LoadError<AnyError>>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        match waited {
            WaitFailure::Stale(outcome) => self.take_outcome(key, outcome),
            WaitFailure::TimedOut => Err(LoadError::WaitTimeout),
        }
    }

    /// Returns the terms on which the current caller would load.
    pub(crate) fn candidate(&self) -> Candidate {
        let bulkhead = self.inner.bulkhead.as_ref();
        Candidate {
            now: precise_now(),
            lease: self.inner.settings.lease,
            epoch: self.inner.tags.epoch(),
            permitted: bulkhead.is_none_or(|bulkhead| bulkhead.is_entered()),
            has_permit: false,
        }
    }

    /// Returns the terms of a caller that may load at once, with a permit or because it needs none.
    pub(crate) fn permitted_candidate(&self, has_permit: bool) -> Candidate {
        Candidate {
            permitted: true,
            has_permit,
            ..self.candidate()
        }
    }

    fn wait_deadline(&self) -> Option<Instant> {
        let timeout = self.inner.settings.wait_timeout?;
        precise_now().checked_add(timeout)
    }

    /// Returns the bulkhead if this caller needs a permit.
    pub(crate) fn required_bulkhead(&self) -> Option<&Arc<Bulkhead>> {
        let bulkhead = self.inner.bulkhead.as_ref();
        bulkhead.filter(|bulkhead| !bulkhead.is_entered())
    }

    /// Acquires a permit, or returns `None` if the caller needs none.
    ///
    /// # Errors
    ///
    /// Returns a place in the queue if no permit is free.
    pub(crate) fn permit_or_queue(&self) -> Result<Option<Permit>, Queued<'_>> {
        let Some(bulkhead) = self.required_bulkhead() else {
            return Ok(None);
        };
        if let Some(permit) = bulkhead.try_acquire() {
            return Ok(Some(permit));
        }
        self.inner.counters.count(Count::Queued);
        Err(bulkhead.enqueue())
    }

    /// Waits for a permit for the leader of one key. Returns `None` if the leader needs none.
    pub(crate) async fn permit_for<Q>(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &Q,
        leader: &Leader<'_, K, V>,
        wait_limits: &WaitLimits,
        timer: &mut impl Timer,
    ) -> Result<Option<Permit>, WaitFailure<Outcome<V>>>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let mut queued = match self.permit_or_queue() {
            Ok(permit) => return Ok(permit),
            Err(queued) => queued,
        };
        let poll = |cx: &mut Context<'_>| {
            leader.extend_lease(self.candidate());
            queued.poll(cx.waker())
        };
        let permit = self
            .wait_for(location, key, wait_limits, timer, poll)
            .await?;
        Ok(Some(permit))
    }

    /// Returns a value to serve in place of a load that has failed recently.
    pub(crate) fn stale<Q>(&self, location: &KeyLocation<'_, K, V>, key: &Q) -> Option<Outcome<V>>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        self.stale_by(location, key, Shard::stale)
    }

    /// Returns a value to serve in place of a load that takes too long.
    pub(crate) fn stale_for_waiter<Q>(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &Q,
    ) -> Option<Outcome<V>>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        self.stale_by(location, key, Shard::servable)
    }

    fn stale_by<Q: ?Sized>(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &Q,
        find: FindStale<K, V, Q>,
    ) -> Option<Outcome<V>> {
        self.inner.settings.stale_if_error?;
        let now = self.inner.settings.clock.now();
        let outcome = |(value, is_live): (&V, bool)| {
            let kind = if is_live {
                Outcome::Value
            } else {
                Outcome::Stale
            };
            kind(value.clone())
        };
        let stale = |shard: &Shard<K, V>| find(shard, location.hash, key, now).map(outcome);
        location.cell.shard.read(stale)
    }
}
