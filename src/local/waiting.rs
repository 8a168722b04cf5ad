//! How a caller waits for others: for a load in flight or for a permit, and what it gets if that takes too long.

use super::hash::KeyHash;
use super::shard::Shard;
use super::{LocalCache, Place};
use crate::clock::Nanos;
use crate::error::{AnyError, LoadError};
use crate::flight::{
    Alarm, Bulkhead, Candidate, Leader, NotYet, Outcome, Permit, Superseded, TooLate, until,
};
use crate::stats::Count;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::task::Context;
use std::time::Instant;

/// Looks for a value that may serve in place of a new one, and whether it is live.
type FindStale<K, V> = for<'s> fn(&'s Shard<K, V>, KeyHash, &K, Nanos) -> Option<(&'s V, bool)>;

/// How long a caller waits for others.
pub(crate) struct Patience {
    /// When its wait ends.
    pub(super) deadline: Option<Instant>,
    /// When it is content with an expired value.
    pub(crate) stale_from: Option<Instant>,
}

impl Patience {
    /// Returns when the caller has to look at the time next.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.deadline.into_iter().chain(self.stale_from).min()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| deadline <= Instant::now())
    }
}

/// The result of a wait that took too long.
pub(super) enum Waited<V> {
    /// A value to serve instead.
    Instead(Outcome<V>),
    InVain,
}

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// Counts the load in whose place this leader loads. One that holds a permit is counted as the permit ends.
    pub(super) fn count_superseded(&self, leader: &Leader<'_, K, V>) {
        if leader.supersedes == Some(Superseded::Loading) {
            self.inner.counters.count(Count::Abandoned);
        }
    }

    /// Returns how long a caller that comes now waits for others.
    pub(crate) fn patience(&self) -> Patience {
        let slow = self.inner.settings.stale_if_slow;
        Patience {
            deadline: self.wait_deadline(),
            stale_from: slow.and_then(|after| Instant::now().checked_add(after)),
        }
    }

    /// Checks whether expired values may serve where a load fails.
    #[cfg(feature = "redis")]
    pub(crate) fn serves_stale(&self) -> bool {
        self.inner.settings.stale_if_error.is_some()
    }

    /// Returns the time from which a caller that starts to wait now accepts the expired value of `key`, or `None` if there
    /// is no such value.
    #[cfg(feature = "redis")]
    pub(crate) fn accepts_stale_from(&self, key: &K) -> Option<Instant> {
        let from = self.patience().stale_from?;
        let stale = self.stale_for_waiter(&self.place(key), key);
        stale.map(|_| from)
    }

    /// Returns an expired value for a caller that has waited for too long, and counts it.
    #[cfg(feature = "redis")]
    pub(crate) fn stale_in_place(&self, key: &K) -> Option<V> {
        let place = self.place(key);
        let outcome = self.stale_for_waiter(&place, key)?;
        self.disembark(&place, key, outcome).ok()
    }

    /// Waits until `ready` is, or until the caller's patience is over. Where an expired value may serve, that
    /// is returned instead of a timeout.
    pub(super) async fn wait_for<T>(
        &self,
        place: &Place<'_, K, V>,
        key: &K,
        patience: &Patience,
        alarm: &mut impl Alarm,
        mut ready: impl FnMut(&mut Context<'_>) -> Result<T, NotYet>,
    ) -> Result<T, Waited<V>> {
        let mut stale_from = patience.stale_from;
        let ready_or_stale = |cx: &mut Context<'_>| {
            let again = match ready(cx) {
                Ok(value) => return Ok(Ok(value)),
                Err(NotYet { again }) => again,
            };
            if stale_from.take_if(|from| *from <= Instant::now()).is_some() {
                if let Some(outcome) = self.stale_for_waiter(place, key) {
                    return Ok(Err(Waited::Instead(outcome)));
                }
            }
            let again = again.into_iter().chain(stale_from).min();
            Err(NotYet { again })
        };
        let result = until(alarm, patience.deadline, ready_or_stale).await;
        result.unwrap_or_else(|TooLate| {
            let stale = self.stale_for_waiter(place, key);
            Err(stale.map_or(Waited::InVain, Waited::Instead))
        })
    }

    /// Returns what a caller gets that has waited for too long.
    pub(super) fn give_up(
        &self,
        place: &Place<'_, K, V>,
        key: &K,
        waited: Waited<V>,
    ) -> Result<V, LoadError<AnyError>> {
        match waited {
            Waited::Instead(outcome) => self.disembark(place, key, outcome),
            Waited::InVain => Err(LoadError::WaitTimeout),
        }
    }

    /// The terms on which the current caller would load.
    pub(super) fn candidate(&self) -> Candidate {
        let bulkhead = self.inner.bulkhead.as_ref();
        Candidate {
            now: Instant::now(),
            lease: self.inner.settings.lease,
            epoch: self.inner.tags.epoch(),
            permitted: bulkhead.is_none_or(|bulkhead| bulkhead.is_passed()),
            has_permit: false,
        }
    }

    /// Returns the terms of a caller that may load at once, with a permit or because it needs none.
    pub(super) fn permitted(&self, has_permit: bool) -> Candidate {
        Candidate {
            permitted: true,
            has_permit,
            ..self.candidate()
        }
    }

    pub(super) fn wait_deadline(&self) -> Option<Instant> {
        let timeout = self.inner.settings.wait_timeout?;
        Instant::now().checked_add(timeout)
    }

    /// Returns the bulkhead if this caller needs a permit.
    fn bulkhead_to_pass(&self) -> Option<&Arc<Bulkhead>> {
        let bulkhead = self.inner.bulkhead.as_ref();
        bulkhead.filter(|bulkhead| !bulkhead.is_passed())
    }

    /// Waits for a permit, where one is needed. `on_poll` is called whenever the caller is polled while it waits.
    pub(super) async fn permit(
        &self,
        deadline: Option<Instant>,
        alarm: &mut impl Alarm,
        on_poll: impl FnMut(),
    ) -> Result<Option<Permit>, TooLate> {
        let Some(bulkhead) = self.bulkhead_to_pass() else {
            return Ok(None);
        };
        if let Some(permit) = bulkhead.try_pass() {
            return Ok(Some(permit));
        }
        self.inner.counters.count(Count::Queued);
        bulkhead.pass(deadline, alarm, on_poll).await.map(Some)
    }

    /// Waits for a permit for the leader of one key, where one is needed.
    pub(super) async fn permit_for(
        &self,
        place: &Place<'_, K, V>,
        key: &K,
        leader: &Leader<'_, K, V>,
        patience: &Patience,
        alarm: &mut impl Alarm,
    ) -> Result<Option<Permit>, Waited<V>> {
        let Some(bulkhead) = self.bulkhead_to_pass() else {
            return Ok(None);
        };
        if let Some(permit) = bulkhead.try_pass() {
            return Ok(Some(permit));
        }
        self.inner.counters.count(Count::Queued);
        let mut queued = bulkhead.enqueue();
        let turn = |cx: &mut Context<'_>| {
            leader.prolong(self.candidate());
            queued.poll(cx.waker())
        };
        let permit = self.wait_for(place, key, patience, alarm, turn).await?;
        Ok(Some(permit))
    }

    /// What to serve in place of a load that has failed lately.
    pub(super) fn stale(&self, place: &Place<'_, K, V>, key: &K) -> Option<Outcome<V>> {
        self.stale_by(place, key, Shard::stale)
    }

    /// Returns what to serve in place of a load that takes too long.
    pub(super) fn stale_for_waiter(&self, place: &Place<'_, K, V>, key: &K) -> Option<Outcome<V>> {
        self.stale_by(place, key, Shard::servable)
    }

    fn stale_by(
        &self,
        place: &Place<'_, K, V>,
        key: &K,
        find: FindStale<K, V>,
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
        let stale = |shard: &Shard<K, V>| find(shard, place.hash, key, now).map(outcome);
        place.cell.shard.read(stale)
    }
}
