//! Loads: single flight, batches, loads that outlive their caller, and limits on loads.

#[path = "../common/mod.rs"]
#[allow(dead_code)]
mod common;

mod bulkhead;
mod cancellation;
mod detached;
mod future;
mod get_or_load;
mod insert_with;
mod liveness;
mod lost_batches;
mod many;
mod plain;
mod regressions;
mod reload;
mod single_flight;
#[cfg(feature = "tokio")]
mod tokio_clock;
mod wakers;
mod warm;
mod warm_through_traits;
