//! Files of entries, hottest first: the format, and how a file is replaced as a whole.

mod error;
mod file;
mod format;

pub use error::SnapshotError;
pub(crate) use file::{read, replace};
pub(crate) use format::{Contents, Entry, Head, Writer, exactly, serialize};

/// The keys of a file, hottest first.
#[cfg(feature = "redis")]
pub(crate) fn keys<K: crate::schema::Schema>(
    path: &std::path::Path,
) -> Result<Vec<K>, SnapshotError> {
    let contents = read(path)?;
    contents.check_keys::<K>()?;
    let entries = (0..).zip(contents.entries());
    let keys =
        entries.map(|(number, entry)| exactly(entry?.key).ok_or(SnapshotError::Unreadable(number)));
    keys.collect()
}
