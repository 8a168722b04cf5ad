//! A snapshot restores the entries of the previous run, or is refused as a whole.

use hotset::__private::validate;
use hotset::{
    Loaded, LocalCache, LocalCacheBuilder, ManualClock, Policy, RemovalCause, RestoreReport,
    Schema, SnapshotError,
};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand_distr::{Distribution, Zipf};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashSet;
use std::convert::Infallible;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_64;

type Cache = LocalCache<u64, u64>;

const POLICIES: [Policy; 4] = [Policy::Lru, Policy::S3Fifo, Policy::Car, Policy::Adaptive];
const SECOND: Duration = Duration::from_secs(1);

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("snapshot")
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
        entries.map(|entry| name(entry.unwrap())).collect()
    }
}

fn cache_of(entries: impl IntoIterator<Item = u64>) -> Cache {
    let cache = Cache::new(1_000);
    for key in entries {
        cache.insert(key, key * 10);
    }
    cache
}

fn build<V>(builder: LocalCacheBuilder<u64, V>) -> LocalCache<u64, V> {
    builder.build().unwrap()
}

fn keys<V: Clone>(cache: &LocalCache<u64, V>) -> Vec<u64> {
    let entries = cache.hottest(usize::MAX);
    entries.into_iter().map(|(key, _)| key).collect()
}

/// Makes a file older by `millis` milliseconds.
fn age(path: &Path, millis: i64) {
    let mut bytes = fs::read(path).unwrap();
    let written_at = i64::from_le_bytes(bytes[12..20].try_into().unwrap());
    bytes[12..20].copy_from_slice(&(written_at - millis).to_le_bytes());
    reseal(path, bytes);
}

fn reseal(path: &Path, mut bytes: Vec<u8>) {
    bytes.truncate(bytes.len() - 8);
    let checksum = xxh3_64(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    fs::write(path, bytes).unwrap();
}

/// Restores a file that must be refused. Returns the error.
fn refused(path: &Path) -> SnapshotError {
    let cache = cache_of([]);
    let error = cache.restore(path).unwrap_err();
    assert_eq!((cache.len(), cache.stats().inserts), (0, 0));
    validate(&cache);
    assert!(!error.to_string().is_empty());
    error
}

#[test]
fn restored_cache_has_the_entries_of_the_snapshot() {
    let folder = Folder::new();
    let cache = cache_of(0..500);
    let written = cache.snapshot(folder.path()).unwrap();
    assert_eq!(written.entries, 500);
    assert_eq!(written.bytes, fs::metadata(folder.path()).unwrap().len());
    assert_eq!(folder.names(), ["snapshot"]);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(folder.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let restored = cache_of([]);
    let report = restored.restore(folder.path()).unwrap();
    assert_eq!((report.restored, report.bytes), (500, written.bytes));
    assert_eq!(restored.len(), 500);
    assert!((0..500).all(|key| restored.get(&key) == Some(key * 10)));
    validate(&restored);
    // An empty snapshot is valid, and replaces the file.
    assert_eq!(cache_of([]).snapshot(folder.path()).unwrap().entries, 0);
    assert_eq!(cache_of([]).restore(folder.path()).unwrap().restored, 0);
}

#[test]
fn truncated_file_is_refused_as_truncated() {
    let folder = Folder::new();
    cache_of(0..3).snapshot(folder.path()).unwrap();
    let bytes = fs::read(folder.path()).unwrap();
    for len in 0..bytes.len() {
        fs::write(folder.path(), &bytes[..len]).unwrap();
        let error = refused(&folder.path());
        assert!(
            matches!(error, SnapshotError::Truncated),
            "{len}: {error:?}"
        );
    }
}

#[test]
fn file_with_any_flipped_bit_is_refused() {
    let folder = Folder::new();
    cache_of(0..3).snapshot(folder.path()).unwrap();
    let bytes = fs::read(folder.path()).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        fs::write(folder.path(), damaged).unwrap();
        let error = refused(&folder.path());
        let is_expected = match bit / 8 {
            0..8 => matches!(error, SnapshotError::NotASnapshot),
            8..12 => matches!(error, SnapshotError::Version(version) if version != 3),
            // The damaged byte may belong to a length, which then points anywhere.
            _ => matches!(
                error,
                SnapshotError::Damaged | SnapshotError::Truncated | SnapshotError::TrailingBytes
            ),
        };
        assert!(is_expected, "bit {bit}: {error:?}");
    }
}

#[test]
fn file_of_another_kind_or_schema_is_refused() {
    let folder = Folder::new();
    let path = folder.path();
    assert!(matches!(refused(&path), SnapshotError::NotFound));
    assert!(matches!(refused(folder.0.path()), SnapshotError::Io(_)));
    // This file has no end.
    #[cfg(unix)]
    assert!(matches!(
        refused(Path::new("/dev/zero")),
        SnapshotError::Io(_)
    ));
    fs::write(&path, "key,value\n1,10\n").unwrap();
    assert!(matches!(refused(&path), SnapshotError::NotASnapshot));
    cache_of(0..3).snapshot(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, [&bytes[..], b"\n"].concat()).unwrap();
    assert!(matches!(refused(&path), SnapshotError::TrailingBytes));

    fs::write(&path, &bytes).unwrap();
    let error = LocalCache::<u64, u32>::new(9).restore(&path).unwrap_err();
    assert!(matches!(error, SnapshotError::ValueSchema { found, wanted }
        if found == "u64" && wanted == "u32"));
    let error = LocalCache::<i64, u64>::new(9).restore(&path).unwrap_err();
    assert!(matches!(error, SnapshotError::KeySchema { found, wanted }
        if found == "u64" && wanted == "i64"));
}

/// A text with the schema of a number.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Text(String);

impl Schema for Text {
    fn schema() -> Cow<'static, str> {
        u64::schema()
    }
}

