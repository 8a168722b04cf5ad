//! The shop: what is read, through the caches or past them, and what is changed.

use crate::AnyError;
use crate::caches::{Cached, Caches, each};
use crate::database::{Database, in_time};
use crate::latency::Latencies;
use crate::metrics::Exporter;
use crate::records::{Home, Id, Offer, Versioned};
use crate::store::Value;
use hotset::Stats;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, RwLock};
use tokio::time::timeout;

/// Writers of one id take turns, as far as they are in this process.
const TURNS: usize = 64;

pub(crate) struct Shop {
    pub(crate) database: Database,
    pub(crate) caches: Caches,
    /// What the caches had done when the first customer came.
    pub(crate) warmed: [Stats; 6],
    pub(crate) exporter: Exporter,
    pub(crate) cached: Latencies,
    pub(crate) uncached: Latencies,
    pub(crate) begun: Instant,
    turns: [Arc<Mutex<()>>; TURNS],
    /// Each change that is under way reads it.
    under_way: Arc<RwLock<()>>,
}

/// What became of a change.
pub(crate) enum Change<T> {
    /// All processes have heard of it, or will.
    Made { new: T, is_told: bool },
    /// There is nothing of that id.
    Missing,
    /// It cannot be, with what there is.
    Refused(String),
}

impl Shop {
    pub(crate) fn new(database: Database, caches: Caches) -> Result<Self, AnyError> {
        let exporter = Exporter::start(&caches)?;
        // WarmOptions reads many at once.
        database.reads().reset();
        Ok(Self {
            warmed: each!(caches, (_name, store) => store.stats()),
            exporter,
            database,
            caches,
            cached: Latencies::new(),
            uncached: Latencies::new(),
            begun: Instant::now(),
            turns: std::array::from_fn(|_| Arc::default()),
            under_way: Arc::default(),
        })
    }

    /// What has an id; past the cache, if it is to be read anew.
    pub(crate) async fn get<T: Cached>(&self, id: Id, anew: bool) -> Result<Value<T>, AnyError> {
        let begun = Instant::now();
        let find = || self.database.find::<T>(id);
        let found = if anew {
            find().await.map(|found| found.map(Arc::new))
        } else {
            T::store(&self.caches).get_or_load(id, find).await
        };
        self.note(T::NAME, begun, anew);
        found
    }

    pub(crate) async fn home(&self) -> Result<Arc<Home>, AnyError> {
        let begun = Instant::now();
        let find = || async { self.database.home().await.map(Some) };
        let home = self.caches.home.get_or_load(0, find).await?;
        self.note("home", begun, false);
        Ok(home.expect("it may be empty, but there is one"))
    }

    /// The home page's, past the caches.
    pub(crate) async fn offers(&self) -> Result<Vec<Offer>, AnyError> {
        let begun = Instant::now();
        let offers = self.database.offers().await;
        self.note("home", begun, true);
        offers
    }

    fn note(&self, endpoint: &'static str, begun: Instant, anew: bool) {
        let elapsed = begun.elapsed();
        let (latencies, cache) = if anew {
            (&self.uncached, "off")
        } else {
            (&self.cached, "on")
        };
        latencies.add(elapsed);
        metrics::histogram!("shop_request_seconds", "endpoint" => endpoint, "cache" => cache)
            .record(elapsed.as_secs_f64());
    }

    /// Changes the number of an id to what `next` makes of it. It goes on if who asked for it hangs up, or
    /// is not answered in time, so that the cache hears of what the database has done.
    pub(crate) async fn change<T: Cached + Versioned>(
        self: &Arc<Self>,
        endpoint: &'static str,
        id: Id,
        next: impl Fn(i64) -> Result<i64, String> + Send + Sync + 'static,
    ) -> Result<Change<T>, AnyError> {
        let begun = Instant::now();
        let changed = in_time(async {
            let place = usize::try_from(id.unsigned_abs())? % TURNS;
            let turn = Arc::clone(&self.turns[place]).lock_owned().await;
            let under_way = Arc::clone(&self.under_way).read_owned().await;
            let shop = Arc::clone(self);
            let changing = tokio::spawn(async move {
                let changed = shop.change_now(id, next).await;
                drop((turn, under_way));
                changed
            });
            changing.await?
        });
        let changed = changed.await;
        metrics::histogram!("shop_request_seconds", "endpoint" => endpoint, "cache" => "on")
            .record(begun.elapsed().as_secs_f64());
        changed
    }

    /// Waits, for a while, until all changes are made, and all processes have heard of them.
    pub(crate) async fn finish(&self, most: Duration) {
        let finished = timeout(most, async {
            let _none = self.under_way.write().await;
            each!(self.caches, (_name, store) => store.flush().await);
        });
        if finished.await.is_err() {
            eprintln!(
                "not all changes were told to other processes within {most:?}: they may serve what \
                 is older, for as long as it lives"
            );
        }
    }

    /// The new value must be known before it is written, version and all, so that the caches can hold
    /// it: it is written only if nobody else has come between, in this process or another, or else on top
    /// of theirs.
    async fn change_now<T: Cached + Versioned>(
        &self,
        id: Id,
        next: impl Fn(i64) -> Result<i64, String>,
    ) -> Result<Change<T>, AnyError> {
        loop {
            // From the database: the caches may not know yet what another process has just changed.
            let Some(old) = self.database.find::<T>(id).await? else {
                return Ok(Change::Missing);
            };
            let new = match next(old.number()) {
                Ok(number) => old.changed(number),
                Err(reason) => return Ok(Change::Refused(reason)),
            };
            let write = async {
                let is_written = self.database.change(&old, &new).await?;
                is_written.then_some(()).ok_or_else(|| Outrun.into())
            };
            match T::store(&self.caches).write_through(id, new, write).await {
                Ok(is_told) => return Ok(Change::Made { new, is_told }),
                Err(error) if error.is::<Outrun>() => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Another writer was faster.
#[derive(Debug)]
struct Outrun;

impl std::fmt::Display for Outrun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("it was changed meanwhile")
    }
}

impl std::error::Error for Outrun {}
