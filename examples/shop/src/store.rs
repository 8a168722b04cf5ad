//! A cache of this process only, or of all processes over one Redis.

use crate::AnyError;
use crate::database::Database;
use crate::options::Redis;
use crate::records::{Id, Record};
use crate::snapshots::Stored;
use crate::tier::Tier;
use hotset::{Loaded, LocalCache, Policy, Stats, WarmOptions, WarmReport};
use std::sync::Arc;
use std::time::Duration;

/// A cached record, or `None` if the database has none. The absence is cached as well, so that repeated requests do not
/// reach the database.
pub(crate) type Value<T> = Option<Arc<T>>;

/// The time to live of missing records.
const MISSING_TTL: Duration = Duration::from_secs(30);

/// The maximum staleness in other processes of records that need not be exact.
const MAX_STALENESS: Duration = Duration::from_secs(60);

/// A cache with or without Redis.
pub(crate) enum Store<T> {
    Local(LocalCache<Id, Value<T>>),
    Tiered(hotset::TieredCache<Id, Value<T>>),
}

/// Evaluates an expression with the cache of either kind, for methods that both have.
macro_rules! with_cache {
    ($store:expr, $cache:ident => $done:expr) => {
        match $store {
            Store::Local($cache) => $done,
            Store::Tiered($cache) => $done,
        }
    };
}
pub(crate) use with_cache;

/// The settings of a cache.
#[derive(Clone, Copy)]
pub(crate) struct CacheSettings {
    pub(crate) name: &'static str,
    pub(crate) capacity: usize,
    pub(crate) ttl: Duration,
    /// Whether no reader may get an older value after a change is acknowledged.
    pub(crate) is_exact: bool,
}

impl CacheSettings {
    pub(crate) fn build<T: Stored>(self, redis: Option<Redis>) -> Result<Store<T>, AnyError> {
        let local = LocalCache::builder()
            .name(self.name)
            .capacity(self.capacity)
            .time_to_live(self.ttl)
            .ttl_jitter(0.1)
            .policy(Policy::Adaptive)
            .max_concurrent_loads(16)
            .track_ages(true);
        // An old product page is better than none while the database is down, but an old price is wrong.
        let local = if self.is_exact {
            local
        } else {
            local.stale_if_error(self.ttl)
        };
        match redis {
            None => Ok(Store::Local(local.build()?)),
            Some(Redis { url, deadline }) => {
                let tiered = local.redis(url, format!("shop:{}", self.name));
                let tiered = tiered.deadline(deadline).consistency(if self.is_exact {
                    hotset::Consistency::Realtime
                } else {
                    hotset::Consistency::Bounded(MAX_STALENESS)
                });
                Ok(Store::Tiered(tiered.build()?))
            }
        }
    }
}

impl<T: Stored> Store<T> {
    /// Returns the value for `id`. On a miss, runs `load` once for all concurrent callers.
    pub(crate) async fn get_or_load<F>(
        &self,
        id: Id,
        load: impl FnOnce(Id) -> F + Send,
    ) -> Result<Value<T>, AnyError>
    where
        F: Future<Output = Result<Option<T>, AnyError>> + Send,
    {
        let load = async |id| {
            load(id).await.map(|found| match found {
                Some(value) => Loaded::new(Some(Arc::new(value))),
                None => Loaded::new(None).ttl(MISSING_TTL),
            })
        };
        let value = with_cache!(self, cache => cache.get_or_load_entry_async(&id, load).await?);
        Ok(value)
    }

    /// Changes the database with `write`. Returns `true` if the change is acknowledged: then no process serves an older
    /// value any more. Returns `false` if Redis is not available, so that other processes see the change later.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the cache may keep the old value. Run it in its own task.
    pub(crate) async fn write_through(
        &self,
        id: Id,
        value: T,
        write: impl Future<Output = Result<(), AnyError>>,
    ) -> Result<bool, AnyError> {
        // The entry is invalidated even if `write` fails, because its commit may have succeeded.
        match self {
            Self::Local(cache) => {
                drop(value);
                let written = write.await;
                // Invalidated and not inserted: of two concurrent writers, the first in the database may be the last
                // here, and its outdated value would stay.
                cache.invalidate(&id);
                written.map(|()| true)
            }
            Self::Tiered(cache) => {
                use hotset::Propagation;
                let value = Some(Arc::new(value));
                match cache.write_through(id, value, |_| write).await {
                    Ok(propagation) => Ok(matches!(
                        propagation,
                        Propagation::Acknowledged | Propagation::NotShared
                    )),
                    Err(error) => {
                        cache.invalidate(&id).await;
                        Err(error)
                    }
                }
            }
        }
    }

    /// Waits until all queued invalidations are sent to Redis.
    pub(crate) async fn flush(&self) {
        match self {
            Self::Local(_) => {}
            Self::Tiered(cache) => cache.flush().await,
        }
    }

    /// Returns the statistics. Loads are only those from the database, without values from Redis.
    pub(crate) fn stats(&self) -> Stats {
        match self {
            Self::Local(cache) => cache.stats(),
            Self::Tiered(cache) => {
                let (mut stats, tier) = (cache.stats(), cache.tier_stats());
                stats.loads = tier.loads;
                stats.load_failures = tier.load_failures;
                stats.load_times = tier.load_times;
                stats
            }
        }
    }

    /// Returns the state of Redis, if it is used.
    pub(crate) fn tier(&self) -> Option<Tier> {
        match self {
            Self::Local(_) => None,
            Self::Tiered(cache) => Some(Tier::of(cache)),
        }
    }
}

impl<T: Record> Store<T> {
    /// Warms the cache from the database, in batches.
    pub(crate) async fn warm(
        &self,
        warming: WarmOptions<'_>,
        ids: Vec<Id>,
        database: &Database,
    ) -> WarmReport<Id, AnyError> {
        let load = |ids: Vec<Id>| async move {
            let found = database.find_many::<T>(&ids).await?;
            let entry = |record: T| (record.id(), Some(Arc::new(record)));
            Ok(found.into_iter().map(entry))
        };
        with_cache!(self, cache => cache.warm_with_async(warming, ids, load).await)
    }
}
