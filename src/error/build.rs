//! Errors of building a cache, with their remedies.

use std::error::Error;
use std::fmt;

/// The maximum number of shards of a cache. Shards are chosen by 16 bits of a hash.
pub(crate) const MAX_SHARDS: usize = 1 << 16;

/// An invalid setting of a [`LocalCacheBuilder`](crate::LocalCacheBuilder) or a
/// [`TieredCacheBuilder`](crate::TieredCacheBuilder). The message says what to change.
///
/// # Examples
///
/// ```
/// use hotset::{BuildError, LocalCache};
///
/// let error = LocalCache::<u32, u32>::builder().build().unwrap_err();
/// assert_eq!(error, BuildError::NoBound);
/// assert!(error.to_string().starts_with("the cache has no bound: call capacity(entries)"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildError {
    /// Neither `capacity`, nor `max_weight`, nor `unbounded` was called.
    NoBound,
    /// More than one of `capacity`, `max_weight` and `unbounded` was called.
    SeveralBounds,
    /// `max_weight` without a `weigher`.
    NoWeigher,
    /// A `weigher` without a `max_weight`.
    WeigherWithoutBound,
    /// `shards(0)`, or more than [`LocalCacheBuilder::MAX_SHARDS`](crate::LocalCacheBuilder::MAX_SHARDS).
    Shards(usize),
    /// A duration of zero, with the name of the setting.
    ZeroDuration(&'static str),
    /// `refresh_after` that is not below `time_to_live`.
    RefreshAfterEnd,
    /// A number that is out of range, with the name of the setting.
    OutOfRange(&'static str),
    /// `stale_if_slow` without `stale_if_error`.
    StaleIfSlowAlone,
    /// `max_concurrent_loads(0)`.
    NoLoads,
    /// A cache over Redis was built outside a tokio runtime.
    NoRuntime,
    /// The URL of Redis is invalid, with the reason.
    RedisUrl(&'static str),
    /// A certificate, or the key of one, that is invalid, with the name of the setting.
    Certificate(&'static str),
    /// A cache over a `RedisHub` has certificates of its own.
    HubCertificates,
    /// The namespace is invalid.
    Namespace,
    /// `heartbeat` is out of range.
    Heartbeat,
    /// The number of partitions is not a power of two from 1 to 1,024.
    Partitions,
    /// The next number of partitions is not a power of two from 1 to 1,024, or is the current number.
    NextPartitions,
    /// `read_from_replicas` with another class than `Bounded`.
    ReadFromReplicas,
    /// A change of a bound that the cache does not have, with the name of the method.
    OtherBound(&'static str),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBound => f.write_str(
                "the cache has no bound: call capacity(entries), or max_weight(weight) with a \
                 weigher, or unbounded() if it may grow without limit",
            ),
            Self::SeveralBounds => f.write_str(
                "the cache has more than one bound: keep one of capacity, max_weight and unbounded",
            ),
            Self::NoWeigher => f.write_str(
                "max_weight requires the weight of each entry: add weigher(|key, value| ..), or use \
                 capacity(entries) to count each entry as one",
            ),
            Self::WeigherWithoutBound => f.write_str(
                "a weigher has no effect without max_weight: add max_weight(weight) in place of \
                 the other bound, or leave out the weigher",
            ),
            Self::Shards(0) => {
                f.write_str("shards is 0: use 1 or more, or leave it out for the default")
            }
            Self::Shards(n) => write!(f, "shards is {n}: use at most {MAX_SHARDS}, or leave it out for the default"),
            Self::RefreshAfterEnd => f.write_str(
                "refresh_after is not below time_to_live, so entries would expire before they are \
                 refreshed: use a shorter refresh_after",
            ),
            Self::OutOfRange("ttl_jitter") => {
                f.write_str("ttl_jitter is a fraction: use a number above 0 and at most 1")
            }
            Self::OutOfRange(setting @ ("percent" | "moved_percent")) => {
                write!(f, "{setting} is out of range: use a number from 0 to 100")
            }
            Self::OutOfRange(setting) => {
                write!(f, "{setting} is out of range: use a finite number above 0")
            }
            Self::StaleIfSlowAlone => f.write_str(
                "stale_if_slow has no effect without stale_if_error, which sets how long expired values are kept: \
                 add stale_if_error(max), or remove stale_if_slow",
            ),
            Self::NoLoads => f.write_str(
                "max_concurrent_loads is 0, so nothing could be loaded: use 1 or more, or leave it \
                 out",
            ),
            Self::NoRuntime => f.write_str(
                "a cache over Redis runs tasks in the background: build it in a tokio runtime whose \
                 timer and IO are enabled",
            ),
            Self::RedisUrl(why) => write!(
                f,
                "this is not a URL of a Redis server, {why}: use \
                 redis://[user:password@]host[:port][/database], \
                 redis-sentinel://[user:password@]host,host,host/service[/database] or \
                 redis-cluster://[user:password@]host,host"
            ),
            Self::Certificate(setting) => write!(
                f,
                "{setting} is invalid: use the text of a PEM file"
            ),
            Self::HubCertificates => f.write_str(
                "a cache over a RedisHub uses its connections, so it has no certificates of its own: set them with \
                 RedisHub::builder",
            ),
            Self::Namespace => f.write_str(
                "a namespace has 1 to 128 printable ASCII characters without blanks and braces: use \
                 for example \"shop:prices\"",
            ),
            Self::Partitions => {
                f.write_str("the number of partitions must be a power of two from 1 to 1,024")
            }
            Self::NextPartitions => f.write_str(
                "next_partitions must be a power of two from 1 to 1,024, and another number than partitions: leave it \
                 out if the number of partitions does not change",
            ),
            Self::ReadFromReplicas => f.write_str(
                "read_from_replicas needs the class Bounded, because a replica may lack the last changes: use \
                 consistency(Consistency::Bounded(ttl)), or leave read_from_replicas out",
            ),
            Self::Heartbeat => {
                f.write_str("heartbeat is out of range: use 50 milliseconds to 60 seconds")
            }
            Self::OtherBound("set_capacity") => f.write_str(
                "set_capacity changes the number of entries of a cache that was built with capacity: use \
                 set_max_weight if it was built with max_weight",
            ),
            Self::OtherBound(method) => write!(
                f,
                "{method} changes the bound of a cache that was built with max_weight: use set_capacity if it was \
                 built with capacity",
            ),
            Self::ZeroDuration(setting) => write!(
                f,
                "{setting} is zero, which has no meaning: use a longer duration, or leave it out"
            ),
        }
    }
}

impl Error for BuildError {}
