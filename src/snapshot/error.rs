//! Why there is no snapshot, or nothing of it to be had.

use std::error::Error;
use std::fmt;
use std::io;

/// Why a snapshot was not written, or was refused as a whole.
#[derive(Debug)]
#[non_exhaustive]
pub enum SnapshotError {
    /// There is no file to read, as before the first run.
    NotFound,
    /// The file could not be written or read.
    Io(io::Error),
    /// A key or a value could not be serialized; what its `Serialize` has said.
    Unserializable(String),
    /// The file begins like no snapshot.
    NotASnapshot,
    /// The file is a snapshot of another format version.
    Version(u32),
    /// The file ends before its end mark.
    Truncated,
    /// There is more in the file than a snapshot.
    TrailingBytes,
    /// The file is not what was written: its checksum is another.
    Damaged,
    /// The keys and values in the file were encoded by another codec.
    Codec {
        /// The name of the file's codec.
        found: String,
        /// The name of the codec that this version of hotset uses.
        wanted: String,
    },
    /// The keys in the file are of another shape.
    KeySchema {
        /// What the file calls it.
        found: String,
        /// What the cache's type calls it.
        wanted: String,
    },
    /// The values in the file are of another shape.
    ValueSchema {
        /// What the file calls it.
        found: String,
        /// What the cache's type calls it.
        wanted: String,
    },
    /// A key or a value of the right schema cannot be read; the number of its entry, from 0.
    Unreadable(u64),
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => {
                f.write_str("there is no snapshot at this path: see to the path, or begin without it")
            }
            Self::Io(error) => write!(
                f,
                "the snapshot could not be written or read, {error}: see to the path, the room and \
                 the rights"
            ),
            Self::Unserializable(why) => {
                write!(f, "a key or value cannot be serialized as MessagePack: {why}")
            }
            Self::NotASnapshot => {
                f.write_str("this file is no snapshot: give the path of one that snapshot() wrote")
            }
            Self::Version(version) => write!(
                f,
                "the snapshot has format version {version}, this version of hotset reads {}: begin \
                 without it",
                super::format::VERSION
            ),
            Self::Truncated => f.write_str(
                "the snapshot ends too early, it was not copied whole: copy it again, or begin \
                 without it",
            ),
            Self::TrailingBytes => f.write_str(
                "something follows the end of the snapshot: copy it again, or begin without it",
            ),
            Self::Damaged => f.write_str(
                "the snapshot is damaged, its checksum is another: copy it again, or begin without it",
            ),
            Self::Codec { found, wanted } => write!(
                f,
                "the snapshot was encoded by the codec {found:?}, this version of hotset uses {wanted:?}: begin \
                 without it"
            ),
            Self::KeySchema { found, wanted } => write!(
                f,
                "the snapshot's keys are of the schema {found:?}, this cache's of {wanted:?}: begin \
                 without it"
            ),
            Self::ValueSchema { found, wanted } => write!(
                f,
                "the snapshot's values are of the schema {found:?}, this cache's of {wanted:?}: begin \
                 without it"
            ),
            Self::Unreadable(entry) => write!(
                f,
                "entry {entry} of the snapshot cannot be read: the type has another shape than when it \
                 was written, so give it another Schema"
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
