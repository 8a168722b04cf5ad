//! User code that panics, at every call from the cache.

use hotset::__private::validate;
use hotset::{Clock, Loaded, LocalCache, ManualClock, RemovalCause};
use std::cell::Cell;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

/// A kind of user code that the cache calls.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Hook {
    Hash,
    Eq,
    CloneKey,
    CloneValue,
    DropKey,
    DropValue,
    Weigher,
    Listener,
    Clock,
    Loader,
    Update,
    Retain,
    GetWith,
}

thread_local! {
    /// The hook that panics, and the number of calls until then.
    static TRAP: Cell<Option<(Hook, u32)>> = const { Cell::new(None) };
    /// The number of created values minus the number of dropped ones.
    static KEYS: Cell<i64> = const { Cell::new(0) };
    static VALUES: Cell<i64> = const { Cell::new(0) };
}

/// The payload of the panic of a trap.
struct Sprung;

fn reach(hook: Hook) {
    // A second panic while the first unwinds would abort.
    let armed = TRAP.get().filter(|(armed, _)| *armed == hook);
    let Some((_, left)) = armed.filter(|_| !thread::panicking()) else {
        return;
    };
    TRAP.set((left > 1).then_some((hook, left - 1)));
    if left == 1 {
        // A panic without a message on the standard error.
        resume_unwind(Box::new(Sprung));
    }
}

/// Runs an operation. Returns `true` if the trap panicked.
fn panics(operation: impl FnOnce()) -> bool {
    match catch_unwind(AssertUnwindSafe(operation)) {
        Ok(()) => false,
        Err(payload) if payload.is::<Sprung>() => true,
        Err(payload) => resume_unwind(payload),
    }
}

fn add(counter: &'static thread::LocalKey<Cell<i64>>, count: i64) {
    counter.set(counter.get() + count);
}

#[derive(Debug)]
struct Key(u32);

impl Key {
    fn new(id: u32) -> Self {
        add(&KEYS, 1);
        Self(id)
    }
}

impl Clone for Key {
    fn clone(&self) -> Self {
        reach(Hook::CloneKey);
        Self::new(self.0)
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        add(&KEYS, -1);
        reach(Hook::DropKey);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        reach(Hook::Eq);
        self.0 == other.0
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        reach(Hook::Hash);
        hasher.write_u32(self.0);
    }
}

/// A value, which is also its weight.
#[derive(Debug)]
struct Value(u64);

impl Value {
    fn new(weight: u64) -> Self {
        add(&VALUES, 1);
        Self(weight)
    }
}

impl Clone for Value {
    fn clone(&self) -> Self {
        reach(Hook::CloneValue);
        Self::new(self.0)
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        add(&VALUES, -1);
        reach(Hook::DropValue);
    }
}

/// A hasher with four results, so that a lookup compares different keys.
#[derive(Default)]
struct Crowded(u64);

impl Hasher for Crowded {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().map(|&byte| u64::from(byte)).sum();
    }

    fn finish(&self) -> u64 {
        self.0 % 4
    }
}

struct TrappedClock(ManualClock);

impl Clock for TrappedClock {
    fn now(&self) -> Duration {
        reach(Hook::Clock);
        self.0.now()
    }
}

const MAX_WEIGHT: u64 = 10;
const SECOND: Duration = Duration::from_secs(1);

struct Scene {
    cache: LocalCache<Key, Value, BuildHasherDefault<Crowded>>,
    clock: ManualClock,
    reported: Arc<AtomicU64>,
    /// Lookups borrow these keys, so that only drops by the cache are counted.
    keys: Rc<[Key]>,
}

impl Scene {
    fn new(shards: usize, keys: &Rc<[Key]>) -> Self {
        let clock = ManualClock::new();
        let reported = Arc::new(AtomicU64::new(0));
        let listener = {
            let reported = Arc::clone(&reported);
            move |_: Key, _: Value, _: RemovalCause| {
                reported.fetch_add(1, Relaxed);
                reach(Hook::Listener);
            }
        };
        let weigher = |_: &Key, value: &Value| {
            reach(Hook::Weigher);
            value.0
        };
        let cache = LocalCache::builder()
            .max_weight(MAX_WEIGHT)
            .weigher(weigher)
            .time_to_live(10 * SECOND)
            .shards(shards)
            .hasher(BuildHasherDefault::default())
            .clock(TrappedClock(clock.clone()))
            .on_removal(listener)
            .build()
            .unwrap();
        Self {
            cache,
            clock,
            reported,
            keys: Rc::clone(keys),
        }
    }

