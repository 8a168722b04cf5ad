//! The methods of `LocalCache` on their normal paths.

use hotset::__private::validate;
use hotset::{BuildError, Equivalent, Loaded, LocalCache, ManualClock, RemovalCause};
use std::cell::Cell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::{Arc, Mutex};
use std::time::Duration;

type Cache = LocalCache<u32, u32>;

#[test]
fn inserted_value_is_found_until_it_is_removed() {
    let cache = Cache::new(10);
    assert_eq!(cache.get(&1), None);
    cache.insert(1, 10);
    cache.insert(1, 11);
    assert_eq!(cache.get(&1), Some(11));
    assert_eq!(cache.get_with(&1, |value| value * 2), Some(22));
    assert!(cache.contains_key(&1) && !cache.contains_key(&2));
    assert_eq!(
        (cache.len(), cache.weight(), cache.is_empty()),
        (1, 1, false)
    );
    assert_eq!(cache.remove(&1), Some(11));
    assert_eq!(cache.remove(&1), None);
    assert!(cache.is_empty());
    validate(&cache);
}

#[test]
fn clone_of_a_cache_has_the_same_entries() {
    let cache = Cache::new(10);
    cache.clone().insert(1, 10);
    assert_eq!(cache.get(&1), Some(10));
}

#[test]
fn full_cache_evicts_the_least_recently_used_entry() {
    let cache = Cache::builder().capacity(3).shards(1).build().unwrap();
    (1..=3).for_each(|key| cache.insert(key, key));
    assert_eq!(cache.get(&1), Some(1));
    cache.insert(4, 4);
    assert_eq!(cache.get(&2), None);
    // `contains_key` does not count as a use.
    assert!(cache.contains_key(&3));
    cache.insert(5, 5);
    assert!(!cache.contains_key(&3));
    assert_eq!(cache.hottest(9), [(5, 5), (4, 4), (1, 1)]);
}

#[test]
fn iter_lists_each_live_entry_once() {
    let clock = ManualClock::new();
    let cache = Cache::builder()
        .capacity(1_000)
        .shards(8)
        .clock(clock.clone())
        .build()
        .unwrap();
    (0..500).for_each(|key| cache.insert(key, key + 1));
    cache.insert_with_ttl(9_999, 0, Duration::from_secs(1));
    clock.advance(Duration::from_secs(1));
    assert_eq!(cache.iter().count(), 500);
    let entries: HashMap<u32, u32> = cache.iter().collect();
    assert!((0..500).all(|key| entries[&key] == key + 1));
    let mut keys: Vec<u32> = cache.keys().collect();
    keys.sort_unstable();
    assert!(keys.into_iter().eq(0..500));
    assert_eq!(cache.stats().hits, 0);
}

#[test]
fn iter_is_lazy_and_leaves_the_cache_usable() {
    let cache = Cache::builder().capacity(10_000).shards(2).build().unwrap();
    (0..10_000).for_each(|key| cache.insert(key, key));
    let mut entries = cache.iter();
    assert!(entries.next().is_some());
    // No lock is held between two calls of `next`, and entries that are removed meanwhile are not listed.
    cache.clear();
    cache.insert(10_000, 0);
    assert!(entries.count() < 2_000);
    // An iteration that has ended lists nothing more.
    let mut entries = cache.iter();
    assert_eq!(entries.by_ref().count(), 1);
    assert_eq!(entries.next(), None);
}

#[test]
fn iter_lists_unchanged_entries_while_others_are_stored() {
    let cache = Cache::builder()
        .capacity(100_000)
        .shards(4)
        .build()
        .unwrap();
    (0..5_000).for_each(|key| cache.insert(key, key));
    let mut listed = vec![0; 5_000];
    for (at, (key, _)) in (0..).zip(cache.iter()) {
        // This makes shards grow.
        cache.insert(10_000 + at, at);
        if let Some(count) = listed.get_mut(key as usize) {
            *count += 1;
        }
    }
    assert!(listed.iter().all(|&count| count == 1));
}

#[test]
fn hottest_entries_of_all_shards_are_listed_first() {
    let cache = Cache::builder().capacity(400).shards(4).build().unwrap();
    (0..400).for_each(|key| cache.insert(key, 0));
    for key in 100..140 {
        cache.get(&key);
    }
    let first = cache.hottest(60);
    assert_eq!(first.len(), 60);
    let hot = first
        .iter()
        .filter(|(key, _)| (100..140).contains(key))
        .count();
    assert!(hot >= 30, "{hot} of 40 hot keys are among the first 60");
}

