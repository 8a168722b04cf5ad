//! What there is of Redis without the feature: an error.

use crate::config::build::Fronts;
use crate::config::{CacheConfig, ConfigError};
use crate::local::LocalCacheBuilder;

impl CacheConfig {
    /// Only the form is checked, which has been.
    #[allow(clippy::unused_self, clippy::unnecessary_wraps)]
    pub(super) fn check_redis(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    pub(super) fn build_over_redis<K, V>(
        &self,
        _: LocalCacheBuilder<K, V>,
    ) -> Result<Fronts<K, V>, ConfigError> {
        Err(ConfigError::NoRedis {
            setting: self.name_of("backend"),
            backend: self.backend.unwrap_or_default(),
        })
    }
}
