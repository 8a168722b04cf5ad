//! Profiles for tasks: the cache, and behind it a pool of connections to the database.

use hotset::{LoadError, Loaded, LocalCache};
use parking_lot::Mutex;
use profiles::AnyError;
use profiles::args::Args;
use profiles::database::{Database, Profile, Reader};
use rusqlite::{Connection, Error, params};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// `None` where the database has no such profile, so that asking again costs it nothing.
pub(crate) type MaybeProfile = Option<Arc<Profile>>;

pub(crate) type ProfileCache = LocalCache<u64, MaybeProfile>;

pub(crate) struct Service {
    pub(crate) cache: ProfileCache,
    /// How long a profile counts as missing: shorter than profiles live, since somebody who has
    /// just signed up waits for it.
    missing_ttl: Duration,
    readers: Mutex<Vec<Reader>>,
    /// One for each reader.
    permits: Arc<Semaphore>,
    writer: Mutex<Connection>,
}

impl Service {
    pub(crate) fn new(database: &Database, args: &Args) -> Result<Self, AnyError> {
        Ok(Self {
            cache: LocalCache::builder()
                .capacity(args.capacity)
                .time_to_live(args.ttl)
                .build()?,
            missing_ttl: args.ttl / 10,
            readers: Mutex::new(database.readers(args.threads)?),
            permits: Arc::new(Semaphore::new(args.threads)),
            writer: Mutex::new(Connection::open(database.file())?),
        })
    }

    /// A profile, through the cache. The load is a task of its own: a client that hangs up wastes no
    /// query that others wait for.
    pub(crate) async fn profile(
        self: &Arc<Self>,
        id: u64,
    ) -> Result<MaybeProfile, LoadError<Error>> {
        let service = Arc::clone(self);
        let load = move || async move {
            let profile = service.query(id).await?;
            Ok(match profile {
                Some(_) => Loaded::new(profile),
                None => Loaded::new(None).ttl(service.missing_ttl),
            })
        };
        self.cache.detached().get_or_load_async(&id, load).await
    }

    /// A profile, from the database.
    pub(crate) async fn query(self: &Arc<Self>, id: u64) -> rusqlite::Result<MaybeProfile> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.expect("nobody closes the semaphore");
        let service = Arc::clone(self);
        // The permit goes along: a query is not interrupted if the task that waits for it ends.
        let query = move || {
            let reader = service.readers.lock().pop();
            let reader = reader.expect("there is a reader for each permit");
            let profile = reader.profile(id);
            service.readers.lock().push(reader);
            drop(permit);
            if_known(profile)
        };
        spawn_blocking(query).await.expect("no query panics")
    }

    /// Writes a bio, and tells whether there is such a profile.
    pub(crate) async fn set_bio(self: &Arc<Self>, id: u64, bio: String) -> rusqlite::Result<bool> {
        let service = Arc::clone(self);
        // Removed from the cache in the same closure: if the client hangs up its task ends, but never
        // between the two.
        let write = move || {
            let sql = "UPDATE profiles SET bio = ?2 WHERE id = ?1 RETURNING id";
            let writer = service.writer.lock();
            let written = writer.query_row(sql, params![id, bio], |_| Ok(()));
            service.cache.invalidate(&id);
            Ok(if_known(written)?.is_some())
        };
        spawn_blocking(write).await.expect("no write panics")
    }
}

/// `None` for ids that the database does not have, or that are beyond its integers.
pub(crate) fn if_known<T>(result: rusqlite::Result<T>) -> rusqlite::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Error::QueryReturnedNoRows | Error::ToSqlConversionFailure(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