#[test]
fn unreadable_entry_or_wrong_length_refuses_the_whole_file() {
    let folder = Folder::new();
    cache_of([1, u64::MAX / 10])
        .snapshot(folder.path())
        .unwrap();
    let cache = LocalCache::<u64, Text>::new(9);
    let error = cache.restore(folder.path()).unwrap_err();
    assert!(matches!(error, SnapshotError::Unreadable(_)), "{error:?}");
    assert!(cache.is_empty());

    // The length of the first frame, and the number of entries, are as large as they can be.
    cache_of([1]).snapshot(folder.path()).unwrap();
    let bytes = fs::read(folder.path()).unwrap();
    let mut long = bytes.clone();
    long[20..24].copy_from_slice(&(u32::MAX - 1).to_le_bytes());
    reseal(&folder.path(), long);
    assert!(matches!(refused(&folder.path()), SnapshotError::Truncated));
    let mut many = bytes;
    let end = many.len() - 8;
    many[end - 8..end].copy_from_slice(&u64::MAX.to_le_bytes());
    reseal(&folder.path(), many);
    assert!(matches!(refused(&folder.path()), SnapshotError::Damaged));
}

#[test]
fn entry_that_decodes_to_another_one_is_left_out_and_counted() {
    #[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
    struct Partial {
        id: u64,
        #[serde(skip)]
        region: u64,
    }
    hotset::schema!(Partial, "partial/1");
    let folder = Folder::new();
    let cache: LocalCache<Partial, Option<Option<u64>>> = LocalCache::new(100);
    let key = |id, region| Partial { id, region };
    cache.insert(key(1, 0), Some(Some(1)));
    cache.insert(key(2, 0), None);
    // The value of the first entry would become `None`, and the key of the second that of region 0.
    cache.insert(key(3, 0), Some(None));
    cache.insert(key(1, 1), Some(Some(2)));
    let written = cache.snapshot(folder.path()).unwrap();
    assert_eq!((written.entries, written.altered), (2, 2));
    let restored: LocalCache<Partial, Option<Option<u64>>> = LocalCache::new(100);
    assert_eq!(restored.restore(folder.path()).unwrap().restored, 2);
    assert_eq!(restored.get(&key(1, 0)), Some(Some(Some(1))));
    assert_eq!(restored.get(&key(2, 0)), Some(None));
}

