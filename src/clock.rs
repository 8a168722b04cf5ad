//! Time, as the cache reads it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
#[cfg(feature = "snapshot")]
use std::time::{SystemTime, UNIX_EPOCH};

/// A source of time for expiry.
///
/// The cache compares what it reads here with the deadlines it computed from earlier readings,
/// saturating, so a clock that stands still or goes back breaks nothing: entries then live longer.
/// Only expiry reads this clock. The waits of a [single flight](crate::LocalCache::get_or_load)
/// (lease, wait timeout) guard against threads that hang, and are measured by the operating
/// system's monotonic clock whatever is set here.
///
/// ```
/// use hotset::{LocalCache, ManualClock};
/// use std::time::Duration;
///
/// let clock = ManualClock::new();
/// let cache: LocalCache<&str, u32> = LocalCache::builder()
///     .capacity(100)
///     .time_to_live(Duration::from_secs(60))
///     .clock(clock.clone())
///     .build()?;
/// cache.insert("answer", 42);
/// clock.advance(Duration::from_secs(59));
/// assert_eq!(cache.get("answer"), Some(42));
/// clock.advance(Duration::from_secs(1));
/// assert_eq!(cache.get("answer"), None);
/// # Ok::<(), hotset::BuildError>(())
/// ```
pub trait Clock: Send + Sync + 'static {
    /// The time since an origin of the clock's own choosing.
    ///
    /// It is called without any lock held for a write and under a shared lock for a read, so it
    /// must not call the cache. Readings above `u64::MAX` nanoseconds (584 years) count as that.
    fn now(&self) -> Duration;
}

/// The operating system's coarse monotonic clock, the default.
///
/// Its resolution is a few milliseconds (4 ms on most Linux systems, up to 16 ms on Windows), and
/// it costs a few nanoseconds to read. It is read only for entries that have a deadline.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[inline]
    fn now(&self) -> Duration {
        Duration::from_nanos(system_nanos())
    }
}

#[cfg(target_os = "linux")]
#[inline(never)]
#[allow(clippy::cast_sign_loss)]
pub(crate) fn system_nanos() -> Nanos {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    // Time since boot: neither is negative, and the sum lasts for 584 years.
    (now.tv_sec as u64).wrapping_mul(1_000_000_000) + now.tv_nsec as u64
}

#[cfg(not(target_os = "linux"))]
#[inline]
pub(crate) fn system_nanos() -> Nanos {
    // `now` would also store into a static that all threads share. Ticks are 2^-32 seconds.
    let ticks = coarsetime::Instant::now_without_cache_update().as_ticks();
    u64::try_from((u128::from(ticks) * 1_000_000_000) >> 32).unwrap_or(u64::MAX)
}

/// A clock that moves when it is told to, for tests. Clones share one time.
#[derive(Debug, Clone, Default)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// A clock that reads zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves the clock forward, saturating.
    pub fn advance(&self, by: Duration) {
        let by = saturating_nanos(by);
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                Some(now.saturating_add(by))
            });
    }

    /// Sets the clock, also to an earlier time.
    pub fn set(&self, now: Duration) {
        self.0.store(saturating_nanos(now), Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// A point in time or a span of it, in nanoseconds: what deadlines are made of.
pub(crate) type Nanos = u64;

/// The deadline of what never expires.
pub(crate) const NEVER: Nanos = Nanos::MAX;

/// A duration in nanoseconds; what is too long for that is [`NEVER`].
#[inline]
pub(crate) fn saturating_nanos(duration: Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(NEVER)
}

/// Returns the time of the operating system's calendar clock, in milliseconds since the start of 1970, or 0 if it is earlier.
///
/// For times that other processes read. It may be set back.
#[cfg(feature = "snapshot")]
pub(crate) fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, saturating_millis)
}

/// Returns a duration in milliseconds, or `u64::MAX` if it is longer.
#[cfg(feature = "snapshot")]
pub(crate) fn saturating_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The clock of one cache: the system's without a virtual call, since each hit may read it.
#[derive(Clone, Default)]
pub(crate) enum TimeSource {
    #[default]
    System,
    Custom(Arc<dyn Clock>),
}

impl TimeSource {
    #[inline]
    pub(crate) fn now(&self) -> Nanos {
        match self {
            Self::System => system_nanos(),
            Self::Custom(clock) => custom_nanos(&**clock),
        }
    }
}

/// Before `NEVER`, so that what never expires does not expire at the end of the clock either.
#[cold]
fn custom_nanos(clock: &dyn Clock) -> Nanos {
    saturating_nanos(clock.now()).min(NEVER - 1)
}

impl fmt::Debug for TimeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "System",
            Self::Custom(_) => "Custom",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;
    use std::time::Instant;

    #[test]
    fn the_system_clock_keeps_pace_with_the_fine_one() {
        let (coarse, fine) = (SystemClock.now(), Instant::now());
        while SystemClock.now() < coarse + Duration::from_millis(100) {
            thread::yield_now();
        }
        let elapsed = fine.elapsed();
        assert!(elapsed > Duration::from_millis(70), "{elapsed:?}");
        assert!(elapsed < Duration::from_secs(10), "{elapsed:?}");
    }

    #[test]
    fn a_manual_clock_saturates_and_goes_back() {
        let clock = ManualClock::new();
        clock.advance(Duration::MAX);
        clock.advance(Duration::MAX);
        assert_eq!(clock.now(), Duration::from_nanos(u64::MAX));
        clock.set(Duration::from_secs(1));
        assert_eq!(clock.now(), Duration::from_secs(1));
    }
}
