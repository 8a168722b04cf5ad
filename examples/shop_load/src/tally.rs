//! Response times by endpoint.

use crate::mix::Endpoint;
use hdrhistogram::Histogram;
use std::time::Duration;

/// The maximum time in the histograms, in nanoseconds. Longer times count as this one.
const MAX_TIME_NANOS: u64 = 60_000_000_000;

/// A histogram of response times for each endpoint.
#[derive(Clone)]
pub(crate) struct Tally {
    times: Vec<Histogram<u64>>,
}

impl Default for Tally {
    fn default() -> Self {
        let empty = Histogram::new_with_max(MAX_TIME_NANOS, 3).expect("the bounds are valid");
        Self {
            times: vec![empty; Endpoint::ALL.len()],
        }
    }
}

/// The summary of one endpoint or of several together.
pub(crate) struct Summary {
    pub(crate) requests: u64,
    pub(crate) mean: Duration,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

impl Tally {
    /// Records a response time.
    pub(crate) fn record(&mut self, endpoint: Endpoint, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(MAX_TIME_NANOS);
        self.times[endpoint as usize].saturating_record(nanos);
    }

    /// Adds the times of another tally.
    pub(crate) fn add(&mut self, other: &Self) {
        for (times, others) in self.times.iter_mut().zip(&other.times) {
            times.add(others).expect("the bounds are the same");
        }
    }

    /// Returns the number of requests to all endpoints.
    pub(crate) fn requests(&self) -> u64 {
        self.times.iter().map(Histogram::len).sum()
    }

    /// Returns the summary of all endpoints for which `is_in` returns `true`.
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
    fn summary_includes_only_selected_endpoints() {
        let mut tally = Tally::default();
        for millis in 1..=100 {
            tally.record(Endpoint::Price, Duration::from_millis(millis));
        }
        tally.record(Endpoint::Home, Duration::from_secs(1));
        let mut twice = tally.clone();
        twice.add(&tally);

        let prices = twice.summary(|endpoint| endpoint == Endpoint::Price);
        assert_eq!(prices.requests, 200);
        // The histograms have a precision of three digits.
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
    fn summary_of_empty_tally_is_zero() {
        let summary = Tally::default().summary(|_| true);
        assert_eq!((summary.requests, summary.mean), (0, Duration::ZERO));
    }
}
