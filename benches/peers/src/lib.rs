//! The parts that the comparisons share: other caches, workloads, and access traces.

#![allow(
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::must_use_candidate
)]

mod caches;
#[path = "../../common/mod.rs"]
pub mod common;
pub mod traces;

pub use caches::{Foyer, Moka, MokaFuture, MutexLru, PlainMap, QuickCache, Scc};

/// Sorts measured figures, and returns their median.
pub fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
