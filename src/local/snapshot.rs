//! Snapshots: the entries of a cache in a file, from one run of a program to the next. `restore.rs` reads them.

use crate::clock::{Instant, Nanos, unix_millis};
use crate::codec::{MessagePack, RoundTripCheck};
use crate::local::LocalCache;
use crate::local::shard::{Copied, Shard};
use crate::local::walk::Span;
use crate::schema::{Schema, Schemas};
use crate::snapshot::{
    Entry, Head, SnapshotError, Writer, decode, encode_key, encode_value, replace,
};
use serde::{Serialize, de::DeserializeOwned};
use std::hash::{BuildHasher, Hash};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// The number of nanoseconds in a millisecond.
pub(super) const NANOS_PER_MILLI: Nanos = 1_000_000;

/// A report on a snapshot that was written, from [`LocalCache::snapshot`].
///
/// # Examples
///
/// ```
/// use hotset::LocalCache;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("prices");
/// let prices: LocalCache<u64, u64> = LocalCache::from_iter([(7, 120)]);
/// let report = prices.snapshot(&path)?;
/// println!("{} bytes in {:?}", report.bytes, report.time_taken);
/// assert_eq!((report.entries, report.altered), (1, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotReport {
    /// The number of entries in the file.
    pub entries: u64,
    /// The number of entries that are not in the file, because their encoding decodes to another key or value, or not
    /// at all: see the [round-trip check](crate::Codec#round-trip-check).
    pub altered: u64,
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
    /// Writes all live entries to a file for [`restore`](Self::restore), the hottest first as the policy sees it. With
    /// each entry it writes the remaining time to live, the tags, and the weight if the caller gave one.
    ///
    /// The file is replaced as a whole or not at all, also if the machine crashes. Several processes may write to one
    /// path. Only its owner may read it. A symbolic link at the path is replaced by the file, and its target is not
    /// changed. A crash may leave a temporary file, whose name is that of the snapshot between a dot and `.tmp`. It is
    /// never read.
    ///
    /// Keys and values are encoded as [`MessagePack`]. An entry that does not pass the [round-trip
    /// check](crate::Codec#round-trip-check) is left out and counted.
    ///
    /// The call takes the memory of a clone of each entry. Each shard is copied under its shared lock, one after the
    /// other. `Clone` runs there, so keep it cheap: wrap a value that is expensive to clone in an
    /// [`Arc`](std::sync::Arc). Everything else, `Serialize` above all, runs with no lock held.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be written, or a key or value cannot be serialized. The file is then
    /// unchanged, with one exception: the last step makes the replacement of the file durable, and if this step fails,
    /// the file may be the new one.
    ///
    /// # Panics
    ///
    /// Panics if `Serialize` or `Clone` does. The file is then unchanged.
    ///
    /// # Blocking
    ///
    /// Writes to the disk, and waits until all data is stored. Tasks call it through the `spawn_blocking` of their
    /// runtime.
    ///
    /// # Examples
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
    /// Returns the same errors as [`snapshot`](Self::snapshot).
    ///
    /// # Panics
    ///
    /// Panics like [`snapshot`](Self::snapshot).
    ///
    /// # Blocking
    ///
    /// Blocks like [`snapshot`](Self::snapshot).
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{LocalCache, Schema, Schemas};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("documents");
    /// // `serde_json::Value` does not implement `Schema`.
    /// let documents: LocalCache<u64, serde_json::Value> = LocalCache::from_iter([(1, "One".into())]);
    /// let report = documents.snapshot_with_schemas(&path, &Schemas::new(u64::schema(), "document/1"))?;
    /// assert_eq!(report.entries, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn snapshot_with_schemas(
        &self,
        path: impl AsRef<Path>,
        schemas: &Schemas,
    ) -> Result<SnapshotReport, SnapshotError> {
        let begun = Instant::now();
        // Read before the cache's clock, so that no entry lives longer because of it.
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

    /// Returns copies of all live entries, the hottest first.
    fn copies(&self) -> Vec<Copied<K, V>> {
        let now = self.inner.settings.clock.now();
        let copy = |shard: &Shard<K, V>, span: &Span, copies: &mut Vec<_>| {
            copies.extend(shard.copies_in(span, now));
        };
        self.list(copy, |copied| &copied.key)
    }
}

/// Writes all entries except those that decode to others. Returns their number, and the length of the file.
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
