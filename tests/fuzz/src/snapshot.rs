//! Snapshot files: restoration of arbitrary and damaged files.

use crate::values::Value;
use arbitrary::{Arbitrary, Unstructured};
use hotset::__private::validate;
use hotset::{Loaded, LocalCache, LocalCacheBuilder, ManualClock, Policy, SnapshotError};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_64;

/// A time after which no entry expires during a run.
const LONG: Duration = Duration::from_secs(600);

type Cache = LocalCache<u16, Value>;

/// An input of the target.
#[derive(Debug, Arbitrary)]
struct Input<'a> {
    /// A choice among the settings of the cache that restores.
    settings: u8,
    file: File<'a>,
}

/// The file that is restored.
#[derive(Debug, Arbitrary)]
enum File<'a> {
    /// Bytes as they are.
    Raw(&'a [u8]),
    /// Bytes after the mark and before a correct checksum.
    Sealed(&'a [u8]),
    /// Entries in a file of correct form.
    Framed {
        written_at: u64,
        entries: Vec<Entry<'a>>,
        counted: Option<u64>,
    },
    /// A file that a cache has written, and that is then damaged. The checksum is corrected.
    Written {
        values: Vec<Inserted<'a>>,
        damage: Vec<(u16, u8)>,
        truncated: u8,
    },
}

/// An entry of a file, with the fields of the format.
#[derive(Debug, Arbitrary)]
struct Entry<'a> {
    key: Bytes<'a, u16>,
    value: Bytes<'a, Value>,
    left: Option<u64>,
    idle: Option<u64>,
    age: Option<u64>,
    weight: Option<u64>,
    tags: Vec<&'a str>,
}

/// The encoding of a value, or any bytes.
#[derive(Debug, Arbitrary)]
enum Bytes<'a, T> {
    Encoded(T),
    Any(&'a [u8]),
}

/// A value that is inserted into the cache that writes the file.
#[derive(Debug, Arbitrary)]
struct Inserted<'a> {
    key: u16,
    value: Value,
    ttl: Option<u32>,
    weight: Option<u8>,
    tags: Vec<&'a str>,
}

impl<T: Serialize> Bytes<'_, T> {
    fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Encoded(value) => rmp_serde::to_vec_named(value).unwrap(),
            Self::Any(bytes) => bytes.to_vec(),
        }
    }
}

impl Entry<'_> {
    fn to_bytes(&self) -> Vec<u8> {
        let (key, value) = (self.key.to_bytes(), self.value.to_bytes());
        let fields = (
            &*key,
            &*value,
            self.left,
            self.idle,
            self.age,
            self.weight,
            &self.tags,
        );
        postcard::to_stdvec(&fields).unwrap()
    }
}

/// Checks that a file is restored or refused as a whole, and that the cache is then consistent.
///
/// # Panics
///
/// Panics if the input shows a fault.
pub fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    let folder = folder();
    let path = folder.path().join("snapshot");
    match input.file {
        File::Raw(bytes) => restore(&path, bytes, input.settings),
        File::Sealed(bytes) => {
            let bytes = [b"hotset\r\n\x03\0\0\0", bytes].concat();
            restore(&path, &sealed(bytes), input.settings);
        }
        File::Framed {
            written_at,
            entries,
            counted,
        } => restore(
            &path,
            &framed(written_at, &entries, counted),
            input.settings,
        ),
        File::Written {
            values,
            damage,
            truncated,
        } => {
            let cache = builder(input.settings).build().unwrap();
            for Inserted {
                key,
                value,
                ttl,
                weight,
                tags,
            } in values
            {
                let mut loaded = Loaded::new(value).tags(tags);
                if let Some(ttl) = ttl {
                    loaded = loaded.ttl(Duration::from_millis(ttl.into()));
                }
                if let Some(weight) = weight {
                    loaded = loaded.weight(weight.into());
                }
                cache.insert_loaded(key, loaded);
            }
            write_and_restore(&cache, &path, input.settings);
            let mut damaged = fs::read(&path).unwrap();
            for (at, byte) in damage {
                let at = usize::from(at) % damaged.len();
                damaged[at] = byte;
            }
            damaged.truncate(damaged.len() - usize::from(truncated) % damaged.len());
            restore(&path, &damaged, input.settings);
            damaged.truncate(damaged.len().saturating_sub(8));
            restore(&path, &sealed(damaged), input.settings);
        }
    }
}

