//! The state of Redis in the report of `/stats`.

use hotset::{Health, TierStats};
use serde::Serialize;

/// The state of Redis, as one cache sees it.
#[derive(Serialize)]
pub(crate) struct Tier {
    /// Whether the circuit breaker is open, so that Redis is not called.
    pub(crate) breaker_open: bool,
    /// The time since invalidations have been proven to arrive, or `None` while they are not.
    pub(crate) proven_seconds: Option<f64>,
    /// The number of queued invalidations.
    pub(crate) queued: usize,
    pub(crate) last_error: Option<String>,
    warnings: Vec<String>,
    hits: u64,
    misses: u64,
    failures: u64,
    invalidations: u64,
    events: u64,
}

impl Tier {
    pub(crate) fn new(health: &Health, stats: &TierStats) -> Self {
        Self {
            breaker_open: health.breaker_open,
            proven_seconds: health.proven_for.map(|proven| proven.as_secs_f64()),
            queued: health.queued,
            last_error: health.last_error.as_ref().map(ToString::to_string),
            warnings: health.warnings.iter().map(ToString::to_string).collect(),
            hits: stats.l2_hits,
            misses: stats.l2_misses,
            failures: stats.l2_failures,
            invalidations: stats.invalidations,
            events: stats.events,
        }
    }
}
