//! The caches that can be watched, and the source of their metrics.

use crate::metrics::sample::Sample;
use std::fmt;
use std::sync::{Arc, Weak};

/// A cache that [`Metrics::watch`](crate::Metrics::watch) accepts: a [`LocalCache`](crate::LocalCache), a
/// [`TieredCache`](crate::TieredCache), a [`BlockingCache`](crate::BlockingCache), a cache that a
/// [`CacheConfig`](crate::CacheConfig) builds, or a pointer to one of them.
///
/// This trait is sealed: only types of this crate implement it. Watch a cache before it becomes an
/// `Arc<dyn Cache<K, V>>`, which may be a type of another crate.
///
/// ```compile_fail
/// struct OtherCache;
/// impl hotset::Watch for OtherCache {}
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be watched",
    note = "pass a `LocalCache`, a `TieredCache`, a `BlockingCache` or a cache that a `CacheConfig` builds, before it \
            becomes a trait object"
)]
pub trait Watch: sealed::Source {}

pub(crate) mod sealed {
    use crate::metrics::watch::MetricsSource;

    /// The part of `Watch` that is hidden from users, so that they cannot implement it.
    pub trait Source {
        /// Returns the source of the metrics of this cache.
        fn source(&self) -> MetricsSource;
    }
}

/// The name of a cache and a weak handle to it, which does not keep it alive.
#[derive(Clone)]
pub struct MetricsSource {
    pub(crate) name: Option<String>,
    pub(crate) cache: Weak<dyn ReadSamples>,
}

/// A cache whose metrics can be read.
pub(crate) trait ReadSamples: Send + Sync {
    /// Returns the current value of each metric of this cache.
    fn samples(self: Arc<Self>) -> Vec<Sample>;
}

macro_rules! watch_by_pointer {
    ($($pointer:ty),*) => {$(
        impl<C: Watch + ?Sized> Watch for $pointer {}

        impl<C: Watch + ?Sized> sealed::Source for $pointer {
            fn source(&self) -> MetricsSource {
                (**self).source()
            }
        }
    )*};
}

watch_by_pointer!(Arc<C>, Box<C>, &C);

/// The reason why a cache cannot be watched.
///
/// # Examples
///
/// ```
/// use hotset::{LocalCache, Metrics, WatchError};
///
/// let prices: LocalCache<u64, u64> = LocalCache::builder().name("prices").capacity(100).build()?;
/// let metrics = Metrics::new();
/// metrics.watch(&prices)?;
/// assert_eq!(metrics.watch(&prices), Err(WatchError::NameTaken("prices".into())));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchError {
    /// The cache has no name, which its metrics have as a label.
    NoName,
    /// This name belongs to a cache that is watched already, either another one or the same.
    NameTaken(String),
}

impl fmt::Display for WatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoName => f.write_str(
                "the cache has no name for its metrics: set one with LocalCacheBuilder::name",
            ),
            Self::NameTaken(name) => write!(
                f,
                "a cache with the name {name:?} is watched already: watch each cache once, and give each its own \
                 name with LocalCacheBuilder::name"
            ),
        }
    }
}

impl std::error::Error for WatchError {}
