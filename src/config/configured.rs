//! The caches that a configuration builds.

use crate::consistency::Propagation;
use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
use crate::local::LocalCache;
#[cfg(feature = "metrics")]
use crate::metrics::sealed::Source;
#[cfg(feature = "metrics")]
use crate::metrics::{MetricsSource, Watch};
use crate::schema::{RemoteKey, RemoteValue};
use crate::stats::Stats;
#[cfg(feature = "redis")]
use crate::tiered::{Rollout, TieredCache};
use crate::traits::pointers::{delegate_async_cache, delegate_cache};
use crate::traits::{
    AsyncCache, Cache, CacheFuture, ErasedAsyncBatchLoader, ErasedAsyncLoader, ErasedAsyncWrite,
    ErasedBatchLoader, ErasedKey, ErasedLoader, ErasedWrite, WriteFailed,
};
use crate::warm::{WarmOptions, WarmReport};
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

/// A cache of the backend that a configuration selects.
pub(super) enum BuiltCache<K, V> {
    Local(LocalCache<K, V>),
    #[cfg(feature = "redis")]
    Tiered(TieredCache<K, V>),
}

impl<K: RemoteKey, V: RemoteValue> BuiltCache<K, V> {
    pub(super) fn into_blocking(self) -> ConfiguredCache<K, V> {
        match self {
            Self::Local(cache) => ConfiguredCache {
                #[cfg(feature = "redis")]
                rollout: None,
                #[cfg(feature = "metrics")]
                source: cache.source(),
                cache: Arc::new(cache),
            },
            #[cfg(feature = "redis")]
            Self::Tiered(cache) => ConfiguredCache {
                rollout: Some(cache.rollout().clone()),
                #[cfg(feature = "metrics")]
                source: cache.source(),
                cache: Arc::new(cache.blocking()),
            },
        }
    }

    pub(super) fn into_async(self) -> ConfiguredAsyncCache<K, V> {
        match self {
            Self::Local(cache) => ConfiguredAsyncCache {
                #[cfg(feature = "redis")]
                rollout: None,
                #[cfg(feature = "metrics")]
                source: cache.source(),
                cache: Arc::new(cache),
            },
            #[cfg(feature = "redis")]
            Self::Tiered(cache) => ConfiguredAsyncCache {
                rollout: Some(cache.rollout().clone()),
                #[cfg(feature = "metrics")]
                source: cache.source(),
                cache: Arc::new(cache),
            },
        }
    }
}

/// Defines a handle to a cache that is known by a trait only, with the operations that depend on its backend.
macro_rules! configured_cache {
    ($(#[$about:meta])* $name:ident: $trait:ident) => {
        $(#[$about])*
        pub struct $name<K, V> {
            cache: Arc<dyn $trait<K, V>>,
            /// `None` for a local cache.
            #[cfg(feature = "redis")]
            rollout: Option<Rollout>,
            #[cfg(feature = "metrics")]
            source: MetricsSource,
        }

        impl<K, V> $name<K, V> {
            /// Returns the rollout of a cache over Redis, to change it while the cache is in use, or `None` for a
            /// local cache.
            #[cfg(feature = "redis")]
            #[must_use]
            pub fn rollout(&self) -> Option<&Rollout> {
                self.rollout.as_ref()
            }
        }

        impl<K, V> From<$name<K, V>> for Arc<dyn $trait<K, V>> {
            fn from(configured: $name<K, V>) -> Self {
                configured.cache
            }
        }

        impl<K, V> Clone for $name<K, V> {
            fn clone(&self) -> Self {
                Self {
                    cache: Arc::clone(&self.cache),
                    #[cfg(feature = "redis")]
                    rollout: self.rollout.clone(),
                    #[cfg(feature = "metrics")]
                    source: self.source.clone(),
                }
            }
        }

        #[cfg(feature = "metrics")]
        impl<K, V> Watch for $name<K, V> {}

        #[cfg(feature = "metrics")]
        impl<K, V> Source for $name<K, V> {
            fn source(&self) -> MetricsSource {
                self.source.clone()
            }
        }

        impl<K, V> fmt::Debug for $name<K, V> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut shown = f.debug_struct(stringify!($name));
                #[cfg(feature = "redis")]
                shown.field("rollout", &self.rollout);
                shown.finish_non_exhaustive()
            }
        }
    };
}

configured_cache! {
    /// A cache for blocking callers, built by [`CacheConfig::build_blocking`](crate::CacheConfig::build_blocking).
    ///
    /// It is a [`Cache`], whichever backend was configured. The operations that need to know the backend are methods
    /// of this type. A clone is another handle to the same cache.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{Cache, CacheConfig};
    /// use std::sync::Arc;
    ///
    /// let config = CacheConfig::from_toml("capacity = 1000")?;
    /// let prices = config.build_blocking::<u64, u64>()?;
    /// prices.insert(7, 700);
    ///
    /// // Code that must not depend on this crate's configuration gets the trait object.
    /// let shared: Arc<dyn Cache<u64, u64>> = prices.into();
    /// assert_eq!(shared.get(&7), Some(700));
    /// # Ok::<(), hotset::ConfigError>(())
    /// ```
    ConfiguredCache: Cache
}

configured_cache! {
    /// A cache for async tasks, built by [`CacheConfig::build_async`](crate::CacheConfig::build_async).
    ///
    /// It is an [`AsyncCache`], whichever backend was configured. The operations that need to know the backend are
    /// methods of this type. A clone is another handle to the same cache.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{AsyncCache, CacheConfig};
    /// use std::sync::Arc;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), hotset::ConfigError> {
    /// let config = CacheConfig::from_toml("capacity = 1000")?;
    /// let prices = config.build_async::<u64, u64>()?;
    /// prices.insert(7, 700).await;
    ///
    /// // Code that must not depend on this crate's configuration gets the trait object.
    /// let shared: Arc<dyn AsyncCache<u64, u64>> = prices.into();
    /// assert_eq!(shared.get(&7).await, Some(700));
    /// # Ok(())
    /// # }
    /// ```
    ConfiguredAsyncCache: AsyncCache
}

impl<K, V> Cache<K, V> for ConfiguredCache<K, V> {
    delegate_cache!(self => self.cache);
}

impl<K, V> AsyncCache<K, V> for ConfiguredAsyncCache<K, V> {
    delegate_async_cache!(self => self.cache);
}