#[test]
fn restored_ttl_excludes_the_time_between_runs_and_never_grows() {
    let folder = Folder::new();
    let clock = ManualClock::new();
    clock.advance(SECOND * 1_000);
    let cache: Cache = build(LocalCache::builder().capacity(9).clock(clock.clone()));
    cache.insert(0, 0);
    for key in [10, 20, 30] {
        cache.insert_with_ttl(key, key, SECOND * u32::try_from(key).unwrap());
    }
    clock.advance(SECOND * 10);
    assert_eq!(cache.snapshot(folder.path()).unwrap().entries, 3);

    age(&folder.path(), 15_000);
    // The other cache has a clock of its own, which has just begun.
    let clock = ManualClock::new();
    let cache: Cache = build(LocalCache::builder().capacity(9).clock(clock.clone()));
    let report = cache.restore(folder.path()).unwrap();
    assert_eq!((report.restored, report.expired), (2, 1));
    assert_eq!(cache.remaining_ttl(&0), Some(Duration::MAX));
    let left = cache.remaining_ttl(&30).unwrap();
    assert!(left <= SECOND * 5 && left > SECOND * 3, "{left:?}");
    clock.advance(left);
    assert_eq!(keys(&cache), [0]);

    // The wall clock has been set back by an hour.
    age(&folder.path(), -3_600_000 - 15_000);
    let cache: Cache = build(LocalCache::builder().capacity(9).clock(clock));
    assert_eq!(cache.restore(folder.path()).unwrap().restored, 3);
    assert_eq!(cache.remaining_ttl(&30), Some(SECOND * 20));
}

#[test]
fn restored_ttl_is_cut_to_that_of_the_cache_since_the_time_of_writing() {
    let folder = Folder::new();
    let clock = ManualClock::new();
    let builder = LocalCache::builder().capacity(9).clock(clock.clone());
    let cache: Cache = build(builder.time_to_idle(SECOND * 1_000));
    cache.insert(1, 10);
    cache.insert_with_ttl(2, 20, SECOND * 500);
    cache.insert_with_ttl(3, 30, SECOND * 20);
    cache.snapshot(folder.path()).unwrap();
    age(&folder.path(), 10_000);
    let restored = |ttl: Duration, jitter: f64| -> Cache {
        let builder = LocalCache::builder().capacity(9).clock(clock.clone());
        let cache = build(builder.time_to_live(ttl).ttl_jitter(jitter));
        cache.restore(folder.path()).unwrap();
        cache
    };
    let cache = restored(SECOND * 100, 0.001);
    for (key, most) in [(1, 90), (2, 90), (3, 10)] {
        let left = cache.remaining_ttl(&key).unwrap();
        assert!(
            left <= SECOND * most && left > SECOND * (most - 2),
            "{left:?}"
        );
    }
    clock.advance(SECOND * 90);
    assert!(cache.iter().next().is_none());
    // Jitter is applied only to a time to live that the cache determines.
    let cache = restored(SECOND * 1_000, 0.5);
    assert!(cache.remaining_ttl(&1).unwrap() >= SECOND * 488);
    assert!(cache.remaining_ttl(&3).unwrap() > SECOND * 8);
    // An entry that is older than the time to live of the cache has expired. A maximum time to live limits nothing.
    assert!(restored(SECOND * 10, 0.001).is_empty());
    let cache = restored(Duration::MAX, 0.001);
    assert_eq!(cache.remaining_ttl(&1), Some(Duration::MAX));
}

#[test]
fn entry_whose_idle_time_has_passed_is_not_restored() {
    let folder = Folder::new();
    let clock = ManualClock::new();
    let idling = |clock: &ManualClock| -> Cache {
        let builder = LocalCache::builder().capacity(9).clock(clock.clone());
        build(builder.time_to_live(SECOND * 100).time_to_idle(SECOND * 10))
    };
    let cache = idling(&clock);
    cache.insert(1, 10);
    clock.advance(SECOND * 5);
    cache.insert(2, 20);
    cache.snapshot(folder.path()).unwrap();
    age(&folder.path(), 7_000);
    let clock = ManualClock::new();
    let cache = idling(&clock);
    let report = cache.restore(folder.path()).unwrap();
    assert_eq!((report.restored, report.expired), (1, 1));
    // A hit extends its life, but not past its remaining time to live.
    for _ in 0..12 {
        assert_eq!(cache.get(&2), Some(20));
        clock.advance(SECOND * 7);
    }
    clock.advance(SECOND * 9);
    assert_eq!(cache.get(&2), None);
}

