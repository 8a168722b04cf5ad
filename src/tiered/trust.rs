//! Until when L1 may serve what it holds.

use super::Consistency;
use crate::clock::{Clock, NEVER, Nanos, SystemClock, saturating_nanos};
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Release},
};

/// Coarse clocks may be read as this much too early.
const COARSENESS: Nanos = 20_000_000;

/// The time, on the clock of leases on L1: it must not stand still, whatever the cache's does.
#[inline]
pub(super) fn now() -> Nanos {
    saturating_nanos(SystemClock.now())
}

pub(super) struct Trust {
    consistency: Consistency,
    /// What hits compare: as `proven_until`, or for ever, or never.
    serves_until: AtomicU64,
    /// Until when every invalidation that was acknowledged is known here.
    proven_until: AtomicU64,
}

impl Trust {
    pub(super) fn new(consistency: Consistency) -> Self {
        let serves_until = match consistency {
            Consistency::Realtime | Consistency::L2Only => 0,
            Consistency::Bounded(_) | Consistency::L1Only => NEVER,
        };
        Self {
            consistency,
            serves_until: AtomicU64::new(serves_until),
            proven_until: AtomicU64::new(0),
        }
    }

    /// An acquire: who may serve sees what was forgotten before.
    #[inline]
    pub(super) fn may_serve(&self, now: Nanos) -> bool {
        now < self.serves_until.load(Acquire)
    }

    pub(super) fn is_proven(&self, now: Nanos) -> bool {
        now < self.proven_until.load(Acquire)
    }

    pub(super) fn grant(&self, until: Nanos) {
        self.set(until.saturating_sub(COARSENESS));
    }

    pub(super) fn revoke(&self) {
        self.set(0);
    }

    fn set(&self, until: Nanos) {
        self.proven_until.store(until, Release);
        if self.consistency == Consistency::Realtime {
            self.serves_until.store(until, Release);
        }
    }
}
