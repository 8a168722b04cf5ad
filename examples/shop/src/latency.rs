//! Histograms of latencies, and their summaries.

use hdrhistogram::Histogram;
use hotset::DurationHistogram;
use parking_lot::Mutex;
use serde::Serialize;
use std::time::Duration;

/// The maximum latency in the histogram, in nanoseconds. Longer latencies count as this one.
const MAX_LATENCY_NANOS: u64 = 60_000_000_000;

/// A histogram of latencies, in nanoseconds.
pub(crate) struct Latencies(Mutex<Histogram<u64>>);

/// The mean and percentiles of latencies, in microseconds.
#[derive(Serialize, Default)]
pub(crate) struct Summary {
    pub(crate) count: u64,
    mean_us: f64,
    p50_us: f64,
    p99_us: f64,
}

impl Latencies {
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, MAX_LATENCY_NANOS, 2);
        Self(Mutex::new(histogram.expect("the bounds are valid")))
    }

    /// Records a latency.
    pub(crate) fn add(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(MAX_LATENCY_NANOS);
        self.0.lock().saturating_record(nanos);
    }

    /// Removes all recorded latencies.
    pub(crate) fn reset(&self) {
        self.0.lock().reset();
    }

    /// Returns a summary of all recorded latencies.
    pub(crate) fn summary(&self) -> Summary {
        let histogram = self.0.lock();
        let micros = |percent| micros(histogram.value_at_percentile(percent));
        Summary {
            count: histogram.len(),
            mean_us: histogram.mean() / 1_000.0,
            p50_us: micros(50.0),
            p99_us: micros(99.0),
        }
    }
}

#[allow(clippy::cast_precision_loss)]
fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1_000.0
}

impl Summary {
    /// Returns a summary of the durations that were recorded between two snapshots of a histogram.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn between(then: &DurationHistogram, now: &DurationHistogram) -> Self {
        let count = now.count() - then.count();
        let total = now.total().saturating_sub(then.total());
        let mean = total.as_secs_f64() / count.max(1) as f64;
        let new = || now.buckets().zip(then.buckets().map(|(_, old)| old));
        let below = |percent: u64| {
            let rank = (count * percent).div_ceil(100);
            let mut seen = 0;
            let bucket = new().find(|((_, now), then)| {
                seen += now - then;
                seen >= rank && now > then
            });
            bucket.map_or(0.0, |((bound, _), _)| bound.as_secs_f64() * 1e6)
        };
        Self {
            count,
            mean_us: mean * 1e6,
            p50_us: below(50),
            p99_us: below(99),
        }
    }
}
