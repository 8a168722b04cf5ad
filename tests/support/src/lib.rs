//! Servers and clients that the integration tests, the load generator of the shop and a benchmark share.

// These functions are for tests: they panic where a server does not do what a test needs.
#![allow(
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::new_without_default,
    clippy::return_self_not_must_use
)]

#[cfg(feature = "caches")]
pub mod caches;
pub mod client;
pub mod servers;
