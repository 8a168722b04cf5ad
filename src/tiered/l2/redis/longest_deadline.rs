//! The longest deadline of the caches that share connections.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Shortest time limit for connecting. A call that needs the connection waits no longer than its own deadline.
const MIN_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Time limit for connecting, in deadlines of a call: it takes several round trips.
const CONNECT_TIMEOUT_IN_DEADLINES: u32 = 8;

/// Time without a reply after which a connection is closed even if the deadline of another cache is longer.
const MAX_SILENCE: Duration = Duration::from_secs(1);

/// The longest deadline of the caches that share connections.
#[derive(Default)]
pub(super) struct LongestDeadline {
    all: Mutex<Vec<Duration>>,
    /// The longest of them, in nanoseconds.
    longest: AtomicU64,
}

impl LongestDeadline {
    /// Includes the deadline of one more cache, until the result is dropped.
    pub(super) fn include(self: &Arc<Self>, deadline: Duration) -> IncludedDeadline {
        let mut all = self.all.lock();
        all.push(deadline);
        self.update(&all);
        IncludedDeadline {
            longest: Arc::clone(self),
            deadline,
        }
    }

    fn update(&self, all: &[Duration]) {
        let longest = all.iter().max().map_or(0, Duration::as_nanos);
        let longest = u64::try_from(longest).unwrap_or(u64::MAX);
        self.longest.store(longest, Relaxed);
    }

    pub(super) fn get(&self) -> Duration {
        Duration::from_nanos(self.longest.load(Relaxed))
    }

    /// Returns the time limit for connecting.
    pub(super) fn connect_timeout(&self) -> Duration {
        let timeout = self.get().saturating_mul(CONNECT_TIMEOUT_IN_DEADLINES);
        timeout.max(MIN_CONNECT_TIMEOUT)
    }

    /// Returns the time without a reply after which a call with this deadline closes the connection that it shares.
    ///
    /// A cache with a short deadline waits for longer than that. Otherwise it would close the connections of all caches
    /// again and again while the server is slow.
    pub(super) fn silence_limit(&self, deadline: Duration) -> Duration {
        deadline.max(MAX_SILENCE).min(self.get())
    }
}

/// The deadline of a cache, for as long as the cache exists.
pub(super) struct IncludedDeadline {
    longest: Arc<LongestDeadline>,
    deadline: Duration,
}

impl Drop for IncludedDeadline {
    fn drop(&mut self) {
        let mut all = self.longest.all.lock();
        if let Some(at) = all.iter().position(|other| *other == self.deadline) {
            all.swap_remove(at);
        }
        self.longest.update(&all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_deadline_is_that_of_the_caches_that_exist() {
        let longest = Arc::<LongestDeadline>::default();
        let [short, second, minute] = [10, 1_000, 60_000].map(Duration::from_millis);
        let _short = longest.include(short);
        let long = longest.include(minute);
        assert_eq!(longest.get(), minute);
        assert_eq!(longest.silence_limit(short), second);
        assert_eq!(longest.silence_limit(minute), minute);
        drop(long);
        assert_eq!(longest.get(), short);
        assert_eq!(longest.silence_limit(short), short);
        assert_eq!(longest.connect_timeout(), MIN_CONNECT_TIMEOUT);
    }
}
