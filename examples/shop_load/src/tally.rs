//! How long answers took.

use crate::mix::Endpoint;
use hdrhistogram::Histogram;
use std::time::Duration;

/// Longer times, in nanoseconds, count as this one.
const LONGEST: u64 = 60_000_000_000;

/// The times of answers, each endpoint for itself.
#[derive(Clone)]
pub(crate) struct Tally {
    times: Vec<Histogram<u64>>,
}

impl Default for Tally {
    fn default() -> Self {
        let empty = Histogram::new_with_max(LONGEST, 3).expect("the bounds are sound");
        Self {
            times: vec![empty; Endpoint::ALL.len()],
        }
    }
}

/// What is reported of an endpoint, or of several together.
pub(crate) struct Summary {
    pub(crate) requests: u64,
    pub(crate) mean: Duration,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

impl Tally {
    pub(crate) fn record(&mut self, endpoint: Endpoint, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(LONGEST);
        self.times[endpoint as usize].saturating_record(nanos);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (times, others) in self.times.iter_mut().zip(&other.times) {
            times.add(others).expect("the bounds are the same");
        }
    }

    /// Of all endpoints.
    pub(crate) fn requests(&self) -> u64 {
        self.times.iter().map(Histogram::len).sum()
    }

    /// Of those endpoints together for which the condition holds.
    pub(crate) fn summary(&self, is_in: impl Fn(Endpoint) -> bool) -> Summary {
        let mut together = Self::default().times.remove(0);
        for endpoint in Endpoint::ALL
            .into_iter()
            .filter(|&endpoint| is_in(endpoint))
        {
            let times = &self.times[endpoint as usize];
            together.add(times).expect("the bounds are the same");
        }
        let percentile = |percent| Duration::from_nanos(together.value_at_percentile(percent));
        Summary {
            requests: together.len(),
            mean: Duration::from_secs_f64(together.mean() / 1e9),
            p50: percentile(50.0),
            p99: percentile(99.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_of_the_endpoints_it_is_asked_for() {
        let mut tally = Tally::default();
        for millis in 1..=100 {
            tally.record(Endpoint::Price, Duration::from_millis(millis));
        }
        tally.record(Endpoint::Home, Duration::from_secs(1));
        let mut twice = tally.clone();
        twice.add(&tally);

        let prices = twice.summary(|endpoint| endpoint == Endpoint::Price);
        assert_eq!(prices.requests, 200);
        // Three digits are kept.
        let is_near =
            |time: Duration, millis: f64| (time.as_secs_f64() * 1e3 / millis - 1.0).abs() < 0.001;
        assert!(is_near(prices.mean, 50.5), "{:?}", prices.mean);
        assert!(is_near(prices.p50, 50.0), "{:?}", prices.p50);
        assert!(is_near(prices.p99, 99.0), "{:?}", prices.p99);
        let all = twice.summary(|_| true);
        assert_eq!((all.requests, twice.requests()), (202, 202));
        assert!(is_near(all.mean, (50.5 * 200.0 + 2_000.0) / 202.0));
    }

    #[test]
    fn nothing_has_no_times() {
        let summary = Tally::default().summary(|_| true);
        assert_eq!((summary.requests, summary.mean), (0, Duration::ZERO));
    }
}
