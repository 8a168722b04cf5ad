//! What a tier tells of itself.

use super::remote::RemoteError;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The state of a [`TieredCache`](super::TieredCache) at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Health {
    /// What the last call to Redis failed with, whatever it was for; `None` if it did not.
    pub last_error: Option<RemoteError>,
    /// Why there is no subscription; `None` if there is one.
    pub not_subscribed: Option<RemoteError>,
    /// Redis failed so often that it is not asked for a while: callers go to the loader at once.
    pub breaker_open: bool,
    /// For how long invalidations of other processes have been proven to arrive without a break;
    /// `None` if they are not now.
    pub proven_for: Option<Duration>,
    /// How often events were missing, so that everything in L1 was forgotten.
    pub gaps: u64,
    /// How often the subscription was begun, the first time included.
    pub subscriptions: u64,
    /// Invalidations that Redis could not be told of yet. They go out when it answers.
    pub queued: usize,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What a [`TieredCache`](super::TieredCache) has asked of Redis so far; what it holds itself
        /// is in [`Stats`](crate::Stats).
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct TierStats {
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Default)]
        pub(crate) struct TierCounters {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl TierCounters {
            pub(crate) fn snapshot(&self) -> TierStats {
                TierStats {
                    $($name: self.$name.load(Relaxed),)*
                }
            }
        }
    };
}

counters! {
    /// Keys that missed L1 and were found in Redis.
    l2_hits,
    /// Keys that were not, so that this process was to load them.
    l2_misses,
    /// Times that a caller waited for another process's load.
    l2_waits,
    /// Calls to Redis that failed.
    l2_failures,
    /// Loads without Redis, since it failed or an invalidation of the key waits to go out.
    alone,
    /// Values stored in Redis.
    fills,
    /// Values that were not stored anywhere, since the key was invalidated, or another process took
    /// over, while they were loaded.
    lost_fills,
    /// Values that Redis held and this process could not read: of another schema or format, or damaged.
    unreadable,
    /// Values that were too large for Redis, had too many tags, or could not be serialized.
    unstorable,
    /// Loads that had to wait for others to end, for want of a permit.
    queued_loads,
    /// Invalidations that Redis was told of.
    invalidations,
    /// Invalidations that had to be queued.
    deferred,
    /// Times that the queue overflowed, and became one invalidation of everything.
    overflows,
    /// Invalidations by other processes that were applied here.
    events,
    /// Times that everything in L1 was forgotten, since invalidations might have been missed.
    forgets,
    /// Reads that could not be served from L1 since invalidations were not proven to arrive, or the
    /// class never serves from it.
    unproven_reads,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