#[test]
fn live_entries_are_restored_with_their_tags_and_weights() {
    let folder = Folder::new();
    let clock = ManualClock::new();
    let weighing = |max| {
        let builder = LocalCache::builder().max_weight(max).clock(clock.clone());
        build(builder.weigher(|_, &value: &u64| value))
    };
    let cache = weighing(1_000);
    cache.insert(1, 5);
    cache.insert_loaded(2, Loaded::new(5).weight(100).tags(["a", "b"]));
    cache.insert_loaded(3, Loaded::new(5).tags(["gone"]));
    cache.insert_with_ttl(4, 5, SECOND);
    cache.invalidate_tag("gone");
    clock.advance(SECOND);
    assert_eq!(cache.snapshot(folder.path()).unwrap().entries, 2);
    let restored = weighing(1_000);
    restored.restore(folder.path()).unwrap();
    assert_eq!(restored.weight(), 105);
    restored.invalidate_tag("b");
    assert_eq!(keys(&restored), [1]);
    // The lightest entry fits.
    let small = weighing(50);
    let report = small.restore(folder.path()).unwrap();
    assert_eq!((report.restored, report.did_not_fit), (1, 1));
    // The weigher determines the weight if the file has none.
    cache_of([1, 2]).snapshot(folder.path()).unwrap();
    let restored = weighing(1_000);
    restored.restore(folder.path()).unwrap();
    assert_eq!(restored.weight(), 30);
    validate(&restored);
}

#[test]
fn smaller_cache_restores_the_hottest_entries_and_evicts_them_last() {
    for policy in POLICIES {
        for shards in [1, 8] {
            let folder = Folder::new();
            let builder = LocalCache::builder().capacity(1_000).policy(policy);
            let cache: Cache = build(builder.shards(shards));
            for key in 0..2_000 {
                cache.insert(key, key * 10);
                for popular in (0..100).map(|nth| nth * 7) {
                    let _ = cache.get(&popular);
                }
            }
            let hottest = keys(&cache);
            cache.snapshot(folder.path()).unwrap();
            let builder = LocalCache::builder().capacity(300).policy(policy);
            let small: Cache = build(builder.shards(1));
            let report = small.restore(folder.path()).unwrap();
            let left = u64::try_from(hottest.len()).unwrap() - 300;
            assert_eq!((report.restored, report.did_not_fit), (300, left));
            assert_eq!(keys(&small), hottest[..300], "{policy:?}, {shards} shards");
            // New entries are inserted, and the coldest are evicted.
            for key in 0..200 {
                small.insert(1_000_000 + key, 0);
            }
            let kept = |keys: &[u64]| keys.iter().filter(|&key| small.contains_key(key)).count();
            let (hot, less_hot) = (kept(&hottest[..100]), kept(&hottest[100..200]));
            assert!(hot >= less_hot, "{policy:?}: {hot}, {less_hot}");
            // `Adaptive` looks at a few entries, so that chance decides as well.
            let least = if policy == Policy::Adaptive { 90 } else { 99 };
            assert!(hot >= least, "{policy:?}: {hot}");
            validate(&small);
        }
    }
}

#[test]
fn restore_evicts_no_live_entry() {
    let folder = Folder::new();
    cache_of(0..100).snapshot(folder.path()).unwrap();
    let cache = Cache::new(64);
    for key in (0..10).chain(1_000..1_020) {
        cache.insert(key, 1);
    }
    let report = cache.restore(folder.path()).unwrap();
    let RestoreReport {
        restored,
        superseded,
        did_not_fit,
        ..
    } = report;
    assert_eq!((restored, superseded, did_not_fit), (34, 10, 56));
    assert_eq!(cache.stats().evicted, 0);
    assert!(
        (0..10)
            .chain(1_000..1_020)
            .all(|key| cache.get(&key) == Some(1))
    );
    let report = cache.restore(folder.path()).unwrap();
    assert_eq!((report.restored, report.superseded), (0, 44));
    validate(&cache);
}

