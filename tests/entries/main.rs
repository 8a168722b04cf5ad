//! The life of entries under loads, writes and invalidations. Cases with loads are tested with threads, with tasks, and
//! with both at one key.

#[path = "../common/mod.rs"]
#[allow(dead_code)]
mod common;

mod ages;
mod cache_trait;
mod concurrent_writes;
mod corners;
mod expiry;
mod invalidation;
mod jitter;
mod loaded;
mod local_cache;
mod refresh;
mod resize;
mod retain;
mod stale;
mod tags;
mod update;
