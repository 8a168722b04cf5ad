//! A clock that a background thread advances, so that reading it is one load.

use crate::clock::{Clock, Nanos, SystemClock, precise_nanos, system_nanos};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{process, thread};

/// The finest resolution of a ticking clock.
const MIN_RESOLUTION: Duration = Duration::from_micros(100);

/// The coarsest resolution of a ticking clock.
const MAX_RESOLUTION: Duration = Duration::from_secs(1);

/// The lateness of the last tick, in nanoseconds, from which the thread counts as stalled. It is above the coarsest
/// resolution.
const STALL: Nanos = 3_000_000_000;

/// A word on cache lines of its own, because all reads of ticking clocks share it.
#[repr(align(128))]
struct Tick(AtomicU64);

/// The time of the last tick, or 0 if no thread advances it.
static LAST_TICK: Tick = Tick(AtomicU64::new(0));

static TICKER: Mutex<Ticker> = Mutex::new(Ticker {
    resolutions: Vec::new(),
    running_in: None,
});

/// The condition that the resolutions have changed.
static CHANGED: Condvar = Condvar::new();

/// The state of the thread that advances the time.
struct Ticker {
    /// The resolutions of the ticking clocks that are in use.
    resolutions: Vec<Duration>,
    /// The id of the process in which the thread runs. A process that was forked has no such thread.
    running_in: Option<u32>,
}

/// The system's monotonic clock, read by a background thread, for caches with many hits and a time to live.
///
/// One thread per process stores the time in one word, at the finest resolution of all ticking clocks. A hit reads this
/// word, which takes less time than a call of [`SystemClock`]. The thread starts with the first ticking clock, and
/// stops when all of them, their clones and the caches that use them have been dropped. All other operations, such as
/// writes and [`peek`](crate::LocalCache::peek), read the precise clock.
///
/// # Accuracy
///
/// A hit sees a time that is late by at most the resolution and the delay until the operating system runs the thread.
/// So a hit may return a value that much longer than its time to live, and never for less than it. A time to idle
/// begins at the time that the hit sees, so it may end that much earlier. In a process that was suspended, the first
/// hits may still see the time before the suspension.
///
/// If the thread cannot be started, the clock is the [`SystemClock`]. The same holds in a process that was forked: the
/// next write or the next hit whose age is sampled finds that the time stands still for more than 3 seconds, and all
/// ticking clocks then show the time of `SystemClock`, until a new ticking clock starts the thread again.
///
/// # Examples
///
/// ```
/// use hotset::{LocalCache, SystemClock};
/// use std::time::Duration;
///
/// let cache = LocalCache::builder()
///     .capacity(100)
///     .time_to_live(Duration::from_secs(60))
///     .clock(SystemClock::ticking(Duration::from_millis(1)))
///     .build()?;
/// cache.insert(1, "one");
/// assert_eq!(cache.get(&1), Some("one"));
/// # Ok::<(), hotset::BuildError>(())
/// ```
#[derive(Debug, Clone)]
pub struct TickingClock {
    /// Keeps the thread alive.
    _registration: Arc<Registration>,
}

impl SystemClock {
    /// Creates a clock that a background thread advances at the given resolution, at least 100 microseconds and at most
    /// one second. Other values are replaced by the nearest of these two.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{Clock, SystemClock};
    /// use std::time::Duration;
    ///
    /// let clock = SystemClock::ticking(Duration::from_millis(1));
    /// let before = clock.now();
    /// assert!(clock.now() >= before);
    /// ```
    #[must_use]
    pub fn ticking(resolution: Duration) -> TickingClock {
        TickingClock {
            _registration: Arc::new(Registration::new(resolution)),
        }
    }
}

impl TickingClock {
    /// Returns the time of the last tick, or 0 if no thread advances the clock.
    #[inline(always)]
    pub(super) fn last_tick_or_zero() -> Nanos {
        LAST_TICK.0.load(Relaxed)
    }

    /// Returns the time of the last tick, or of the system's clock if no thread advances the clock.
    #[inline(always)]
    pub(super) fn last_tick() -> Nanos {
        match Self::last_tick_or_zero() {
            0 => system_nanos(),
            tick => tick,
        }
    }

    /// Returns the precise time, which is never before a tick. Checks that the thread still runs.
    pub(super) fn precise() -> Nanos {
        let now = precise_nanos();
        let tick = LAST_TICK.0.load(Relaxed);
        if tick != 0 && now.saturating_sub(tick) > STALL {
            // A thread that was only delayed stores its next tick.
            LAST_TICK.0.store(0, Relaxed);
        }
        now
    }
}

impl Clock for TickingClock {
    #[inline]
    fn now(&self) -> Duration {
        Duration::from_nanos(Self::last_tick())
    }
}

