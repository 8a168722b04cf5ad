//! Sampling of the run times of short loads, because reading the clock takes longer than some loaders.
//!
//! A load that is not certainly [short](crate::sync::tick_counter) is always timed, and stands for itself alone. A
//! short load that is timed also stands for the short loads of its thread that follow it without being timed. Their
//! number is random and independent of all run times. So the histogram is unbiased, and the number of its durations is
//! exact.
//!
//! Short loads are sampled after [`TIMED_BEFORE_SAMPLING`] of them were timed in succession. If a short load is in the
//! sample and takes [`SAMPLED_BELOW`] or more by the clock, which is possible if the clock is simulated, then this
//! begins again.

use crate::random;
use crate::stats::histogram::{AtomicHistogram, add_unshared, bucket_of};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// The run time from which on a load is not short by the clock.
const SAMPLED_BELOW: Duration = Duration::from_micros(10);
/// The number of successive short loads after which short loads are sampled.
const TIMED_BEFORE_SAMPLING: u64 = 64;
/// The bound of the random number of loads that a timed load stands for, beside itself. On average one load in 16 is
/// timed.
const UNTIMED_BOUND: u64 = 31;

/// The state of the sampling of one thread, which alone writes it.
#[derive(Default)]
pub(super) struct LoadSampling {
    /// The number of short loads before the next one that is timed.
    untimed: AtomicU64,
    /// The run time of the last timed short load, in nanoseconds.
    nanos: AtomicU64,
    /// The bucket of that run time.
    bucket: AtomicUsize,
    /// The number of successive timed loads that were short.
    short: AtomicU64,
}

impl AtomicHistogram {
    /// Adds the duration of a short load of the only thread that adds to this histogram, or that of an earlier one in
    /// its place. `measure` reads the clock.
    #[inline]
    pub(super) fn count_short_load(&self, measure: impl FnOnce() -> Duration) {
        let sampling = &self.sampling;
        let left = sampling.untimed.load(Relaxed);
        if left == 0 {
            self.count_timed_load(measure());
            return;
        }
        sampling.untimed.store(left - 1, Relaxed);
        let (nanos, bucket) = (&sampling.nanos, &sampling.bucket);
        self.add_short(nanos.load(Relaxed), bucket.load(Relaxed));
    }

    /// Adds the duration of a short load, and decides how many of the following ones are not timed.
    #[cold]
    #[inline(never)]
    fn count_timed_load(&self, duration: Duration) {
        self.count_by(add_unshared, duration);
        let LoadSampling {
            untimed,
            nanos,
            bucket,
            short,
        } = &self.sampling;
        if duration >= SAMPLED_BELOW {
            short.store(0, Relaxed);
        } else if add_unshared(short, 1) >= TIMED_BEFORE_SAMPLING {
            let duration = u64::from(duration.subsec_nanos());
            nanos.store(duration, Relaxed);
            bucket.store(bucket_of(duration), Relaxed);
            untimed.store(random::bits() % UNTIMED_BOUND, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::histogram::StripedHistogram;
    use crate::sync::thread_slot::ThreadSlot;
    use std::cell::Cell;

    /// Adds loads with these run times, of which those below 10 microseconds are short. Returns the number of those
    /// that were timed.
    fn add(histogram: &StripedHistogram, loads: impl IntoIterator<Item = Duration>) -> usize {
        let timed = Cell::new(0);
        for duration in loads {
            let is_short = duration < SAMPLED_BELOW;
            histogram.count_load(ThreadSlot::current(), is_short, || {
                timed.set(timed.get() + 1);
                duration
            });
        }
        timed.get()
    }

    #[test]
    fn loads_of_ten_microseconds_are_all_timed() {
        let histogram = StripedHistogram::new();
        let loads = [Duration::from_micros(50), SAMPLED_BELOW].repeat(5_000);
        assert_eq!(add(&histogram, loads.iter().copied()), loads.len());
        let sum = histogram.snapshot();
        assert_eq!(sum.total(), loads.iter().sum());
        assert_eq!(sum.count(), 10_000);
    }

    #[test]
    fn long_loads_among_sampled_short_ones_are_all_timed() {
        let histogram = StripedHistogram::new();
        let (short, long) = (Duration::from_nanos(200), Duration::from_millis(3));
        let loads = (0..64_000).map(|number| if number % 640 == 0 { long } else { short });
        let timed = add(&histogram, loads.clone());
        assert!((3_600..4_800).contains(&timed), "{timed}");
        assert_eq!(histogram.snapshot().total(), loads.sum());
    }

    #[test]
    fn short_loads_are_sampled_without_bias_and_all_counted() {
        let histogram = StripedHistogram::new();
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
    fn first_short_loads_are_all_timed() {
        let histogram = StripedHistogram::new();
        let loads = (1..=TIMED_BEFORE_SAMPLING).map(Duration::from_nanos);
        assert_eq!(add(&histogram, loads.clone()) as u64, TIMED_BEFORE_SAMPLING);
        assert_eq!(histogram.snapshot().total(), loads.sum());
    }

    #[test]
    fn sampling_ends_when_short_loads_become_long_by_the_clock() {
        let histogram = AtomicHistogram::default();
        let count = |duration| histogram.count_short_load(|| duration);
        (0..10_000).for_each(|_| count(Duration::from_nanos(100)));
        (0..1_000).for_each(|_| count(Duration::from_millis(1)));
        let sum = histogram.snapshot();
        assert_eq!(sum.count(), 11_000);
        assert!(sum.total() > Duration::from_millis(1_000 - UNTIMED_BOUND));
    }
}
