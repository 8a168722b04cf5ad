//! Restores of snapshots with the report of a local cache, for caches whose backend is configured.

use crate::local::RestoreReport;
use crate::snapshot::SnapshotError;
use crate::tiered::{RemoteKey, RemoteValue, TieredCache};
use crate::warm::{WarmOptions, WarmOutcome};
use std::path::Path;
use std::time::Instant;

/// The number of failed batches after which a restore ends.
const MAX_FAILED_BATCHES: usize = 3;

impl<K: RemoteKey, V: RemoteValue> TieredCache<K, V> {
    /// Fills L1 like [`warm_from_snapshot`](Self::warm_from_snapshot), and reports it like
    /// [`LocalCache::restore`](crate::LocalCache::restore).
    pub(crate) async fn restore_from_l2(
        &self,
        path: impl AsRef<Path>,
    ) -> Result<RestoreReport, SnapshotError> {
        let begun = Instant::now();
        let (keys, bytes) = self.keys_of_snapshot(path.as_ref()).await?;
        let all = keys.len() as u64;
        let options = WarmOptions::new().stop_after_failures(MAX_FAILED_BATCHES);
        let report = self.warm_from_l2(options, keys).await;
        let not_asked = all - report.found - report.left_out - report.failed;
        let is_full = report.end == WarmOutcome::Full;
        Ok(RestoreReport {
            restored: report.found,
            expired: report.left_out,
            superseded: 0,
            did_not_fit: if is_full { not_asked } else { 0 },
            failed: report.failed + if is_full { 0 } else { not_asked },
            bytes,
            time_taken: begun.elapsed(),
        })
    }
}
