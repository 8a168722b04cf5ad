//! A thundering herd: many threads ask for one profile at the moment that it has expired.

use crate::ProfileCache;
use profiles::AnyError;
use profiles::database::{Database, Profile, Reader};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

const THREADS: usize = 64;

/// Long enough to see the profile live, short enough to wait for.
const TTL: Duration = Duration::from_millis(50);

/// Threads that take longer to ask are not waited for. Shorter than a lease, which would let a
/// second caller load.
const PATIENCE: Duration = Duration::from_secs(5);

/// Shows what a herd costs, with `get_or_load` and without.
pub(crate) fn stampede(cache: &ProfileCache, database: &Database, id: u64) -> Result<(), AnyError> {
    let profile = database.reader()?.profile(id)?;
    let herd = Herd {
        cache,
        database,
        id,
        profile,
    };
    let coalesced = cache.stats().coalesced;
    let together = herd.queries(|query| Ok(cache.get_or_load(&id, |_| query())?))?;
    let coalesced = cache.stats().coalesced - coalesced;
    let each = herd.queries(|query| {
        if let Some(profile) = cache.get(&id) {
            return Ok(profile);
        }
        let profile = query()?;
        cache.insert(id, Arc::clone(&profile));
        Ok(profile)
    })?;

    let name = &herd.profile.name;
    println!("\nThe hottest profile, {name}'s, expires, and {THREADS} threads ask for it at once:");
    println!(
        "  get_or_load               database queries: {together}, shared by {coalesced} others"
    );
    println!("  get, or query and insert  database queries: {each}");
    if together == 1 {
        Ok(())
    } else {
        Err(format!("get_or_load made {together} queries for one expired profile, not 1").into())
    }
}

/// Asks the database for the profile.
type Query<'a> = &'a dyn Fn() -> rusqlite::Result<Arc<Profile>>;

struct Herd<'a> {
    cache: &'a ProfileCache,
    database: &'a Database,
    id: u64,
    profile: Arc<Profile>,
}

impl Herd<'_> {
    /// How many queries are made if all threads ask at once, each by `answer`.
    fn queries(
        &self,
        answer: impl Fn(Query) -> Result<Arc<Profile>, AnyError> + Sync,
    ) -> Result<u64, AnyError> {
        self.expire();
        let readers = self.database.readers(THREADS)?;
        let queries = self.database.queries();
        let all_missed = self.cache.stats().misses + THREADS as u64;
        let start = Barrier::new(THREADS);
        let ask = |reader: Reader| {
            start.wait();
            let asked = Instant::now();
            // The worst case, made certain: the database answers nobody before all have missed.
            let query = || {
                while self.cache.stats().misses < all_missed && asked.elapsed() < PATIENCE {
                    thread::yield_now();
                }
                reader.profile(self.id)
            };
            answer(&query)
        };
        thread::scope(|scope| {
            let ask = &ask;
            let spawn = |reader| scope.spawn(move || ask(reader));
            let threads: Vec<_> = readers.into_iter().map(spawn).collect();
            for thread in threads {
                let profile = thread.join().expect("no thread panics")?;
                if profile != self.profile {
                    return Err("a thread of the herd got a wrong profile".into());
                }
            }
            Ok::<_, AnyError>(())
        })?;
        Ok(self.database.queries() - queries)
    }

    /// Stores the profile, and returns when it has expired.
    fn expire(&self) {
        let profile = Arc::clone(&self.profile);
        self.cache.insert_with_ttl(self.id, profile, TTL);
        while self.cache.contains_key(&self.id) {
            thread::yield_now();
        }
    }
}
