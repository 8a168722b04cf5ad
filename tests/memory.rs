//! The memory that caches use in addition to their entries, as counted by the allocator.

use dhat::{Alloc, HeapStats, Profiler};
use hotset::__private::validate;
use hotset::{Loaded, LocalCache, Policy};
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: Alloc = Alloc;

/// Returns the bytes of a full cache of `entries` entries that has evicted the same number. Some entries were hit.
fn bytes(policy: Policy, entries: u64) -> usize {
    let before = HeapStats::get().curr_bytes;
    let capacity = usize::try_from(entries).unwrap();
    let builder = LocalCache::builder().capacity(capacity).policy(policy);
    let cache = builder.shards(8).build().unwrap();
    for key in 0..entries * 2 {
        cache.insert(key, key);
        cache.get(&(key / 2));
    }
    assert_eq!(cache.len(), capacity);
    HeapStats::get().curr_bytes - before
}

const POLICIES: [Policy; 4] = [Policy::Lru, Policy::S3Fifo, Policy::Car, Policy::Adaptive];
const ENTRIES: u64 = 50_000;
/// The number of bytes that an emptied cache may use more than a new one.
const MAX_KEPT_BYTES: usize = 32 << 10;
/// The number of bytes that `Adaptive` uses more than `Lru`, for each entry of capacity and for a cache of eight shards.
const ADAPTIVE_BYTES_PER_ENTRY: usize = 12;
const ADAPTIVE_BYTES: usize = 16 << 10;

/// Returns a full cache that has evicted entries and has metadata of each kind, and the bytes that were allocated when
/// it was empty. The cache takes more than 50 bytes for each entry.
fn filled(policy: Policy) -> (LocalCache<u64, u64>, usize) {
    let weighted = LocalCache::builder().max_weight(ENTRIES).weigher(|_, _| 1);
    let idle = weighted.time_to_idle(Duration::from_secs(3_600)).shards(8);
    let refreshed = idle.refresh_after(Duration::from_secs(60)).policy(policy);
    let cache = refreshed.build().unwrap();
    let empty = HeapStats::get().curr_bytes;
    for key in 0..ENTRIES * 2 {
        let tags = (key % 4_096 == 0).then_some("tag");
        cache.insert_loaded(key, Loaded::new(key).tags(tags));
    }
    for key in ENTRIES..ENTRIES * 2 {
        cache.insert(key, key);
    }
    assert!(HeapStats::get().curr_bytes > empty + 2_500_000);
    (cache, empty)
}

/// Checks that at most `allowed` bytes more are allocated than when the cache was empty.
fn assert_kept(policy: Policy, empty: usize, allowed: usize) {
    let kept = HeapStats::get().curr_bytes.saturating_sub(empty);
    assert!(kept < allowed, "{policy:?}: {kept} bytes are kept");
}

fn clear_frees_the_memory_of_all_entries(policy: Policy) {
    let (cache, empty) = filled(policy);
    cache.clear();
    assert_kept(policy, empty, MAX_KEPT_BYTES);
}

fn removing_all_entries_frees_their_memory(policy: Policy) {
    let (cache, empty) = filled(policy);
    for (key, _) in &cache {
        cache.remove(&key);
    }
    assert!(cache.is_empty());
    assert_kept(policy, empty, MAX_KEPT_BYTES);
}

fn shrink_to_fit_frees_memory_after_a_mass_removal(policy: Policy) {
    let (cache, empty) = filled(policy);
    let mut left = 0;
    for (key, _) in &cache {
        if key % 1_000 != 0 {
            cache.remove(&key);
        } else {
            left += 1;
        }
    }
    assert!(left > 20);
    cache.shrink_to_fit();
    assert_eq!(cache.len(), left);
    assert_kept(policy, empty, MAX_KEPT_BYTES + left * 400);
    validate(&cache);
}

/// All checks are one test, because the allocator counts the memory of the whole process.
#[test]
fn memory_beside_entries_is_bounded_and_freed_after_removals() {
    let _profiler = Profiler::builder().testing().build();
    removed_entries_leave_no_memory_behind();
    for policy in POLICIES {
        clear_frees_the_memory_of_all_entries(policy);
        removing_all_entries_frees_their_memory(policy);
        shrink_to_fit_frees_memory_after_a_mass_removal(policy);
    }
    for entries in [100, 1_000, 10_000, 100_000, 1_000_000] {
        let (lru, adaptive) = (
            bytes(Policy::Lru, entries),
            bytes(Policy::Adaptive, entries),
        );
        let per_entry = ADAPTIVE_BYTES_PER_ENTRY * usize::try_from(entries).unwrap();
        let most = lru + per_entry + ADAPTIVE_BYTES;
        assert!(
            adaptive <= most,
            "{entries} entries: {adaptive} bytes for {lru}"
        );
    }
}

fn removed_entries_leave_no_memory_behind() {
    let builder = LocalCache::builder().unbounded().policy(Policy::Adaptive);
    let cache = builder.build().unwrap();
    let churn = || {
        for key in 0..100_000 {
            cache.insert(key, key);
            cache.remove(&key);
        }
        HeapStats::get().curr_bytes
    };
    assert_eq!(churn(), churn());
}