#[test]
fn key_is_found_by_an_equivalent_value() {
    #[derive(Hash)]
    struct Path<'a>(&'a str, u32);
    impl Equivalent<(String, u32)> for Path<'_> {
        fn equivalent(&self, key: &(String, u32)) -> bool {
            self.0 == key.0 && self.1 == key.1
        }
    }
    let pages: LocalCache<(String, u32), &str> = LocalCache::new(10);
    pages.insert(("home".to_string(), 1), "first");
    assert_eq!(pages.get(&Path("home", 1)), Some("first"));
    assert_eq!(pages.remaining_ttl(&Path("home", 1)), Some(Duration::MAX));
    assert_eq!(pages.remove(&Path("home", 2)), None);
    assert_eq!(pages.remove(&Path("home", 1)), Some("first"));
    let names: LocalCache<String, u32> = LocalCache::new(10);
    names.insert("ada".to_string(), 36);
    assert_eq!(names.get("ada"), Some(36));
}

#[test]
fn update_replaces_inserts_and_removes_a_value() {
    let cache = Cache::new(10);
    assert_eq!(cache.update(&1, |value| value.map(|v| v + 1)), None);
    assert_eq!(
        cache.update(&1, |value| Some(value.map_or(7, |v| v + 1))),
        Some(7)
    );
    assert_eq!(
        cache.update(&1, |value| Some(value.map_or(7, |v| v + 1))),
        Some(8)
    );
    assert_eq!(cache.get(&1), Some(8));
    assert_eq!(cache.update(&1, |_| None), None);
    assert_eq!(cache.get(&1), None);
    validate(&cache);
}

#[test]
fn retain_removes_entries_for_which_the_closure_returns_false() {
    let cache = Cache::new(100);
    (0..100).for_each(|key| cache.insert(key, key % 10));
    cache.retain(|key, value| key % 2 == 0 && *value < 5);
    assert_eq!(cache.len(), 30);
    assert!(cache.iter().all(|(key, value)| key % 2 == 0 && value < 5));
    assert_eq!(cache.stats().removed, 70);
    validate(&cache);
}

#[test]
fn listener_is_called_for_each_removal_with_its_cause() {
    let notified = Arc::new(Mutex::new(Vec::new()));
    let clock = ManualClock::new();
    let listener = {
        let notified = notified.clone();
        move |key, value, cause| notified.lock().unwrap().push((key, value, cause))
    };
    let cache = Cache::builder()
        .capacity(2)
        .shards(1)
        .clock(clock.clone())
        .on_removal(listener)
        .build()
        .unwrap();
    let take_notified = || {
        let mut notified = std::mem::take(&mut *notified.lock().unwrap());
        notified.sort_unstable_by_key(|&(key, ..)| key);
        notified
    };

    cache.insert(1, 10);
    cache.insert(1, 11);
    assert_eq!(take_notified(), [(1, 10, RemovalCause::Replaced)]);
    cache.remove(&1);
    assert_eq!(take_notified(), [(1, 11, RemovalCause::Removed)]);
    (2..=4).for_each(|key| cache.insert(key, 0));
    assert_eq!(take_notified(), [(2, 0, RemovalCause::Evicted)]);
    cache.clear();
    assert_eq!(
        take_notified(),
        [(3, 0, RemovalCause::Cleared), (4, 0, RemovalCause::Cleared)]
    );
    cache.insert_with_ttl(5, 50, Duration::from_secs(1));
    clock.advance(Duration::from_secs(1));
    assert_eq!(cache.remove(&5), None);
    assert_eq!(take_notified(), [(5, 50, RemovalCause::Expired)]);
    cache.get_or_load(&6, |_| Ok::<_, Infallible>(60)).unwrap();
    cache.update(&6, |_| None);
    assert_eq!(take_notified(), [(6, 60, RemovalCause::Removed)]);
    let stats = cache.stats();
    let removals = [
        stats.replaced,
        stats.removed,
        stats.expired,
        stats.evicted,
        stats.cleared,
    ];
    assert_eq!((removals, stats.inserts), ([1, 2, 1, 1, 2], 7));
}

#[test]
fn panicking_listener_is_called_for_all_entries_before_its_panic_continues() {
    let notified = Arc::new(Mutex::new(0));
    let listener = {
        let notified = notified.clone();
        move |_, _, _| {
            *notified
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner) += 1;
            std::panic::resume_unwind(Box::new("listener"));
        }
    };
    let cache = Cache::builder()
        .capacity(50)
        .shards(1)
        .on_removal(listener)
        .build()
        .unwrap();
    (0..50).for_each(|key| cache.insert(key, key));
    let cleared = std::panic::catch_unwind(|| cache.clear());
    assert_eq!(cleared.unwrap_err().downcast_ref(), Some(&"listener"));
    assert_eq!(*notified.lock().unwrap(), 50);
    assert!(cache.is_empty());
    validate(&cache);
}

