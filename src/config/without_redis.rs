//! The functions for Redis in a build without the feature `redis`.

use crate::config::configured::BuiltCache;
use crate::config::{CacheConfig, ConfigError};
use crate::local::LocalCacheBuilder;

impl CacheConfig {
    /// Accepts the settings of Redis: without the feature, only their format is checked, when they are read.
    #[allow(clippy::unused_self, clippy::unnecessary_wraps)]
    pub(super) fn check_redis(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    /// Returns an error, because this build cannot use Redis.
    pub(super) fn build_over_redis<K, V>(
        &self,
        _: LocalCacheBuilder<K, V>,
    ) -> Result<BuiltCache<K, V>, ConfigError> {
        Err(ConfigError::NoRedis {
            setting: self.name_of("backend"),
            backend: self.backend.unwrap_or_default(),
        })
    }
}
