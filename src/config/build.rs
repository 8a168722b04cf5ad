//! Building a cache from its settings.

use crate::config::configured::{BuiltCache, ConfiguredAsyncCache, ConfiguredCache};
use crate::config::error::setting_of;
use crate::config::{Backend, CacheConfig, Capacity, ConfigError};
use crate::error::BuildError;
use crate::local::LocalCacheBuilder;
use crate::schema::{RemoteKey, RemoteValue, Schema};

impl CacheConfig {
    /// Builds a cache for async tasks.
    ///
    /// The types of keys and values must be storable in Redis, even with a local backend or without the feature
    /// `redis`, so that the backend can be changed later. For other types use
    /// [`local_builder`](Self::local_builder), and for types without a [`Schema`]
    /// `tiered_builder_with_schemas` (feature `redis`).
    ///
    /// The result implements [`AsyncCache`](crate::AsyncCache), and has the operations that depend on the backend, such
    /// as snapshots. For others, such as `update` or `warm_from_l2`, build a cache by
    /// [`local_builder`](Self::local_builder) or `tiered_builder` (feature `redis`), and convert it into a
    /// [`ConfiguredAsyncCache`] where the backend does not matter.
    ///
    /// # Errors
    ///
    /// Returns an error if a setting is missing or invalid, if the backend needs the feature `redis` and the feature is
    /// not enabled, or if the backend needs a tokio runtime and the method is called outside of one. Redis need not be
    /// reachable.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use hotset::{AsyncCache, CacheConfig};
    ///
    /// let config = CacheConfig::from_toml("capacity = 1000\ntime_to_live = '5m'")?;
    /// let prices = config.build_async::<u64, u64>()?;
    /// prices.insert(7, 120).await;
    /// assert_eq!(prices.get(&7).await, Some(120));
    /// # Ok(())
    /// # }
    /// ```
    pub fn build_async<K: RemoteKey + Schema, V: RemoteValue + Schema>(
        &self,
    ) -> Result<ConfiguredAsyncCache<K, V>, ConfigError> {
        self.build_async_with(|local| local)
    }

    /// Like [`build_async`](Self::build_async), but with settings that a file cannot contain: a weigher, a listener, a
    /// clock. With a Redis backend, they apply to L1.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`build_async`](Self::build_async).
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::CacheConfig;
    ///
    /// let config = CacheConfig::from_toml("time_to_live = '5m'")?;
    /// let pages = config.build_async_with::<u64, String>(|local| {
    ///     local
    ///         .max_weight(64 << 20)
    ///         .weigher(|_, page| page.len() as u64)
    /// })?;
    /// # Ok::<(), hotset::ConfigError>(())
    /// ```
    pub fn build_async_with<K: RemoteKey + Schema, V: RemoteValue + Schema>(
        &self,
        complete: impl FnOnce(LocalCacheBuilder<K, V>) -> LocalCacheBuilder<K, V>,
    ) -> Result<ConfiguredAsyncCache<K, V>, ConfigError> {
        self.build(complete).map(BuiltCache::into_async)
    }

    /// Builds a cache for blocking callers.
    ///
    /// The result implements [`Cache`](crate::Cache). With a Redis backend it is a
    /// [`BlockingCache`](crate::BlockingCache), whose documentation says which runtime it needs.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`build_async`](Self::build_async).
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{Cache, CacheConfig};
    ///
    /// let config = CacheConfig::from_toml("capacity = 1000\ntime_to_live = '5m'")?;
    /// let prices = config.build_blocking::<u64, u64>()?;
    /// prices.insert(7, 120);
    /// assert_eq!(prices.get(&7), Some(120));
    /// # Ok::<(), hotset::ConfigError>(())
    /// ```
    pub fn build_blocking<K: RemoteKey + Schema, V: RemoteValue + Schema>(
        &self,
    ) -> Result<ConfiguredCache<K, V>, ConfigError> {
        self.build_blocking_with(|local| local)
    }

