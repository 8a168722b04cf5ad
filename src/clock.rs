//! Clocks, and points in time in nanoseconds.

mod ticking;

pub use ticking::TickingClock;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

// The clocks of std panic on `wasm32-unknown-unknown`. Those of `web_time` read the clocks of the JavaScript host.
#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
use std::time;
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
use web_time as time;

pub(crate) use time::Instant;
#[cfg(feature = "snapshot")]
use time::{SystemTime, UNIX_EPOCH};

/// The longest wait of a unit test, which only ends tests that hang.
#[cfg(test)]
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(300);

/// Waits for a condition that other threads make true.
#[cfg(test)]
pub(crate) fn until(condition: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < TEST_TIMEOUT,
            "the condition did not hold in time"
        );
        std::thread::yield_now();
    }
}

/// A source of time for expiration.
///
/// The cache compares the time of this clock with deadlines that it computed from earlier readings, with saturating
/// arithmetic. A clock that stands still or goes back does no harm: entries live longer then.
///
/// Only expiration uses this clock. The timeouts of a [single flight](crate::LocalCache::get_or_load), which are the
/// lease and the wait timeout, guard against threads that hang. They are always measured by the operating system's
/// monotonic clock, or by the clock of tokio in a runtime whose clock is paused.
///
/// # Examples
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
    /// Returns the time since an origin that the clock chooses.
    ///
    /// A write of the cache calls it with no lock held, and a read may call it under a shared lock, so it must not call
    /// the cache. Times above `u64::MAX` nanoseconds (584 years) count as `u64::MAX` nanoseconds.
    fn now(&self) -> Duration;
}

/// The operating system's coarse monotonic clock, the default.
///
/// Its resolution is a few milliseconds: 4 ms on most Linux systems, and up to 16 ms on Windows. Reading it takes a few
/// nanoseconds. On `wasm32-unknown-unknown` it is `performance.now()` of the JavaScript host. In a cache without a time
/// to live, a time to idle and refreshes, a hit reads it only if the entry has a deadline of its own, or if the age of
/// the value is sampled.
///
/// # Examples
///
/// ```
/// use hotset::{Clock, SystemClock};
///
/// let before = SystemClock.now();
/// assert!(SystemClock.now() >= before);
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[inline]
    fn now(&self) -> Duration {
        Duration::from_nanos(system_nanos())
    }
}

/// Returns the time of the system's coarse monotonic clock.
#[cfg(target_os = "linux")]
#[inline(never)]
#[allow(clippy::cast_sign_loss)]
pub(crate) fn system_nanos() -> Nanos {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    // This is the time since boot. Neither part is negative, and the sum does not overflow for 584 years.
    (now.tv_sec as u64).wrapping_mul(1_000_000_000) + now.tv_nsec as u64
}

/// Returns the time of the system's coarse monotonic clock.
// No test runs this, because all tests run on Linux. It is checked that it compiles.
#[cfg(not(any(
    target_os = "linux",
    all(target_family = "wasm", target_os = "unknown")
)))]
#[inline]
pub(crate) fn system_nanos() -> Nanos {
    // `Instant::now` would also store to a static that all threads share. A tick is 2^-32 seconds.
    let ticks = coarsetime::Instant::now_without_cache_update().as_ticks();
    u64::try_from((u128::from(ticks) * 1_000_000_000) >> 32).unwrap_or(u64::MAX)
}

/// Returns the time of the JavaScript host's monotonic clock since the first call.
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
pub(crate) fn system_nanos() -> Nanos {
    static ORIGIN: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    saturating_nanos(ORIGIN.elapsed())
}

/// Returns the time of the system's precise monotonic clock, which has the same origin as the coarse one and is never
/// before it.
#[cfg(target_os = "linux")]
#[allow(clippy::cast_sign_loss)]
fn precise_nanos() -> Nanos {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // As in `system_nanos`.
    (now.tv_sec as u64).wrapping_mul(1_000_000_000) + now.tv_nsec as u64
}

/// Returns the time of the system's monotonic clock, as precisely as it is available with the origin of the coarse one.
#[cfg(not(target_os = "linux"))]
fn precise_nanos() -> Nanos {
    system_nanos()
}

/// A clock that a test sets and advances. Clones share one time.
///
/// # Examples
///
/// ```
/// use hotset::{Clock, ManualClock};
/// use std::time::Duration;
///
/// let clock = ManualClock::new();
/// clock.advance(Duration::from_secs(5));
/// assert_eq!(clock.clone().now(), Duration::from_secs(5));
/// ```
#[derive(Debug, Clone, Default)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// Creates a clock whose time is zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Advances the clock. The time saturates at `u64::MAX` nanoseconds.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{Clock, ManualClock};
    /// use std::time::Duration;
    ///
    /// let clock = ManualClock::new();
    /// clock.advance(Duration::from_secs(60));
    /// clock.advance(Duration::from_secs(1));
    /// assert_eq!(clock.now(), Duration::from_secs(61));
    /// ```
    pub fn advance(&self, by: Duration) {
        let by = saturating_nanos(by);
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                Some(now.saturating_add(by))
            });
    }

    /// Sets the time, which may be earlier than the current one.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{Clock, ManualClock};
    /// use std::time::Duration;
    ///
    /// let clock = ManualClock::new();
    /// clock.set(Duration::from_secs(3_600));
    /// assert_eq!(clock.now(), Duration::from_secs(3_600));
    /// ```
    pub fn set(&self, now: Duration) {
        self.0.store(saturating_nanos(now), Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// A clock that follows the time of tokio, for tests with a
/// [paused clock](https://docs.rs/tokio/latest/tokio/time/fn.pause.html) (feature `tokio`).
///
/// Outside of a tokio runtime, and while the clock of the runtime is not paused, it is the system's monotonic clock.
/// The lease of a load and the wait timeout follow the time of tokio with every clock. A blocking call in a runtime
/// whose clock is paused waits until another task advances the clock.
///
/// # Examples
///
/// ```
/// use hotset::{LocalCache, TokioClock};
/// use std::time::Duration;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?.block_on(async {
/// let cache = LocalCache::builder()
///     .capacity(100)
///     .time_to_live(Duration::from_secs(60))
///     .clock(TokioClock::new())
///     .build()?;
/// cache.insert(1, "one");
/// tokio::time::sleep(Duration::from_secs(60)).await; // Returns at once, because the clock is paused.
/// assert_eq!(cache.get(&1), None);
/// # Ok::<(), hotset::BuildError>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[cfg(feature = "tokio")]
#[derive(Debug, Clone, Copy)]
pub struct TokioClock {
    origin: tokio::time::Instant,
}

#[cfg(feature = "tokio")]
impl TokioClock {
    /// Creates a clock whose time is zero now.
    #[must_use]
    pub fn new() -> Self {
        Self {
            origin: tokio::time::Instant::now(),
        }
    }
}

#[cfg(feature = "tokio")]
impl Default for TokioClock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(feature = "tokio")]
impl Clock for TokioClock {
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }
}

