//! Health and statistics of a tiered cache.

use crate::stats::histogram::{AtomicHistogram, DurationHistogram};
#[cfg(feature = "serde")]
use crate::stats::serialize::optional_seconds;
use crate::tiered::l2::calls::L2Calls;
use crate::tiered::l2::remote::RemoteError;
use crate::tiered::l2::replica_reads::ReplicaReads;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The state of a [`TieredCache`](crate::tiered::TieredCache) at one moment, from
/// [`TieredCache::health`](crate::tiered::TieredCache::health).
///
/// # Examples
///
/// ```
/// # use hotset::TieredCache;
/// # async fn example(prices: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
/// let health = prices.health();
/// if health.breaker_open {
///     println!("Redis is not called, and {} invalidations wait: {:?}", health.queued, health.last_error);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Health {
    /// The error of the last call to Redis, of any kind, or `None` if that call succeeded.
    pub last_error: Option<RemoteError>,
    /// The reason why there is no subscription to invalidations, or `None` if there is one.
    pub not_subscribed: Option<RemoteError>,
    /// `true` while the circuit breaker is open: Redis has failed several times in a row, is only probed, and callers
    /// run their loaders at once.
    pub breaker_open: bool,
    /// The time for which invalidations of other processes have been proven to arrive without a break, or `None` if
    /// they are not proven to arrive now, or if calls are refused because other processes use another number of
    /// partitions.
    #[cfg_attr(feature = "serde", serde(serialize_with = "optional_seconds"))]
    pub proven_for: Option<Duration>,
    /// The number of times that invalidations of a partition were missing, so that L1 invalidated its entries.
    pub gaps: u64,
    /// The number of subscriptions so far, including the first one.
    pub subscriptions: u64,
    /// The number of invalidations that wait until Redis answers.
    pub queued: usize,
    /// The number of loads that still run although their [lease](crate::LocalCacheBuilder::lease) has ended. They run
    /// in addition to [`max_concurrent_loads`](crate::LocalCacheBuilder::max_concurrent_loads). A loader that hangs is
    /// one of them.
    pub overdue_loads: usize,
    /// The percentage of keys that are stored in Redis: see [`Rollout`](crate::Rollout).
    pub percent: f64,
    /// `true` in shadow mode: values in Redis are compared with loaded values, and not served.
    pub shadow: bool,
    /// The state of each partition of the namespace: see
    /// [`partitions`](crate::TieredCacheBuilder::partitions). The other fields are about all of them: they report the
    /// worst partition, or the sum.
    pub partitions: Vec<PartitionHealth>,
    /// The percentage of keys that are read in the [next partitions](crate::TieredCacheBuilder::next_partitions). It
    /// follows [`Rollout::set_moved_percent`](crate::Rollout::set_moved_percent), as far as the other processes allow.
    pub moved_percent: f64,
    /// Problems with the configuration of the server, the rights of its user, the settings of other processes, and keys
    /// and values. The server is checked when a connection to it is made, and twice a minute after that.
    pub warnings: Vec<Warning>,
}

/// The state of one partition of a namespace, in [`Health::partitions`].
///
/// # Examples
///
/// ```
/// # use hotset::TieredCache;
/// # async fn example(prices: TieredCache<String, u64>) {
/// for (number, partition) in prices.health().partitions.iter().enumerate() {
///     println!("{number}: on {:?}, proven for {:?}", partition.server, partition.proven_for);
/// }
/// # }
/// ```
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PartitionHealth {
    /// The number of partitions of the layout that the partition belongs to: `partitions` or `next_partitions`.
    pub layout: usize,
    /// The address of the server that serves the partition, as far as it is known. `None` for a single server.
    pub server: Option<String>,
    /// The time for which invalidations of other processes have been proven to arrive, or `None` if they are not proven
    /// to arrive now.
    #[cfg_attr(feature = "serde", serde(serialize_with = "optional_seconds"))]
    pub proven_for: Option<Duration>,
    /// The time since Redis has lost the values of the partition, for example in a failover, or `None` if that has not
    /// happened since this process subscribed.
    #[cfg_attr(feature = "serde", serde(serialize_with = "optional_seconds"))]
    pub cold_for: Option<Duration>,
    /// `true` while the circuit breaker of the partition is open.
    pub breaker_open: bool,
    /// The number of invalidations that wait until Redis answers.
    pub queued: usize,
}

