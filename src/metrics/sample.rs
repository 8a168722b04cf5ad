//! The values of metrics, read from a cache.

use crate::metrics::table::Metric;
use crate::stats::histogram::DurationHistogram;

/// The value of one metric of a cache at one moment.
pub(crate) struct Sample {
    pub(super) metric: &'static Metric,
    /// The value of the label that the metric has besides `cache`, or empty.
    pub(super) label: &'static str,
    pub(super) value: Value,
}

pub(super) enum Value {
    Counter(u64),
    Gauge(f64),
    Histogram(DurationHistogram),
}

impl Sample {
    pub(crate) fn counter(metric: &'static Metric, value: u64) -> Self {
        Self::labeled_counter(metric, "", value)
    }

    pub(crate) fn labeled_counter(
        metric: &'static Metric,
        label: &'static str,
        value: u64,
    ) -> Self {
        Self::new(metric, label, Value::Counter(value))
    }

    pub(crate) fn gauge(metric: &'static Metric, value: f64) -> Self {
        Self::new(metric, "", Value::Gauge(value))
    }

    pub(crate) fn histogram(metric: &'static Metric, durations: DurationHistogram) -> Self {
        Self::labeled_histogram(metric, "", durations)
    }

    pub(crate) fn labeled_histogram(
        metric: &'static Metric,
        label: &'static str,
        durations: DurationHistogram,
    ) -> Self {
        Self::new(metric, label, Value::Histogram(durations))
    }

    fn new(metric: &'static Metric, label: &'static str, value: Value) -> Self {
        debug_assert_eq!(label.is_empty(), metric.label.is_empty());
        Self {
            metric,
            label,
            value,
        }
    }
}
