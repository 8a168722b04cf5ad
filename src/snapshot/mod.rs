//! Files of entries, hottest first: the format, and how a file is replaced as a whole.

mod error;
mod file;
mod format;

pub use error::SnapshotError;
pub(crate) use file::{read, replace};
pub(crate) use format::{Contents, Entry, Head, Writer, exactly, serialize};
