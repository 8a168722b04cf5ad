//! The caches that a configuration builds.

use crate::consistency::Propagation;
use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
use crate::local::LocalCache;
#[cfg(feature = "snapshot")]
use crate::local::{RestoreReport, SnapshotReport};
#[cfg(feature = "metrics")]
use crate::metrics::sealed::Source;
#[cfg(feature = "metrics")]
use crate::metrics::{MetricsSource, Watch};
#[cfg(feature = "snapshot")]
use crate::schema::Schema;
use crate::schema::{RemoteKey, RemoteValue};
#[cfg(feature = "snapshot")]
use crate::snapshot::SnapshotError;
use crate::stats::Stats;
#[cfg(feature = "redis")]
use crate::tiered::{BlockingCache, Health, Rollout, TierStats, TieredCache};
use crate::traits::pointers::{delegate_async_cache, delegate_cache};
use crate::traits::{
    AsyncCache, Cache, CacheFuture, ErasedAsyncBatchLoader, ErasedAsyncLoader, ErasedAsyncWrite,
    ErasedBatchLoader, ErasedKey, ErasedLoader, ErasedWrite, WriteFailed,
};
use crate::warm::{WarmOptions, WarmReport};
use std::fmt;
use std::hash::Hash;
#[cfg(feature = "snapshot")]
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
#[cfg(all(feature = "snapshot", feature = "tokio"))]
use tokio::runtime::Handle;

/// A cache of the backend that a configuration selects.
pub(super) enum BuiltCache<K, V> {
    Local(LocalCache<K, V>),
    #[cfg(feature = "redis")]
    Tiered(TieredCache<K, V>),
}

impl<K, V> BuiltCache<K, V> {
    fn name(&self) -> Option<&str> {
        match self {
            Self::Local(cache) => cache.name(),
            #[cfg(feature = "redis")]
            Self::Tiered(cache) => Some(cache.name()),
        }
    }

    /// Returns the tiered cache, or `None` for a local one.
    #[cfg(feature = "redis")]
    fn tiered(&self) -> Option<&TieredCache<K, V>> {
        match self {
            Self::Local(_) => None,
            Self::Tiered(cache) => Some(cache),
        }
    }
}

impl<K, V> Clone for BuiltCache<K, V> {
    fn clone(&self) -> Self {
        match self {
            Self::Local(cache) => Self::Local(cache.clone()),
            #[cfg(feature = "redis")]
            Self::Tiered(cache) => Self::Tiered(cache.clone()),
        }
    }
}

impl<K: RemoteKey, V: RemoteValue> BuiltCache<K, V> {
    pub(super) fn into_blocking(self) -> ConfiguredCache<K, V> {
        match self {
            Self::Local(cache) => cache.into(),
            #[cfg(feature = "redis")]
            Self::Tiered(cache) => cache.into(),
        }
    }

    pub(super) fn into_async(self) -> ConfiguredAsyncCache<K, V> {
        match self {
            Self::Local(cache) => cache.into(),
            #[cfg(feature = "redis")]
            Self::Tiered(cache) => cache.into(),
        }
    }
}

