//! Detection of a connection on which no replies arrive.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The times of a connection from which it follows for how long it has not replied, in nanoseconds since it was opened.
pub(super) struct Silence {
    opened: Instant,
    last_reply: AtomicU64,
    /// The beginning of the first call after the last reply that has timed out, or [`u64::MAX`].
    first_timeout: AtomicU64,
}

impl Silence {
    /// Creates the state of a connection that was opened just now.
    pub(super) fn new() -> Self {
        Self {
            opened: Instant::now(),
            last_reply: AtomicU64::new(0),
            first_timeout: AtomicU64::new(u64::MAX),
        }
    }

    /// Notes that a reply has arrived.
    pub(super) fn end(&self) {
        self.last_reply.store(self.nanos(Instant::now()), Relaxed);
    }

    /// Notes that a call has timed out that began at `begun`. Returns the time for which calls have been waiting
    /// without any reply.
    pub(super) fn note_timeout(&self, begun: Instant) -> Duration {
        let (last_reply, begun) = (self.last_reply.load(Relaxed), self.nanos(begun));
        if begun < last_reply {
            return Duration::ZERO;
        }
        let first = self.first_timeout.load(Relaxed);
        let first = if first < last_reply {
            begun
        } else {
            first.min(begun)
        };
        self.first_timeout.store(first, Relaxed);
        Duration::from_nanos(self.nanos(Instant::now()).saturating_sub(first))
    }

    fn nanos(&self, time: Instant) -> u64 {
        let nanos = time.saturating_duration_since(self.opened).as_nanos();
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_begins_with_the_first_unanswered_call_and_ends_with_a_reply() {
        let second = Duration::from_secs(1);
        let now = Instant::now();
        let silence = Silence {
            opened: now.checked_sub(10 * second).unwrap(),
            ..Silence::new()
        };
        let ago = |seconds| now.checked_sub(seconds * second).unwrap();
        silence.last_reply.store(silence.nanos(ago(8)), Relaxed);
        assert_eq!(silence.note_timeout(ago(9)), Duration::ZERO);
        let unanswered = Silence {
            opened: ago(10),
            ..Silence::new()
        };
        assert!(unanswered.note_timeout(ago(2)) < 3 * second);
        assert!(silence.note_timeout(ago(3)) >= 3 * second);
        assert!(silence.note_timeout(ago(1)) >= 3 * second);
        silence.end();
        assert_eq!(silence.note_timeout(ago(1)), Duration::ZERO);
        assert!(silence.note_timeout(Instant::now()) < second);
    }
}
