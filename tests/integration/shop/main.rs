//! The example `shop`: its routes, over real databases, and its page in a real browser.

// SQLite and PostgreSQL are names and no items.
#![allow(clippy::doc_markdown)]

mod browser;
mod fixtures;
mod kept;
mod metrics;
mod outages;
mod page;
mod processes;
mod routes;

use support::{client, servers};
