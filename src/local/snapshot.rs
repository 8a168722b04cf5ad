//! What is held, in a file, from one run of a program to the next.

use crate::clock::{NEVER, Nanos, saturating_nanos, unix_millis};
use crate::codec::{MessagePack, RoundTripCheck};
use crate::entry::Loaded;
use crate::local::LocalCache;
use crate::local::budget::Reservation;
use crate::local::shard::metadata::Extra;
use crate::local::shard::{Copied, NewEntry, Restored, Shard};
use crate::local::walk::Span;
use crate::schema::{Schema, Schemas};
use crate::single_flight::WriteObserver;
use crate::snapshot::{
    Contents, Entry, Head, SnapshotError, Writer, decode, encode_key, encode_value, read, replace,
};
use serde::{Serialize, de::DeserializeOwned};
use std::hash::{BuildHasher, Hash};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

const NANOS_PER_MILLI: Nanos = 1_000_000;

/// What [`LocalCache::snapshot`] has written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotReport {
    /// Entries in the file.
    pub entries: u64,
    /// Entries that are not in the file, because their encoding decodes to another key or value, or not at all:
    /// see the [round-trip check](crate::Codec#round-trip-check).
    pub altered: u64,
    /// Length of the file.
    pub bytes: u64,
    /// How long it took.
    pub time_taken: Duration,
}

/// What [`LocalCache::restore`] made of a file's entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoreReport {
    /// Entries that are held now.
    pub restored: u64,
    /// Those whose time to live has passed.
    pub expired: u64,
    /// Those whose key the cache knows better: it is held or being loaded, or it or a tag of the entry
    /// was written to or invalidated while the snapshot was restored.
    pub held: u64,
    /// Those there was no room for.
    pub did_not_fit: u64,
    /// Length of the file.
    pub bytes: u64,
    /// How long it took.
    pub time_taken: Duration,
}

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash + Clone + Serialize + DeserializeOwned,
    V: Clone + Serialize + DeserializeOwned,
    S: BuildHasher,
{
    /// Writes all live entries to a file, the hottest first as the policy sees it, for
    /// [`restore`](Self::restore): with what they have left to live, their tags, and their weights where
    /// the cache has a weigher.
    ///
    /// The file is replaced as a whole or not at all, also if the machine crashes, and several processes
    /// may write to one path. Only its owner may read it. A symbolic link at the path is replaced by the
    /// file, and what it led to is left as it is. A crash may leave a file whose name is that of the
    /// snapshot between a dot and `.tmp`; nobody minds it.
    ///
    /// Keys and values are encoded as [`MessagePack`]. An entry that does not pass the [round-trip
    /// check](crate::Codec#round-trip-check) is left out and counted.
    ///
    /// It takes the memory of a clone of each entry. Each shard is copied under its shared lock, one after
    /// the other: `Clone` runs there, so keep it cheap, with an `Arc` around what is not. All else, above
    /// all `Serialize`, runs without a lock.
    ///
    /// ```
    /// use hotset::LocalCache;
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("prices");
    /// let prices: LocalCache<u32, u64> = LocalCache::new(1_000);
    /// prices.insert(1, 100);
    /// prices.snapshot(&path)?;
    ///
    /// // In the next run:
    /// let prices: LocalCache<u32, u64> = LocalCache::new(1_000);
    /// let report = prices.restore(&path)?;
    /// assert_eq!((report.restored, prices.get(&1)), (1, Some(100)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the file cannot be written, or a key or value cannot be serialized: the file is then what it was.
    /// Only if the disk fails to note the new file's name, last of all, it may be the new one.
    ///
    /// # Blocking
    ///
    /// It writes to the disk and waits until all is there. Tasks call it by their runtime's
    /// `spawn_blocking`.
    ///
    /// # Panics
    ///
    /// If `Serialize` or `Clone` does; the file is then what it was.
    pub fn snapshot(&self, path: impl AsRef<Path>) -> Result<SnapshotReport, SnapshotError>
    where
        K: Schema,
        V: Schema,
    {
        self.snapshot_with_schemas(path, &Schemas::of::<K, V>())
    }

    /// Like [`snapshot`](Self::snapshot), for keys and values of any type: `schemas` names their shapes in place of
    /// [`Schema`].
    ///
    /// # Errors
    ///
    /// As [`snapshot`](Self::snapshot).
    ///
    /// # Panics
    ///
    /// As [`snapshot`](Self::snapshot).
    ///
    /// # Blocking
    ///
    /// As [`snapshot`](Self::snapshot).
    pub fn snapshot_with_schemas(
        &self,
        path: impl AsRef<Path>,
        schemas: &Schemas,
    ) -> Result<SnapshotReport, SnapshotError> {
        let begun = Instant::now();
        // Before the cache's clock, so that nothing lives longer for it.
        let written_at = unix_millis();
        let copies = self.copies();
        let head = Head {
            written_at,
            codec: MessagePack::NAME,
            key_schema: schemas.key(),
            value_schema: schemas.value(),
        };
        let (entries, bytes) = replace(path.as_ref(), |out| write(out, &head, &copies))?;
        Ok(SnapshotReport {
            entries,
            altered: copies.len() as u64 - entries,
            bytes,
            time_taken: begun.elapsed(),
        })
    }

    /// Takes in what [`snapshot`](Self::snapshot) wrote to a file, as far as there is room: the hottest
    /// entries, which are also the last to be evicted again.
    ///
    /// Nothing alive gives way to it, and what the cache knows itself is newer: a key that is held or being
    /// loaded is left as it is, and a write, a `remove` or an invalidation after this call began is not
    /// undone, so the cache may be in use meanwhile. After a `clear` or a `retain`, which could not ask
    /// about entries that are on their way, nothing more is restored. Loads that are in flight
    /// store their results.
    ///
    /// An entry has left to live what it had when the file was written, but no more than the
    /// `time_to_live` of the cache it comes into, less the time since, by the system's wall clock; one that
    /// was set back since counts as if it had stood still. So a [time of its own](Loaded::ttl) that is
    /// longer than the cache's is cut. The times of `time_to_idle` and `refresh_after` begin anew. What was
    /// removed, invalidated or changed in the database between the two calls nobody knows here: it is for
    /// the time to live to bound.
    ///
    /// The first run finds no file, and a new version of the program perhaps one of another schema:
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
    ///
    /// # Errors
    ///
    /// [`SnapshotError::NotFound`] if there is no file, another if it cannot be read, is not just as it was
    /// written, or has keys or values of another [`Schema`]. Nothing is restored then. It allocates in
    /// proportion to the file's length, unless the file begins like no snapshot.
    ///
    /// # Blocking
    ///
    /// It reads from the disk. Tasks call it by their runtime's `spawn_blocking`.
    ///
    /// # Panics
    ///
    /// If `Deserialize` does, or a listener or the `Drop` of a dead entry that gives way. Nothing is restored
    /// then, or only the coldest are.
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
    /// As [`restore`](Self::restore).
    ///
    /// # Panics
    ///
    /// As [`restore`](Self::restore).
    ///
    /// # Blocking
    ///
    /// As [`restore`](Self::restore).
    pub fn restore_with_schemas(
        &self,
        path: impl AsRef<Path>,
        schemas: &Schemas,
    ) -> Result<RestoreReport, SnapshotError> {
        let begun = Instant::now();
        // Before all else: what happens from now on wins.
        let restoring = Restoring::begin(self);
        let contents = read(path.as_ref())?;
        contents.check(schemas)?;
        self.evict_expired();
        let mut report = RestoreReport {
            bytes: contents.len(),
            ..RestoreReport::default()
        };
        let chosen = restoring.choose(&contents, &mut report)?;
        drop(contents);
        restoring.store_all(chosen, &mut report);
        report.time_taken = begun.elapsed();
        Ok(report)
    }

    fn copies(&self) -> Vec<Copied<K, V>> {
        let now = self.inner.settings.clock.now();
        let copy = |shard: &Shard<K, V>, span: &Span, copies: &mut Vec<_>| {
            copies.extend(shard.copies_in(span, now));
        };
        self.list(copy, |copied| &copied.key)
    }
}