#[test]
fn restore_removes_expired_entries_and_calls_the_listener() {
    let folder = Folder::new();
    cache_of(0..50).snapshot(folder.path()).unwrap();
    // Expired entries that may be served stale stay until an entry of their key is restored.
    for (others, stale_if_error) in [(0, None), (1_000, None), (0, Some(SECOND * 100))] {
        let clock = ManualClock::new();
        let notified = Arc::new(Mutex::new(Vec::new()));
        let builder = LocalCache::builder().capacity(100).clock(clock.clone());
        let builder = builder.on_removal({
            let notified = Arc::clone(&notified);
            move |key, value, cause| notified.lock().unwrap().push((key, value, cause))
        });
        let builder = match stale_if_error {
            Some(age) => builder.stale_if_error(age),
            None => builder,
        };
        let cache: Cache = build(builder);
        let expired = if stale_if_error.is_some() { 50 } else { 100 };
        for key in others..others + expired {
            cache.insert_with_ttl(key, 7, SECOND);
        }
        clock.advance(SECOND * 2);
        let report = cache.restore(folder.path()).unwrap();
        assert_eq!((report.restored, cache.len()), (50, 50), "{report:?}");
        assert!((0..50).all(|key| cache.get(&key) == Some(key * 10)));
        let mut notified = notified.lock().unwrap().clone();
        notified.sort_unstable_by_key(|&(key, ..)| key);
        let expected = (others..others + expired).map(|key| (key, 7, RemovalCause::Expired));
        assert!(notified.into_iter().eq(expected));
        validate(&cache);
    }
}

#[test]
fn concurrent_restores_store_each_entry_once() {
    let folder = Folder::new();
    cache_of(0..1_000).snapshot(folder.path()).unwrap();
    let cache = cache_of([]);
    let restored: u64 = thread::scope(|scope| {
        let restore = || cache.restore(folder.path()).unwrap().restored;
        let restores: Vec<_> = (0..3).map(|_| scope.spawn(restore)).collect();
        restores.into_iter().map(|it| it.join().unwrap()).sum()
    });
    assert_eq!((restored, cache.len()), (1_000, 1_000));
    validate(&cache);
}

#[test]
fn empty_entries_and_maximum_weights_are_restored() {
    let folder = Folder::new();
    let cache: LocalCache<(), ()> = LocalCache::new(9);
    cache.insert((), ());
    cache.snapshot(folder.path()).unwrap();
    let cache: LocalCache<(), ()> = LocalCache::new(9);
    cache.restore(folder.path()).unwrap();
    assert_eq!(cache.get(&()), Some(()));
    let weighing = |max| -> Cache {
        let builder = LocalCache::builder().max_weight(max);
        build(builder.weigher(|_, _| u64::MAX / 16))
    };
    let cache = weighing(u64::MAX);
    (0..10).for_each(|key| cache.insert(key, key));
    cache.snapshot(folder.path()).unwrap();
    let cache = weighing(u64::MAX / 4);
    let report = cache.restore(folder.path()).unwrap();
    assert_eq!((report.restored, report.did_not_fit), (4, 6));
    validate(&cache);
}

thread_local! {
    /// The function that is run when a [`Hooked`] 7 is serialized or deserialized.
    static HOOK: RefCell<Option<Box<dyn FnMut()>>> = const { RefCell::new(None) };
}

/// A value that runs user code when it is serialized and deserialized.
#[derive(Clone, Debug, PartialEq)]
struct Hooked(u64);

fn run_hook() {
    if let Some(mut hook) = HOOK.take() {
        hook();
    }
}

fn with_hook(hook: impl FnMut() + 'static) {
    HOOK.set(Some(Box::new(hook)));
}

impl Serialize for Hooked {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 == 7 {
            run_hook();
        }
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Hooked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = u64::deserialize(deserializer)?;
        if value == 7 {
            run_hook();
        }
        Ok(Self(value))
    }
}

impl Schema for Hooked {
    fn schema() -> Cow<'static, str> {
        "hooked/1".into()
    }
}

