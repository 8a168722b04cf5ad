//! Loads: single flight, batches, loads that outlive their caller, and limits on loads.

#[path = "../common/mod.rs"]
#[allow(dead_code)]
mod common;

mod bulkhead;
mod cancellation;
mod detached;
mod future;
mod get_or_load;
mod liveness;
mod lost_batches;
mod many;
mod regressions;
mod single_flight;
mod wakers;
mod warm;
