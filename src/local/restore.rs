//! The restoration of entries from a snapshot file.

use crate::clock::{Instant, NEVER, Nanos, saturating_nanos, unix_millis};
use crate::entry::Loaded;
use crate::local::LocalCache;
use crate::local::budget::Reservation;
use crate::local::shard::NotRestored;
use crate::local::shard::entry::NewEntry;
use crate::local::shard::metadata::EntryMetadata;
use crate::local::snapshot::NANOS_PER_MILLI;
use crate::schema::{Schema, Schemas};
use crate::single_flight::WriteObserver;
use crate::snapshot::{Contents, SnapshotError, decode, read};
use serde::{Serialize, de::DeserializeOwned};
use std::hash::{BuildHasher, Hash};
use std::path::Path;
use std::time::Duration;

/// A report on a snapshot that was restored, from [`LocalCache::restore`]. Each entry of the file is in one of the
/// first five counts.
///
/// # Examples
///
/// ```
/// use hotset::LocalCache;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("prices");
/// let prices: LocalCache<u64, u64> = LocalCache::from_iter([(7, 120), (8, 130)]);
/// prices.snapshot(&path)?;
///
/// prices.remove(&7);
/// prices.insert(8, 140);
/// let report = prices.restore(&path)?;
/// assert_eq!((report.restored, report.superseded), (1, 1));
/// assert_eq!((prices.get(&7), prices.get(&8)), (Some(120), Some(140)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoreReport {
    /// The number of entries that were stored.
    pub restored: u64,
    /// The number of entries whose time to live has passed. Over Redis, the number of those that Redis does not have.
    pub expired: u64,
    /// The number of entries that were left out because the cache may have something newer: the key is cached or being
    /// loaded, or the key was written to or a tag of the entry was invalidated while the snapshot was restored.
    pub superseded: u64,
    /// The number of entries for which there was no room.
    pub did_not_fit: u64,
    /// The number of entries that could not be read from Redis. Always 0 for a [`LocalCache`].
    pub failed: u64,
    /// The length of the file, in bytes.
    pub bytes: u64,
    /// The duration of the call.
    pub time_taken: Duration,
}

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash + Clone + Serialize + DeserializeOwned,
    V: Clone + Serialize + DeserializeOwned,
    S: BuildHasher,
{
    /// Stores the entries of a file that [`snapshot`](Self::snapshot) has written, as far as there is room: the hottest
    /// ones, which are also the last to be evicted again.
    ///
    /// No live entry is evicted for them. The state of the cache counts as newer than the file. A key that is cached or
    /// being loaded is left as it is, and a write, a `remove` or an invalidation after this call began is not undone,
    /// so the cache may be in use meanwhile. After a `clear` or a `retain`, which could not see the entries to be
    /// restored, no more entries are restored. Loads that are in flight store their results.
    ///
    /// An entry gets the remaining time to live that it had when the file was written, or the `time_to_live` of this
    /// cache if that is shorter, even if the entry was stored with a [time to live of its own](Loaded::ttl). The time
    /// that has passed since the file was written, by the system's wall clock, is subtracted. It counts as zero if that
    /// clock was set back.
    ///
    /// The time of `time_to_idle` begins again. That of `refresh_after` includes the age that the value had in the
    /// file, if the cache [tracked ages](crate::LocalCacheBuilder::track_ages), and the time since the file was
    /// written. The cache does not know of changes in the database between the two calls: only the time to live bounds
    /// how long an outdated value may be served.
    ///
    /// # Errors
    ///
    /// Returns [`SnapshotError::NotFound`] if there is no file, and another error if it cannot be read, is not exactly
    /// as it was written, or has keys or values of another [`Schema`]. Nothing is restored then. A file that does not
    /// begin like a snapshot is not read further. Reading any other file allocates memory in proportion to its length.
    ///
    /// # Panics
    ///
    /// Panics if `Deserialize` does, or a listener or the `Drop` of a dead entry that is removed. Then nothing is
    /// restored, or only the coldest entries are.
    ///
    /// # Blocking
    ///
    /// Reads from the disk. Tasks call it through the `spawn_blocking` of their runtime.
    ///
    /// # Examples
    ///
    /// The first run finds no file, and a new version of the program may find a file with another schema:
    ///
    /// ```
    /// use hotset::{LocalCache, SnapshotError};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("prices");
    /// let prices: LocalCache<u32, u64> = LocalCache::new(1_000);
    /// match prices.restore(&path) {
    ///     Ok(report) => println!("{} prices restored", report.restored),
    ///     Err(SnapshotError::NotFound) => println!("the first run"),
    ///     Err(error) => eprintln!("begins empty: {error}"),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn restore(&self, path: impl AsRef<Path>) -> Result<RestoreReport, SnapshotError>
    where
        K: Schema,
        V: Schema,
    {
        self.restore_with_schemas(path, &Schemas::of::<K, V>())
    }

    /// Like [`restore`](Self::restore), for keys and values of any type: `schemas` names their shapes in place of
    /// [`Schema`].
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`restore`](Self::restore).
    ///
    /// # Panics
    ///
    /// Panics like [`restore`](Self::restore).
    ///
    /// # Blocking
    ///
    /// Blocks like [`restore`](Self::restore).
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{LocalCache, Schema, Schemas, SnapshotError};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("documents");
    /// let documents: LocalCache<u64, serde_json::Value> = LocalCache::from_iter([(1, "One".into())]);
    /// documents.snapshot_with_schemas(&path, &Schemas::new(u64::schema(), "document/1"))?;
    ///
    /// documents.clear();
    /// let changed = documents.restore_with_schemas(&path, &Schemas::new(u64::schema(), "document/2"));
    /// assert!(matches!(changed, Err(SnapshotError::ValueSchema { .. })));
    /// documents.restore_with_schemas(&path, &Schemas::new(u64::schema(), "document/1"))?;
    /// assert_eq!(documents.get(&1), Some("One".into()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn restore_with_schemas(
        &self,
        path: impl AsRef<Path>,
        schemas: &Schemas,
    ) -> Result<RestoreReport, SnapshotError> {
        let begun = Instant::now();
        // This comes first, because writes from now on prevail.
        let restore = Restore::begin(self);
        let contents = read(path.as_ref())?;
        contents.check(schemas)?;
        self.remove_expired();
        let mut report = RestoreReport {
            bytes: contents.len(),
            ..RestoreReport::default()
        };
        let chosen = restore.choose(&contents, &mut report)?;
        drop(contents);
        restore.store_all(chosen, &mut report);
        report.time_taken = begun.elapsed();
        Ok(report)
    }
}

