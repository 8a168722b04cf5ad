//! What policies take beside their entries, as the allocator counts it.

use dhat::{Alloc, HeapStats, Profiler};
use hotset::{LocalCache, Policy};

#[global_allocator]
static ALLOCATOR: Alloc = Alloc;

/// Of a cache of so many entries that has evicted as many again, some of which were hit.
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

/// One test, since it counts what all of the process holds.
#[test]
fn adaptive_takes_no_more_than_four_bytes_an_entry_beyond_lru() {
    let _profiler = Profiler::builder().testing().build();
    nothing_is_kept_of_what_left_without_eviction();
    for entries in [1_000, 100_000, 1_000_000] {
        let (lru, adaptive) = (
            bytes(Policy::Lru, entries),
            bytes(Policy::Adaptive, entries),
        );
        let most = lru + 4 * usize::try_from(entries).unwrap();
        assert!(
            adaptive <= most,
            "{entries} entries: {adaptive} bytes for {lru}"
        );
    }
}

fn nothing_is_kept_of_what_left_without_eviction() {
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
