//! Serialization of statistics and reports (feature `serde`).

use crate::stats::histogram::DurationHistogram;
use serde::{Serialize, Serializer};
use std::fmt;
use std::time::Duration;

/// Serializes a duration as its number of seconds.
pub(crate) fn seconds<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    duration.as_secs_f64().serialize(to)
}

/// Serializes an optional duration as its number of seconds.
#[cfg(feature = "redis")]
#[allow(clippy::ref_option)] // The signature that serde requires.
pub(crate) fn optional_seconds<S: Serializer>(
    duration: &Option<Duration>,
    to: S,
) -> Result<S::Ok, S::Error> {
    duration
        .map(|duration| duration.as_secs_f64())
        .serialize(to)
}

/// Serializes the text of an error, with those of its sources.
pub(crate) fn chain<S: Serializer>(error: &impl fmt::Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{error:#}"))
}

/// The figures of a histogram that are serialized, in seconds.
#[derive(Serialize)]
struct Summary {
    count: u64,
    total: f64,
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
}

/// Serializes the number of durations, and their sum, their mean and some percentiles in seconds.
impl Serialize for DurationHistogram {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let percentile = |percent| self.percentile(percent).as_secs_f64();
        let summary = Summary {
            count: self.count(),
            total: self.total().as_secs_f64(),
            mean: self.mean().as_secs_f64(),
            p50: percentile(50.0),
            p90: percentile(90.0),
            p99: percentile(99.0),
            p999: percentile(99.9),
        };
        summary.serialize(to)
    }
}
