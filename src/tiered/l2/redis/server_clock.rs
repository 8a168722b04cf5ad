//! The time of a server, as far as a process can know it.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// The server's clock runs faster than that of this process by at most one part in this many: by two percent.
const MAX_DRIFT: u32 = 50;

/// The clock of a server: a time that it has reported, and the time of this process before it was asked.
///
/// The server's time now is at most the reported time plus the time that has passed since the question, if both clocks
/// run equally fast, to within two percent, and the server's is not set forward.
pub(super) struct ServerClock(Mutex<Reading>);

struct Reading {
    asked: Instant,
    millis: u64,
}

impl ServerClock {
    /// Creates a clock from the server's time in milliseconds since 1970, for which it was asked at `asked`.
    pub(super) fn new(asked: Instant, millis: u64) -> Self {
        Self(Mutex::new(Reading { asked, millis }))
    }

    /// Replaces the reading by a newer one.
    pub(super) fn read(&self, asked: Instant, millis: u64) {
        *self.0.lock() = Reading { asked, millis };
    }

    /// Returns the latest time that the server's clock may show, in milliseconds since 1970. Returns `None` if the
    /// reading is older than `max_age`.
    pub(super) fn latest_time(&self, max_age: Duration) -> Option<u64> {
        let Reading { asked, millis } = *self.0.lock();
        let passed = asked.elapsed();
        let passed = Some(passed).filter(|passed| *passed <= max_age)?;
        let passed = passed + passed / MAX_DRIFT;
        // The server reports whole milliseconds, rounded down.
        let passed = u64::try_from(passed.as_millis()).ok()?.saturating_add(2);
        Some(millis.saturating_add(passed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_the_latest_possible_and_unknown_after_a_while() {
        let asked = Instant::now().checked_sub(Duration::from_secs(3)).unwrap();
        let clock = ServerClock::new(asked, 1_000_000);
        let minute = Duration::from_secs(60);
        assert!(clock.latest_time(minute).unwrap() > 1_003_000);
        assert_eq!(clock.latest_time(Duration::from_secs(2)), None);
        clock.read(Instant::now(), 500);
        assert!((501..60_000).contains(&clock.latest_time(minute).unwrap()));
    }
}
