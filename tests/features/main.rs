//! Optional features that need no server.

#[cfg(feature = "serde")]
mod config;
#[cfg(feature = "serde")]
mod configured;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "serde")]
mod serialize;
#[cfg(feature = "snapshot")]
mod snapshot;
#[cfg(feature = "testing")]
mod testing;
