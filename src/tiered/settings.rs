//! The settings that a tiered cache needs after it was built.

use crate::tiered::Consistency;
use crate::tiered::rollout::Rollout;
use std::time::{Duration, Instant};

/// The settings that the cache needs after it was built.
pub(super) struct TierSettings {
    pub(super) namespace: String,
    pub(super) consistency: Consistency,
    /// The time to live of values in L2.
    pub(super) ttl: Option<Duration>,
    /// The maximum time to live of values in L1.
    pub(super) local_ttl: Option<Duration>,
    /// The duration of a load lease.
    pub(super) lease: Duration,
    pub(super) heartbeat: Duration,
    /// `true` if another server may become the primary while the old one still answers.
    pub(super) fails_over: bool,
    pub(super) rollout: Rollout,
    /// `true` if replicas may serve values.
    pub(super) read_from_replicas: bool,
}

impl TierSettings {
    /// Returns the duration of a read lease: two heartbeats.
    pub(super) fn read_lease(&self) -> Duration {
        self.heartbeat * 2
    }

    /// Returns `true` if replicas may serve values now. In shadow mode they may not, because an older value would count
    /// as a different one.
    pub(super) fn reads_from_replicas(&self) -> bool {
        self.read_from_replicas && !self.rollout.is_shadow()
    }

    /// Returns the duration for which a heartbeat registers this process as a reader, for which writers wait. It is zero
    /// outside of the class `Realtime`, because the other classes do not promise to serve no old value.
    pub(super) fn registration(&self) -> Duration {
        match self.consistency {
            Consistency::Realtime => self.read_lease(),
            Consistency::Bounded(_) | Consistency::L2Only | Consistency::L1Only => Duration::ZERO,
        }
    }

    /// Returns the time for which L1 may serve a value that was current at `current_at`, and whose time to live of
    /// `ttl` began at `ttl_from`. Returns zero if that time has passed, and `None` if the class stores no values in L1.
    pub(super) fn l1_ttl(
        &self,
        ttl: Duration,
        current_at: Instant,
        ttl_from: Instant,
    ) -> Option<Duration> {
        let bound = match self.consistency {
            Consistency::L2Only => return None,
            Consistency::Bounded(bound) => bound.saturating_sub(current_at.elapsed()),
            Consistency::Realtime | Consistency::L1Only => Duration::MAX,
        };
        let own = self.local_ttl.unwrap_or(Duration::MAX);
        let left = match ttl {
            Duration::MAX => ttl,
            ttl => ttl.saturating_sub(ttl_from.elapsed()),
        };
        Some(left.min(own).min(bound))
    }
}