/// A condition that keeps a cache from working as it should, and that an operator or a developer can remove.
///
/// # Examples
///
/// ```
/// use hotset::Warning;
///
/// let warning = Warning::EvictionPolicy("noeviction".to_string());
/// assert!(warning.to_string().contains("allkeys-lru"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// The server's `maxmemory` is 0: it grows until the machine has no memory left. Set `maxmemory`, and an eviction
    /// policy.
    NoMemoryLimit,
    /// The server's `maxmemory-policy` is this one, under which a full server refuses new values, or evicts only
    /// values with a time to live. Set `allkeys-lru` or `allkeys-lfu`.
    EvictionPolicy(String),
    /// The user in the URL lacks this right: see [`LocalCacheBuilder::redis`](crate::LocalCacheBuilder::redis) for
    /// the required rights.
    Forbidden(String),
    /// Some values are not stored in Redis, because their encoding decodes to another value or cannot be decoded: see
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
    /// Some keys cannot be encoded, or their name in Redis decodes to another key: see [`RemoteKey`](crate::RemoteKey).
    /// Each process has its own entries under such keys, and their invalidations reach no other process: see
    /// [`Propagation::LocalOnly`](crate::Propagation::LocalOnly). Listed until the process ends.
    UnencodableKeys {
        /// The schema of the keys.
        schema: String,
    },
    /// Other processes use the namespace with another [class](crate::Consistency) or another
    /// [codec](crate::TieredCacheBuilder::codec). Each process has only the guarantees of its own class, and values of
    /// another codec count as misses. Listed until five minutes after the last heartbeat of these processes.
    ///
    /// This is expected during a deployment that changes these settings. Otherwise give caches of different classes or
    /// codecs namespaces of their own.
    OtherSettings {
        /// The settings of this process.
        own: String,
        /// The settings of other processes.
        others: Vec<String>,
    },
    /// Redis has values that this process cannot read, with the reason for the last one. They count as misses. Listed
    /// until none has been found for ten minutes.
    ///
    /// This is expected during a deployment that changes a [`Schema`](crate::Schema). Otherwise the shape of a type was
    /// changed without its schema, or another program writes under the namespace.
    UnreadableValues(String),
}

impl Warning {
    /// Checks whether both warnings are about the same condition. That values cannot be read is one condition, whatever
    /// the reason for the last one is, and so are other settings, whatever they are.
    pub(crate) fn is_same_condition(&self, other: &Self) -> bool {
        let is_unreadable = |warning: &Self| matches!(warning, Self::UnreadableValues(_));
        let is_about_settings = |warning: &Self| matches!(warning, Self::OtherSettings { .. });
        self == other
            || (is_unreadable(self) && is_unreadable(other))
            || (is_about_settings(self) && is_about_settings(other))
    }

    /// Returns the warnings about the memory settings of a server, as far as the settings are known.
    pub(crate) fn of(max_memory: Option<u64>, policy: Option<String>) -> Vec<Self> {
        let limit = (max_memory == Some(0)).then_some(Self::NoMemoryLimit);
        let policy = policy.filter(|policy| !policy.starts_with("allkeys-"));
        limit
            .into_iter()
            .chain(policy.map(Self::EvictionPolicy))
            .collect()
    }
}

