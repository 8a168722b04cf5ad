//! The user guide, by topic.
//!
//! | module | contents |
//! | --- | --- |
//! | [`getting_started`] | a first cache, its settings, code that does not depend on the backend |
//! | [`loading`] | `get_or_load` in all its forms: errors, tasks, batches, refreshes, limits |
//! | [`expiration`] | time to live, time to idle, a rule for each entry, refresh, stale values |
//! | [`invalidation`] | what to call after a change in the database, changes in one step, tags, listeners |
//! | [`several_processes`] | caches of many processes over one Redis |
//! | [`operations`] | statistics, metrics, health, removed entries, warming, snapshots, capacity, shutdown |
//! | [`testing`] | time in tests, test doubles, assertions on statistics |
//! | [`migrating_from_moka`] | names, differences, and a program with both |
//! | [`migrating_from_quick_cache`] | likewise |
//! | [`migrating_from_cached`] | likewise |
//! | [`choosing_a_policy`] | LRU, S3-FIFO, CAR and the adaptive policy |
//!
//! # Definitions
//!
//! They hold in all names, metrics and texts of this crate.
//!
//! - *Eviction* is removal by the policy, because there is no room.
//! - *Expiration* is the end of an entry's time to live or time to idle.
//! - *Invalidation* is removal by a caller, because the value is outdated.
//! - *Removal* is any of them, or the replacement of a value by a new one.
//! - A *load* is one run of a loader. A load that runs is *in flight*. Its caller is the *leader*; other callers of the
//!   same key are *waiters*.
//! - A *refresh* is a load of a key whose entry is still live.

/// Returns the links to items that need a feature.
#[cfg(all(
    feature = "metrics",
    feature = "redis",
    feature = "serde",
    feature = "testing"
))]
macro_rules! links {
    () => {
        include_str!("links.md")
    };
}

/// Returns the same links to docs.rs, because some of the items do not exist without these features.
#[cfg(not(all(
    feature = "metrics",
    feature = "redis",
    feature = "serde",
    feature = "testing"
)))]
macro_rules! links {
    () => {
        include_str!("links_to_docs_rs.md")
    };
}

/// Defines a module whose documentation is a file of this folder.
macro_rules! chapter {
    ($name:ident, $file:literal) => {
        #[doc = include_str!($file)]
        #[doc = ""]
        #[doc = links!()]
        pub mod $name {}
    };
}

/// Defines a module whose documentation is a file of this folder and two programs: the original with another library,
/// and the port. A test of the package `peers` compares their results.
macro_rules! migration {
    ($name:ident, $file:literal, $library:literal, $original:literal, $port:literal) => {
        #[doc = include_str!($file)]
        #[doc = ""]
        #[doc = concat!("# A program with ", $library)]
        #[doc = ""]
        #[doc = "The module `database` is not shown. Both programs use the same."]
        #[doc = ""]
        #[doc = "```rust,ignore"]
        #[doc = include_str!($original)]
        #[doc = "```"]
        #[doc = ""]
        #[doc = "# The same program with hotset"]
        #[doc = ""]
        #[doc = "A test in the repository sends the same requests to both programs and compares the results."]
        #[doc = ""]
        #[doc = "```rust,ignore"]
        #[doc = include_str!($port)]
        #[doc = "```"]
        #[doc = ""]
        #[doc = links!()]
        pub mod $name {}
    };
}

chapter!(getting_started, "getting_started.md");
chapter!(loading, "loading.md");
chapter!(expiration, "expiration.md");
chapter!(invalidation, "invalidation.md");
chapter!(several_processes, "several_processes.md");
chapter!(operations, "operations.md");
chapter!(testing, "testing.md");
migration!(
    migrating_from_moka,
    "migrating_from_moka.md",
    "moka",
    "migrating/moka.rs",
    "migrating/hotset.rs"
);
migration!(
    migrating_from_quick_cache,
    "migrating_from_quick_cache.md",
    "`quick_cache`",
    "migrating/quick_cache.rs",
    "migrating/hotset_for_quick_cache.rs"
);
migration!(
    migrating_from_cached,
    "migrating_from_cached.md",
    "`cached`",
    "migrating/cached.rs",
    "migrating/hotset_for_cached.rs"
);
chapter!(choosing_a_policy, "choosing_a_policy.md");
