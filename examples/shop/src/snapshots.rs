//! Snapshots of the caches, which keep their entries from one run to the next.

use crate::AnyError;
use crate::records::{Home, Price, Product, Profile, Session, Stock};
use crate::store::{Store, Value};
use hotset::{Schema, SnapshotError};
use std::path::Path;
use tokio::task::spawn_blocking;

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
    let written = match store {
        Store::Local(cache) => {
            let (cache, file) = (cache.clone(), file.to_owned());
            spawn_blocking(move || cache.snapshot(file)).await?
        }
        Store::Tiered(cache) => cache.snapshot(file).await,
    };
    Ok(written?.entries)
}

/// Restores a snapshot, and returns the number of restored entries, which is 0 if there is no file. Over Redis only the
/// keys come from the snapshot, and the values from Redis.
pub(crate) async fn restore<T: Stored>(store: &Store<T>, file: &Path) -> Result<u64, AnyError> {
    let restored = match store {
        Store::Local(cache) => {
            let (cache, file): (hotset::LocalCache<i64, Value<T>>, _) =
                (cache.clone(), file.to_owned());
            let restored = spawn_blocking(move || cache.restore(file)).await?;
            restored.map(|report| report.restored)
        }
        Store::Tiered(cache) => {
            let warming = hotset::WarmOptions::new().stop_after_failures(3);
            let warmed = cache.warm_from_snapshot(warming, file).await;
            warmed.map(|report| report.found)
        }
    };
    match restored {
        Err(SnapshotError::NotFound) => Ok(0),
        restored => Ok(restored?),
    }
}