#[test]
fn stats_count_each_kind_of_event() {
    let cache = Cache::builder()
        .capacity(10)
        .name("answers")
        .build()
        .unwrap();
    cache.insert(1, 1);
    cache.get(&1);
    cache.get(&2);
    cache.get_or_load(&1, |_| Ok::<_, Infallible>(0)).unwrap();
    cache.get_or_load(&3, |_| Ok::<_, Infallible>(0)).unwrap();
    cache.get_or_load(&4, |_| Err::<u32, _>("no")).unwrap_err();
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses), (2, 3));
    assert_eq!(
        (stats.loads, stats.load_failures, stats.coalesced),
        (2, 1, 0)
    );
    assert_eq!((stats.inserts, stats.entries, stats.weight), (2, 2, 2));
    assert_eq!(stats.load_times.count(), 2);
    assert!((stats.hit_ratio() - 0.4).abs() < 1e-9);
    assert!(
        stats
            .to_string()
            .starts_with("2 hits, 3 misses (40.0%), 2 loads")
    );
    assert_eq!(
        format!("{cache:?}"),
        r#"LocalCache { name: Some("answers"), capacity: Some(10), len: 2, .. }"#
    );
}

#[test]
fn invalid_setting_is_an_error_that_suggests_a_fix() {
    let builder = Cache::builder;
    let zero = Duration::ZERO;
    let refused = [
        (builder(), BuildError::NoBound, "call capacity(entries)"),
        (
            builder().capacity(1).unbounded(),
            BuildError::SeveralBounds,
            "keep one of",
        ),
        (
            builder().max_weight(1),
            BuildError::NoWeigher,
            "add weigher(",
        ),
        (
            builder().capacity(1).weigher(|_, _| 1),
            BuildError::WeigherWithoutBound,
            "add max_weight(weight)",
        ),
        (
            builder().capacity(1).shards(0),
            BuildError::Shards(0),
            "use 1 or more",
        ),
        (
            builder().capacity(1).shards(1 << 20),
            BuildError::Shards(1 << 20),
            "use at most 65536",
        ),
        (
            builder().capacity(1).time_to_live(zero),
            BuildError::ZeroDuration("time_to_live"),
            "time_to_live is zero",
        ),
        (
            builder().capacity(1).time_to_idle(zero),
            BuildError::ZeroDuration("time_to_idle"),
            "time_to_idle is zero",
        ),
        (
            builder().capacity(1).lease(zero),
            BuildError::ZeroDuration("lease"),
            "lease is zero",
        ),
        (
            builder().capacity(1).wait_timeout(zero),
            BuildError::ZeroDuration("wait_timeout"),
            "wait_timeout is zero",
        ),
    ];
    for (builder, expected, advice) in refused {
        let error = builder.build().unwrap_err();
        assert_eq!(error, expected);
        assert!(error.to_string().contains(advice), "{error}");
    }
}

/// A hasher that maps integers to themselves, like some fast hashers.
#[derive(Clone, Copy, Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("only integers are hashed")
    }
    fn write_u32(&mut self, n: u32) {
        self.0 = n.into();
    }
}

impl BuildHasher for Identity {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        Self(0)
    }
}

#[test]
fn cache_works_with_any_hasher() {
    fn works<S: BuildHasher>(hasher: S) {
        let cache = Cache::builder()
            .capacity(1_000)
            .shards(8)
            .hasher(hasher)
            .build()
            .unwrap();
        (0..5_000).for_each(|key| cache.insert(key, key));
        assert_eq!(cache.len(), 1_000);
        let recent = (4_000..5_000)
            .filter(|key| cache.get(key) == Some(*key))
            .count();
        // Each shard has its own order, and the spread of consecutive keys depends on the seed.
        assert!(recent > 800, "{recent} of the last 1,000 are there");
        validate(&cache);
    }
    works(RandomState::new());
    works(Identity::default());
    works(hotset::DefaultHasher::default());
}

#[test]
fn loaded_is_converted_from_a_plain_value() {
    let loaded: Loaded<u32> = 5.into();
    assert_eq!(loaded, Loaded::new(5));
    assert_eq!(Loaded::new(5).ttl(Duration::MAX).weight(3).into_value(), 5);
}

#[test]
fn capacity_beyond_all_memory_builds_a_working_cache() {
    let cache = Cache::new(usize::MAX);
    (0..1_000).for_each(|key| cache.insert(key, key));
    assert_eq!(
        (cache.len(), cache.capacity()),
        (1_000, Some(usize::MAX as u64))
    );
    validate(&cache);
}