/// Writes the snapshot of a cache, and checks that another cache with the same settings restores its entries.
fn write_and_restore(cache: &Cache, path: &Path, settings: u8) {
    let written = cache.snapshot(path).unwrap();
    let entries: Vec<_> = cache.iter().collect();
    // With the system's clock, entries may have expired since.
    if has_manual_clock(settings) {
        assert_eq!(written.entries + written.altered, entries.len() as u64);
    }
    let copy = builder(settings).build().unwrap();
    let report = copy.restore(path).unwrap();
    let listed = report.restored + report.expired;
    assert_eq!(listed, written.entries, "{report:?}");
    validate(&copy);
    for (key, value) in &entries {
        let restored = copy.peek(key);
        assert!(restored.iter().all(|other| other == value), "{key}");
        // Other entries may expire meanwhile.
        let lives_long = cache.remaining_ttl(key).is_some_and(|left| left > LONG);
        let is_lost = lives_long && restored.is_none() && written.altered == 0;
        assert!(!is_lost, "{key}");
    }
}

/// Restores a file into a cache with some entries.
fn restore(path: &Path, bytes: &[u8], settings: u8) {
    fs::write(path, bytes).unwrap();
    let cache: Cache = builder(settings).build().unwrap();
    cache.insert(7, Value::Unit);
    match cache.restore(path) {
        Ok(report) => {
            assert_eq!(report.bytes, bytes.len() as u64);
            assert_eq!(report.failed, 0);
            let stats = cache.stats();
            assert_eq!(stats.inserts, report.restored + 1, "{report:?} {stats:?}");
            let newer = cache.get(&7);
            assert!(newer.is_none_or(|value| value == Value::Unit));
            validate(&cache);
            write_and_restore(&cache, path, settings);
        }
        Err(error) => {
            assert!(
                !matches!(error, SnapshotError::Io(_) | SnapshotError::NotFound),
                "{error}"
            );
            assert!(!error.to_string().is_empty());
            assert_eq!(cache.stats().inserts, 1);
            validate(&cache);
        }
    }
}

/// Returns a file of correct form. The number of entries at its end is `counted`, if there is one.
fn framed(written_at: u64, entries: &[Entry<'_>], counted: Option<u64>) -> Vec<u8> {
    let mut bytes = b"hotset\r\n\x03\0\0\0".to_vec();
    bytes.extend(written_at.to_le_bytes());
    let mut frame = |bytes_of_frame: &[u8]| {
        let len = u32::try_from(bytes_of_frame.len()).unwrap();
        bytes.extend(len.to_le_bytes());
        bytes.extend(bytes_of_frame);
    };
    for name in ["msgpack/1", "u16", "value/1"] {
        frame(name.as_bytes());
    }
    for entry in entries {
        frame(&entry.to_bytes());
    }
    bytes.extend([0xff; 4]);
    let counted = counted.unwrap_or(entries.len() as u64);
    bytes.extend(counted.to_le_bytes());
    sealed(bytes)
}

/// Appends a correct checksum.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend(xxh3_64(&bytes).to_le_bytes());
    bytes
}

/// Returns `true` if the cache has a clock that stands still.
fn has_manual_clock(settings: u8) -> bool {
    settings >> 7 == 1
}

/// Returns a builder with some of the settings that a restoration depends on.
fn builder(settings: u8) -> LocalCacheBuilder<u16, Value> {
    let bit = |at: u8| settings >> at & 1 == 1;
    let policies = [Policy::Lru, Policy::S3Fifo, Policy::Car, Policy::Adaptive];
    let mut builder: LocalCacheBuilder<u16, Value> = LocalCache::builder()
        .policy(policies[usize::from(settings & 3)])
        .shards(if bit(2) { 4 } else { 1 })
        .track_ages(bit(3));
    builder = if bit(4) {
        builder.max_weight(60).weigher(|key, _| u64::from(*key % 9))
    } else {
        builder.capacity(12)
    };
    if bit(5) {
        builder = builder.time_to_live(Duration::from_millis(700));
    }
    if bit(6) {
        builder = builder.time_to_idle(Duration::from_secs(3));
    }
    if has_manual_clock(settings) {
        builder = builder.clock(ManualClock::new());
    }
    builder
}

/// Creates a folder, in memory if the machine has such a file system, because a snapshot is flushed to the disk.
fn folder() -> TempDir {
    let memory = PathBuf::from("/dev/shm");
    let created = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    created.unwrap()
}