    fn key(&self, id: u32) -> &Key {
        &self.keys[id as usize]
    }

    fn insert(&self, id: u32, weight: u64) {
        self.cache.insert(Key::new(id), Value::new(weight));
    }

    fn insert_with_ttl(&self, id: u32, ttl: Duration) {
        self.cache.insert_with_ttl(Key::new(id), Value::new(1), ttl);
    }

    fn get(&self, id: u32) {
        drop(self.cache.get(self.key(id)));
    }

    fn load(&self, id: u32, weight: u64) {
        let loaded = self.cache.get_or_load(self.key(id), |_| {
            reach(Hook::Loader);
            Ok::<_, &str>(Value::new(weight))
        });
        drop(loaded);
    }

    /// Loads with a loader that may fail, or may revoke its own load by a write to its key.
    fn load_with(&self, id: u32, load: impl FnOnce() -> Result<Loaded<Value>, &'static str>) {
        let loaded = self.cache.get_or_load_entry(self.key(id), |_| {
            reach(Hook::Loader);
            load()
        });
        drop(loaded);
    }

    fn update(&self, id: u32, weight: Option<u64>) {
        let updated = self.cache.update(self.key(id), |_| {
            reach(Hook::Update);
            weight.map(Value::new)
        });
        drop(updated);
    }
}

const KEY_COUNT: u32 = 16;
/// A key that no operation of the scenario uses.
const PROBE: u32 = KEY_COUNT - 1;

/// The operations of the scenario. Each is one call of the cache, so that the next one runs after a panic.
const SCENARIO: &[fn(&Scene)] = &[
    |scene| scene.insert(0, 2),
    |scene| scene.insert(1, 2),
    |scene| scene.insert(4, 2),
    |scene| scene.insert(5, 2),
    // Lookups: of a key alone in its shard, of one behind others with the same hash, and of an absent one.
    |scene| scene.get(0),
    |scene| scene.get(5),
    |scene| scene.get(8),
    |scene| {
        scene.cache.get_with(scene.key(4), |_| reach(Hook::GetWith));
    },
    |scene| {
        scene.cache.contains_key(scene.key(1));
    },
    |scene| {
        scene.cache.remaining_ttl(scene.key(1));
    },
    |scene| scene.cache.iter().for_each(drop),
    |scene| drop(scene.cache.hottest(9)),
    // Replacements: by a value of the same weight, and by a heavier one that evicts others.
    |scene| scene.insert(0, 2),
    |scene| scene.insert(1, 6),
    |scene| scene.insert(2, 9),
    |scene| scene.insert(3, 2),
    |scene| scene.insert(7, 2),
    // Refused values, with and without an existing entry.
    |scene| scene.insert(3, MAX_WEIGHT + 1),
    |scene| scene.insert(6, MAX_WEIGHT + 1),
    |scene| scene.insert_with_ttl(7, Duration::ZERO),
    // Loads: stored, hit, refused, failed, outdated by their own loader.
    |scene| scene.load(8, 1),
    |scene| scene.load(8, 1),
    |scene| scene.load(9, MAX_WEIGHT + 1),
    |scene| scene.load_with(9, || Err("not found")),
    |scene| {
        scene.load_with(9, || {
            scene.insert(9, 1);
            Ok(Loaded::new(Value::new(1)))
        });
    },
    |scene| {
        scene.load_with(10, || {
            scene.update(10, Some(1));
            Ok(Loaded::new(Value::new(2)).weight(3))
        });
    },
    // Updates: of an entry, of an absent key, with an eviction, with a refusal, removals.
    |scene| scene.update(8, Some(2)),
    |scene| scene.update(11, Some(1)),
    |scene| scene.update(11, Some(9)),
    |scene| scene.update(11, Some(MAX_WEIGHT + 1)),
    |scene| scene.update(8, None),
    |scene| scene.update(8, None),
    // An update that is repeated because its key was written to meanwhile.
    |scene| {
        let mut calls = 0;
        let updated = scene.cache.update(scene.key(8), |_| {
            reach(Hook::Update);
            calls += 1;
            if calls == 1 {
                scene.insert(8, 3);
            }
            Some(Value::new(1))
        });
        drop(updated);
    },
    |scene| (0..6).for_each(|id| scene.insert(id, 1)),
    |scene| {
        scene.cache.retain(|key, _| {
            reach(Hook::Retain);
            key.0 % 2 == 1
        });
    },
    |scene| drop(scene.cache.remove(scene.key(1))),
    |scene| drop(scene.cache.remove(scene.key(1))),
    // Expired entries: read, loaded over, removed, swept and replaced.
    |scene| (0..6).for_each(|id| scene.insert_with_ttl(id, SECOND)),
    |scene| scene.clock.advance(SECOND),
    |scene| scene.get(0),
    |scene| scene.load(0, 1),
    |scene| drop(scene.cache.remove(scene.key(1))),
    |scene| scene.insert(2, 1),
    |scene| (0..6).for_each(|id| scene.insert_with_ttl(id, SECOND)),
    |scene| scene.clock.advance(SECOND),
    |scene| {
        scene.cache.remove_expired();
    },
    |scene| (0..6).for_each(|id| scene.insert(id, 1)),
    |scene| scene.cache.clear(),
    // A write that evicts from another shard, while a load of another key with the same hash is in flight.
    |scene| scene.insert(1, MAX_WEIGHT),
    |scene| {
        scene.load_with(12, || {
            scene.insert(8, 1);
            Ok(Loaded::new(Value::new(1)))
        });
    },
    // Entries that exist when the cache is dropped.
    |scene| (0..6).for_each(|id| scene.insert(id, 1)),
];

