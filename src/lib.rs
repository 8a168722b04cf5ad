#![doc = include_str!("../README.md")]

#[cfg_attr(loom_models, path = "thread_slot_model.rs")]
mod thread_slot;

mod held;
mod sync;

mod clock;
mod durations;
mod error;
mod random;
mod stats;

#[cfg(feature = "metrics")]
mod metrics;
mod trace;

mod entry;

#[cfg(feature = "snapshot")]
mod codec;
#[cfg(any(feature = "redis", feature = "serde"))]
mod consistency;
#[cfg(any(feature = "serde", feature = "snapshot"))]
mod schema;
#[cfg(feature = "snapshot")]
mod snapshot;

mod cache;

mod flight;

mod warm;

mod local;

#[cfg(feature = "redis")]
mod tiered;

#[cfg(feature = "serde")]
mod config;

pub use cache::{AsyncCache, BoxedLoad, Cache, CacheFuture, ErasedAsyncLoader, ErasedLoader};
pub use clock::{Clock, ManualClock, SystemClock};
#[cfg(feature = "redis")]
pub use codec::Postcard;
#[cfg(feature = "snapshot")]
pub use codec::{Codec, CodecError, MessagePack};
#[cfg(feature = "serde")]
pub use config::{Backend, CacheConfig, Capacity, ConfigError, RedisUrl};
#[cfg(any(feature = "redis", feature = "serde"))]
pub use consistency::Consistency;
pub use durations::Durations;
pub use entry::Loaded;
pub use equivalent::Equivalent;
pub use error::{AnyError, BuildError, LoadError};
#[cfg(feature = "tokio")]
pub use local::Detached;
pub use local::{Builder, DefaultHasher, Iter, LocalCache, Policy, RemovalCause};
#[cfg(feature = "snapshot")]
pub use local::{RestoreReport, SnapshotReport};
#[cfg(feature = "metrics")]
pub use metrics::{Metrics, Watch, WatchError};
#[cfg(any(feature = "serde", feature = "snapshot"))]
pub use schema::{Schema, Schemas, TierKey, TierValue};
#[cfg(feature = "snapshot")]
pub use snapshot::SnapshotError;
pub use stats::Stats;
#[cfg(feature = "redis")]
pub use tiered::{
    Blocking, CallStats, Delivery, Health, L2Calls, RemoteError, Rollout, TierStats, TieredBuilder,
    TieredCache, Warning,
};
pub use warm::{FailedBatch, WarmEnd, WarmProgress, WarmReport, Warming};
