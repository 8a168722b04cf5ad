//! The estimate of `LocalCache::memory_usage`, compared with what the allocator counts.

use dhat::{Alloc, HeapStats, Profiler};
use hotset::{Loaded, LocalCache, LocalCacheBuilder, Policy};
use std::convert::Infallible;
use std::ops::Range;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: Alloc = Alloc;

type Cache = LocalCache<u64, [u64; 3]>;
type Builder = LocalCacheBuilder<u64, [u64; 3]>;

const POLICIES: [Policy; 4] = [Policy::Lru, Policy::S3Fifo, Policy::Car, Policy::Adaptive];
const ENTRIES: u64 = 10_000;
const HOUR: Duration = Duration::from_secs(3_600);

/// The description of an estimate that differs from what the allocator counts.
type Wrong = String;

/// The greatest difference between the estimate and what the allocator counts, in bytes.
const MAX_ERROR: usize = 256;

/// Settings with which a cache allocates memory of different kinds.
struct Setup {
    name: &'static str,
    apply: fn(Builder) -> Builder,
    tags: fn(u64) -> Vec<String>,
}

const SETUPS: [Setup; 6] = [
    Setup {
        name: "bounded",
        apply: bounded,
        tags: no_tags,
    },
    Setup {
        name: "unbounded",
        apply: Builder::unbounded,
        tags: no_tags,
    },
    Setup {
        name: "time to live",
        apply: |builder| bounded(builder).time_to_live(HOUR).name("prices"),
        tags: no_tags,
    },
    Setup {
        name: "time to idle, refreshes, ages, permits",
        apply: |builder| {
            let refreshed = bounded(builder).refresh_after(Duration::from_secs(60));
            let tracked = refreshed.time_to_idle(HOUR).track_ages(true);
            tracked.max_concurrent_loads(4)
        },
        tags: no_tags,
    },
    Setup {
        name: "weights",
        apply: |builder| builder.max_weight(ENTRIES).weigher(|_, _| 1),
        tags: no_tags,
    },
    Setup {
        name: "tags",
        apply: bounded,
        tags: some_tags,
    },
];

fn bounded(builder: Builder) -> Builder {
    builder.capacity(usize::try_from(ENTRIES).unwrap())
}

fn no_tags(_: u64) -> Vec<String> {
    Vec::new()
}

/// Returns a tag that many entries share, and for some entries also a tag of their own.
fn some_tags(key: u64) -> Vec<String> {
    let shared = (key % 4 != 0).then(|| format!("shared {}", key % 100));
    let own = (key % 3 == 0).then(|| format!("tag of {key}"));
    shared.into_iter().chain(own).collect()
}

/// A cache, and the number of bytes that were allocated before it was built.
struct Measured {
    cache: Cache,
    tags: fn(u64) -> Vec<String>,
    before: usize,
    about: String,
}

impl Measured {
    fn new(setup: &Setup, policy: Policy, shards: usize) -> Self {
        let about = format!("{policy:?}, {}", setup.name);
        let before = HeapStats::get().curr_bytes;
        let builder = LocalCache::builder().policy(policy).shards(shards);
        Self {
            cache: (setup.apply)(builder).build().unwrap(),
            tags: setup.tags,
            before,
            about,
        }
    }

    /// Returns the estimate, if it is what the allocator counts.
    fn check(&self, state: &str) -> Result<usize, Wrong> {
        let estimate = self.cache.memory_usage();
        let counted = HeapStats::get().curr_bytes - self.before;
        if estimate.abs_diff(counted) > MAX_ERROR {
            let about = &self.about;
            return Err(format!(
                "{about}, {state}: {estimate} estimated, {counted} counted"
            ));
        }
        Ok(estimate)
    }

    /// Inserts keys, and hits some of them. Checks the estimate on the way, because tables are growing then.
    fn insert(&self, keys: Range<u64>, state: &str) -> Result<usize, Wrong> {
        for key in keys {
            let loaded = Loaded::new([key; 3]).tags((self.tags)(key));
            self.cache.insert_loaded(key, loaded);
            self.cache.get(&(key / 2));
            if key % 500 == 0 {
                self.check(state)?;
            }
        }
        self.check(state)
    }
}

/// Loads `count` keys, each within the load of the one before. Returns what `innermost` returns, which is called while
/// all loads are in flight.
fn load_nested<T>(cache: &Cache, count: u64, innermost: &dyn Fn() -> T) -> T {
    if count == 0 {
        return innermost();
    }
    let mut result = None;
    let load = |_: &u64| {
        result = Some(load_nested(cache, count - 1, innermost));
        Ok::<_, Infallible>([0; 3])
    };
    cache.get_or_load(&(u64::MAX - count), load).unwrap();
    result.unwrap()
}

fn estimate_is_what_the_allocator_counts(setup: &Setup, policy: Policy) -> Result<(), Wrong> {
    let measured = Measured::new(setup, policy, 8);
    let cache = &measured.cache;
    let empty = measured.check("empty")?;
    measured.insert(0..ENTRIES / 2, "half full")?;
    let full = measured.insert(ENTRIES / 2..ENTRIES, "full")?;
    assert!(full > empty + cache.len() * 40);
    let churned = measured.insert(ENTRIES..ENTRIES * 3, "after evictions")?;
    let during = load_nested(cache, 100, &|| measured.check("during loads"))?;
    assert!(during > churned + 100 * 64);
    measured.check("after loads")?;
    cache.invalidate_tag("shared 1");
    cache.retain(|key, _| key % 8 == 0);
    let sparse = measured.check("after a mass removal")?;
    cache.shrink_to_fit();
    assert!(measured.check("shrunk")? < sparse);
    cache.clear();
    measured.check("cleared")?;
    Ok(())
}

/// Fills a shard that is so large that its index gets a spare table before it grows.
fn estimate_includes_spare_tables() -> Result<(), Wrong> {
    let measured = Measured::new(&SETUPS[1], Policy::Lru, 1);
    measured.insert(0..240_000, "large shard")?;
    Ok(())
}

/// Runs a check again if it fails, because the main thread of the test harness may have allocated memory meanwhile. It
/// does so right after it has started the test.
fn assert_right(check: impl Fn() -> Result<(), Wrong>) {
    if let Err(first) = check() {
        check().unwrap_or_else(|again| panic!("{first}; {again}"));
    }
}

/// All checks are one test, because the allocator counts the memory of the whole process.
#[test]
fn estimate_differs_from_the_memory_that_the_allocator_counts_by_little() {
    let _profiler = Profiler::builder().testing().build();
    // The first loads of a thread allocate memory that belongs to the thread.
    load_nested(
        &Measured::new(&SETUPS[3], Policy::Lru, 1).cache,
        100,
        &|| (),
    );
    for setup in &SETUPS {
        for policy in POLICIES {
            assert_right(|| estimate_is_what_the_allocator_counts(setup, policy));
        }
    }
    assert_right(estimate_includes_spare_tables);
}
