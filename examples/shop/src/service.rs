//! The service of the shop: changes, and reads, which may bypass the caches.

use crate::AnyError;
use crate::caches::{Cached, Caches, map_caches};
use crate::database::{Database, with_timeout};
use crate::latency::Latencies;
use crate::metrics::Exporter;
use crate::records::{Home, Id, Offer, Versioned};
use crate::store::Value;
use hotset::{AsyncCache, Stats};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, RwLock};
use tokio::time::timeout;

/// The number of locks for writers. Writers of one id in this process share a lock.
const WRITE_LOCKS: usize = 64;

/// The shop with its database and caches.
pub(crate) struct Shop {
    pub(crate) database: Database,
    pub(crate) caches: Caches,
    /// The statistics of the caches after warming. Reports do not include them.
    pub(crate) warmed: [Stats; 6],
    pub(crate) exporter: Exporter,
    pub(crate) cached: Latencies,
    pub(crate) uncached: Latencies,
    pub(crate) started: Instant,
    write_locks: [Arc<Mutex<()>>; WRITE_LOCKS],
    /// A lock that each change in flight holds for reading.
    changes_in_flight: Arc<RwLock<()>>,
}

/// The result of a change.
pub(crate) enum Change<T> {
    /// The database has the new value. If the change is acknowledged, no process serves an older value any more.
    Applied { new: T, is_acknowledged: bool },
    /// The record does not exist.
    Missing,
    /// The change is not possible, for this reason.
    Refused(String),
}

impl Shop {
    pub(crate) fn new(database: Database, caches: Caches) -> Result<Self, AnyError> {
        let exporter = Exporter::start(&caches)?;
        // The queries that warmed the caches fetch many rows, and would distort the latencies.
        database.reads().reset();
        Ok(Self {
            warmed: map_caches!(caches, (_name, store) => store.stats()),
            exporter,
            database,
            caches,
            cached: Latencies::new(),
            uncached: Latencies::new(),
            started: Instant::now(),
            write_locks: std::array::from_fn(|_| Arc::default()),
            changes_in_flight: Arc::default(),
        })
    }

    /// Returns a record from its cache, or from the database if `bypass` is set.
    pub(crate) async fn get<T: Cached>(&self, id: Id, bypass: bool) -> Result<Value<T>, AnyError> {
        let started = Instant::now();
        let find = |id| self.database.find::<T>(id);
        let found = if bypass {
            find(id).await.map(|found| found.map(Arc::new))
        } else {
            T::store(&self.caches).get_or_load(id, find).await
        };
        self.record(T::NAME, started, bypass);
        found
    }

    /// Returns the product list of the home page from its cache.
    pub(crate) async fn home(&self) -> Result<Arc<Home>, AnyError> {
        let started = Instant::now();
        let find = |_| async { self.database.home().await.map(Some) };
        let home = self.caches.home.get_or_load(0, find).await?;
        self.record("home", started, false);
        Ok(home.expect("the loader always returns a list"))
    }

    /// Returns the data of the home page from the database.
    pub(crate) async fn offers(&self) -> Result<Vec<Offer>, AnyError> {
        let started = Instant::now();
        let offers = self.database.offers().await;
        self.record("home", started, true);
        offers
    }

    /// Records the latency of a read.
    fn record(&self, endpoint: &'static str, started: Instant, bypass: bool) {
        let elapsed = started.elapsed();
        let (latencies, cache) = if bypass {
            (&self.uncached, "off")
        } else {
            (&self.cached, "on")
        };
        latencies.add(elapsed);
        metrics::histogram!("shop_request_seconds", "endpoint" => endpoint, "cache" => cache)
            .record(elapsed.as_secs_f64());
    }

    /// Changes the number of a record from `n` to `next(n)`. The change runs in its own task. It continues if the
    /// client disconnects or the timeout passes, so that the caches are invalidated whenever the database has changed.
    pub(crate) async fn change<T: Cached + Versioned>(
        self: &Arc<Self>,
        endpoint: &'static str,
        id: Id,
        next: impl Fn(i64) -> Result<i64, String> + Send + Sync + 'static,
    ) -> Result<Change<T>, AnyError> {
        let started = Instant::now();
        let changed = with_timeout(async {
            let index = usize::try_from(id.unsigned_abs())? % WRITE_LOCKS;
            let write_lock = Arc::clone(&self.write_locks[index]).lock_owned().await;
            let in_flight = Arc::clone(&self.changes_in_flight).read_owned().await;
            let shop = Arc::clone(self);
            let changing = tokio::spawn(async move {
                let changed = shop.change_now(id, next).await;
                drop((write_lock, in_flight));
                changed
            });
            changing.await?
        });
        let changed = changed.await;
        metrics::histogram!("shop_request_seconds", "endpoint" => endpoint, "cache" => "on")
            .record(started.elapsed().as_secs_f64());
        changed
    }

    /// Waits until all changes are applied and their invalidations are sent, for at most `max_wait`.
    pub(crate) async fn finish(&self, max_wait: Duration) {
        let finished = timeout(max_wait, async {
            let _no_changes = self.changes_in_flight.write().await;
            map_caches!(self.caches, (_name, store) => store.cache.flush().await);
        });
        if finished.await.is_err() {
            eprintln!(
                "not all changes were sent to other processes within {max_wait:?}: these may serve older values until \
                 their time to live ends"
            );
        }
    }

    /// Applies a change by compare-and-set on the version in the database. The caches get the new value with its
    /// version, so it must be known before it is written. If another writer, in any process, is faster, the change is
    /// computed again from the new value.
    async fn change_now<T: Cached + Versioned>(
        &self,
        id: Id,
        next: impl Fn(i64) -> Result<i64, String>,
    ) -> Result<Change<T>, AnyError> {
        loop {
            // Read from the database, because the caches may not have the last change of another process yet.
            let Some(old) = self.database.find::<T>(id).await? else {
                return Ok(Change::Missing);
            };
            let new = match next(old.number()) {
                Ok(number) => old.changed(number),
                Err(reason) => return Ok(Change::Refused(reason)),
            };
            let write = async {
                let is_written = self.database.change(&old, &new).await?;
                is_written
                    .then_some(())
                    .ok_or_else(|| VersionConflict.into())
            };
            match T::store(&self.caches).write_through(id, new, write).await {
                Ok(is_acknowledged) => {
                    return Ok(Change::Applied {
                        new,
                        is_acknowledged,
                    });
                }
                Err(error) if error.is::<VersionConflict>() => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The error of a change whose record another writer has changed first.
#[derive(Debug)]
struct VersionConflict;

impl std::fmt::Display for VersionConflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the record was changed by another writer")
    }
}

impl std::error::Error for VersionConflict {}
