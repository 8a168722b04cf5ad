//! The example `shop`, over real databases, and its page in a real browser.

#[path = "../servers/mod.rs"]
#[allow(dead_code)]
mod servers;

mod fixtures;
