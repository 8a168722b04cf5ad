//! Building a cache over Redis from its settings.

use crate::config::configured::BuiltCache;
use crate::config::{Backend, CacheConfig, ConfigError};
use crate::consistency::Consistency;
use crate::local::LocalCacheBuilder;
use crate::schema::{RemoteKey, RemoteValue, Schema, Schemas};
use crate::tiered::TieredCacheBuilder;

impl CacheConfig {
    /// Returns the builder of a [`TieredCache`](crate::TieredCache) with these settings, whatever the backend is.
    ///
    /// `local` is the builder that [`local_builder`](Self::local_builder) returned. Use the result instead of
    /// [`build_async`](Self::build_async) for methods that [`AsyncCache`](crate::AsyncCache) does not have.
    ///
    /// # Errors
    ///
    /// Returns an error if a setting is missing or invalid.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use hotset::{CacheConfig, TieredCache};
    ///
    /// let config = CacheConfig::from_env("PRICES_")?;
    /// let prices: TieredCache<u64, u64> = config.tiered_builder(config.local_builder()?)?.build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn tiered_builder<K, V>(
        &self,
        local: LocalCacheBuilder<K, V>,
    ) -> Result<TieredCacheBuilder<K, V>, ConfigError>
    where
        K: RemoteKey + Schema,
        V: RemoteValue + Schema,
    {
        self.tiered_builder_with_schemas(local, Schemas::of::<K, V>())
    }

    /// Like [`tiered_builder`](Self::tiered_builder), for keys and values of any type: see
    /// [`redis_with_schemas`](LocalCacheBuilder::redis_with_schemas).
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`tiered_builder`](Self::tiered_builder).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use hotset::{CacheConfig, Schema, Schemas, TieredCache};
    ///
    /// let config = CacheConfig::from_env("DOCUMENTS_")?;
    /// // `serde_json::Value` does not implement `Schema`.
    /// let schemas = Schemas::new(u64::schema(), "document/1");
    /// let documents: TieredCache<u64, serde_json::Value> =
    ///     config.tiered_builder_with_schemas(config.local_builder()?, schemas)?.build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn tiered_builder_with_schemas<K: RemoteKey, V: RemoteValue>(
        &self,
        local: LocalCacheBuilder<K, V>,
        schemas: Schemas,
    ) -> Result<TieredCacheBuilder<K, V>, ConfigError> {
        let url = self.url.as_ref();
        let url = url
            .ok_or_else(|| self.missing("url", "redis://[user:password@]host[:port][/database]"))?;
        let namespace = self.namespace.as_deref();
        let namespace =
            namespace.ok_or_else(|| self.missing("namespace", "the name of the cache in Redis"))?;
        let is_only_redis = self.backend == Some(Backend::Redis);
        let local = if is_only_redis && local.bounds() == 0 {
            local.capacity(0)
        } else {
            local
        };
        self.configure_tiered(local, url.as_str(), namespace, schemas)
    }

    /// Returns a builder with all settings of a tiered cache, and checks it.
    fn configure_tiered<K: RemoteKey, V: RemoteValue>(
        &self,
        local: LocalCacheBuilder<K, V>,
        url: &str,
        namespace: &str,
        schemas: Schemas,
    ) -> Result<TieredCacheBuilder<K, V>, ConfigError> {
        let config = self.clone();
        let mut tiered = local.redis_with_schemas(url, namespace, schemas);
        apply!(config to tiered:
            consistency, local_time_to_live, deadline, heartbeat, max_value_size, compress_above,
            max_queued_invalidations, percent, shadow, replicas, partitions,
            next_partitions, moved_percent, read_from_replicas,
        );
        tiered = self.with_certificates(tiered)?;
        tiered.validate().map_err(|error| self.refused(error))?;
        if self.backend == Some(Backend::Redis) {
            tiered = tiered.consistency(Consistency::L2Only);
            // Some settings need another class.
            tiered.validate().map_err(|error| self.refused(error))?;
        }
        Ok(tiered)
    }

    #[cfg(feature = "redis-tls")]
    fn with_certificates<K: RemoteKey, V: RemoteValue>(
        &self,
        mut tiered: TieredCacheBuilder<K, V>,
    ) -> Result<TieredCacheBuilder<K, V>, ConfigError> {
        if let Some(path) = &self.root_certificate {
            tiered = tiered.root_certificate(self.read("root_certificate", path)?);
        }
        match (&self.client_certificate, &self.client_key) {
            (Some(certificate), Some(key)) => {
                let certificate = self.read("client_certificate", certificate)?;
                Ok(tiered.client_certificate(certificate, self.read("client_key", key)?))
            }
            (Some(_), None) => {
                Err(self.missing("client_key", "the file with the certificate's key"))
            }
            (None, Some(_)) => {
                Err(self.missing("client_certificate", "the file with the key's certificate"))
            }
            (None, None) => Ok(tiered),
        }
    }

    #[cfg(feature = "redis-tls")]
    fn read(&self, name: &str, path: &std::path::Path) -> Result<Vec<u8>, ConfigError> {
        std::fs::read(path).map_err(|error| ConfigError::Value {
            setting: self.name_of(name),
            reason: format!("{} cannot be read: {error}", path.display()),
        })
    }

    #[cfg(not(feature = "redis-tls"))]
    fn with_certificates<K: RemoteKey, V: RemoteValue>(
        &self,
        tiered: TieredCacheBuilder<K, V>,
    ) -> Result<TieredCacheBuilder<K, V>, ConfigError> {
        let names = ["root_certificate", "client_certificate", "client_key"];
        match names.into_iter().find(|name| self.is_set(name)) {
            None => Ok(tiered),
            Some(name) => Err(ConfigError::Value {
                setting: self.name_of(name),
                reason: "hotset was built without TLS: add the feature \"redis-tls\" to it in Cargo.toml"
                    .into(),
            }),
        }
    }

    /// Checks the settings of Redis although they are not used.
    pub(super) fn check_redis(&self) -> Result<(), ConfigError> {
        let url = self
            .url
            .as_ref()
            .map_or("redis://localhost/", |url| url.as_str());
        let namespace = self.namespace.as_deref().unwrap_or("unused");
        let schemas = Schemas::of::<u64, u64>();
        self.configure_tiered::<u64, u64>(LocalCacheBuilder::new(), url, namespace, schemas)
            .map(drop)
    }

    pub(super) fn build_over_redis<K: RemoteKey + Schema, V: RemoteValue + Schema>(
        &self,
        local: LocalCacheBuilder<K, V>,
    ) -> Result<BuiltCache<K, V>, ConfigError> {
        let tiered = self.tiered_builder(local)?.build();
        tiered
            .map(BuiltCache::Tiered)
            .map_err(|error| self.refused(error))
    }
}
