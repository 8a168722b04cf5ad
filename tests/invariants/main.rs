//! Promises that hold whatever happens: exact capacity, no stale value, no harm by a panic or a call back into the
//! cache.

mod capacity;
mod model;
mod panics;
mod plain;
mod random_runs;
mod reentry;
mod staleness;
