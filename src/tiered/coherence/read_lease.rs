//! The read lease: the time until which L1 may serve its entries.

use crate::clock::{NEVER, Nanos, saturating_nanos, system_nanos};
use crate::consistency::Consistency;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Release},
};
use std::time::Duration;
use tokio::sync::Notify;

/// The time by which a lease ends early, because a coarse clock may be this far behind, in nanoseconds.
const CLOCK_RESOLUTION: Nanos = 20_000_000;

/// Returns the time on the clock of read leases. It is the system's clock even if the cache has another one, because
/// leases must end.
#[inline]
pub(crate) fn now() -> Nanos {
    system_nanos()
}

/// The read lease of one cache, in the form that reads compare with the time.
pub(crate) struct ReadLease {
    needs_proof: bool,
    /// The interval between epochs, in nanoseconds, if no proof is needed: half of the bound on the age of values. A
    /// caller joins no load of an earlier epoch, so it joins no load that began more than one interval ago.
    epoch_interval: Nanos,
    /// The time until which a read needs no further check: the end of the lease if the class needs proof, otherwise the
    /// beginning of the next epoch.
    serves_until: AtomicU64,
    /// The time until which this process is proven to know every acknowledged invalidation.
    proven_until: AtomicU64,
    /// Notified when `proven_until` changes.
    changed: Notify,
}

impl ReadLease {
    /// Creates a lease that is not granted. `ttl` is the longest time to live of an entry.
    pub(crate) fn new(consistency: Consistency, ttl: Option<Duration>) -> Self {
        let bound = match consistency {
            Consistency::Bounded(bound) => Some(bound),
            _ => ttl,
        };
        Self {
            needs_proof: consistency == Consistency::Realtime,
            epoch_interval: bound.map_or(NEVER, |bound| saturating_nanos(bound / 2)),
            serves_until: AtomicU64::new(0),
            proven_until: AtomicU64::new(0),
            changed: Notify::new(),
        }
    }

    /// Notes that an epoch has begun, in a class that needs no proof.
    pub(crate) fn extend(&self, now: Nanos) {
        let until = now.saturating_add(self.epoch_interval);
        self.serves_until.store(until, Release);
    }

    /// Checks whether L1 may serve. An acquire: a reader that may serve sees the invalidations that were applied before
    /// the lease was granted.
    #[inline]
    pub(crate) fn may_serve(&self, now: Nanos) -> bool {
        now < self.serves_until.load(Acquire)
    }

    /// Checks whether invalidations are proven to arrive.
    pub(crate) fn is_proven(&self, now: Nanos) -> bool {
        now < self.proven_until.load(Acquire)
    }

    /// Grants the lease until the given time.
    pub(crate) fn grant(&self, until: Nanos) {
        self.set(until.saturating_sub(CLOCK_RESOLUTION));
    }

    /// Ends the lease at once.
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

    /// Waits until invalidations are proven to arrive, for at most `timeout`.
    pub(crate) async fn proven(&self, timeout: Duration) {
        let proof = async {
            loop {
                let changed = self.changed.notified();
                if self.is_proven(now()) {
                    return;
                }
                changed.await;
            }
        };
        let _ = tokio::time::timeout(timeout, proof).await;
    }
}
