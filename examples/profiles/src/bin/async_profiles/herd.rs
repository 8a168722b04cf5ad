//! A thundering herd of tasks and threads: all ask for one profile at the moment that it has
//! expired.

use crate::service::{MaybeProfile, Service, if_known};
use profiles::AnyError;
use profiles::database::{Database, Reader};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::task::{self, JoinSet};

const TASKS: usize = 64;
const THREADS: usize = 4;

/// Long enough to see the profile live, short enough to wait for.
const TTL: Duration = Duration::from_millis(50);

/// Those who take longer to ask are not waited for. Shorter than a lease, which would let a second
/// caller load.
const PATIENCE: Duration = Duration::from_secs(5);

/// Shows that the herd makes one query.
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
        gathered: Instant::now(),
    });
    let mut callers = JoinSet::new();
    for _ in 0..TASKS {
        callers.spawn(Arc::clone(&herd).ask_in_task());
    }
    for reader in readers {
        let herd = Arc::clone(&herd);
        callers.spawn_blocking(move || herd.ask_in_thread(&reader));
    }
    while let Some(answer) = callers.join_next().await {
        if answer?? != profile {
            return Err("a caller of the herd got a wrong profile".into());
        }
    }

    let queries = database.queries() - queries;
    let shared = service.cache.stats().coalesced - before.coalesced;
    let name = profile.map_or_else(String::new, |profile| profile.name.clone());
    println!(
        "\nThe hottest profile, {name}'s, expires, and {TASKS} tasks and {THREADS} threads ask for \
         it at once:\n  database queries: {queries}, shared by {shared} others"
    );
    if queries == 1 {
        Ok(())
    } else {
        Err(format!("the herd made {queries} queries for one expired profile, not 1").into())
    }
}

struct Herd {
    service: Arc<Service>,
    id: u64,
    /// What the cache's misses come to when the last caller has missed.
    all_missed: u64,
    gathered: Instant,
}

impl Herd {
    async fn ask_in_task(self: Arc<Self>) -> Result<MaybeProfile, AnyError> {
        let load = || async {
            while self.gathers() {
                task::yield_now().await;
            }
            self.service.query(self.id).await
        };
        let cache = &self.service.cache;
        Ok(cache.get_or_load_async(&self.id, load).await?)
    }

    fn ask_in_thread(&self, reader: &Reader) -> Result<MaybeProfile, AnyError> {
        let load = |id: &u64| {
            while self.gathers() {
                thread::yield_now();
            }
            if_known(reader.profile(*id))
        };
        Ok(self.service.cache.get_or_load(&self.id, load)?)
    }

    /// The worst case, made certain: the database answers nobody before all have missed.
    fn gathers(&self) -> bool {
        self.service.cache.stats().misses < self.all_missed && self.gathered.elapsed() < PATIENCE
    }
}

/// Stores the profile, and returns when it has expired.
async fn expire(service: &Service, id: u64, profile: &MaybeProfile) {
    let cache = &service.cache;
    cache.insert_with_ttl(id, profile.clone(), TTL);
    while cache.contains_key(&id) {
        task::yield_now().await;
    }
}
