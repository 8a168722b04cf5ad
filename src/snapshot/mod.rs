//! Snapshot files, with entries hottest first: the format, and how a file is replaced as a whole.

mod error;
mod file;
mod format;

pub use error::SnapshotError;
pub(crate) use file::{read, replace};
pub(crate) use format::{Contents, Entry, Head, Writer, decode, encode_key, encode_value};

/// Returns the keys of a file, hottest first. Their schema must be `schema`.
#[cfg(feature = "redis")]
pub(crate) fn keys<K: serde::de::DeserializeOwned>(
    path: &std::path::Path,
    schema: &str,
) -> Result<Vec<K>, SnapshotError> {
    let contents = read(path)?;
    contents.check_keys(schema)?;
    let entries = (0..).zip(contents.entries());
    let keys =
        entries.map(|(number, entry)| decode(entry?.key).ok_or(SnapshotError::Unreadable(number)));
    keys.collect()
}
