//! The read lease: the time until which L1 may serve its entries.

use crate::clock::{NEVER, Nanos, saturating_nanos, system_nanos};
use crate::consistency::Consistency;
use parking_lot::Mutex;
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
    /// The time until which a read needs no further check: the end of the first lease of a partition to end if the
    /// class needs proof, otherwise the beginning of the next epoch.
    serves_until: AtomicU64,
    /// For each partition, the time until which this process is proven to know every acknowledged invalidation.
    proven_until: Box<[AtomicU64]>,
    /// Held while `proven_until` changes, so that `serves_until` is never later than one of its times.
    setting: Mutex<()>,
    /// Notified when `proven_until` changes.
    changed: Notify,
}

impl ReadLease {
    /// Creates a lease that is not granted, for this number of partitions. `ttl` is the longest time to live of an
    /// entry.
    pub(crate) fn new(consistency: Consistency, ttl: Option<Duration>, partitions: usize) -> Self {
        let bound = match consistency {
            Consistency::Bounded(bound) => Some(bound),
            _ => ttl,
        };
        Self {
            needs_proof: consistency == Consistency::Realtime,
            epoch_interval: bound.map_or(NEVER, |bound| saturating_nanos(bound / 2)),
            serves_until: AtomicU64::new(0),
            proven_until: (0..partitions).map(|_| AtomicU64::new(0)).collect(),
            setting: Mutex::new(()),
            changed: Notify::new(),
        }
    }

    /// Notes that an epoch has begun, in a class that needs no proof.
    pub(crate) fn extend(&self, now: Nanos) {
        let until = now.saturating_add(self.epoch_interval);
        self.serves_until.store(until, Release);
    }

    /// Checks whether L1 may serve the entries of all partitions. An acquire: a reader that may serve sees the
    /// invalidations that were applied before the leases were granted.
    #[inline]
    pub(crate) fn may_serve(&self, now: Nanos) -> bool {
        now < self.serves_until.load(Acquire)
    }

    /// Checks whether invalidations of a partition are proven to arrive.
    pub(crate) fn is_proven(&self, partition: usize, now: Nanos) -> bool {
        now < self.proven_until[partition].load(Acquire)
    }

    /// Checks whether invalidations of all partitions are proven to arrive.
    pub(crate) fn is_all_proven(&self, now: Nanos) -> bool {
        (0..self.proven_until.len()).all(|partition| self.is_proven(partition, now))
    }

    /// Grants the lease of a partition until the given time.
    pub(crate) fn grant(&self, partition: usize, until: Nanos) {
        self.set(partition, until.saturating_sub(CLOCK_RESOLUTION));
    }

    /// Ends the lease of a partition at once.
    pub(crate) fn revoke(&self, partition: usize) {
        self.set(partition, 0);
    }

    fn set(&self, partition: usize, until: Nanos) {
        let setting = self.setting.lock();
        self.proven_until[partition].store(until, Release);
        if self.needs_proof {
            let ends = self.proven_until.iter().map(|until| until.load(Acquire));
            self.serves_until.store(ends.min().unwrap_or(0), Release);
        }
        drop(setting);
        self.changed.notify_waiters();
    }

    /// Waits until invalidations of all partitions are proven to arrive, for at most `timeout`.
    pub(crate) async fn proven(&self, timeout: Duration) {
        let proof = async {
            loop {
                let changed = self.changed.notified();
                if self.is_all_proven(now()) {
                    return;
                }
                changed.await;
            }
        };
        let _ = tokio::time::timeout(timeout, proof).await;
    }
}