/// Writes a snapshot of 0 to 9, with 9 the hottest. Returns an empty cache for `capacity` entries.
fn hooked(folder: &Folder, capacity: usize) -> LocalCache<u64, Hooked> {
    let cache = LocalCache::new(10);
    for key in 0..10 {
        let tag = if key < 5 { "low" } else { "high" };
        cache.insert_loaded(key, Loaded::new(Hooked(key)).tags([tag]));
    }
    cache.snapshot(folder.path()).unwrap();
    LocalCache::new(capacity)
}

#[test]
fn write_during_a_restore_prevails() {
    let folder = Folder::new();
    let cache = hooked(&folder, 100);
    with_hook({
        let cache = cache.clone();
        move || {
            cache.remove(&1);
            cache.insert(2, Hooked(20));
            cache.invalidate_tag("high");
            let load = |_: &u64| Ok::<_, Infallible>(Hooked(30));
            assert_eq!(cache.get_or_load(&3, load).unwrap(), Hooked(30));
        }
    });
    let report = cache.restore(folder.path()).unwrap();
    assert_eq!((report.restored, report.superseded), (2, 8));
    let mut entries: Vec<_> = cache.iter().map(|(key, value)| (key, value.0)).collect();
    entries.sort_unstable();
    assert_eq!(entries, [(0, 0), (2, 20), (3, 30), (4, 4)]);
    validate(&cache);

    // A `retain` cannot check entries that are not restored yet.
    let invalidations: [fn(&LocalCache<u64, Hooked>); 2] =
        [LocalCache::clear, |cache| cache.retain(|_, _| true)];
    for invalidate in invalidations {
        let cache = hooked(&folder, 100);
        with_hook({
            let cache = cache.clone();
            move || invalidate(&cache)
        });
        assert_eq!(cache.restore(folder.path()).unwrap().restored, 0);
        // A later restore is not affected.
        assert_eq!(cache.restore(folder.path()).unwrap().restored, 10);
        validate(&cache);
    }
}

#[test]
fn updated_entry_keeps_its_weight_after_a_restore_only_if_explicit() {
    let folder = Folder::new();
    let weighing = || {
        let builder = LocalCache::builder().max_weight(1_000);
        build(builder.weigher(|_, &value: &u64| value))
    };
    let cache = weighing();
    cache.insert_loaded(1, Loaded::new(5).weight(100));
    cache.insert(2, 5);
    cache.snapshot(folder.path()).unwrap();
    let restored = weighing();
    restored.restore(folder.path()).unwrap();
    assert_eq!(restored.weight(), 105);
    for key in [1, 2] {
        restored.update(&key, |_| Some(7));
    }
    assert_eq!(restored.weight(), 107);
    validate(&restored);
}

#[test]
fn panic_in_deserialize_leaves_the_cache_unchanged() {
    let folder = Folder::new();
    let cache = hooked(&folder, 100);
    cache.insert(1, Hooked(10));
    with_hook(|| panic!("in Deserialize"));
    let panicked = catch_unwind(AssertUnwindSafe(|| cache.restore(folder.path())));
    assert!(panicked.is_err());
    assert_eq!((cache.len(), cache.get(&1)), (1, Some(Hooked(10))));
    validate(&cache);
    assert_eq!(cache.restore(folder.path()).unwrap().restored, 9);
}

#[test]
fn panicking_listener_during_a_restore_leaves_a_valid_cache() {
    let folder = Folder::new();
    cache_of(0..50).snapshot(folder.path()).unwrap();
    let clock = ManualClock::new();
    let builder = LocalCache::builder().capacity(100).clock(clock.clone());
    let builder = builder.stale_if_error(SECOND * 100);
    let cache: Cache = build(builder.on_removal(|_, _, _| panic!("in the listener")));
    cache.insert_with_ttl(49, 7, SECOND);
    clock.advance(SECOND * 2);
    let panicked = catch_unwind(AssertUnwindSafe(|| cache.restore(folder.path())));
    assert!(panicked.is_err());
    validate(&cache);
    // The next call restores the rest.
    cache.restore(folder.path()).unwrap();
    assert_eq!(cache.len(), 50);
    validate(&cache);
}

