//! Log events: one for each change of state that concerns an operator, for the facade `tracing`, with the target
//! `hotset`. A change for the worse has the level `WARN`, any other change `INFO`.

use crate::tiered::health::Warning;
use crate::tiered::l2::remote::RemoteError;
use std::fmt;
#[cfg(feature = "tracing")]
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A change of state that is logged.
#[derive(Debug)]
pub(crate) enum StateChange<'a> {
    CircuitOpened(&'a RemoteError),
    CircuitClosed,
    /// The subscription has ended, or the first attempt to subscribe has failed.
    NotSubscribed(&'a RemoteError),
    Subscribed,
    Proven,
    Unproven,
    Gap,
    /// The first invalidation was queued.
    Queued,
    Overflowed,
    /// The last queued invalidation was sent.
    Sent,
    Warned(&'a Warning),
    Remedied(&'a Warning),
    Rollout {
        percent: f64,
        shadow: bool,
    },
    /// Another percentage of the keys is read in the next partitions.
    Moved {
        percent: f64,
    },
}

impl StateChange<'_> {
    /// Checks whether the change is for the worse.
    fn is_worse(&self) -> bool {
        match self {
            Self::CircuitOpened(_)
            | Self::NotSubscribed(_)
            | Self::Unproven
            | Self::Gap
            | Self::Queued
            | Self::Overflowed
            | Self::Warned(_) => true,
            Self::CircuitClosed
            | Self::Subscribed
            | Self::Proven
            | Self::Sent
            | Self::Remedied(_)
            | Self::Rollout { .. }
            | Self::Moved { .. } => false,
        }
    }
}

impl fmt::Display for StateChange<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CircuitOpened(error) => {
                write!(f, "circuit breaker open, Redis is only probed: {error}")
            }
            Self::CircuitClosed => f.write_str("circuit breaker closed, Redis answers"),
            Self::NotSubscribed(error) => write!(f, "no subscription to invalidations: {error}"),
            Self::Subscribed => f.write_str("subscribed to invalidations"),
            Self::Proven => f.write_str("invalidations are proven to arrive"),
            Self::Unproven => f.write_str("invalidations are not proven to arrive"),
            Self::Gap => f.write_str(
                "invalidations were missed: all entries of their partition in L1 are invalidated",
            ),
            Self::Queued => f.write_str("Redis cannot be reached: invalidations are queued"),
            Self::Overflowed => f.write_str(
                "too many invalidations are queued: one invalidation of everything replaces them",
            ),
            Self::Sent => f.write_str("all queued invalidations were sent"),
            Self::Warned(warning) => write!(f, "{warning}"),
            Self::Remedied(warning) => write!(f, "resolved: {warning}"),
            Self::Rollout { percent, shadow } => write!(
                f,
                "{percent} percent of the keys are stored in Redis{}",
                if *shadow { ", in shadow mode" } else { "" }
            ),
            Self::Moved { percent } => {
                write!(
                    f,
                    "{percent} percent of the keys are read in the next partitions"
                )
            }
        }
    }
}

/// Logs a change of state in the cache of this name. A panic of the subscriber is caught, so that it stops no task of
/// the cache.
#[cfg(feature = "tracing")]
pub(crate) fn log(cache: &str, change: &StateChange<'_>) {
    let emit = || {
        if change.is_worse() {
            tracing::warn!(target: "hotset", cache, "{change}");
        } else {
            tracing::info!(target: "hotset", cache, "{change}");
        }
    };
    let _ = catch_unwind(AssertUnwindSafe(emit));
}

#[cfg(not(feature = "tracing"))]
pub(crate) fn log(_: &str, change: &StateChange<'_>) {
    // Called so that the code is in use without the feature, too.
    let _ = change.is_worse();
}
