#![doc = include_str!("../README.md")]

mod clock;
#[cfg(any(feature = "redis", feature = "serde"))]
mod consistency;
mod entry;
mod error;
mod random;
#[cfg(any(feature = "serde", feature = "snapshot"))]
mod schema;
mod trace;

mod traits;

mod sync;

mod stats;

#[cfg(feature = "snapshot")]
mod codec;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "snapshot")]
mod snapshot;
mod warm;

mod single_flight;

mod storage;

mod policy;

mod local;

#[cfg(feature = "redis")]
mod tiered;

#[cfg(feature = "serde")]
mod config;

pub use crate::stats::Stats;
pub use crate::traits::{
    AsyncCache, BoxedLoad, Cache, CacheFuture, ErasedAsyncLoader, ErasedLoader,
};
pub use clock::{Clock, ManualClock, SystemClock};
#[cfg(feature = "redis")]
pub use codec::Postcard;
#[cfg(feature = "snapshot")]
pub use codec::{Codec, CodecError, MessagePack};
#[cfg(feature = "serde")]
pub use config::{
    Backend, CacheConfig, Capacity, ConfigError, ConfiguredAsyncCache, ConfiguredCache, RedisUrl,
};
#[cfg(any(feature = "redis", feature = "serde"))]
pub use consistency::Consistency;
pub use entry::Loaded;
pub use equivalent::Equivalent;
pub use error::{AnyError, BuildError, LoadError};
#[cfg(feature = "tokio")]
pub use local::Detached;
pub use local::{DefaultHasher, Iter, LocalCache, LocalCacheBuilder, RemovalCause};
#[cfg(feature = "snapshot")]
pub use local::{RestoreReport, SnapshotReport};
#[cfg(feature = "metrics")]
pub use metrics::{Metrics, Watch, WatchError};
pub use policy::Policy;
#[cfg(any(feature = "serde", feature = "snapshot"))]
pub use schema::{RemoteKey, RemoteValue, Schema, Schemas};
#[cfg(feature = "snapshot")]
pub use snapshot::SnapshotError;
pub use stats::histogram::DurationHistogram;
#[cfg(feature = "redis")]
pub use tiered::{
    BlockingCache, CallStats, Delivery, Health, L2Calls, RemoteError, Rollout, TierStats,
    TieredCache, TieredCacheBuilder, Warning,
};
pub use warm::{FailedBatch, WarmOptions, WarmOutcome, WarmProgress, WarmReport};
