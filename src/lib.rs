//! A sharded LRU + TTL cache whose `get_or_load` prevents cache stampedes.
//!
//! [`LocalCache`] keeps values in this process, bounded by entries or by weight. When several threads or tasks miss the
//! same key at once, one of them runs its loader, and all get its value or its error. A load that started before an
//! invalidation never stores its result. Hits write no shared memory in the steady state. With the feature `redis`,
//! [`TieredCache`] combines the caches of many processes into one cache over Redis.
//!
//! # Examples
//!
//! ```
//! use hotset::LocalCache;
//! use std::{sync::Arc, time::Duration};
//!
//! fn fetch_profile(id: u64) -> std::io::Result<Arc<str>> {
//!     Ok(format!("profile {id}").into()) // your query
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let profiles: LocalCache<u64, Arc<str>> = LocalCache::builder()
//!     .capacity(100_000)
//!     .time_to_live(Duration::from_secs(300))
//!     .build()?;
//!
//! let profile = profiles.get_or_load(&7, |&id| fetch_profile(id))?;
//! assert_eq!(&*profile, "profile 7");
//!
//! // After a change in the database. Loads in flight do not store the outdated value.
//! profiles.invalidate(&7);
//! # Ok(())
//! # }
//! ```
//!
//! # Where to start
//!
//! - [`guide`]: the user guide, by topic: [getting started](guide::getting_started), [loading](guide::loading),
//!   [expiration](guide::expiration), [invalidation](guide::invalidation),
//!   [several processes](guide::several_processes), [operations](guide::operations), [testing](guide::testing),
//!   migrating [from moka](guide::migrating_from_moka), [from `quick_cache`](guide::migrating_from_quick_cache) and
//!   [from `cached`](guide::migrating_from_cached), [choosing a policy](guide::choosing_a_policy).
//! - [`LocalCache`], its [builder](LocalCacheBuilder), and [`Stats`].
//! - [`Cache`] and [`AsyncCache`]: the traits for code that does not depend on the backend.
//! - [`TieredCache`], its [builder][`TieredCacheBuilder`], and [`Consistency`].
//! - [`Metrics`], which publishes statistics, and [`CacheConfig`], which reads the settings of a cache from TOML, JSON
//!   or the environment.
//!
//! # Features
//!
//! No feature is enabled by default.
//!
//! | feature | adds |
//! | --- | --- |
//! | `tokio` | tokio's timers for waiting tasks; loads and refreshes in separate tasks ([`Detached`]) |
//! | `snapshot` | `LocalCache::snapshot` and `LocalCache::restore`, which keep entries across restarts of a program |
//! | `redis` | [`TieredCache`]; includes `tokio` and `snapshot` |
//! | `redis-tls` | `rediss://` URLs and certificates; includes `redis` |
//! | `redis-credentials` | credentials for Redis that change; includes `redis` |
//! | `metrics` | [`Metrics`], for the facade of the crate `metrics` |
//! | `tracing` | spans of loads and of calls to Redis, and an event for each change of state |
//! | `serde` | [`CacheConfig`]: backend and settings from TOML, JSON or the environment; `Serialize` for statistics |
//! | `testing` | [`testing::TestCache`], a cache for tests that fails, hangs or is slow on command |
//!
//! # Platforms
//!
//! The library supports Linux, macOS and Windows, on processors of 32 and of 64 bits. Tests run on x86-64 Linux. For the
//! other platforms, the checks of the project only compile the library. Two things depend on the platform: the
//! resolution of [`SystemClock`], and snapshots, whose folder is synchronized and whose permissions are restricted on
//! Unix only.
//!
//! On `wasm32-unknown-unknown`, the features `tokio`, `redis` and `redis-tls` are refused at compile time, because
//! tokio has no clock there. The others compile, but no test runs there. A cache is for one thread of a JavaScript host,
//! with these limits:
//!
//! - Clocks read `performance.now()` and `Date.now()` of the host, so `wasm-bindgen` has to process the program.
//!   [`TickingClock`] reads the same clock at each hit.
//! - There are no threads, and therefore no timers for tasks. A task that waits for the load of another task is woken
//!   when that load ends, but not when a lease or a wait timeout ends. It then notices this when it is polled.
//! - A blocking call that has to wait for the load of a task panics, because the task could not continue.
//! - [`DefaultHasher`] has a fixed seed. If keys come from outside, depend on ahash with its feature `runtime-rng`, and
//!   select a source of random numbers for getrandom 0.3, as its documentation says.
//! - There are no files, so `snapshot` and `restore` return errors.

