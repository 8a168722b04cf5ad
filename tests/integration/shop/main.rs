//! The example `shop`: its routes, over real databases, and its page in a real browser.

// SQLite and PostgreSQL are names and no items.
#![allow(clippy::doc_markdown)]

#[path = "../servers/mod.rs"]
#[allow(dead_code)]
mod servers;

mod browser;
mod client;
mod fixtures;
#[cfg(feature = "snapshot")]
mod kept;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "redis")]
mod outages;
mod page;
#[cfg(feature = "redis")]
mod processes;
mod routes;