/// Writes all entries except for those that are decoded to others. Returns how many they are, and the length of the file.
fn write<K, V>(
    out: impl Write,
    head: &Head<'_>,
    copies: &[Copied<K, V>],
) -> Result<(u64, u64), SnapshotError>
where
    K: Eq + Serialize + DeserializeOwned,
    V: Serialize + DeserializeOwned,
{
    let mut writer = Writer::begin(out, head)?;
    let check = RoundTripCheck::default();
    let (mut key, mut value) = (Vec::new(), Vec::new());
    for copy in copies {
        key.clear();
        value.clear();
        key = encode_key(&copy.key, key)?;
        value = encode_value(&copy.value, value)?;
        let decode = || Some((decode(&key)?, decode(&value)?));
        if !check.passes((&copy.key, &copy.value), key.len() + value.len(), decode) {
            continue;
        }
        writer.entry(&Entry {
            key: &key,
            value: &value,
            left: copy.left.map(|left| left / NANOS_PER_MILLI),
            idle: copy.idle.map(|idle| idle / NANOS_PER_MILLI),
            age: copy.age.map(|age| age / NANOS_PER_MILLI),
            weight: copy.weight,
            tags: copy.tags.iter().map(|tag| &**tag).collect(),
        })?;
    }
    Ok((writer.entries(), writer.finish()?))
}

