//! Until when L1 may serve what it holds.

use crate::clock::{NEVER, Nanos, saturating_nanos, system_nanos};
use crate::tiered::Consistency;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Release},
};
use std::time::Duration;
use tokio::sync::Notify;

/// Coarse clocks may be read as this much too early.
const COARSENESS: Nanos = 20_000_000;

/// The time, on the clock of leases on L1: it must not stand still, whatever the cache's does.
#[inline]
pub(crate) fn now() -> Nanos {
    system_nanos()
}

pub(crate) struct ReadLease {
    needs_proof: bool,
    /// How long a load may be under way and still be joined, where the class bounds that: half of the
    /// bound, so that a time is begun twice within it.
    joins_for: Nanos,
    /// What hits compare: as `proven_until`, or when the next time begins, or never.
    serves_until: AtomicU64,
    /// Until when every invalidation that was acknowledged is known here.
    proven_until: AtomicU64,
    /// Until when that is has changed.
    changed: Notify,
}

impl ReadLease {
    /// `ttl` is what entries live at most.
    pub(crate) fn new(consistency: Consistency, ttl: Option<Duration>) -> Self {
        let bound = match consistency {
            Consistency::Bounded(bound) => Some(bound),
            _ => ttl,
        };
        Self {
            needs_proof: consistency == Consistency::Realtime,
            joins_for: bound.map_or(NEVER, |bound| saturating_nanos(bound / 2)),
            serves_until: AtomicU64::new(0),
            proven_until: AtomicU64::new(0),
            changed: Notify::new(),
        }
    }

    /// Another time in which loads are joined has begun, where no proof is needed.
    pub(crate) fn extend(&self, now: Nanos) {
        let until = now.saturating_add(self.joins_for);
        self.serves_until.store(until, Release);
    }

    /// An acquire: who may serve sees what was forgotten before.
    #[inline]
    pub(crate) fn may_serve(&self, now: Nanos) -> bool {
        now < self.serves_until.load(Acquire)
    }

    pub(crate) fn is_proven(&self, now: Nanos) -> bool {
        now < self.proven_until.load(Acquire)
    }

    pub(crate) fn grant(&self, until: Nanos) {
        self.set(until.saturating_sub(COARSENESS));
    }

    pub(crate) fn revoke(&self) {
        self.set(0);
    }

    fn set(&self, until: Nanos) {
        self.proven_until.store(until, Release);
        if self.needs_proof {
            self.serves_until.store(until, Release);
        }
        self.changed.notify_waiters();
    }

    /// Waits until every invalidation is known here, for a while at most.
    pub(crate) async fn proven(&self, most: Duration) {
        let proof = async {
            loop {
                let changed = self.changed.notified();
                if self.is_proven(now()) {
                    return;
                }
                changed.await;
            }
        };
        let _ = tokio::time::timeout(most, proof).await;
    }
}
