//! Records what concurrent calls of a cache return, and checks that there is an order in which a sequential cache
//! would return the same (linearizability; Herlihy and Wing, TOPLAS 1990).
//!
//! The search for this order is that of the crate `todc-utils`: the algorithm of Wing, Gong and Lowe with memoization.
//! It was chosen because it is tested with histories of Jepsen, has no dependencies, and takes any model of the state.
//! The tester of `stateright` searches without memoization, and comes with a web server. `porcupine-rs` depends on
//! benchmark tools. `lincheck` runs its own threads with random calls, and does not take recorded histories.
//!
//! - [`model`]: the sequential cache.
//! - [`subject`]: the calls that are recorded, and a [`LocalCache`](hotset::LocalCache) that takes longer.
//! - [`history`]: recording and checking.

pub mod history;
pub mod model;
pub mod subject;
