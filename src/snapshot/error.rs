//! The error of snapshots.

use std::error::Error;
use std::fmt;
use std::io;

/// The reason why a snapshot was not written, or was refused as a whole.
///
/// # Examples
///
/// ```
/// use hotset::{LocalCache, SnapshotError};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("prices");
/// let prices: LocalCache<u64, u64> = LocalCache::new(100);
/// assert!(matches!(prices.restore(&path), Err(SnapshotError::NotFound)));
/// std::fs::write(&path, "7: 120")?;
/// assert!(matches!(prices.restore(&path), Err(SnapshotError::NotASnapshot)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum SnapshotError {
    /// There is no file at the path, for example before the first run.
    NotFound,
    /// The file could not be written or read.
    Io(io::Error),
    /// A key or a value could not be serialized. The text is the error of its `Serialize`.
    Unserializable(String),
    /// The file does not begin like a snapshot.
    NotASnapshot,
    /// The file is a snapshot of another format version.
    Version(u32),
    /// The file ends before its end mark.
    Truncated,
    /// The file continues after the end of the snapshot.
    TrailingBytes,
    /// The file was changed after it was written: its checksum differs.
    Damaged,
    /// The keys and values in the file were encoded by another codec.
    Codec {
        /// The name of the file's codec.
        found: String,
        /// The name of the codec that this version of hotset uses.
        wanted: String,
    },
    /// The keys in the file have another schema.
    KeySchema {
        /// The schema of the file's keys.
        found: String,
        /// The schema of the cache's keys.
        wanted: String,
    },
    /// The values in the file have another schema.
    ValueSchema {
        /// The schema of the file's values.
        found: String,
        /// The schema of the cache's values.
        wanted: String,
    },
    /// A key or a value cannot be decoded although its schema matches, with the number of its entry, from 0.
    Unreadable(u64),
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str(
                "there is no snapshot at this path: check the path, or start without a snapshot",
            ),
            Self::Io(error) => write!(
                f,
                "the snapshot could not be written or read ({error}): check the path, the free space and \
                 the permissions"
            ),
            Self::Unserializable(why) => {
                write!(
                    f,
                    "a key or value cannot be serialized as MessagePack: {why}"
                )
            }
            Self::NotASnapshot => f.write_str(
                "this file is not a snapshot: use the path of a file that snapshot() wrote",
            ),
            Self::Version(version) => write!(
                f,
                "the snapshot has format version {version}, this version of hotset reads version {}: start \
                 without a snapshot",
                crate::snapshot::format::VERSION
            ),
            Self::Truncated => {
                f.write_str("the snapshot is incomplete: copy it again, or start without a snapshot")
            }
            Self::TrailingBytes => f.write_str(
                "there are bytes after the end of the snapshot: copy it again, or start without a snapshot",
            ),
            Self::Damaged => f.write_str(
                "the snapshot is damaged, because its checksum differs: copy it again, or start without a snapshot",
            ),
            Self::Codec { found, wanted } => write!(
                f,
                "the snapshot was encoded by the codec {found:?}, this version of hotset uses {wanted:?}: start \
                 without a snapshot"
            ),
            Self::KeySchema { found, wanted } => write!(
                f,
                "the snapshot's keys have the schema {found:?}, this cache's keys {wanted:?}: start \
                 without a snapshot"
            ),
            Self::ValueSchema { found, wanted } => write!(
                f,
                "the snapshot's values have the schema {found:?}, this cache's values {wanted:?}: start \
                 without a snapshot"
            ),
            Self::Unreadable(entry) => write!(
                f,
                "entry {entry} of the snapshot cannot be decoded, because the serialized shape of its type has \
                 changed: give the type another Schema"
            ),
        }
    }
}

impl Error for SnapshotError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for SnapshotError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
