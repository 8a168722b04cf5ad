//! A cache of records: of this process only, or of all processes over one Redis.

use crate::AnyError;
use crate::database::Database;
use crate::options::Redis;
use crate::records::{Id, Record};
use crate::snapshots::Stored;
use crate::tier::Tier;
use hotset::{
    AsyncCache, ConfiguredAsyncCache, Consistency, Loaded, LocalCache, Policy, Stats, WarmOptions,
    WarmReport,
};
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
pub(crate) struct Store<T> {
    pub(crate) cache: ConfiguredAsyncCache<Id, Value<T>>,
}

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
        let cache = match redis {
            None => local.build()?.into(),
            Some(Redis { url, deadline }) => {
                let tiered = local.redis(url, format!("shop:{}", self.name));
                let tiered = tiered.deadline(deadline).consistency(if self.is_exact {
                    Consistency::Realtime
                } else {
                    Consistency::Bounded(MAX_STALENESS)
                });
                tiered.build()?.into()
            }
        };
        Ok(Store { cache })
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
        Ok(self.cache.get_or_load_entry_async(&id, load).await?)
    }

    /// Changes the database with `write`. Returns `true` if the change is acknowledged: then no process serves an older
    /// value any more. Returns `false` if Redis is not available, so that other processes see the change later.
    pub(crate) async fn write_through(
        &self,
        id: Id,
        value: T,
        write: impl Future<Output = Result<(), AnyError>> + Send,
    ) -> Result<bool, AnyError> {
        let value = Some(Arc::new(value));
        match self.cache.write_through(id, value, |_| write).await {
            Ok(propagation) => Ok(propagation.is_acknowledged()),
            Err(error) => {
                // The commit may have succeeded although `write` has failed.
                self.cache.invalidate(&id).await;
                Err(error)
            }
        }
    }

    /// Returns the statistics. Loads are only those from the database, without values from Redis.
    pub(crate) fn stats(&self) -> Stats {
        let mut stats = self.cache.stats();
        if let Some(tier) = self.cache.tier_stats() {
            stats.loads = tier.loads;
            stats.load_failures = tier.load_failures;
            stats.load_times = tier.load_times;
        }
        stats
    }

    /// Returns the state of Redis, if it is used.
    pub(crate) fn tier(&self) -> Option<Tier> {
        let (health, stats) = (self.cache.health()?, self.cache.tier_stats()?);
        Some(Tier::new(&health, &stats))
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
        self.cache.warm_with_async(warming, ids, load).await
    }
}
