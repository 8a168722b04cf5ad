//! Settings of a cache as data, from which a cache can be built.

/// Calls the builder method of the same name for each listed setting that has a value.
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
mod configured;
#[cfg_attr(not(feature = "redis"), path = "without_redis.rs")]
mod over_redis;

pub use configured::{ConfiguredAsyncCache, ConfiguredCache};
pub use error::ConfigError;
pub use value::{Backend, Capacity, RedisUrl};

use crate::consistency::Consistency;
use crate::policy::Policy;
use serde::{Deserialize, Serialize};
use source::Environment;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use value::duration;

/// Defines `CacheConfig`, the list of its setting names, and the functions that visit every setting.
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

        /// Shows only the settings that are set.
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

            /// Overrides each setting that has a value in `over`.
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
    /// The backend and the settings of a cache as data, read from TOML, JSON or environment variables, or used as a
    /// field of the application's own configuration.
    ///
    /// A setting that is not set has the default of [`LocalCacheBuilder`](crate::LocalCacheBuilder) or
    /// [`TieredCacheBuilder`](crate::TieredCacheBuilder). Changing `backend` moves a cache from this process to Redis.
    /// `percent` makes the move gradual: it can be changed while the cache runs, with `ConfiguredAsyncCache::rollout`.
    /// Settings of Redis may be present while the backend is still local. They are then checked but not used; without
    /// the feature `redis`, only their format is checked.
    ///
    /// # Formats
    ///
    /// Durations are strings such as `"250ms"`, `"5m"` or `"1h 30m"`. Each setting has the name of its field. Its
    /// environment variable has a prefix and the same name in capitals: `PRICES_TIME_TO_LIVE=5m`.
    ///
    /// # Passwords
    ///
    /// Neither `Debug` nor a [`ConfigError`] shows the password in `url`. `Serialize` writes it.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{AsyncCache, CacheConfig};
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
    /// // The environment variable PRICES_BACKEND=tiered moves the cache to Redis.
    /// let config = CacheConfig::from_toml(file)?.override_from_env("PRICES_")?;
    ///
    /// let prices = config.build_async::<u64, u64>()?;
    /// let price = prices.get_or_load_async(&7, fetch_price).await?;
    /// assert_eq!(price, 700);
    /// # Ok(())
    /// # }
    /// ```
    {
        /// The place where the cache stores its values. Default: [`Backend::Local`].
        backend: Backend,
        /// The maximum number of entries in this process, or `"unbounded"`: see
        /// [`LocalCacheBuilder::capacity`](crate::LocalCacheBuilder::capacity). Required, unless the backend is
        /// [`Backend::Redis`] or code sets another bound.
        capacity: Capacity,
        /// The number of shards: see [`LocalCacheBuilder::shards`](crate::LocalCacheBuilder::shards).
        shards: usize,
        /// The eviction policy, `"lru"`, `"s3-fifo"`, `"car"` or `"adaptive"`: see
        /// [`LocalCacheBuilder::policy`](crate::LocalCacheBuilder::policy).
        policy: Policy,
        /// The time after which a stored entry expires: see
        /// [`LocalCacheBuilder::time_to_live`](crate::LocalCacheBuilder::time_to_live).
        #[serde(with = "duration")]
        time_to_live: Duration,
        /// The time since its last store or hit after which an entry expires: see
        /// [`LocalCacheBuilder::time_to_idle`](crate::LocalCacheBuilder::time_to_idle).
        #[serde(with = "duration")]
        time_to_idle: Duration,
        /// The time that a load may take before another caller takes over: see
        /// [`LocalCacheBuilder::lease`](crate::LocalCacheBuilder::lease).
        #[serde(with = "duration")]
        lease: Duration,
        /// The time that a caller waits for a load or a permit before it gets an error: see
        /// [`LocalCacheBuilder::wait_timeout`](crate::LocalCacheBuilder::wait_timeout).
        #[serde(with = "duration")]
        wait_timeout: Duration,
        /// The maximum number of concurrent loads: see
        /// [`LocalCacheBuilder::max_concurrent_loads`](crate::LocalCacheBuilder::max_concurrent_loads).
        max_concurrent_loads: usize,
        /// The age at which a live entry is refreshed: see
        /// [`LocalCacheBuilder::refresh_after`](crate::LocalCacheBuilder::refresh_after).
        #[serde(with = "duration")]
        refresh_after: Duration,
        /// The `beta` of the random early refresh of popular entries, usually 1.0: see
        /// [`LocalCacheBuilder::early_refresh`](crate::LocalCacheBuilder::early_refresh).
        early_refresh: f64,
        /// The time after its expiration during which an entry may be served if a load fails: see
        /// [`LocalCacheBuilder::stale_if_error`](crate::LocalCacheBuilder::stale_if_error).
        #[serde(with = "duration")]
        stale_if_error: Duration,
        /// The time that a caller waits before it gets an expired value: see
        /// [`LocalCacheBuilder::stale_if_slow`](crate::LocalCacheBuilder::stale_if_slow).
        #[serde(with = "duration")]
        stale_if_slow: Duration,
        /// The largest fraction by which a time to live is shortened at random, above 0 and at most 1: see
        /// [`LocalCacheBuilder::ttl_jitter`](crate::LocalCacheBuilder::ttl_jitter).
        ttl_jitter: f64,
        /// `true` to record the ages of served values in the statistics: see
        /// [`LocalCacheBuilder::track_ages`](crate::LocalCacheBuilder::track_ages).
        track_ages: bool,
        /// The name of the cache in metrics and traces: see
        /// [`LocalCacheBuilder::name`](crate::LocalCacheBuilder::name).
        name: String,
        /// The URL of the Redis server, the sentinels or the cluster: see
        /// [`LocalCacheBuilder::redis`](crate::LocalCacheBuilder::redis).
        url: RedisUrl,
        /// The name of the cache in Redis: see [`LocalCacheBuilder::redis`](crate::LocalCacheBuilder::redis).
        namespace: String,
        /// The class of consistency, `"realtime"`, `"bounded 5s"`, `"l1-only"` or `"l2-only"`: see
        /// [`TieredCacheBuilder::consistency`](crate::TieredCacheBuilder::consistency). With [`Backend::Redis`] it is
        /// always `"l2-only"`.
        consistency: Consistency,
        /// The maximum time that L1 keeps a copy of a value: see
        /// [`TieredCacheBuilder::local_time_to_live`](crate::TieredCacheBuilder::local_time_to_live).
        #[serde(with = "duration")]
        local_time_to_live: Duration,
        /// The time that a call to Redis may take before it counts as failed: see
        /// [`TieredCacheBuilder::deadline`](crate::TieredCacheBuilder::deadline).
        #[serde(with = "duration")]
        deadline: Duration,
        /// The interval at which a process proves that invalidations reach it: see
        /// [`TieredCacheBuilder::heartbeat`](crate::TieredCacheBuilder::heartbeat).
        #[serde(with = "duration")]
        heartbeat: Duration,
        /// The maximum size of a value in Redis, in bytes: see
        /// [`TieredCacheBuilder::max_value_size`](crate::TieredCacheBuilder::max_value_size).
        max_value_size: usize,
        /// The size above which values are compressed, in bytes: see
        /// [`TieredCacheBuilder::compress_above`](crate::TieredCacheBuilder::compress_above).
        compress_above: usize,
        /// The maximum number of invalidations that wait while Redis is unreachable: see
        /// [`TieredCacheBuilder::max_queued_invalidations`](crate::TieredCacheBuilder::max_queued_invalidations).
        max_queued_invalidations: usize,
        /// The percentage of keys that go through Redis, 0 to 100: see
        /// [`TieredCacheBuilder::percent`](crate::TieredCacheBuilder::percent).
        percent: f64,
        /// `true` to compare the values in Redis with the loaded ones instead of serving them: see
        /// [`TieredCacheBuilder::shadow`](crate::TieredCacheBuilder::shadow).
        shadow: bool,
        /// The number of replicas that must confirm a change: see
        /// [`TieredCacheBuilder::replicas`](crate::TieredCacheBuilder::replicas).
        replicas: u64,
        /// `true` to let replicas serve values, in the class `"bounded"` and not with the backend `"redis"`: see
        /// [`TieredCacheBuilder::read_from_replicas`](crate::TieredCacheBuilder::read_from_replicas).
        read_from_replicas: bool,
        /// The number of partitions of the namespace: see
        /// [`TieredCacheBuilder::partitions`](crate::TieredCacheBuilder::partitions).
        partitions: u16,
        /// The number of partitions to which the namespace is moving: see
        /// [`TieredCacheBuilder::next_partitions`](crate::TieredCacheBuilder::next_partitions).
        next_partitions: u16,
        /// The percentage of keys that are read in the next partitions, 0 to 100: see
        /// [`TieredCacheBuilder::moved_percent`](crate::TieredCacheBuilder::moved_percent).
        moved_percent: f64,
        /// The path of the file for `TieredCacheBuilder::root_certificate` (feature `redis-tls`).
        root_certificate: PathBuf,
        /// The path of the file with the certificate for `TieredCacheBuilder::client_certificate` (feature
        /// `redis-tls`).
        client_certificate: PathBuf,
        /// The path of the file with the private key of that certificate.
        client_key: PathBuf,
    }
}
