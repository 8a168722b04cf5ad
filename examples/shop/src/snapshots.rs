//! Snapshots of the caches, which keep their entries from one run to the next.

use crate::AnyError;
use crate::records::{Home, Price, Product, Profile, Session, Stock};
use crate::store::Store;
use hotset::{Schema, SnapshotError};
use std::path::Path;

/// A type that can be stored in a snapshot or in Redis.
pub(crate) trait Stored: Schema + Send + Sync + 'static {}

impl<T: Schema + Send + Sync + 'static> Stored for T {}

// Change the number whenever the fields change.
hotset::schema!(Home, "home/1");
hotset::schema!(Price, "price/1");
hotset::schema!(Product, "product/1");
hotset::schema!(Profile, "profile/1");
hotset::schema!(Session, "session/1");
hotset::schema!(Stock, "stock/1");

/// Creates the folder, and returns an error if that is not possible.
pub(crate) fn check(folder: &Path) -> Result<(), AnyError> {
    let made = std::fs::create_dir_all(folder);
    made.map_err(|error| format!("--snapshot {}: {error}", folder.display()).into())
}

/// Writes a snapshot, and returns its number of entries.
pub(crate) async fn write<T: Stored>(store: &Store<T>, file: &Path) -> Result<u64, AnyError> {
    Ok(store.cache.snapshot(file).await?.entries)
}

/// Restores a snapshot, and returns the number of restored entries, which is 0 if there is no file. Over Redis only the
/// keys come from the snapshot, and the values from Redis.
pub(crate) async fn restore<T: Stored>(store: &Store<T>, file: &Path) -> Result<u64, AnyError> {
    match store.cache.restore(file).await {
        Err(SnapshotError::NotFound) => Ok(0),
        report => Ok(report?.restored),
    }
}
