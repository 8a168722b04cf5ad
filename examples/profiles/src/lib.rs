//! The parts that the programs share: database, traffic, runs and report.

// SQLite is the name of a product and not a code item.
#![allow(clippy::doc_markdown)]
#![allow(
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::must_use_candidate
)]

pub mod args;
pub mod database;
pub mod people;
pub mod report;
pub mod runs;
pub mod traffic;

use std::error::Error;

/// An error from any thread or task, for `main` to print.
pub type AnyError = Box<dyn Error + Send + Sync>;