#[test]
fn coldest_entries_are_left_out_if_other_writes_take_the_room() {
    let folder = Folder::new();
    let cache = hooked(&folder, 10);
    with_hook({
        let cache = cache.clone();
        move || (100..104).for_each(|key| cache.insert(key, Hooked(0)))
    });
    let report = cache.restore(folder.path()).unwrap();
    assert_eq!((report.restored, report.did_not_fit), (6, 4));
    assert_eq!(cache.stats().evicted, 0);
    assert!((4..10).chain(100..104).all(|key| cache.contains_key(&key)));
}

#[test]
fn load_in_flight_during_a_restore_is_stored() {
    let folder = Folder::new();
    cache_of(0..10).snapshot(folder.path()).unwrap();
    let cache = cache_of([]);
    let (began, begun) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    thread::scope(|scope| {
        // Dropped if an assertion fails, so that the loader does not wait without limit.
        let (cache, go_on) = (&cache, go_on);
        let loader = scope.spawn(move || {
            let load = |_: &u64| {
                began.send(()).unwrap();
                may_go_on.recv().unwrap();
                Ok::<_, Infallible>(1)
            };
            cache.get_or_load(&5, load).unwrap()
        });
        begun.recv().unwrap();
        let report = cache.restore(folder.path()).unwrap();
        assert_eq!((report.restored, report.superseded), (9, 1));
        go_on.send(()).unwrap();
        assert_eq!(loader.join().unwrap(), 1);
    });
    assert_eq!(cache.get(&5), Some(1));
    validate(&cache);
}

#[test]
fn failed_snapshot_leaves_the_previous_file_and_no_other() {
    let folder = Folder::new();
    let cache = hooked(&folder, 10);
    let before = fs::read(folder.path()).unwrap();
    cache.insert(7, Hooked(7));
    with_hook(|| panic!("in Serialize"));
    let panicked = catch_unwind(AssertUnwindSafe(|| cache.snapshot(folder.path())));
    assert!(panicked.is_err());
    assert_eq!(fs::read(folder.path()).unwrap(), before);
    assert_eq!(folder.names(), ["snapshot"]);
    // A temporary file of a crash has no effect.
    fs::write(
        folder.0.path().join(".snapshot.0123456789abcdef.tmp"),
        "half",
    )
    .unwrap();
    assert_eq!(cache.snapshot(folder.path()).unwrap().entries, 1);
    assert_eq!(cache.restore(folder.path()).unwrap().superseded, 1);
    // There is a folder at the path, or the parent folder is missing.
    let folder = Folder::new();
    fs::create_dir(folder.path()).unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    for path in [folder.path(), folder.path().join("none/file"), "..".into()] {
        let error = cache.snapshot(path).unwrap_err();
        assert!(matches!(error, SnapshotError::Io(_)));
    }
    assert_eq!(folder.names(), ["snapshot"]);
}

#[cfg(unix)]
#[test]
fn folder_that_cannot_be_synced_is_not_written_to() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let allow = |mode| fs::set_permissions(folder.0.path(), fs::Permissions::from_mode(mode));
    allow(0o300).unwrap();
    let written = cache_of(0..3).snapshot(folder.path());
    allow(0o700).unwrap();
    // The superuser may write everywhere.
    assert_eq!(folder.names().len(), usize::from(written.is_ok()));
}

#[cfg(unix)]
#[test]
fn symbolic_link_is_replaced_and_its_target_is_unchanged() {
    let folder = Folder::new();
    let other = folder.0.path().join("other");
    fs::write(&other, "as it was").unwrap();
    std::os::unix::fs::symlink(&other, folder.path()).unwrap();
    cache_of(0..3).snapshot(folder.path()).unwrap();
    assert!(fs::symlink_metadata(folder.path()).unwrap().is_file());
    assert_eq!(fs::read(&other).unwrap(), b"as it was");
    // Reading through a symbolic link works.
    fs::remove_file(&other).unwrap();
    std::os::unix::fs::symlink(folder.path(), &other).unwrap();
    assert_eq!(cache_of([]).restore(&other).unwrap().restored, 3);
}

