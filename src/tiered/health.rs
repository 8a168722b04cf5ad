//! What a tier tells of itself.

use crate::stats::histogram::{DurationHistogram, Tally};
use crate::tiered::l2::calls::L2Calls;
use crate::tiered::l2::remote::RemoteError;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The state of a [`TieredCache`](crate::tiered::TieredCache) at one moment.
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
    /// The number of loads that still run although their [lease](crate::LocalCacheBuilder::lease) has ended. Loaders that
    /// hang are here, on top of [`max_concurrent_loads`](crate::LocalCacheBuilder::max_concurrent_loads).
    pub overdue_loads: usize,
    /// How many of a hundred keys go through Redis.
    pub percent: f64,
    /// What Redis holds is compared, and not served.
    pub shadow: bool,
    /// What is wrong with the server's configuration, or with this process's rights, as it was found
    /// when it was reached, and twice a minute since; and what is wrong with keys and values.
    pub warnings: Vec<Warning>,
}

/// A condition that keeps a cache from working as it should, and that an operator or a developer can remove.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// Its `maxmemory` is 0: it grows until the machine has no memory left. Set one, and an eviction
    /// policy.
    NoMemoryLimit,
    /// Its `maxmemory-policy` is this one, under which it refuses to store once it is full, or evicts only
    /// what has a time to live. Set `allkeys-lru` or `allkeys-lfu`.
    EvictionPolicy(String),
    /// The user whom the URL names may not do this: see [`LocalCacheBuilder::redis`](crate::LocalCacheBuilder::redis) for
    /// the rights that are needed.
    Forbidden(String),
    /// Some values are not stored in Redis, because their encoding decodes to another value, or not at all: see
    /// the [round-trip check](crate::Codec#round-trip-check). Listed until the process ends.
    ///
    /// Look for a field that is serialized but not deserialized, a default that differs from what
    /// `skip_serializing_if` skips, or an `Option` within an `Option`.
    AlteredValues {
        /// The name of the codec.
        codec: String,
        /// The schema of the values.
        schema: String,
    },
    /// Some keys cannot be encoded, or their name in Redis decodes to another key: see
    /// [`RemoteKey`](crate::RemoteKey). Each process keeps entries under them for itself, and invalidations of them reach no
    /// other process: see [`Delivery::LocalOnly`](crate::Delivery::LocalOnly). Listed until the process ends.
    UnencodableKeys {
        /// The schema of the keys.
        schema: String,
    },
    /// Redis holds values that this process cannot read; the reason for the last one. They are misses. Listed
    /// until none has been found for ten minutes.
    ///
    /// In a deployment that changes a [`Schema`](crate::Schema) this is as it should be. Otherwise the shape of a type was
    /// changed and its schema was not, or something else writes under the namespace.
    UnreadableValues(String),
}

impl Warning {
    /// Of a server that says so much about its memory.
    pub(crate) fn of(max_memory: Option<u64>, policy: Option<String>) -> Vec<Self> {
        let limit = (max_memory == Some(0)).then_some(Self::NoMemoryLimit);
        let policy = policy.filter(|policy| !policy.starts_with("allkeys-"));
        limit
            .into_iter()
            .chain(policy.map(Self::EvictionPolicy))
            .collect()
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemoryLimit => f.write_str(
                "Redis has no memory limit and grows until the machine has no memory left: set \
                 maxmemory, and maxmemory-policy allkeys-lru or allkeys-lfu",
            ),
            Self::EvictionPolicy(policy) => write!(
                f,
                "the eviction policy of Redis is {policy}, which does not make room for new values \
                 whatever there is: set maxmemory-policy allkeys-lru or allkeys-lfu"
            ),
            Self::Forbidden(what) => write!(f, "the user of Redis lacks a right: {what}"),
            Self::AlteredValues { codec, schema } => write!(
                f,
                "values of the schema {schema:?} are not shared, because the codec {codec:?} decodes them to other \
                 values: look for fields that serde serializes and does not deserialize, for defaults that differ \
                 from what is skipped, and for an Option within an Option"
            ),
            Self::UnencodableKeys { schema } => write!(
                f,
                "keys of the schema {schema:?} are cached by each process for itself, and their invalidations reach \
                 no other process, because they cannot be serialized or are deserialized to other keys: remove the \
                 serde attributes that skip their fields"
            ),
            Self::UnreadableValues(why) => write!(
                f,
                "Redis holds values that cannot be read, the last one because {why}: unless a deployment is \
                 changing a schema, change the schema of a type whose shape was changed, and look for other \
                 writers under this namespace"
            ),
        }
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What a [`TieredCache`](crate::tiered::TieredCache) has asked of Redis so far; what it holds itself
        /// is in [`Stats`](crate::Stats).
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct TierStats {
            $($(#[$doc])* pub $name: u64,)*
            /// Loads that outlived their [lease](crate::LocalCacheBuilder::lease), so that their permit passed to another load.
            pub abandoned_loads: u64,
            /// Calls to Redis that failed.
            pub l2_failures: u64,
            /// How long loaders took, failed ones included. One of several keys counts once.
            pub load_times: DurationHistogram,
            /// Calls to Redis, and how long they took.
            pub calls: L2Calls,
        }

        #[derive(Default)]
        pub(crate) struct TierCounters {
            $(pub(crate) $name: AtomicU64,)*
            pub(crate) load_times: Tally,
        }

        impl TierCounters {
            /// Returns a snapshot with these calls to Redis and so many abandoned loads.
            pub(crate) fn snapshot(&self, calls: L2Calls, abandoned_loads: u64) -> TierStats {
                TierStats {
                    $($name: self.$name.load(Relaxed),)*
                    abandoned_loads,
                    l2_failures: calls.failures(),
                    load_times: self.load_times.snapshot(),
                    calls,
                }
            }
        }
    };
}

counters! {
    /// Loaders that this process ran.
    loads,
    /// Those that returned an error or panicked, or whose caller was cancelled.
    load_failures,
    /// Keys that missed L1 and were found in Redis.
    l2_hits,
    /// Keys that were not.
    l2_misses,
    /// Times that a caller waited for another process's load.
    l2_waits,
    /// Loads whose values were not for Redis: it failed, an invalidation of the key waits to go out, the
    /// key does not go through it, or it holds one that is compared in the shadow.
    alone,
    /// Values in Redis that were compared in the shadow, and the same as what was loaded.
    shadow_same,
    /// Those that were not.
    shadow_different,
    /// Values stored in Redis.
    fills,
    /// Values that were not stored anywhere, since the key was invalidated, or another process took
    /// over, while they were loaded.
    lost_fills,
    /// Values that Redis held and this process could not read: of another schema or format, or damaged.
    unreadable,
    /// Values that were too large for Redis, had too many tags, could not be serialized, or were refused where
    /// others were stored.
    unstorable,
    /// Values that were not stored in Redis, because their encoding decodes to another value, or not at all: see
    /// the [round-trip check](crate::Codec#round-trip-check).
    altered,
    /// Times that a key could not be encoded, or decoded to another key, so that it was used in this process
    /// alone.
    unencodable,
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
