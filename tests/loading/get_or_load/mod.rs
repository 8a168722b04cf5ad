//! `get_or_load`, for threads and tasks: one file for each case.

mod coalesced;
mod common;
mod hit;
mod leader_dropped;
mod lease;
mod loader_error;
mod loader_panic;
mod recursion;
mod wait_timeout;