/// Defines a handle to a cache that is known by a trait only, with the operations that depend on its backend.
macro_rules! configured_cache {
    ($(#[$about:meta])* $name:ident: $trait:ident, by $handle:ident) => {
        $(#[$about])*
        pub struct $name<K, V> {
            cache: Arc<dyn $trait<K, V>>,
            backend: BuiltCache<K, V>,
            #[cfg(feature = "metrics")]
            source: MetricsSource,
        }

        impl<K, V> $name<K, V> {
            /// Returns the name of the cache: the one that it was given, or the namespace of a cache over Redis.
            ///
            /// # Examples
            ///
            /// ```
            #[doc = concat!("use hotset::{", stringify!($name), ", LocalCache};")]
            ///
            /// let prices: LocalCache<u64, u64> = LocalCache::builder().name("prices").capacity(100).build()?;
            #[doc = concat!("assert_eq!(", stringify!($name), "::from(prices).name(), Some(\"prices\"));")]
            /// # Ok::<(), hotset::BuildError>(())
            /// ```
            #[must_use]
            pub fn name(&self) -> Option<&str> {
                self.backend.name()
            }
        }

        #[cfg(feature = "redis")]
        impl<K, V> $name<K, V> {
            /// Returns the rollout of a cache over Redis, to change it while the cache is in use, or `None` for a
            /// local cache.
            #[must_use]
            pub fn rollout(&self) -> Option<&Rollout> {
                self.backend.tiered().map(TieredCache::rollout)
            }

            /// Returns the statistics of Redis and of the loader, or `None` for a local cache, whose
            #[doc = concat!("[`stats`](", stringify!($trait), "::stats) have the loads.")]
            ///
            /// # Examples
            ///
            /// ```
            #[doc = concat!("# use hotset::{", stringify!($trait), ", ", stringify!($name), "};")]
            #[doc = concat!("# fn example(prices: ", stringify!($name), "<u64, u64>) {")]
            /// let loads = prices.tier_stats().map_or_else(|| prices.stats().loads, |stats| stats.loads);
            /// println!("{loads} loads by this process");
            /// # }
            /// ```
            #[must_use]
            pub fn tier_stats(&self) -> Option<TierStats> {
                self.backend.tiered().map(TieredCache::tier_stats)
            }

            /// Returns the health of the Redis connection and of the invalidation channel, or `None` for a local cache.
            ///
            /// # Examples
            ///
            /// ```
            #[doc = concat!("# use hotset::", stringify!($name), ";")]
            #[doc = concat!("# fn example(prices: ", stringify!($name), "<u64, u64>) {")]
            /// for warning in prices.health().iter().flat_map(|health| &health.warnings) {
            ///     eprintln!("{warning}");
            /// }
            /// # }
            /// ```
            #[must_use]
            pub fn health(&self) -> Option<Health> {
                self.backend.tiered().map(TieredCache::health)
            }
        }

        impl<K, V> From<LocalCache<K, V>> for $name<K, V>
        where
            K: Eq + Hash + Clone + Send + Sync + 'static,
            V: Clone + Send + Sync + 'static,
        {
            fn from(cache: LocalCache<K, V>) -> Self {
                Self {
                    #[cfg(feature = "metrics")]
                    source: cache.source(),
                    cache: Arc::new(cache.clone()),
                    backend: BuiltCache::Local(cache),
                }
            }
        }

        #[cfg(feature = "redis")]
        impl<K: RemoteKey, V: RemoteValue> From<TieredCache<K, V>> for $name<K, V> {
            fn from(cache: TieredCache<K, V>) -> Self {
                Self {
                    #[cfg(feature = "metrics")]
                    source: cache.source(),
                    cache: Arc::new(cache.$handle()),
                    backend: BuiltCache::Tiered(cache),
                }
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
                    backend: self.backend.clone(),
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
                shown.field("name", &self.name());
                #[cfg(feature = "redis")]
                shown.field("rollout", &self.rollout());
                shown.finish_non_exhaustive()
            }
        }
    };
}

configured_cache! {
    /// A cache for blocking callers, built by [`CacheConfig::build_blocking`](crate::CacheConfig::build_blocking) or
    /// converted from a cache of any backend.
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
    ConfiguredCache: Cache, by blocking
}

configured_cache! {
    /// A cache for async tasks, built by [`CacheConfig::build_async`](crate::CacheConfig::build_async) or converted
    /// from a cache of any backend.
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
    ConfiguredAsyncCache: AsyncCache, by clone
}

#[cfg(feature = "redis")]
impl<K: RemoteKey, V: RemoteValue> From<BlockingCache<K, V>> for ConfiguredCache<K, V> {
    fn from(cache: BlockingCache<K, V>) -> Self {
        cache.tiered().clone().into()
    }
}

#[cfg(feature = "snapshot")]
impl<K: RemoteKey + Schema, V: RemoteValue + Schema> ConfiguredCache<K, V> {
    /// Writes the entries of this process to a file, for [`restore`](Self::restore). See
    /// [`LocalCache::snapshot`].
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`LocalCache::snapshot`].
    ///
    /// # Blocking
    ///
    /// Writes to the disk.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{Cache, ConfiguredCache, LocalCache};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("prices");
    /// let prices: ConfiguredCache<u64, u64> = LocalCache::new(1_000).into();
    /// prices.insert(7, 700);
    /// prices.snapshot(&path)?;
    ///
    /// // In the next run:
    /// let prices: ConfiguredCache<u64, u64> = LocalCache::new(1_000).into();
    /// assert_eq!(prices.restore(&path)?.restored, 1);
    /// assert_eq!(prices.get(&7), Some(700));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn snapshot(&self, path: impl AsRef<Path>) -> Result<SnapshotReport, SnapshotError> {
        match &self.backend {
            BuiltCache::Local(cache) => cache.snapshot(path),
            #[cfg(feature = "redis")]
            BuiltCache::Tiered(cache) => cache.blocking().wait(cache.snapshot(path)),
        }
    }

    /// Stores the entries of a snapshot. See [`LocalCache::restore`].
    ///
    /// Over Redis the file says which keys to read from Redis, because the values in it may have been invalidated
    /// since. See [`TieredCache::warm_from_snapshot`](crate::TieredCache::warm_from_snapshot).
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`LocalCache::restore`]. Over Redis the schema of values is not compared.
    ///
    /// # Blocking
    ///
    /// Reads from the disk, and over Redis waits for its answers.
    pub fn restore(&self, path: impl AsRef<Path>) -> Result<RestoreReport, SnapshotError> {
        match &self.backend {
            BuiltCache::Local(cache) => cache.restore(path),
            #[cfg(feature = "redis")]
            BuiltCache::Tiered(cache) => cache.blocking().wait(cache.restore_from_l2(path)),
        }
    }
}

