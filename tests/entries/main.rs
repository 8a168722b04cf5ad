//! The life of entries under loads, writes and invalidations. Cases with loads are tested with threads, with tasks, and
//! with both at one key.

#[path = "../common/mod.rs"]
#[allow(dead_code)]
mod common;

mod ages;
mod cache_trait;
mod compute;
mod concurrent_writes;
mod corners;
mod erased;
mod expire_after;
mod expiry;
mod invalidation;
mod jitter;
mod listeners;
mod loaded;
mod local_cache;
mod peek_and_extend;
mod refresh;
mod resize;
mod retain;
mod set_ttl;
mod stale;
mod tags;
mod uncached;
mod update;
mod write_through;