/// An entry of a file that is to be restored.
struct Chosen<K, V> {
    key: K,
    loaded: Loaded<V>,
    /// The weight, which the weigher determines if it is not in the file.
    weight: u64,
    deadline: Nanos,
}

/// A restoration in progress.
struct Restore<'a, K, V, S> {
    cache: &'a LocalCache<K, V, S>,
    /// The observers of writes since the restoration began, by shard.
    observers: Vec<WriteObserver<'a, K, V>>,
    /// The epoch in which the restoration began. Later invalidations of tags are of later epochs.
    epoch: u64,
}

impl<'a, K, V, S> Restore<'a, K, V, S>
where
    K: Eq + Hash + DeserializeOwned,
    V: DeserializeOwned,
    S: BuildHasher,
{
    /// Begins a restoration. Writes from now on prevail over it.
    fn begin(cache: &'a LocalCache<K, V, S>) -> Self {
        let cells = cache.inner.cells.iter();
        let observers = cells.map(|cell| cell.shard.read(|_| cell.in_flight.observe_writes()));
        Self {
            cache,
            observers: observers.collect(),
            epoch: cache.inner.tags.epoch(),
        }
    }

    /// Returns the hottest live entries that there is room for, the hottest first. Decodes all other entries as well,
    /// so that nothing is restored if one of them is unreadable.
    fn choose(
        &self,
        contents: &Contents,
        report: &mut RestoreReport,
    ) -> Result<Vec<Chosen<K, V>>, SnapshotError> {
        let inner = &self.cache.inner;
        let passed = nanos(unix_millis().saturating_sub(contents.head()?.written_at));
        let now = inner.settings.clock.now();
        let mut room = inner.budget.left();
        let mut chosen = Vec::new();
        for (number, entry) in (0..).zip(contents.entries()) {
            let entry = entry?;
            let (Some(key), Some(value)) = (decode::<K>(entry.key), decode::<V>(entry.value))
            else {
                return Err(SnapshotError::Unreadable(number));
            };
            let has_idled = entry.idle.is_some_and(|idle| nanos(idle) <= passed);
            let deadline = self.deadline(now, entry.left, passed);
            if has_idled || deadline <= now {
                report.expired += 1;
            } else if self.cache.contains_key(&key) {
                report.superseded += 1;
            } else {
                let weight = inner.settings.weigh(&key, &value, entry.weight);
                let Some(rest) = room.checked_sub(weight) else {
                    report.did_not_fit += 1;
                    continue;
                };
                room = rest;
                let mut loaded = Loaded::new(value).tags(entry.tags);
                loaded.weight = entry.weight;
                loaded.age = entry.age.map_or(0, nanos).saturating_add(passed);
                chosen.push(Chosen {
                    key,
                    loaded,
                    weight,
                    deadline,
                });
            }
        }
        Ok(chosen)
    }

    /// Returns the deadline of an entry whose remaining time to live was `left` milliseconds, `passed` nanoseconds ago.
    fn deadline(&self, now: Nanos, left: Option<u64>, passed: Nanos) -> Nanos {
        let settings = &self.cache.inner.settings;
        let max = settings.time_to_live.map_or(NEVER, saturating_nanos);
        let left = left.map_or(NEVER, nanos);
        let deadline = if left <= max {
            now.saturating_add(left)
        } else {
            // The entry counts as stored at the time at which the file was written.
            settings.deadline(now, None)
        };
        match deadline {
            NEVER => NEVER,
            deadline => deadline.saturating_sub(passed),
        }
    }

    /// Stores the entries, the coldest first, so that the hottest are the last to be evicted.
    fn store_all(&self, mut chosen: Vec<Chosen<K, V>>, report: &mut RestoreReport) {
        let mut weight_left: u64 = chosen.iter().map(|entry| entry.weight).sum();
        while let Some(entry) = chosen.pop() {
            let weight = entry.weight;
            // If other writes have taken some of the room, the coldest entries are left out.
            let result = if self.cache.inner.budget.left() < weight_left {
                Err(NotRestored::NoRoom)
            } else {
                self.store(entry)
            };
            weight_left -= weight;
            match result {
                Ok(()) => report.restored += 1,
                Err(NotRestored::Superseded) => report.superseded += 1,
                Err(NotRestored::NoRoom) => report.did_not_fit += 1,
            }
        }
    }

    /// Stores an entry, unless the key was written to or a tag was invalidated since the restoration began.
    fn store(&self, chosen: Chosen<K, V>) -> Result<(), NotRestored> {
        let Chosen {
            key,
            loaded,
            weight,
            deadline,
        } = chosen;
        let inner = &self.cache.inner;
        let location = self.cache.location(&key);
        let provenance = self.cache.provenance(&loaded, self.epoch, 0);
        let now = inner.settings.clock.now();
        // Declared before the lock is acquired, so that they are dropped after the release, even if `Eq` panics.
        let mut removals = self.cache.removals();
        let new = NewEntry {
            hash: location.hash,
            key,
            value: loaded.value,
            deadline,
            metadata: EntryMetadata {
                weight,
                is_explicit_weight: loaded.weight.is_some(),
                provenance,
            },
        };
        let mut room = Reservation::none(&inner.budget);
        let observer = &self.observers[inner.shard_index(location.hash)];
        let mut shard = location.cell.shard.write();
        let is_current = new.metadata.provenance.is_current();
        if !is_current || !observer.is_unwritten(location.hash.0) {
            return Err(NotRestored::Superseded);
        }
        let (hash, key, out) = (new.hash, &new.key, &mut removals);
        let prepared = shard.prepare_restore(hash, key, weight, &mut room, now, out);
        if prepared.is_ok() {
            shard.restore(new, &mut room, now, &mut removals);
        }
        drop(shard);
        removals.finish();
        prepared
    }
}

/// Converts milliseconds to nanoseconds.
fn nanos(millis: u64) -> Nanos {
    millis.saturating_mul(NANOS_PER_MILLI)
}