/// An entry of a file on its way to the cache.
struct Chosen<K, V> {
    key: K,
    loaded: Loaded<V>,
    /// What it weighs, by the weigher if the file names no weight.
    weight: u64,
    deadline: Nanos,
}

/// A restore under way.
struct Restoring<'a, K, V, S> {
    cache: &'a LocalCache<K, V, S>,
    /// By shard.
    watchers: Vec<WriteObserver<'a, K, V>>,
    /// What is invalidated by a tag from now on is of a later one.
    epoch: u64,
}

impl<'a, K, V, S> Restoring<'a, K, V, S>
where
    K: Eq + Hash + DeserializeOwned,
    V: DeserializeOwned,
    S: BuildHasher,
{
    fn begin(cache: &'a LocalCache<K, V, S>) -> Self {
        let cells = cache.inner.cells.iter();
        let watch = cells.map(|cell| cell.shard.read(|_| cell.in_flight.observe_writes()));
        Self {
            cache,
            watchers: watch.collect(),
            epoch: cache.inner.tags.epoch(),
        }
    }

    /// The hottest live entries that there is room for, hottest first. All others are read as well: if
    /// one cannot be, nothing is restored.
    fn choose(
        &self,
        contents: &Contents,
        report: &mut RestoreReport,
    ) -> Result<Vec<Chosen<K, V>>, SnapshotError> {
        let inner = &self.cache.inner;
        let passed = unix_millis().saturating_sub(contents.head()?.written_at);
        let passed = nanos(passed);
        let now = inner.settings.clock.now();
        let mut room = inner.budget.left();
        let mut chosen = Vec::new();
        for (number, entry) in (0..).zip(contents.entries()) {
            let entry = entry?;
            let unreadable = SnapshotError::Unreadable(number);
            let (Some(key), Some(value)) = (decode::<K>(entry.key), decode::<V>(entry.value))
            else {
                return Err(unreadable);
            };
            let has_idled = entry.idle.is_some_and(|idle| nanos(idle) <= passed);
            let deadline = self.deadline(now, entry.left, passed);
            if has_idled || deadline <= now {
                report.expired += 1;
            } else if self.cache.contains_key(&key) {
                report.held += 1;
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

    /// When an entry is over that had so many milliseconds left to live, this long ago.
    fn deadline(&self, now: Nanos, left: Option<u64>, passed: Nanos) -> Nanos {
        let settings = &self.cache.inner.settings;
        let most = settings.time_to_live.map_or(NEVER, saturating_nanos);
        let left = left.map_or(NEVER, nanos);
        let deadline = if left <= most {
            now.saturating_add(left)
        } else {
            // As if it had been stored then.
            settings.deadline(now, None)
        };
        match deadline {
            NEVER => NEVER,
            deadline => deadline.saturating_sub(passed),
        }
    }

    /// The coldest first, so that the hottest are the last to be evicted.
    fn store_all(&self, mut chosen: Vec<Chosen<K, V>>, report: &mut RestoreReport) {
        let mut to_come: u64 = chosen.iter().map(|entry| entry.weight).sum();
        while let Some(entry) = chosen.pop() {
            let weight = entry.weight;
            // Others have taken of the room: the cold do without, not the hot.
            let restored = if self.cache.inner.budget.left() < to_come {
                Restored::NoRoom
            } else {
                self.store(entry)
            };
            to_come -= weight;
            match restored {
                Restored::Stored => report.restored += 1,
                Restored::LockGuardMark => report.held += 1,
                Restored::NoRoom => report.did_not_fit += 1,
            }
        }
    }

    fn store(&self, chosen: Chosen<K, V>) -> Restored {
        let Chosen {
            key,
            loaded,
            weight,
            deadline,
        } = chosen;
        let inner = &self.cache.inner;
        let location = self.cache.location(&key);
        let origin = self.cache.origin(&loaded, self.epoch, 0);
        let now = inner.settings.clock.now();
        // Declared before the lock is taken, so that they are dropped outside.
        let mut removals = self.cache.removals();
        let mut new = Some(NewEntry {
            hash: location.hash,
            key,
            value: loaded.value,
            deadline,
            extra: Extra {
                weight,
                given_weight: loaded.weight.is_some(),
                origin,
            },
        });
        let mut room = Reservation::none(&inner.budget);
        let mut shard = location.cell.shard.write();
        let tags = new.as_ref().and_then(|new| new.extra.origin.tags.as_ref());
        let is_current = tags.is_none_or(|tags| tags.is_current());
        if !is_current || !self.watchers[location.index].is_unwritten(location.hash.0) {
            return Restored::LockGuardMark;
        }
        let restored = shard.restore(&mut new, &mut room, &inner.budget, now, &mut removals);
        drop(shard);
        removals.finish();
        restored
    }
}

fn nanos(millis: u64) -> Nanos {
    millis.saturating_mul(NANOS_PER_MILLI)
}
