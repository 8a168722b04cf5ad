//! What becomes of entries, by what happens to them: each case for threads, for tasks, and for both
//! at one key.

mod common;
mod concurrent_writes;
mod invalidation;
mod loaded;
mod refresh;
mod retain;
mod stale;
mod update;
