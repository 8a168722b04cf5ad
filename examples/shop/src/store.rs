//! A cache of this process alone, or of all processes over one Redis.

use crate::AnyError;
use crate::database::Database;
use crate::options::Redis;
use crate::records::{Id, Record};
use crate::snapshots::Stored;
use crate::tier::Tier;
use hotset::{Loaded, LocalCache, Policy, Stats, WarmOptions, WarmReport};
use std::sync::Arc;
use std::time::Duration;

/// `None` where the database has nothing of that id, so that asking again costs it nothing.
pub(crate) type Value<T> = Option<Arc<T>>;

/// How long nothing counts as nothing.
const MISSING: Duration = Duration::from_secs(30);

/// How old a value may be in another process, where it need not be the last.
const BOUND: Duration = Duration::from_secs(60);

pub(crate) enum Store<T> {
    Local(LocalCache<Id, Value<T>>),
    Tiered(hotset::TieredCache<Id, Value<T>>),
}

/// What both can do by the same name.
macro_rules! either {
    ($store:expr, $cache:ident => $done:expr) => {
        match $store {
            Store::Local($cache) => $done,
            Store::Tiered($cache) => $done,
        }
    };
}
pub(crate) use either;

/// What a cache is for.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    pub(crate) capacity: usize,
    pub(crate) ttl: Duration,
    /// It changes while it is served, and who has seen the change acknowledged must not see an older
    /// value.
    pub(crate) is_exact: bool,
}

impl Plan {
    pub(crate) fn build<T: Stored>(self, redis: Option<Redis>) -> Result<Store<T>, AnyError> {
        let local = LocalCache::builder()
            .name(self.name)
            .capacity(self.capacity)
            .time_to_live(self.ttl)
            .ttl_jitter(0.1)
            .policy(Policy::Adaptive)
            .max_concurrent_loads(16)
            .track_ages(true);
        // A product's page is better than none while the database is down; its price would be a lie.
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
                    hotset::Consistency::Bounded(BOUND)
                });
                Ok(Store::Tiered(tiered.build()?))
            }
        }
    }
}

impl<T: Stored> Store<T> {
    /// The value, from the cache or from the database, of which one caller asks for all.
    pub(crate) async fn get_or_load<F>(
        &self,
        id: Id,
        load: impl FnOnce() -> F + Send,
    ) -> Result<Value<T>, AnyError>
    where
        F: Future<Output = Result<Option<T>, AnyError>> + Send,
    {
        let load = || async {
            Ok::<_, AnyError>(match load().await? {
                Some(value) => Loaded::new(Some(Arc::new(value))),
                None => Loaded::new(None).ttl(MISSING),
            })
        };
        let value = either!(self, cache => cache.get_or_load_async(&id, load).await);
        value.map_err(|error| error.to_string().into())
    }

    /// Lets `write` change the database, and tells whether all processes have heard of it: if so, none of
    /// them serves an older value any more. If not, Redis is down, and they hear of it later.
    ///
    /// If its future is dropped, the cache may keep the old value: let it run in a task of its own.
    pub(crate) async fn write_through(
        &self,
        id: Id,
        value: T,
        write: impl Future<Output = Result<(), AnyError>>,
    ) -> Result<bool, AnyError> {
        // Where `write` has failed nobody knows how far it came: the commit may be what succeeded last.
        match self {
            Self::Local(cache) => {
                drop(value);
                let written = write.await;
                // Not inserted: of two who write at one time, the first in the database might come last
                // here, and its value would stay.
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

    /// Waits until Redis was told of all changes.
    pub(crate) async fn flush(&self) {
        match self {
            Self::Local(_) => {}
            Self::Tiered(cache) => cache.flush().await,
        }
    }

    /// Loads are those from the database.
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

    /// What there is to tell of Redis.
    pub(crate) fn tier(&self) -> Option<Tier> {
        match self {
            Self::Local(_) => None,
            Self::Tiered(cache) => Some(Tier::of(cache)),
        }
    }
}

impl<T: Record> Store<T> {
    /// Fills it from the database, in batches.
    pub(crate) async fn warm(
        &self,
        warming: WarmOptions<'_>,
        ids: Vec<Id>,
        database: &Database,
    ) -> WarmReport<Id, AnyError> {
        let load = |ids: Vec<Id>| async move {
            let found = database.find_many::<T>(&ids).await?;
            let entry = |record: T| (record.id(), Some(Arc::new(record)));
            Ok::<_, AnyError>(found.into_iter().map(entry))
        };
        either!(self, cache => cache.warm_with_async(warming, ids, load).await)
    }
}