/// Serializes the text of the warning.
#[cfg(feature = "serde")]
impl serde::Serialize for Warning {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
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
                "the eviction policy of Redis is {policy}, under which it may have no room for new values: set \
                 maxmemory-policy allkeys-lru or allkeys-lfu"
            ),
            Self::Forbidden(what) => write!(f, "the user of Redis lacks a right: {what}"),
            Self::AlteredValues { codec, schema } => write!(
                f,
                "some values of the schema {schema:?} are not stored in Redis, because the codec {codec:?} decodes \
                 them to other values: check for fields that serde serializes but does not deserialize, for defaults \
                 that differ from the skipped values, and for an Option within an Option"
            ),
            Self::UnencodableKeys { schema } => write!(
                f,
                "some keys of the schema {schema:?} are cached by each process for itself, and their invalidations \
                 reach no other process, because they cannot be serialized or are deserialized to other keys: remove \
                 the serde attributes that skip their fields"
            ),
            Self::OtherSettings { own, others } => write!(
                f,
                "this process uses the namespace with {own}, and other processes with {}: unless a deployment is \
                 changing these settings, give caches with different settings different namespaces",
                others.join(" and with ")
            ),
            Self::UnreadableValues(why) => write!(
                f,
                "Redis has values that cannot be read, the last one because {why}: unless a deployment is \
                 changing a schema, change the schema of a type whose shape was changed, and check for other \
                 programs that write under this namespace"
            ),
        }
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Statistics of a [`TieredCache`](crate::tiered::TieredCache) about Redis and its loaders, since it was built.
        /// The statistics of L1 are in [`Stats`](crate::Stats).
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize))]
        #[non_exhaustive]
        pub struct TierStats {
            $($(#[$doc])* pub $name: u64,)*
            /// The number of loads that ran longer than their [lease](crate::LocalCacheBuilder::lease), so that their
            /// permit passed to another load.
            pub abandoned_loads: u64,
            /// The number of calls to Redis that failed.
            pub l2_failures: u64,
            /// The durations of loads, including failed ones. A load of several keys counts once.
            pub load_times: DurationHistogram,
            /// The numbers and durations of calls to Redis, by operation.
            pub calls: L2Calls,
            /// The numbers of values that were requested from replicas, by outcome.
            pub replica_reads: ReplicaReads,
        }

        /// The counters of one cache, as they are counted.
        #[derive(Default)]
        pub(crate) struct TierCounters {
            $(pub(crate) $name: AtomicU64,)*
            pub(crate) load_times: AtomicHistogram,
        }

        impl TierCounters {
            /// Returns a snapshot, with the statistics that are counted elsewhere.
            pub(crate) fn snapshot(
                &self,
                calls: L2Calls,
                replica_reads: ReplicaReads,
                abandoned_loads: u64,
            ) -> TierStats {
                TierStats {
                    $($name: self.$name.load(Relaxed),)*
                    abandoned_loads,
                    l2_failures: calls.failures(),
                    load_times: self.load_times.snapshot(),
                    calls,
                    replica_reads,
                }
            }
        }
    };
}

counters! {
    /// The number of loads that this process ran.
    loads,
    /// The number of loads that returned an error or panicked, or whose caller was cancelled.
    load_failures,
    /// The number of lookups that missed L1 and found the key in Redis.
    l2_hits,
    /// The number of lookups that missed L1 and did not find the key in Redis.
    l2_misses,
    /// The number of times that a caller waited for the load of another process.
    l2_waits,
    /// The number of values that were loaded without a load lease, and so not stored in Redis: because Redis failed, an
    /// invalidation of the key was queued, the class, the rollout or the size of the key excludes it from Redis, other
    /// processes replaced an unreadable value of a batch by another one, or, in shadow mode, Redis had a value or
    /// another process was loading it.
    unleased_values,
    /// The number of values in Redis that were equal to the loaded value, in shadow mode.
    shadow_same,
    /// The number of values in Redis that differed from the loaded value, in shadow mode.
    shadow_different,
    /// The number of loaded values that were stored in Redis.
    fills,
    /// The number of loaded values that were not stored in any cache, because the key was invalidated or another
    /// process took the load over meanwhile.
    lost_fills,
    /// The number of values that this process copied to the
    /// [next partitions](crate::TieredCacheBuilder::next_partitions).
    copied,
    /// The number of values in Redis that this process could not read, because they had another schema or format or
    /// were damaged.
    unreadable,
    /// The number of values that were too large for Redis, had too many tags, could not be serialized, or were refused
    /// by Redis while it stored others.
    unstorable,
    /// The number of values that were not stored in Redis, because their encoding decodes to another value or cannot be
    /// decoded: see the [round-trip check](crate::Codec#round-trip-check).
    altered,
    /// The number of operations whose key could not be encoded, or decoded to another key, so that they concerned this
    /// process only.
    unencodable,
    /// The number of loads that had to wait for a permit.
    queued_loads,
    /// The number of invalidations that Redis received.
    invalidations,
    /// The number of invalidations that had to be queued.
    deferred,
    /// The number of times that the queue of invalidations overflowed, so that one invalidation of everything replaced
    /// them.
    overflows,
    /// The number of invalidations by other processes that were applied in this process.
    events,
    /// The number of times that L1 invalidated all entries of a partition, because invalidations might have been missed.
    l1_invalidations,
    /// The number of times that a partition has lost its values in Redis, as this process has noticed: in a failover,
    /// by a restart, by the eviction of its state, or when its primary has got a first replica.
    cold_partitions,
    /// The number of reads that L1 could not serve, because invalidations were not proven to arrive, or because the
    /// class never serves from L1.
    unproven_reads,
}

/// Adds one to a counter.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