/// One ticking clock, with all of its clones.
#[derive(Debug)]
struct Registration {
    resolution: Duration,
}

impl Registration {
    fn new(resolution: Duration) -> Self {
        let resolution = resolution.clamp(MIN_RESOLUTION, MAX_RESOLUTION);
        let mut ticker = Ticker::lock();
        ticker.resolutions.push(resolution);
        ticker.start();
        CHANGED.notify_all();
        Self { resolution }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut ticker = Ticker::lock();
        let mut resolutions = ticker.resolutions.iter();
        if let Some(index) = resolutions.position(|other| *other == self.resolution) {
            ticker.resolutions.swap_remove(index);
        }
        CHANGED.notify_all();
    }
}

impl Ticker {
    fn lock() -> MutexGuard<'static, Self> {
        TICKER.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the thread, unless it runs. If this fails, the last tick stays 0, and reads use the system's clock.
    fn start(&mut self) {
        // `process::id` panics where there are no processes.
        let process = if cfg!(target_family = "wasm") {
            0
        } else {
            process::id()
        };
        if self.running_in == Some(process) {
            return;
        }
        let thread = thread::Builder::new().name("hotset-clock".to_string());
        let started = thread.spawn(run).is_ok();
        self.running_in = started.then_some(process);
        LAST_TICK
            .0
            .store(if started { precise_nanos() } else { 0 }, Relaxed);
    }
}

/// Advances the time until no ticking clock is in use.
fn run() {
    let mut ticker = Ticker::lock();
    while let Some(&resolution) = ticker.resolutions.iter().min() {
        LAST_TICK.0.store(precise_nanos(), Relaxed);
        let waited = CHANGED.wait_timeout(ticker, resolution);
        ticker = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
    // Both change under the lock, so a new clock finds either the running thread or that it has to start one.
    ticker.running_in = None;
    LAST_TICK.0.store(0, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{TEST_TIMEOUT, TimeSource, until};
    use std::time::Instant;

    /// Ensures that the tests of one process do not use ticking clocks at the same time.
    static TESTS: Mutex<()> = Mutex::new(());

    fn exclusive() -> MutexGuard<'static, ()> {
        TESTS.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn await_stop() {
        until(|| Ticker::lock().running_in.is_none());
    }

    #[test]
    fn ticking_clock_keeps_pace_with_the_precise_clock_and_is_never_ahead() {
        let _exclusive = exclusive();
        let clock = SystemClock::ticking(Duration::from_millis(1));
        assert!(Ticker::lock().running_in.is_some());
        let (ticking, fine) = (clock.now(), Instant::now());
        while clock.now() < ticking + Duration::from_millis(100) {
            assert!(fine.elapsed() < TEST_TIMEOUT, "it stands still");
            let tick = LAST_TICK.0.load(Relaxed);
            assert!(tick != 0 && tick <= precise_nanos());
            thread::yield_now();
        }
    }

    #[test]
    fn thread_stops_after_the_last_drop_and_starts_again() {
        let _exclusive = exclusive();
        for _ in 0..3 {
            let clock = SystemClock::ticking(Duration::from_secs(1));
            let source = TimeSource::new(clock.clone());
            drop(clock);
            assert!(matches!(source, TimeSource::Ticking(_)));
            assert!(Ticker::lock().running_in.is_some());
            drop(source);
            await_stop();
            assert_eq!(LAST_TICK.0.load(Relaxed), 0);
            assert!(TickingClock::last_tick() > 0);
        }
    }

    #[test]
    fn finest_resolution_of_several_clocks_is_used_within_the_bounds() {
        let _exclusive = exclusive();
        let finest = || Ticker::lock().resolutions.iter().min().copied();
        let coarse = SystemClock::ticking(Duration::MAX);
        assert_eq!(finest(), Some(MAX_RESOLUTION));
        let fine = SystemClock::ticking(Duration::ZERO);
        let copy = fine.clone();
        drop(fine);
        assert_eq!(finest(), Some(MIN_RESOLUTION));
        drop(copy);
        assert_eq!(finest(), Some(MAX_RESOLUTION));
        drop(coarse);
        assert_eq!(finest(), None);
        await_stop();
    }

    #[test]
    fn time_that_stands_still_is_replaced_by_the_system_clock() {
        let _exclusive = exclusive();
        // No thread runs, as in a process that was forked.
        await_stop();
        LAST_TICK.0.store(1, Relaxed);
        assert_eq!(TickingClock::last_tick(), 1);
        TickingClock::precise();
        assert_eq!(LAST_TICK.0.load(Relaxed), 0);
        assert!(TickingClock::last_tick() > 1);
    }
}