#[cfg(all(feature = "snapshot", feature = "tokio"))]
impl<K: RemoteKey + Schema, V: RemoteValue + Schema> ConfiguredAsyncCache<K, V> {
    /// Writes the entries of this process to a file, for [`restore`](Self::restore), on a thread for blocking work. See
    /// [`LocalCache::snapshot`].
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`LocalCache::snapshot`].
    ///
    /// # Panics
    ///
    /// Panics if it is not called in a tokio runtime, and in the cases in which [`LocalCache::snapshot`] does.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped after it was polled, the file is written nevertheless.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{AsyncCache, ConfiguredAsyncCache, LocalCache};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("prices");
    /// let prices: ConfiguredAsyncCache<u64, u64> = LocalCache::new(1_000).into();
    /// prices.insert(7, 700).await;
    /// prices.snapshot(&path).await?;
    ///
    /// // In the next run:
    /// let prices: ConfiguredAsyncCache<u64, u64> = LocalCache::new(1_000).into();
    /// assert_eq!(prices.restore(&path).await?.restored, 1);
    /// assert_eq!(prices.get(&7).await, Some(700));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn snapshot(&self, path: impl AsRef<Path>) -> Result<SnapshotReport, SnapshotError> {
        match &self.backend {
            BuiltCache::Local(cache) => {
                let (cache, path) = (cache.clone(), path.as_ref().to_owned());
                run_blocking(move || cache.snapshot(path)).await
            }
            #[cfg(feature = "redis")]
            BuiltCache::Tiered(cache) => cache.snapshot(path).await,
        }
    }

    /// Stores the entries of a snapshot, on a thread for blocking work. See [`LocalCache::restore`].
    ///
    /// Over Redis the file says which keys to read from Redis, because the values in it may have been invalidated
    /// since. See [`TieredCache::warm_from_snapshot`](crate::TieredCache::warm_from_snapshot).
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`LocalCache::restore`]. Over Redis the schema of values is not compared.
    ///
    /// # Panics
    ///
    /// Panics if it is not called in a tokio runtime, and in the cases in which [`LocalCache::restore`] does.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time. A local cache that has begun to read the file restores it nevertheless.
    pub async fn restore(&self, path: impl AsRef<Path>) -> Result<RestoreReport, SnapshotError> {
        match &self.backend {
            BuiltCache::Local(cache) => {
                let (cache, path) = (cache.clone(), path.as_ref().to_owned());
                run_blocking(move || cache.restore(path)).await
            }
            #[cfg(feature = "redis")]
            BuiltCache::Tiered(cache) => cache.restore_from_l2(path).await,
        }
    }
}

/// Runs blocking work on a thread of the runtime for it.
#[cfg(all(feature = "snapshot", feature = "tokio"))]
async fn run_blocking<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, SnapshotError> {
    crate::snapshot::run_blocking(&Handle::current(), run).await
}

impl<K: Send + Sync, V: Send + Sync> Cache<K, V> for ConfiguredCache<K, V> {
    delegate_cache!(self => self.cache);
}

impl<K: Send + Sync, V: Send + Sync> AsyncCache<K, V> for ConfiguredAsyncCache<K, V> {
    delegate_async_cache!(self => self.cache);
}
