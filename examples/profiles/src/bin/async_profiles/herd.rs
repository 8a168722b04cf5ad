//! A cache stampede of tasks and threads: all request one profile at the moment when it expires.

use crate::service::{MaybeProfile, Service, if_known};
use profiles::AnyError;
use profiles::database::{Database, Reader};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::task::{self, JoinSet};

const TASKS: usize = 64;
const THREADS: usize = 4;

/// The time to live of the profile, after which the callers start.
const TTL: Duration = Duration::from_millis(50);

/// The maximum time that a load waits until all callers have missed. It is shorter than the load timeout, after which
/// a second caller would load.
const GATHERING_TIMEOUT: Duration = Duration::from_secs(5);

/// Checks that all callers together make one query, and prints the result.
pub(crate) async fn stampede(
    service: &Arc<Service>,
    database: &Database,
    id: u64,
) -> Result<(), AnyError> {
    let profile = service.query(id).await?;
    let readers = database.readers(THREADS)?;
    expire(service, id, &profile).await;
    let (before, queries) = (service.cache.stats(), database.queries());
    let herd = Arc::new(Herd {
        service: Arc::clone(service),
        id,
        all_missed: before.misses + (TASKS + THREADS) as u64,
        started: Instant::now(),
    });
    let mut callers = JoinSet::new();
    for _ in 0..TASKS {
        callers.spawn(Arc::clone(&herd).request_in_task());
    }
    for reader in readers {
        let herd = Arc::clone(&herd);
        callers.spawn_blocking(move || herd.request_in_thread(&reader));
    }
    while let Some(answer) = callers.join_next().await {
        if answer?? != profile {
            return Err("a caller got a wrong profile".into());
        }
    }

    let queries = database.queries() - queries;
    let shared = service.cache.stats().coalesced - before.coalesced;
    let name = profile.map_or_else(String::new, |profile| profile.name.clone());
    println!(
        "\nThe most popular profile ({name}) expires, and {TASKS} tasks and {THREADS} threads request it at the same \
         time:\n  database queries: {queries}, shared by {shared} other callers"
    );
    if queries == 1 {
        Ok(())
    } else {
        Err(format!("one expired profile took {queries} queries instead of 1").into())
    }
}

struct Herd {
    service: Arc<Service>,
    id: u64,
    /// The number of misses in the statistics of the cache once all callers have missed.
    all_missed: u64,
    started: Instant,
}

impl Herd {
    async fn request_in_task(self: Arc<Self>) -> Result<MaybeProfile, AnyError> {
        let load = async |id| {
            while self.is_gathering() {
                task::yield_now().await;
            }
            self.service.query(id).await
        };
        let cache = &self.service.cache;
        Ok(cache.get_or_load_async(&self.id, load).await?)
    }

    fn request_in_thread(&self, reader: &Reader) -> Result<MaybeProfile, AnyError> {
        let load = |&id: &u64| {
            while self.is_gathering() {
                thread::yield_now();
            }
            if_known(reader.profile(id))
        };
        Ok(self.service.cache.get_or_load(&self.id, load)?)
    }

    /// Returns `true` while some callers have not missed yet. Loads wait for this, so that the worst case is certain.
    fn is_gathering(&self) -> bool {
        self.service.cache.stats().misses < self.all_missed
            && self.started.elapsed() < GATHERING_TIMEOUT
    }
}

/// Inserts the profile, and waits until it has expired.
async fn expire(service: &Service, id: u64, profile: &MaybeProfile) {
    let cache = &service.cache;
    cache.insert_with_ttl(id, profile.clone(), TTL);
    while cache.contains_key(&id) {
        task::yield_now().await;
    }
}