    /// Like [`build_blocking`](Self::build_blocking), but with settings that a file cannot contain: see
    /// [`build_async_with`](Self::build_async_with).
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`build_async`](Self::build_async).
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::CacheConfig;
    ///
    /// let config = CacheConfig::from_toml("capacity = 1000")?;
    /// let prices = config.build_blocking_with::<u64, u64>(|local| {
    ///     local.on_removal(|id, price, cause| println!("{id}: {price} is {cause:?}"))
    /// })?;
    /// # Ok::<(), hotset::ConfigError>(())
    /// ```
    pub fn build_blocking_with<K: RemoteKey + Schema, V: RemoteValue + Schema>(
        &self,
        complete: impl FnOnce(LocalCacheBuilder<K, V>) -> LocalCacheBuilder<K, V>,
    ) -> Result<ConfiguredCache<K, V>, ConfigError> {
        self.build(complete).map(BuiltCache::into_blocking)
    }

    /// Returns a builder of a [`LocalCache`](crate::LocalCache) with these settings. The backend is ignored.
    ///
    /// Use it to set another hasher, and for keys and values that cannot be stored in Redis.
    ///
    /// # Errors
    ///
    /// Returns an error if a setting is invalid. A missing bound is an error only when the cache is built.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{CacheConfig, LocalCache};
    /// use std::hash::RandomState;
    ///
    /// let config = CacheConfig::from_toml("capacity = 1000")?;
    /// let names: LocalCache<u64, &str, RandomState> = config.local_builder()?.hasher(RandomState::new()).build()?;
    /// assert_eq!(names.capacity(), Some(1_000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn local_builder<K, V>(&self) -> Result<LocalCacheBuilder<K, V>, ConfigError> {
        let config = self.clone();
        let mut builder = LocalCacheBuilder::new();
        match config.capacity {
            Some(Capacity::Entries(entries)) => builder = builder.capacity(entries),
            Some(Capacity::Unbounded) => builder = builder.unbounded(),
            None => {}
        }
        apply!(config to builder:
            shards, policy, time_to_live, time_to_idle, lease, wait_timeout, max_concurrent_loads,
            refresh_after, early_refresh, stale_if_error, stale_if_slow, ttl_jitter, track_ages,
            name,
        );
        builder
            .validate_settings()
            .map_err(|error| self.refused(error))?;
        Ok(builder)
    }

    fn build<K: RemoteKey + Schema, V: RemoteValue + Schema>(
        &self,
        complete: impl FnOnce(LocalCacheBuilder<K, V>) -> LocalCacheBuilder<K, V>,
    ) -> Result<BuiltCache<K, V>, ConfigError> {
        let local = complete(self.local_builder()?);
        match self.backend.unwrap_or_default() {
            Backend::Local => {
                self.check_redis()?;
                let cache = local.build().map_err(|error| self.refused(error))?;
                Ok(BuiltCache::Local(cache))
            }
            Backend::Redis | Backend::Tiered => self.build_over_redis(local),
        }
    }

    /// Converts the error of a builder, and adds the name of the setting.
    pub(super) fn refused(&self, error: BuildError) -> ConfigError {
        if error == BuildError::NoBound {
            return self.missing("capacity", "a number of entries, or to \"unbounded\"");
        }
        ConfigError::Build {
            setting: setting_of(&error).map(|name| self.name_of(name)),
            error,
        }
    }

    pub(super) fn missing(&self, name: &str, expected: &'static str) -> ConfigError {
        ConfigError::Missing {
            setting: self.name_of(name),
            expected,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Returns the names and values of the settings that the builders received.
    fn state(config: &CacheConfig) -> String {
        let builder = config.local_builder::<u64, u64>().unwrap();
        let settings = &builder.settings;
        let nanos = settings.deadline(0, None);
        format!(
            "capacity: {:?}, unbounded: {:?}, shards: {:?}, policy: {:?}, time_to_live: {:?} {nanos}, \
             time_to_idle: {:?}, lease: {:?}, wait_timeout: {:?}, max_concurrent_loads: {:?}, \
             refresh_after: {:?}, early_refresh: {:?}, stale_if_error: {:?}, stale_if_slow: {:?}, ttl_jitter: {:?}, \
             tracks_ages: {:?}, name: {:?}, {}",
            builder.capacity,
            builder.unbounded,
            builder.shards,
            builder.policy,
            settings.time_to_live,
            settings.time_to_idle,
            settings.lease,
            settings.wait_timeout,
            settings.max_concurrent_loads,
            settings.refresh_after,
            settings.early_refresh,
            settings.stale_if_error,
            settings.stale_if_slow,
            settings.ttl_jitter,
            settings.tracks_ages,
            settings.name,
            over_redis(config),
        )
    }

    #[cfg(feature = "redis")]
    fn over_redis(config: &CacheConfig) -> String {
        let mut config = config.clone();
        config.url.get_or_insert("redis://localhost".into());
        config.namespace.get_or_insert("prices".into());
        let tiered = config
            .tiered_builder::<u64, u64>(LocalCacheBuilder::new())
            .unwrap();
        format!("{tiered:?}")
    }

    #[cfg(not(feature = "redis"))]
    fn over_redis(_: &CacheConfig) -> String {
        String::new()
    }

    fn read(name: &str, value: &str) -> CacheConfig {
        let variable = format!("C_{}", name.to_uppercase());
        let vars = [(variable, value)];
        CacheConfig::default()
            .override_from_vars("C", vars)
            .unwrap()
    }

    #[test]
    fn each_setting_reaches_its_builder() {
        // The opposite of the default, which depends on the features.
        let other_ages = if cfg!(feature = "metrics") {
            "false"
        } else {
            "true"
        };
        let tracked = format!("tracks_ages: {other_ages}");
        let local = [
            ("capacity", "7", "capacity: Some(7)"),
            ("capacity", "unbounded", "unbounded: true"),
            ("shards", "8", "shards: Some(8)"),
            ("policy", "s3-fifo", "policy: S3Fifo"),
            ("time_to_live", "9s", "time_to_live: Some(9s) 9000000000"),
            ("time_to_idle", "1m", "time_to_idle: Some(60s)"),
            ("lease", "11s", "lease: 11s"),
            ("wait_timeout", "12ms", "wait_timeout: Some(12ms)"),
            (
                "max_concurrent_loads",
                "13",
                "max_concurrent_loads: Some(13)",
            ),
            ("refresh_after", "14s", "refresh_after: Some(14s)"),
            ("early_refresh", "1.5", "early_refresh: Some(1.5)"),
            ("stale_if_error", "1h", "stale_if_error: Some(3600s)"),
            ("stale_if_slow", "15ms", "stale_if_slow: Some(15ms)"),
            ("ttl_jitter", "0.16", "ttl_jitter: Some(0.16)"),
            ("track_ages", other_ages, &*tracked),
            ("name", "p 17", "name: Some(\"p 17\")"),
        ];
        let redis = [
            ("backend", "redis", "consistency: L2Only"),
            ("namespace", "n18", "namespace: \"n18\""),
            ("consistency", "realtime", "consistency: Realtime"),
            ("consistency", "bounded(19s)", "consistency: Bounded(19s)"),
            ("local_time_to_live", "20s", "local_time_to_live: Some(20s)"),
            ("deadline", "21ms", "deadline: 21ms"),
            ("heartbeat", "22s", "heartbeat: 22s"),
            ("max_value_size", "23", "max_value_size: 23"),
            ("compress_above", "24", "compress_above: Some(24)"),
            (
                "max_queued_invalidations",
                "25",
                "max_queued_invalidations: 25",
            ),
            ("percent", "26.5", "percent: Some(26.5)"),
            ("shadow", "true", "shadow: Some(true)"),
            ("replicas", "27", "replicas: 27"),
            ("partitions", "32", "partitions: Some(32)"),
            ("next_partitions", "64", "next_partitions: Some(64)"),
            ("moved_percent", "28.5", "moved_percent: Some(28.5)"),
            ("read_from_replicas", "true", "read_from_replicas: true"),
        ];
        let seen = local.iter().chain(&redis);
        let mut names: Vec<&str> = seen.map(|&(name, ..)| name).collect();
        // The tests with a Redis server cover the URL, and the tests with TLS cover the certificates and the key.
        names.push("url");
        names.extend(["root_certificate", "client_certificate", "client_key"]);
        assert!(CacheConfig::NAMES.iter().all(|name| names.contains(name)));

        let checked = if cfg!(feature = "redis") {
            &redis[..]
        } else {
            &[]
        };
        let unset = state(&CacheConfig::default());
        for &(name, value, expected) in local.iter().chain(checked) {
            let state = state(&read(name, value));
            assert!(state.contains(expected), "{name} = {value}: {state}");
            assert!(!unset.contains(expected), "{name}: {unset}");
        }
    }

    #[test]
    fn unset_setting_keeps_the_default_of_the_builder() {
        let builder = CacheConfig::default().local_builder::<u64, u64>().unwrap();
        assert_eq!(builder.settings.lease, Duration::from_secs(10));
        assert_eq!(builder.bounds(), 0);
    }
}
