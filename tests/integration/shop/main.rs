//! The example `shop`: its routes, over real databases, and its page in a real browser.

// SQLite and PostgreSQL are names of products, not of items.
#![allow(clippy::doc_markdown)]

mod browser;
mod metrics;
mod outages;
mod page;
mod postgres;
mod processes;
mod routes;
mod snapshots;

use support::{client, servers};
