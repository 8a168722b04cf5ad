//! The life of entries under loads, writes and invalidations. Each case is tested with threads, with tasks, and with
//! both at one key.

mod common;
mod concurrent_writes;
mod invalidation;
mod loaded;
mod refresh;
mod retain;
mod stale;
mod update;