impl Scene {
    /// Checks that the cache works after a panic.
    fn check_usable(&self) {
        validate(&self.cache);
        self.insert(PROBE, 1);
        assert_eq!(
            self.cache.get_with(self.key(PROBE), |value| value.0),
            Some(1)
        );
        assert_eq!(
            self.cache.iter().filter(|(key, _)| key.0 == PROBE).count(),
            1
        );
        assert!(self.cache.remove(self.key(PROBE)).is_some());
        self.load(PROBE, 2);
        self.update(PROBE, Some(3));
        assert_eq!(
            self.cache.remove(self.key(PROBE)).map(|value| value.0),
            Some(3)
        );
        validate(&self.cache);
    }

    /// Returns the number of removed entries that the listener was not called for.
    fn unreported(&self) -> u64 {
        let stats = self.cache.stats();
        let left = stats.replaced + stats.removed + stats.expired + stats.evicted + stats.cleared;
        left - self.reported.load(Relaxed)
    }
}

struct Outcome {
    /// `true` if the hook was called often enough to panic.
    panicked: bool,
    unreported: u64,
    /// The number of keys and values that were never dropped.
    leaked: (i64, i64),
}

/// Runs the scenario with one call of the hook panicking.
fn play(hook: Hook, call: u32, shards: usize, keys: &Rc<[Key]>) -> Outcome {
    let before = (KEYS.get(), VALUES.get());
    let scene = Scene::new(shards, keys);
    TRAP.set(Some((hook, call)));
    let mut panicked = false;
    for operation in SCENARIO {
        if panics(|| operation(&scene)) {
            scene.check_usable();
            panicked = true;
        }
    }
    validate(&scene.cache);
    let unreported = scene.unreported();
    panicked |= panics(|| drop(scene));
    TRAP.set(None);
    Outcome {
        panicked,
        unreported,
        leaked: (KEYS.get() - before.0, VALUES.get() - before.1),
    }
}

/// Runs the scenario with the hook panicking at its first call, then at its second, and so on until it is not called
/// any more.
fn panic_at_each_call(hook: Hook, check: impl Fn(&Outcome)) {
    let keys: Rc<[Key]> = (0..KEY_COUNT).map(Key::new).collect();
    for shards in [1, 4] {
        let mut call = 1;
        loop {
            let outcome = play(hook, call, shards, &keys);
            check(&outcome);
            if !outcome.panicked {
                break;
            }
            call += 1;
        }
        assert!(call > 1, "{hook:?} is never called");
    }
}

macro_rules! the_cache_stays_valid {
    ($($test:ident: $hook:ident,)*) => {
        $(#[test]
        fn $test() {
            panic_at_each_call(Hook::$hook, |_| ());
        })*

        const HOOKS: &[Hook] = &[$(Hook::$hook),*];
    };
}

