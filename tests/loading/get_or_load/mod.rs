//! `get_or_load`, for threads and tasks: what happens in each case, a file for each.

mod coalesced;
mod common;
mod hit;
mod leader_dropped;
mod lease;
mod loader_error;
mod loader_panic;
mod recursion;
mod wait_timeout;
