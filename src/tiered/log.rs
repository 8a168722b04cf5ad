//! Changes of state that an operator is to hear of, each once: events for the facade `tracing`, target
//! `hotset`. What makes things worse is a `WARN`, the rest an `INFO`.

use crate::tiered::health::Warning;
use crate::tiered::l2::remote::RemoteError;
use std::fmt;
#[cfg(feature = "tracing")]
use std::panic::{AssertUnwindSafe, catch_unwind};

#[derive(Debug)]
pub(crate) enum StateChange<'a> {
    CircuitOpened(&'a RemoteError),
    CircuitClosed,
    /// Also if there never was one.
    NotSubscribed(&'a RemoteError),
    Subscribed,
    Proven,
    Unproven,
    Gap,
    Queued,
    Overflowed,
    Sent,
    Warned(&'a Warning),
    Remedied(&'a Warning),
    Rollout {
        percent: f64,
        shadow: bool,
    },
}

impl StateChange<'_> {
    /// Whether it makes things worse.
    fn is_bad(&self) -> bool {
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
            | Self::Rollout { .. } => false,
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
            Self::Gap => f.write_str("invalidations were missed: all that L1 held is forgotten"),
            Self::Queued => f.write_str("Redis cannot be told of invalidations: they are queued"),
            Self::Overflowed => {
                f.write_str("too many invalidations are queued: they became one of everything")
            }
            Self::Sent => f.write_str("Redis was told of all invalidations that were queued"),
            Self::Warned(warning) => write!(f, "{warning}"),
            Self::Remedied(warning) => write!(f, "no longer so: {warning}"),
            Self::Rollout { percent, shadow } => write!(
                f,
                "{percent} percent of the keys go through Redis{}",
                if *shadow { ", in the shadow" } else { "" }
            ),
        }
    }
}

/// Tells of a change in the cache of this name. A subscriber that panics stops nobody.
#[cfg(feature = "tracing")]
pub(crate) fn log(cache: &str, change: &StateChange<'_>) {
    let tell = || {
        if change.is_bad() {
            tracing::warn!(target: "hotset", cache, "{change}");
        } else {
            tracing::info!(target: "hotset", cache, "{change}");
        }
    };
    let _ = catch_unwind(AssertUnwindSafe(tell));
}

#[cfg(not(feature = "tracing"))]
pub(crate) fn log(_: &str, change: &StateChange<'_>) {
    // What it would be is worked out all the same, lest it is dead code.
    let _ = change.is_bad();
}
