//! Sampling of the run times of short loads, because reading the clock takes longer than some loaders.
//!
//! A load that is timed also stands for the loads of its thread that follow it without being timed. Their number is
//! random and independent of all run times, so the histogram is unbiased, and the number of its durations is exact.
//! Loads are sampled only while nearly all loads of the thread are short: a timed load of [`SAMPLED_BELOW`] or more ends
//! the sampling, until [`SHORT_LOADS_BEFORE_SAMPLING`] timed loads in succession were short again.

use crate::random;
use crate::stats::histogram::{AtomicHistogram, add_unshared, bucket_of};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The run time from which on a load is not short.
const SAMPLED_BELOW: Duration = Duration::from_micros(10);
/// The number of successive short loads after which loads are sampled.
const SHORT_LOADS_BEFORE_SAMPLING: u64 = 64;
/// The bound of the random number of loads that a timed load stands for, beside itself. On average one load in 16 is
/// timed.
const UNTIMED_BOUND: u64 = 31;

/// The state of the sampling of one thread, which alone writes it.
#[derive(Default)]
pub(super) struct LoadSampling {
    /// The number of loads before the next one that is timed.
    untimed: AtomicU64,
    /// The run time of the last timed load, in nanoseconds.
    nanos: AtomicU64,
    /// The number of successive timed loads that were short.
    short: AtomicU64,
}

impl AtomicHistogram {
    /// Adds the duration of a load of the only thread that adds to this histogram, or that of an earlier load in its
    /// place. `measure` reads the clock.
    #[inline]
    pub(super) fn count_load(&self, measure: impl FnOnce() -> Duration) {
        let LoadSampling { untimed, nanos, .. } = &self.sampling;
        let left = untimed.load(Relaxed);
        if left == 0 {
            self.count_timed_load(measure());
            return;
        }
        untimed.store(left - 1, Relaxed);
        let nanos = nanos.load(Relaxed);
        self.add_nanos(add_unshared, nanos);
        add_unshared(&self.buckets[bucket_of(nanos)], 1);
    }

    /// Adds the duration of a load, and decides how many of the following ones are not timed.
    #[inline(never)]
    fn count_timed_load(&self, duration: Duration) {
        self.count_by(add_unshared, duration);
        let LoadSampling {
            untimed,
            nanos,
            short,
        } = &self.sampling;
        if duration >= SAMPLED_BELOW {
            short.store(0, Relaxed);
        } else if add_unshared(short, 1) >= SHORT_LOADS_BEFORE_SAMPLING {
            nanos.store(u64::from(duration.subsec_nanos()), Relaxed);
            untimed.store(random::bits() % UNTIMED_BOUND, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Adds loads with these run times. Returns the number of those that were timed.
    fn add(histogram: &AtomicHistogram, loads: impl IntoIterator<Item = Duration>) -> usize {
        let timed = Cell::new(0);
        for duration in loads {
            histogram.count_load(|| {
                timed.set(timed.get() + 1);
                duration
            });
        }
        timed.get()
    }

    #[test]
    fn loads_of_ten_microseconds_are_all_timed() {
        let histogram = AtomicHistogram::default();
        let loads = [Duration::from_micros(50), SAMPLED_BELOW].repeat(5_000);
        assert_eq!(add(&histogram, loads.iter().copied()), loads.len());
        let sum = histogram.snapshot();
        assert_eq!(sum.total(), loads.iter().sum());
        assert_eq!(sum.count(), 10_000);
    }

    #[test]
    fn long_loads_among_short_ones_are_all_timed() {
        let histogram = AtomicHistogram::default();
        let (short, long) = (Duration::from_nanos(200), Duration::from_millis(3));
        let loads = (0..6_400).map(|number| if number % 64 == 0 { long } else { short });
        assert_eq!(add(&histogram, loads.clone()), 6_400);
        assert_eq!(histogram.snapshot().total(), loads.sum());
    }

    #[test]
    fn short_loads_are_sampled_without_bias_and_all_counted() {
        let histogram = AtomicHistogram::default();
        // A period of a power of two, like that of a sample of every 16th load.
        let loads = (0..160_000).map(|number| Duration::from_nanos(1_000 + 4_000 * (number % 2)));
        let timed = add(&histogram, loads.clone());
        assert!((9_000..11_500).contains(&timed), "{timed}");
        let sum = histogram.snapshot();
        assert_eq!(sum.count(), 160_000);
        let mean = sum.mean().as_nanos();
        assert!((2_800..3_200).contains(&mean), "{mean}");
    }

    #[test]
    fn sampling_ends_when_loads_become_long() {
        let histogram = AtomicHistogram::default();
        add(&histogram, (0..10_000).map(|_| Duration::from_nanos(100)));
        let long = Duration::from_micros(50);
        let timed = add(&histogram, (0..1_000).map(|_| long));
        assert!(timed as u64 > 1_000 - UNTIMED_BOUND, "{timed}");
        assert_eq!(histogram.snapshot().count(), 11_000);
    }
}
