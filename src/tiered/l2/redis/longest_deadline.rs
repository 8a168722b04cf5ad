//! The longest deadline of the caches that share connections.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Shortest time limit for connecting. A call that needs the connection waits no longer than its own deadline.
const MIN_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Time limit for connecting, in deadlines of a call: it takes several round trips.
const CONNECT_TIMEOUT_IN_DEADLINES: u32 = 8;

/// The longest deadline of the caches that share connections. It never gets shorter.
///
/// A connection that they share is closed if it does not reply for that long. A cache with a shorter deadline must not
/// close it earlier: on a slow server that would happen again and again, to all caches.
#[derive(Default)]
pub(super) struct LongestDeadline {
    nanos: AtomicU64,
}

impl LongestDeadline {
    /// Notes the deadline of one more cache.
    pub(super) fn include(&self, deadline: Duration) {
        let nanos = u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_max(nanos, Relaxed);
    }

    pub(super) fn get(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Relaxed))
    }

    /// Returns the time limit for connecting.
    pub(super) fn connect_timeout(&self) -> Duration {
        let timeout = self.get().saturating_mul(CONNECT_TIMEOUT_IN_DEADLINES);
        timeout.max(MIN_CONNECT_TIMEOUT)
    }
}
