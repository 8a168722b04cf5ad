//! Damaged files with a correct checksum are refused as a whole or read, without a panic, and with little more memory
//! than their length and the memory that serde reserves for a sequence.

use hotset::__private::validate;
use hotset::{Loaded, LocalCache, SnapshotError};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::fs;
use xxhash_rust::xxh3::xxh3_64;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

type Cache = LocalCache<u64, Vec<String>>;

/// The largest number of bytes that serde reserves for a sequence, whatever its encoded length is.
const MAX_RESERVED_BYTES: usize = 1 << 20;
/// The number of bytes before the frames.
const HEADER_BYTES: usize = 20;
/// The number of bytes behind the end mark: the number of entries and the checksum.
const FOOTER_BYTES: usize = 16;

#[test]
fn wrong_length_in_a_file_allocates_little_memory() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snapshot");
    let cache = Cache::new(100);
    for key in 0..50 {
        let value = vec!["word".to_string(); usize::try_from(key).unwrap()];
        cache.insert_loaded(key, Loaded::new(value).tags(["a", "b"]));
    }
    cache.snapshot(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    let mut random = SmallRng::seed_from_u64(5);
    let before = dhat::HeapStats::get().max_bytes;
    let (mut read, mut truncated, mut unreadable) = (0, 0, 0);
    for _ in 0..1_000 {
        let mut damaged = whole.clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(HEADER_BYTES..damaged.len() - FOOTER_BYTES);
            // Lengths in frames are varints or big-endian numbers: a run of high bits makes a huge one.
            let run = random
                .random_range(1..10)
                .min(damaged.len() - FOOTER_BYTES - at);
            let byte = [0xFF, 0, 0x80, random.random()][random.random_range(0..4)];
            damaged[at..at + run].fill(byte);
        }
        damaged.truncate(damaged.len() - 8);
        let checksum = xxh3_64(&damaged);
        damaged.extend_from_slice(&checksum.to_le_bytes());
        fs::write(&path, &damaged).unwrap();
        let cache = Cache::new(100);
        match cache.restore(&path) {
            Ok(report) => {
                let all = report.restored + report.expired + report.superseded + report.did_not_fit;
                assert_eq!(all, 50);
                read += 1;
            }
            Err(error) => {
                assert_eq!(cache.stats().inserts, 0);
                truncated += u32::from(matches!(error, SnapshotError::Truncated));
                unreadable += u32::from(matches!(error, SnapshotError::Unreadable(_)));
            }
        }
        validate(&cache);
    }
    assert!(
        read > 10 && truncated > 10 && unreadable > 10,
        "{read} read, {truncated} truncated, {unreadable} unreadable"
    );
    let grown = dhat::HeapStats::get().max_bytes - before;
    assert!(
        grown < 2 * MAX_RESERVED_BYTES + 16 * whole.len(),
        "{grown} bytes"
    );
}