#[test]
fn concurrent_snapshots_to_one_path_never_show_a_partial_file() {
    let folder = Folder::new();
    cache_of(0..100).snapshot(folder.path()).unwrap();
    thread::scope(|scope| {
        for writer in 0..4 {
            let path = folder.path();
            scope.spawn(move || {
                let cache = cache_of(writer * 100..writer * 100 + 100);
                for _ in 0..20 {
                    cache.snapshot(&path).unwrap();
                }
            });
        }
        for _ in 0..40 {
            let cache = cache_of([]);
            assert_eq!(cache.restore(folder.path()).unwrap().restored, 100);
            let writers: HashSet<_> = keys(&cache).into_iter().map(|key| key / 100).collect();
            assert_eq!(writers.len(), 1);
        }
    });
    assert_eq!(folder.names(), ["snapshot"]);
}

#[test]
fn snapshot_and_restore_during_writes_leave_a_valid_cache() {
    let folder = Folder::new();
    let cache = Cache::new(1_000);
    let other = Cache::new(1_000);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for thread in 0..2 {
            let (cache, other, done) = (&cache, &other, &done);
            scope.spawn(move || {
                for round in 0.. {
                    let key = (round * 7 + thread) % 2_000;
                    cache.insert(key, key * 10);
                    other.insert(key, key * 10);
                    other.remove(&(key / 2));
                    if done.load(Relaxed) {
                        break;
                    }
                }
            });
        }
        for _ in 0..30 {
            let written = cache.snapshot(folder.path()).unwrap();
            assert!(written.entries <= 2_000);
            let report = other.restore(folder.path()).unwrap();
            let all = report.restored + report.superseded + report.did_not_fit;
            assert_eq!(all, written.entries);
        }
        done.store(true, Relaxed);
    });
    assert!(other.iter().all(|(key, value)| value == key * 10));
    validate(&cache);
    validate(&other);
}

/// Returns the hit ratio of a trace, when each miss is followed by an insertion.
#[allow(clippy::cast_precision_loss)]
fn hit_ratio(cache: &Cache, trace: &[u64]) -> f64 {
    let is_hit = |key: &&u64| {
        let hit = cache.get(*key).is_some();
        if !hit {
            cache.insert(**key, **key);
        }
        hit
    };
    trace.iter().filter(is_hit).count() as f64 / trace.len() as f64
}

#[test]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn restored_cache_has_the_hit_ratio_of_the_snapshot_at_once() {
    let entries: u32 = if cfg!(debug_assertions) {
        50_000
    } else {
        1_000_000
    };
    let zipf = Zipf::new(f64::from(entries) * 4.0, 0.9).unwrap();
    let mut random = SmallRng::seed_from_u64(7);
    let mut trace = |len: u32| -> Vec<u64> {
        let keys = (0..len).map(|_| zipf.sample(&mut random) as u64);
        keys.collect()
    };
    let (before, after) = (trace(entries * 5), trace(entries));
    let folder = Folder::new();
    for policy in POLICIES {
        let new = || {
            build(
                LocalCache::builder()
                    .capacity(entries as usize)
                    .policy(policy),
            )
        };
        let cache = new();
        hit_ratio(&cache, &before);
        assert_eq!(cache.len(), entries as usize);
        let written = cache.snapshot(folder.path()).unwrap();
        let warm = hit_ratio(&cache, &after);
        let restored = new();
        let report = restored.restore(folder.path()).unwrap();
        assert_eq!(report.restored, u64::from(entries));
        let again = hit_ratio(&restored, &after);
        println!(
            "{policy:?}: {} entries, {} bytes, written in {:.2?}, restored in {:.2?}; hit ratio {warm:.4} \
             without a restart, {again:.4} after it, {:.4} from nothing",
            written.entries,
            written.bytes,
            written.time_taken,
            report.time_taken,
            hit_ratio(&new(), &after),
        );
        // `Adaptive` learns again when keys return.
        let most = if policy == Policy::Adaptive {
            0.015
        } else {
            0.005
        };
        assert!((warm - again).abs() < most, "{policy:?}: {warm}, {again}");
    }
}
