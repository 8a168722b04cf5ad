//! Snapshot files, with entries hottest first: their format, and their atomic replacement.

mod error;
mod file;
mod format;

pub use error::SnapshotError;
pub(crate) use file::{read, replace};
pub(crate) use format::{Contents, Entry, Head, Writer, decode, encode_key, encode_value};

/// Reads the keys of a file, hottest first.
///
/// # Errors
///
/// Returns an error if the file cannot be read, or if its keys have another schema than `schema`.
#[cfg(feature = "redis")]
pub(crate) fn keys<K: serde::de::DeserializeOwned>(
    path: &std::path::Path,
    schema: &str,
) -> Result<(Vec<K>, u64), SnapshotError> {
    let contents = read(path)?;
    contents.check_keys(schema)?;
    let entries = (0..).zip(contents.entries());
    let keys =
        entries.map(|(number, entry)| decode(entry?.key).ok_or(SnapshotError::Unreadable(number)));
    Ok((keys.collect::<Result<_, _>>()?, contents.len()))
}

/// Runs blocking work on a thread of `runtime` for it.
///
/// # Panics
///
/// Panics if `run` does.
#[cfg(feature = "tokio")]
pub(crate) async fn run_blocking<T: Send + 'static>(
    runtime: &tokio::runtime::Handle,
    run: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, SnapshotError> {
    match runtime.spawn_blocking(run).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(std::io::Error::other("the runtime was shut down").into()),
        },
    }
}
