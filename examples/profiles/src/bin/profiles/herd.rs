//! A cache stampede: many threads request one profile at the moment when it expires.

use crate::ProfileCache;
use profiles::AnyError;
use profiles::database::{Database, Profile, Reader};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

const THREADS: usize = 64;

/// The time to live of the profile, after which the threads start.
const TTL: Duration = Duration::from_millis(50);

/// The maximum time that a query waits until all threads have missed. It is shorter than the load timeout, after which
/// a second caller would load.
const GATHERING_TIMEOUT: Duration = Duration::from_secs(5);

/// Prints the number of queries of a stampede with and without `get_or_load`.
pub(crate) fn stampede(cache: &ProfileCache, database: &Database, id: u64) -> Result<(), AnyError> {
    let profile = database.reader()?.profile(id)?;
    let herd = Herd {
        cache,
        database,
        id,
        profile,
    };
    let coalesced = cache.stats().coalesced;
    let together = herd.queries(|query| Ok(cache.get_or_load(&id, |&id| query(id))?))?;
    let coalesced = cache.stats().coalesced - coalesced;
    let each = herd.queries(|query| {
        if let Some(profile) = cache.get(&id) {
            return Ok(profile);
        }
        let profile = query(id)?;
        cache.insert(id, Arc::clone(&profile));
        Ok(profile)
    })?;

    let name = &herd.profile.name;
    println!(
        "\nThe most popular profile ({name}) expires, and {THREADS} threads request it at the same time:\n  \
         get_or_load           database queries: {together}, shared by {coalesced} other callers\n  \
         get, query, insert    database queries: {each}"
    );
    if together == 1 {
        Ok(())
    } else {
        Err(
            format!("get_or_load made {together} queries for one expired profile instead of 1")
                .into(),
        )
    }
}

/// A function that queries the database for a profile.
type Query<'a> = &'a dyn Fn(u64) -> rusqlite::Result<Arc<Profile>>;

struct Herd<'a> {
    cache: &'a ProfileCache,
    database: &'a Database,
    id: u64,
    profile: Arc<Profile>,
}

impl Herd<'_> {
    /// Returns the number of queries if all threads call `answer` at the same time.
    fn queries(
        &self,
        answer: impl Fn(Query) -> Result<Arc<Profile>, AnyError> + Sync,
    ) -> Result<u64, AnyError> {
        self.expire();
        let readers = self.database.readers(THREADS)?;
        let queries = self.database.queries();
        let all_missed = self.cache.stats().misses + THREADS as u64;
        let start = Barrier::new(THREADS);
        let request = |reader: Reader| {
            start.wait();
            let started = Instant::now();
            // No query runs before all threads have missed, so that the worst case is certain.
            let query = |id| {
                while self.cache.stats().misses < all_missed
                    && started.elapsed() < GATHERING_TIMEOUT
                {
                    thread::yield_now();
                }
                reader.profile(id)
            };
            answer(&query)
        };
        thread::scope(|scope| {
            let request = &request;
            let spawn = |reader| scope.spawn(move || request(reader));
            let threads: Vec<_> = readers.into_iter().map(spawn).collect();
            for thread in threads {
                let profile = thread.join().expect("no thread panics")?;
                if profile != self.profile {
                    return Err("a thread got a wrong profile".into());
                }
            }
            Ok::<_, AnyError>(())
        })?;
        Ok(self.database.queries() - queries)
    }

    /// Inserts the profile, and waits until it has expired.
    fn expire(&self) {
        let profile = Arc::clone(&self.profile);
        self.cache.insert_with_ttl(self.id, profile, TTL);
        while self.cache.contains_key(&self.id) {
            thread::yield_now();
        }
    }
}
