//! The service: a cache over a pool of connections to the database.

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

/// A profile, or `None` if the database has none. Cached as well, so that repeated requests do not reach the database.
pub(crate) type MaybeProfile = Option<Arc<Profile>>;

pub(crate) type ProfileCache = LocalCache<u64, MaybeProfile>;

pub(crate) struct Service {
    pub(crate) cache: ProfileCache,
    /// The time to live of missing profiles. Shorter than that of profiles, because new users appear at any time.
    missing_ttl: Duration,
    readers: Mutex<Vec<Reader>>,
    /// The number of idle readers.
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

    /// Returns a profile through the cache. The load is detached, so that it continues for other callers when the
    /// client that started it disconnects.
    pub(crate) async fn profile(
        self: &Arc<Self>,
        id: u64,
    ) -> Result<MaybeProfile, LoadError<Error>> {
        let service = Arc::clone(self);
        let load = move |id| async move {
            let profile = service.query(id).await?;
            Ok(match profile {
                Some(_) => Loaded::new(profile),
                None => Loaded::new(None).ttl(service.missing_ttl),
            })
        };
        let cache = self.cache.detached();
        cache.get_or_load_entry_async(&id, load).await
    }

    /// Returns a profile from the database.
    pub(crate) async fn query(self: &Arc<Self>, id: u64) -> rusqlite::Result<MaybeProfile> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        let service = Arc::clone(self);
        // The closure owns the permit, because the query continues if the task that waits for it is dropped.
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

    /// Writes the bio of a profile. Returns `false` if there is no such profile.
    pub(crate) async fn set_bio(self: &Arc<Self>, id: u64, bio: String) -> rusqlite::Result<bool> {
        let service = Arc::clone(self);
        // The closure also invalidates the entry, so that no invalidation is lost if the client disconnects and its
        // task is dropped.
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

/// Maps errors for ids that are missing or out of the range of the database to `None`.
pub(crate) fn if_known<T>(result: rusqlite::Result<T>) -> rusqlite::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Error::QueryReturnedNoRows | Error::ToSqlConversionFailure(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