the_cache_stays_valid! {
    panic_in_hash_leaves_the_cache_valid: Hash,
    panic_in_eq_leaves_the_cache_valid: Eq,
    panic_in_the_clone_of_a_key_leaves_the_cache_valid: CloneKey,
    panic_in_the_clone_of_a_value_leaves_the_cache_valid: CloneValue,
    panic_in_the_weigher_leaves_the_cache_valid: Weigher,
    panic_in_the_listener_leaves_the_cache_valid: Listener,
    panic_in_the_clock_leaves_the_cache_valid: Clock,
    panic_in_the_loader_leaves_the_cache_valid: Loader,
    panic_in_the_closure_of_update_leaves_the_cache_valid: Update,
    panic_in_the_closure_of_retain_leaves_the_cache_valid: Retain,
    panic_in_the_closure_of_get_with_leaves_the_cache_valid: GetWith,
    panic_in_the_drop_of_a_key_leaves_the_cache_valid: DropKey,
    panic_in_the_drop_of_a_value_leaves_the_cache_valid: DropValue,
}

fn leaks_nothing(hook: Hook) {
    panic_at_each_call(hook, |outcome| {
        assert_eq!(outcome.leaked, (0, 0), "{hook:?}");
    });
}

#[test]
fn panic_outside_drop_leaks_nothing() {
    let drops = [Hook::DropKey, Hook::DropValue];
    let others = HOOKS.iter().filter(|hook| !drops.contains(hook));
    others.for_each(|&hook| leaks_nothing(hook));
}

#[test]
fn panic_in_the_drop_of_a_key_leaks_nothing() {
    leaks_nothing(Hook::DropKey);
}

#[test]
fn panic_in_the_drop_of_a_value_leaks_nothing() {
    leaks_nothing(Hook::DropValue);
}

#[test]
fn each_removed_entry_is_reported_whatever_panics() {
    let unreported: Vec<Hook> = HOOKS
        .iter()
        .copied()
        .filter(|&hook| {
            let some = Cell::new(false);
            panic_at_each_call(hook, |outcome| {
                some.set(some.get() || outcome.unreported > 0);
            });
            some.get()
        })
        .collect();
    assert_eq!(unreported, [], "panics here hide removals");
}

#[test]
fn panic_while_a_value_is_passed_to_waiters_strands_none_and_loses_no_removal() {
    let keys: Rc<[Key]> = (0..KEY_COUNT).map(Key::new).collect();
    let panic_while_one_waits = || {
        let scene = Scene::new(1, &keys);
        let cache = &scene.cache;
        // The loaded value evicts an entry, so that the listener is called.
        scene.insert(0, MAX_WEIGHT);
        let panicked = thread::scope(|scope| {
            panics(|| {
                let loaded = cache.get_or_load(scene.key(1), |_| {
                    scope.spawn(|| {
                        let waited = cache.get_or_load(&Key::new(1), |_| {
                            Err::<Value, _>("the loader was called")
                        });
                        assert_eq!(waited.map(|value| value.0).unwrap(), 2);
                    });
                    while cache.stats().misses < 2 {
                        thread::yield_now();
                    }
                    // Most likely, the caller waits by then. No result depends on that.
                    thread::sleep(Duration::from_millis(1));
                    // The first clone is the caller's own.
                    TRAP.set(Some((Hook::CloneValue, 2)));
                    Ok::<_, &str>(Value::new(2))
                });
                drop(loaded);
            })
        });
        TRAP.set(None);
        validate(cache);
        assert_eq!(scene.unreported(), 0);
        panicked
    };
    // A caller that has missed but does not wait yet gets no clone.
    assert!((0..1_000).any(|_| panic_while_one_waits()));
}

/// A value whose drop panics if it contains `true`.
struct Explosive(bool);

impl Drop for Explosive {
    fn drop(&mut self) {
        assert!(!self.0, "dropped");
    }
}

#[test]
fn drop_of_the_removed_value_may_panic_in_the_listener() {
    let builder = LocalCache::builder().capacity(4);
    let cache = builder
        .on_removal(|_, value, _| drop(value))
        .build()
        .unwrap();
    cache.insert(1, Explosive(true));
    let replaced = catch_unwind(AssertUnwindSafe(|| cache.insert(1, Explosive(false))));
    assert!(replaced.is_err());
    assert!(cache.contains_key(&1));
    validate(&cache);
}