#![warn(missing_docs)]
#![cfg_attr(
    not(all(feature = "metrics", feature = "redis", feature = "serde", feature = "testing")),
    doc = "",
    doc = include_str!("guide/links_to_docs_rs.md"),
    // The documentation of other items links to items that do not exist without these features.
    allow(rustdoc::broken_intra_doc_links)
)]

#[cfg(all(feature = "tokio", target_family = "wasm", target_os = "unknown"))]
compile_error!(
    "the feature `tokio` does not work on wasm32-unknown-unknown, because tokio has no clock there"
);

mod clock;
mod consistency;
mod entry;
mod error;
mod random;
#[cfg(any(feature = "serde", feature = "snapshot"))]
mod schema;
mod trace;

mod sync;

mod storage;

mod stats;

mod warm;

mod traits;

#[cfg(feature = "snapshot")]
mod codec;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "snapshot")]
mod snapshot;

mod single_flight;

mod policy;

mod local;

#[cfg(feature = "testing")]
pub mod testing;

#[cfg(feature = "redis")]
mod tiered;

#[cfg(feature = "serde")]
mod config;

/// Functions for this crate's own tests. They are not part of its interface.
#[doc(hidden)]
pub mod __private {
    pub use crate::local::validate;
    #[cfg(feature = "redis")]
    pub use crate::tiered::l2::fuzzing::Envelopes;
}

#[cfg(feature = "tokio")]
pub use clock::TokioClock;
pub use clock::{Clock, ManualClock, SystemClock, TickingClock};
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
pub use consistency::Propagation;
pub use entry::{Compute, Loaded};
pub use equivalent::Equivalent;
pub use error::{
    AnyError, BuildError, Description, LoadError, LoaderError, OpaqueError, SharedError,
};
#[cfg(feature = "tokio")]
pub use local::Detached;
pub use local::{DefaultHasher, Iter, Keys, LocalCache, LocalCacheBuilder, RemovalCause};
#[cfg(feature = "snapshot")]
pub use local::{RestoreReport, SnapshotReport};
#[cfg(feature = "metrics")]
pub use metrics::{Metrics, Watch, WatchError};
pub use policy::Policy;
#[cfg(feature = "redis-credentials")]
pub use redis::{BasicAuth, StreamingCredentialsProvider};
#[cfg(any(feature = "serde", feature = "snapshot"))]
pub use schema::{RemoteKey, RemoteValue, Schema, Schemas};
#[cfg(feature = "snapshot")]
pub use snapshot::SnapshotError;
pub use stats::{Stats, histogram::DurationHistogram};
#[cfg(feature = "redis")]
pub use tiered::{
    BlockingCache, CallStats, Health, Invalidator, InvalidatorBuilder, L2Calls, PartitionHealth,
    RedisHub, RedisHubBuilder, RedisServer, RemoteEntry, RemoteError, ReplicaReads, Rollout,
    ServiceCheck, TierStats, TieredCache, TieredCacheBuilder, Warning,
};
pub use traits::{
    AsyncCache, BatchResult, BoxedBatchLoad, BoxedLoad, BoxedWrite, Cache, CacheFuture,
    ErasedAsyncBatchLoader, ErasedAsyncLoader, ErasedAsyncWrite, ErasedBatchLoader, ErasedKey,
    ErasedLoader, ErasedWrite, LoadResult, WriteFailed,
};
pub use warm::{FailedBatch, WarmOptions, WarmOutcome, WarmProgress, WarmReport};

#[cfg(any(doc, doctest))]
pub mod guide;

/// The examples of the README.
#[cfg(all(doctest, feature = "redis"))]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
