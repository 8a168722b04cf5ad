//! A cache's settings as data.

/// Calls each of a builder's methods whose setting is there.
macro_rules! apply {
    ($config:ident to $builder:ident: $($name:ident),* $(,)?) => {
        $(if let Some(value) = $config.$name {
            $builder = $builder.$name(value);
        })*
    };
}

mod error;
mod value;

mod source;

mod build;
#[cfg_attr(not(feature = "redis"), path = "without_redis.rs")]
mod over_redis;

pub use error::ConfigError;
pub use value::{Backend, Capacity, RedisUrl};

use crate::consistency::Consistency;
use crate::local::Policy;
use serde::{Deserialize, Serialize};
use source::Environment;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use value::duration;

/// The struct, the names of its fields, and how one lies over another.
macro_rules! settings {
    ($(#[$about:meta])* { $($(#[$field:meta])* $name:ident: $type:ty,)* }) => {
        $(#[$about])*
        #[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        #[non_exhaustive]
        pub struct CacheConfig {
            $(
                $(#[$field])*
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $name: Option<$type>,
            )*
            #[serde(skip)]
            environment: Environment,
        }

        /// Shows what is set.
        impl fmt::Debug for CacheConfig {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut shown = f.debug_struct("CacheConfig");
                $(if let Some(value) = &self.$name {
                    shown.field(stringify!($name), value);
                })*
                shown.finish()
            }
        }

        impl CacheConfig {
            const NAMES: &[&str] = &[$(stringify!($name)),*];

            /// Takes what `over` has set, and keeps the rest.
            fn overlay(&mut self, over: Self) {
                $(self.$name = over.$name.or(self.$name.take());)*
            }

            fn is_set(&self, name: &str) -> bool {
                match name {
                    $(stringify!($name) => self.$name.is_some(),)*
                    _ => false,
                }
            }
        }
    };
}

settings! {
    /// The backend of a cache and all its settings as data: from TOML, JSON or environment variables, or
    /// as a field of the application's own configuration.
    ///
    /// What is not set has the default of [`Builder`](crate::Builder) and
    /// [`TieredBuilder`](crate::TieredBuilder), whose settings these are. A cache moves from this process
    /// to Redis by its `backend` alone, or from there on step by step, by `percent`, which
    /// [`AsyncCache::rollout`](crate::AsyncCache) changes while it runs. Settings of Redis may be there
    /// before, and are checked (without the feature `redis`: only their form), but not used.
    ///
    /// ```
    /// use hotset::{AsyncCache, CacheConfig};
    /// use std::sync::Arc;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # async fn fetch_price(id: u64) -> std::io::Result<u64> { Ok(id * 100) }
    /// let file = r#"
    ///     backend = "local"         # or "tiered", or "redis"
    ///     capacity = 100_000
    ///     time_to_live = "5m"
    ///     ttl_jitter = 0.1
    ///
    ///     url = "redis://127.0.0.1/"
    ///     namespace = "shop:prices"
    ///     consistency = "bounded 5s"
    /// "#;
    /// // PRICES_BACKEND=tiered moves it to Redis.
    /// let config = CacheConfig::from_toml(file)?.override_from_env("PRICES_")?;
    ///
    /// let prices: Arc<dyn AsyncCache<u64, u64>> = config.build_async()?;
    /// let price = prices.get_or_load_async(&7, || fetch_price(7)).await?;
    /// assert_eq!(price, 700);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Forms
    ///
    /// Durations are texts like `"250ms"`, `"5m"` or `"1h 30m"`. Names are those of the fields; variables
    /// are the same in capitals, with a prefix: `PRICES_TIME_TO_LIVE=5m`.
    ///
    /// # Passwords
    ///
    /// The one in `url` is shown neither by `Debug` nor by a [`ConfigError`]. It is serialized.
    {
        /// Where values are kept. Default: [`Backend::Local`].
        backend: Backend,
        /// As [`Builder::capacity`](crate::Builder::capacity), or `"unbounded"`. It is needed but for
        /// [`Backend::Redis`] and where code sets another bound.
        capacity: Capacity,
        /// As [`Builder::shards`](crate::Builder::shards).
        shards: usize,
        /// As [`Builder::policy`](crate::Builder::policy): `"lru"`, `"s3-fifo"`, `"car"`, `"adaptive"`.
        policy: Policy,
        /// As [`Builder::time_to_live`](crate::Builder::time_to_live).
        #[serde(with = "duration")]
        time_to_live: Duration,
        /// As [`Builder::time_to_idle`](crate::Builder::time_to_idle).
        #[serde(with = "duration")]
        time_to_idle: Duration,
        /// As [`Builder::lease`](crate::Builder::lease).
        #[serde(with = "duration")]
        lease: Duration,
        /// As [`Builder::wait_timeout`](crate::Builder::wait_timeout).
        #[serde(with = "duration")]
        wait_timeout: Duration,
        /// As [`Builder::max_concurrent_loads`](crate::Builder::max_concurrent_loads).
        max_concurrent_loads: usize,
        /// As [`Builder::refresh_after`](crate::Builder::refresh_after). Not over Redis.
        #[serde(with = "duration")]
        refresh_after: Duration,
        /// As [`Builder::early_renewal`](crate::Builder::early_renewal). Not over Redis.
        early_renewal: f64,
        /// As [`Builder::stale_if_error`](crate::Builder::stale_if_error).
        #[serde(with = "duration")]
        stale_if_error: Duration,
        /// As [`Builder::stale_if_slow`](crate::Builder::stale_if_slow).
        #[serde(with = "duration")]
        stale_if_slow: Duration,
        /// As [`Builder::ttl_jitter`](crate::Builder::ttl_jitter).
        ttl_jitter: f64,
        /// As [`Builder::track_ages`](crate::Builder::track_ages).
        track_ages: bool,
        /// As [`Builder::name`](crate::Builder::name).
        name: String,
        /// Of the Redis server, as [`Builder::redis`](crate::Builder::redis) takes it.
        url: RedisUrl,
        /// What the cache is called in Redis, as [`Builder::redis`](crate::Builder::redis) takes it.
        namespace: String,
        /// As [`TieredBuilder::consistency`](crate::TieredBuilder::consistency): `"realtime"`,
        /// `"bounded 5s"`, `"l1-only"`, `"l2-only"`. With [`Backend::Redis`] it is always the last one.
        consistency: Consistency,
        /// As [`TieredBuilder::local_time_to_live`](crate::TieredBuilder::local_time_to_live).
        #[serde(with = "duration")]
        local_time_to_live: Duration,
        /// As [`TieredBuilder::deadline`](crate::TieredBuilder::deadline).
        #[serde(with = "duration")]
        deadline: Duration,
        /// As [`TieredBuilder::heartbeat`](crate::TieredBuilder::heartbeat).
        #[serde(with = "duration")]
        heartbeat: Duration,
        /// As [`TieredBuilder::max_value_size`](crate::TieredBuilder::max_value_size), in bytes.
        max_value_size: usize,
        /// As [`TieredBuilder::compress_above`](crate::TieredBuilder::compress_above), in bytes.
        compress_above: usize,
        /// As [`TieredBuilder::max_queued_invalidations`](crate::TieredBuilder::max_queued_invalidations).
        max_queued_invalidations: usize,
        /// As [`TieredBuilder::percent`](crate::TieredBuilder::percent), 0 to 100.
        percent: f64,
        /// As [`TieredBuilder::shadow`](crate::TieredBuilder::shadow).
        shadow: bool,
        /// As [`TieredBuilder::replicas`](crate::TieredBuilder::replicas).
        replicas: u64,
        /// The path of the file for `TieredBuilder::root_certificate` (feature `redis-tls`).
        root_certificate: PathBuf,
        /// The path of the file with the certificate for `TieredBuilder::client_certificate` (feature
        /// `redis-tls`).
        client_certificate: PathBuf,
        /// The path of the file with its key.
        client_key: PathBuf,
    }
}