/// Returns the precise time, from which deadlines of waiting callers are computed. In a tokio runtime whose clock is
/// paused, it is the time of that clock.
#[cfg(feature = "tokio")]
pub(crate) fn precise_now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Returns the precise time, from which deadlines of waiting callers are computed.
#[cfg(not(feature = "tokio"))]
pub(crate) fn precise_now() -> Instant {
    Instant::now()
}

/// A point in time or a duration, in nanoseconds.
pub(crate) type Nanos = u64;

/// The deadline of an entry that never expires.
pub(crate) const NEVER: Nanos = Nanos::MAX;

/// Converts a duration to nanoseconds, or to [`NEVER`] if it is too long.
#[inline]
pub(crate) fn saturating_nanos(duration: Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(NEVER)
}

/// Returns the time of the operating system's calendar clock, in milliseconds since the start of 1970, or 0 if the
/// clock shows an earlier time.
///
/// For times that other processes read. The clock may be set back.
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

/// The clock of one cache. The system's clock and the ticking clock are read without a virtual call, because each hit
/// may read them.
#[derive(Clone, Default)]
pub(crate) enum TimeSource {
    #[default]
    System,
    /// The clock is in this variant only to keep its thread alive.
    Ticking(#[allow(dead_code)] TickingClock),
    Custom(Arc<dyn Clock>),
}

impl TimeSource {
    /// Creates the source for a clock.
    pub(crate) fn new(clock: impl Clock) -> Self {
        let any: &dyn Any = &clock;
        if any.is::<SystemClock>() {
            return Self::System;
        }
        match any.downcast_ref::<TickingClock>() {
            Some(ticking) => Self::Ticking(ticking.clone()),
            None => Self::Custom(Arc::new(clock)),
        }
    }

    /// Returns the time of the clock. For a ticking clock, it is the precise time, so that a deadline is never computed
    /// from a time that is late.
    #[inline]
    pub(crate) fn now(&self) -> Nanos {
        match self {
            Self::System => system_nanos(),
            Self::Ticking(_) => TickingClock::precise(),
            Self::Custom(clock) => custom_nanos(&**clock),
        }
    }

    /// Returns the time of the clock like [`time_of_hit`](Self::time_of_hit), or 0 if it has to be read again by that
    /// function, because no thread advances the ticking clock. So a hit does not check for this before its lookup.
    #[inline(always)]
    pub(crate) fn early_time_of_hit(&self) -> Nanos {
        match self {
            Self::System => system_nanos(),
            Self::Ticking(_) => TickingClock::last_tick_or_zero(),
            Self::Custom(clock) => custom_nanos(&**clock),
        }
    }

    /// Returns the time of the clock for a hit, which may be late by the resolution of a ticking clock.
    #[inline(always)]
    pub(crate) fn time_of_hit(&self) -> Nanos {
        match self {
            Self::System => system_nanos(),
            Self::Ticking(_) => TickingClock::last_tick(),
            Self::Custom(clock) => custom_nanos(&**clock),
        }
    }
}

/// Returns the time of a custom clock. It is before [`NEVER`], so that an entry that never expires does not expire at
/// the end of the clock.
#[cold]
fn custom_nanos(clock: &dyn Clock) -> Nanos {
    saturating_nanos(clock.now()).min(NEVER - 1)
}

impl fmt::Debug for TimeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "System",
            Self::Ticking(_) => "Ticking",
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
    fn coarse_system_clock_keeps_pace_with_the_precise_clock() {
        let (coarse, fine) = (SystemClock.now(), Instant::now());
        while SystemClock.now() < coarse + Duration::from_millis(100) {
            assert!(fine.elapsed() < TEST_TIMEOUT, "it stands still");
            thread::yield_now();
        }
        let elapsed = fine.elapsed();
        assert!(elapsed > Duration::from_millis(70), "{elapsed:?}");
    }

    #[test]
    fn manual_clock_saturates_and_can_be_set_back() {
        let clock = ManualClock::new();
        clock.advance(Duration::MAX);
        clock.advance(Duration::MAX);
        assert_eq!(clock.now(), Duration::from_nanos(u64::MAX));
        clock.set(Duration::from_secs(1));
        assert_eq!(clock.now(), Duration::from_secs(1));
    }
}