#[test]
fn get_many_returns_values_in_order_in_small_and_large_caches() {
    // A cache of this size is larger than the processor's caches, so that entries are prefetched.
    for entries in [10_u32, 100_000] {
        let cache = LocalCache::<u32, u32>::new(200_000);
        for key in 0..entries {
            cache.insert(key, key + 1);
        }
        cache.insert_with_ttl(0, 0, Duration::ZERO);
        for count in [0, 1, 2, 15, 16, 17, 33, 100] {
            // Some keys are absent, some occur twice.
            let keys: Vec<u32> = (0..count).map(|key| key * 7_919 % (entries + 9)).collect();
            let expected = keys
                .iter()
                .map(|&key| (1..entries).contains(&key).then_some(key + 1));
            let before = cache.stats();
            assert_eq!(cache.get_many(&keys), expected.clone().collect::<Vec<_>>());
            let stats = cache.stats();
            let hits = expected.flatten().count() as u64;
            assert_eq!(stats.hits - before.hits, hits);
            assert_eq!(stats.misses - before.misses, u64::from(count) - hits);
        }
    }
}

/// A hasher of `u32` keys that distinguishes only a few of them.
#[derive(Clone, Copy)]
struct PoorHasher {
    hashes: u64,
    hash: u64,
}

impl BuildHasher for PoorHasher {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        *self
    }
}

impl Hasher for PoorHasher {
    fn finish(&self) -> u64 {
        self.hash
    }

    fn write(&mut self, bytes: &[u8]) {
        let key = bytes
            .iter()
            .fold(0, |key, &byte| key << 8 | u64::from(byte));
        self.hash = key % self.hashes;
    }
}

#[test]
fn entries_with_few_distinct_hashes_are_found_evicted_and_removed() {
    for hashes in [1, 2, 40] {
        let hasher = PoorHasher { hashes, hash: 0 };
        let builder = LocalCache::builder().capacity(100).shards(1);
        let cache: LocalCache<u32, u32, _> = builder.hasher(hasher).build().unwrap();
        // The keys in LRU order, with their values.
        let mut model: Vec<(u32, u32)> = Vec::new();
        let mut state = 1_u32;
        for value in 0..5_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let key = (state >> 16) % 150;
            let found = model.iter().position(|&(other, _)| other == key);
            let old = found.map(|at| model.remove(at));
            match state >> 30 {
                0 => assert_eq!(cache.remove(&key), old.map(|(_, value)| value)),
                1 => {
                    assert_eq!(cache.get(&key), old.map(|(_, value)| value));
                    model.extend(old);
                }
                _ => {
                    cache.insert(key, value);
                    model.push((key, value));
                    if model.len() > 100 {
                        model.remove(0);
                    }
                }
            }
            assert_eq!(cache.len(), model.len());
        }
        validate(&cache);
        for (key, value) in model {
            assert_eq!(cache.peek(&key), Some(value));
        }
    }
}

/// A key that counts its comparisons with others.
#[derive(Clone, Debug)]
struct Counted(u64);

thread_local! {
    static COMPARISONS: Cell<u64> = const { Cell::new(0) };
}

impl PartialEq for Counted {
    fn eq(&self, other: &Self) -> bool {
        COMPARISONS.set(COMPARISONS.get() + 1);
        self.0 == other.0
    }
}

impl Eq for Counted {}

impl Hash for Counted {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.0.hash(hasher);
    }
}

/// A hasher of integers that multiplies them by a number, as some fast hashers do.
#[derive(Clone, Copy)]
struct Multiplied {
    multiplier: u64,
    hash: u64,
}

impl BuildHasher for Multiplied {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        *self
    }
}

impl Hasher for Multiplied {
    fn finish(&self) -> u64 {
        self.hash
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are integers");
    }

    fn write_u64(&mut self, key: u64) {
        self.hash = key.wrapping_mul(self.multiplier);
    }
}

#[test]
fn hit_compares_few_keys_with_simple_hashers_of_integers() {
    const KEYS: u64 = 3_000;
    for multiplier in [1, 0x517c_c1b7_2722_0a95] {
        for shift in [0, 3, 16, 32, 40] {
            for shards in [1, 64] {
                let hash = 0;
                let builder = LocalCache::builder().capacity(10_000).shards(shards);
                let builder = builder.hasher(Multiplied { multiplier, hash });
                let cache: LocalCache<Counted, u64, _> = builder.build().unwrap();
                (0..KEYS).for_each(|key| cache.insert(Counted(key << shift), key));
                COMPARISONS.set(0);
                for key in 0..KEYS {
                    assert_eq!(cache.get(&Counted(key << shift)), Some(key));
                }
                let comparisons = COMPARISONS.get();
                assert!(
                    comparisons < KEYS * 3 / 2,
                    "{comparisons} for {multiplier}, {shift}, {shards}"
                );
            }
        }
    }
}
