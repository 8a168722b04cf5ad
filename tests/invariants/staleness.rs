//! Reads are checked against acknowledged writes: no call returns a value that is older than the last
//! write that was acknowledged before the call began.
//!
//! The database holds a version of each key. A writer raises the version, invalidates the key by one of
//! the ways that the cache knows, and acknowledges the version. Readers note the acknowledged version,
//! read in one of the ways that the cache knows, and compare.
//!
//! `HOTSET_STRESS_READS` sets the number of reads, for all configurations together.

use hotset::__private::validate;
use hotset::{LoadError, Loaded, LocalCache, ManualClock, Policy, Stats};
use std::env;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;
use tokio::runtime::Runtime;

const DEFAULT_READS: u64 = 200_000;
const KEYS: usize = 32;
const CAPACITY: usize = 20;
const WRITERS: usize = 2;
const READERS: usize = 4;
/// The highest number of reads for each write. Readers wait for writers.
const READS_PER_WRITE: u64 = 16;
/// The time to live, by the manual clock.
const TIME_TO_LIVE: Duration = Duration::from_secs(60);
/// The lease, in real time. A load whose future is not polled delays other callers by as much.
const LEASE: Duration = Duration::from_millis(2);
/// The highest number of futures that a reader keeps without polling them.
const MAX_KEPT: usize = 4;
const POLICIES: [Policy; 4] = [Policy::Lru, Policy::S3Fifo, Policy::Car, Policy::Adaptive];

type Cache = LocalCache<usize, u64>;
type Found = Result<Vec<(usize, u64)>, LoadError<&'static str>>;

/// Xorshift64*, by Marsaglia and Vigna.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(high).unwrap() % bound
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

#[derive(Clone, Copy, Debug)]
struct Setup {
    policy: Policy,
    permits: Option<usize>,
    /// `true` if the cache is bounded by weight and refreshes its entries.
    weighs: bool,
}

struct World {
    cache: Cache,
    setup: Setup,
    clock: ManualClock,
    database: [AtomicU64; KEYS],
    acknowledged: [AtomicU64; KEYS],
    /// The calls in progress that may load a key. Writes by expiration wait for those that began
    /// before, since the time to live of what they store begins when they store it.
    active: [AtomicUsize; KEYS],
    /// The last write to each key, for messages.
    last_write: [AtomicUsize; KEYS],
    tags: Vec<Arc<str>>,
    stale: Mutex<Vec<String>>,
    writes: AtomicU64,
    done: AtomicBool,
}

impl World {
    fn new(setup: Setup) -> Arc<Self> {
        let clock = ManualClock::new();
        let builder = LocalCache::builder()
            .shards(2)
            .policy(setup.policy)
            .time_to_live(TIME_TO_LIVE)
            .lease(LEASE)
            .clock(clock.clone());
        let builder = if setup.weighs {
            let weigher = |_: &usize, version: &u64| 1 + version % 3;
            let builder = builder.max_weight(2 * CAPACITY as u64).weigher(weigher);
            builder.refresh_after(TIME_TO_LIVE / 2)
        } else {
            builder.capacity(CAPACITY)
        };
        let builder = match setup.permits {
            Some(permits) => builder.max_concurrent_loads(permits),
            None => builder,
        };
        Arc::new(Self {
            cache: builder.build().unwrap(),
            setup,
            clock,
            database: std::array::from_fn(|_| AtomicU64::new(0)),
            acknowledged: std::array::from_fn(|_| AtomicU64::new(0)),
            active: std::array::from_fn(|_| AtomicUsize::new(0)),
            last_write: std::array::from_fn(|_| AtomicUsize::new(usize::MAX)),
            tags: (0..KEYS).map(|key| format!("key {key}").into()).collect(),
            stale: Mutex::default(),
            writes: AtomicU64::new(0),
            done: AtomicBool::new(false),
        })
    }

    fn loaded(&self, key: usize, version: u64) -> Loaded<u64> {
        Loaded::new(version).tags([Arc::clone(&self.tags[key])])
    }

    fn check(&self, kind: &str, key: usize, found: u64, least: u64) {
        if found < least {
            let write = WRITES.get(self.last_write[key].load(SeqCst));
            let write = write.map_or("none", |(name, _)| name);
            let report = format!(
                "{:?}: {kind} of key {key} found {found} after {least}; last write: {write}",
                self.setup
            );
            self.stale.lock().unwrap().push(report);
        }
    }
}

/// The ways to invalidate a key, or to replace its value by the given version.
type Write = fn(&World, &mut Random, usize, u64);

const WRITES: [(&str, Write); 11] = [
    ("remove", |world, _, key, _| {
        world.cache.remove(&key);
    }),
    ("insert", |world, _, key, version| {
        let loaded = world.loaded(key, version);
        world.cache.insert_loaded(key, loaded);
    }),
    (
        "insert with a shorter time to live",
        |world, _, key, version| {
            let loaded = world.loaded(key, version).ttl(TIME_TO_LIVE / 3);
            world.cache.insert_loaded(key, loaded);
        },
    ),
    (
        "insert that is not stored",
        |world, random, key, version| {
            if random.one_in(2) {
                let insert = Cache::insert_with_ttl;
                insert(&world.cache, key, version, Duration::ZERO);
            } else {
                let loaded = world.loaded(key, version).weight(u64::MAX);
                world.cache.insert_loaded(key, loaded);
            }
        },
    ),
    ("update", |world, _, key, version| {
        world.cache.update(&key, |value| value.map(|_| version));
    }),
    ("update to a value with tags", |world, _, key, version| {
        let change = |_: Option<&u64>| Some(world.loaded(key, version));
        world.cache.update_loaded(&key, change);
    }),
    ("retain by key", |world, _, key, _| {
        world.cache.retain(|other, _| *other != key);
    }),
    ("retain by value", |world, _, key, version| {
        let keep = |&other: &usize, &value: &u64| other != key || value >= version;
        world.cache.retain(keep);
    }),
    ("clear", |world, _, _, _| world.cache.clear()),
    ("invalidate_tag", |world, _, key, _| {
        world.cache.invalidate_tag(&world.tags[key]);
    }),
    ("expiration", |world, _, key, _| {
        let tries = if expires(key) { 1_000 } else { 0 };
        let is_quiet = (0..tries).any(|_| {
            thread::yield_now();
            world.active[key].load(SeqCst) == 0
        });
        if is_quiet {
            world.clock.advance(TIME_TO_LIVE);
        } else {
            world.cache.remove(&key);
        }
    }),
];

/// Checks whether writes by expiration are for this key. Such keys have no detached loads, because it is not known when
/// those are stored.
const fn expires(key: usize) -> bool {
    key % 4 == 0
}

fn write(world: &World, writer: usize) {
    let mut random = Random(writer as u64 + 1);
    while !world.done.load(SeqCst) {
        let key = random.below(KEYS / WRITERS) * WRITERS + writer;
        let version = world.database[key].load(SeqCst) + 1;
        world.database[key].store(version, SeqCst);
        let number = random.below(WRITES.len());
        world.last_write[key].store(number, SeqCst);
        WRITES[number].1(world, &mut random, key, version);
        world.acknowledged[key].store(version, SeqCst);
        world.writes.fetch_add(1, SeqCst);
        if random.one_in(8) {
            world.clock.advance(TIME_TO_LIVE / 16);
        }
        (0..random.below(8)).for_each(|_| thread::yield_now());
    }
}

/// A call in progress, for [`World::active`].
struct Active {
    world: Arc<World>,
    keys: Vec<usize>,
}

impl Active {
    fn new(world: &Arc<World>, keys: Vec<usize>) -> Self {
        for &key in &keys {
            world.active[key].fetch_add(1, SeqCst);
        }
        let world = Arc::clone(world);
        Self { world, keys }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        for &key in &self.keys {
            self.world.active[key].fetch_sub(1, SeqCst);
        }
    }
}

/// The oldest versions that a call may return.
struct Expected {
    kind: &'static str,
    least: Vec<(usize, u64)>,
    active: Active,
}

impl Expected {
    /// Records the versions before the call begins.
    fn new(world: &Arc<World>, kind: &'static str, keys: Vec<usize>) -> Self {
        let least = |&key: &usize| (key, world.acknowledged[key].load(SeqCst));
        Self {
            kind,
            least: keys.iter().map(least).collect(),
            active: Active::new(world, keys),
        }
    }

    fn check(&self, found: Found) {
        let found = match found {
            Ok(found) => found,
            Err(LoadError::Failed(_)) => return,
            Err(error) => panic!("{}: {error}", self.kind),
        };
        for (key, version) in found {
            let least = self.least.iter().find(|(other, _)| *other == key);
            let least = least.expect("the key was requested").1;
            self.active.world.check(self.kind, key, version, least);
        }
    }
}

/// Reads versions, for a loader to return.
fn read_database(world: &World, keys: &[usize]) -> Vec<(usize, Loaded<u64>)> {
    let read = |&key: &usize| {
        let version = world.database[key].load(SeqCst);
        (key, world.loaded(key, version))
    };
    keys.iter().map(read).collect()
}

/// The duration of a loader, and whether it fails.
#[derive(Clone, Copy)]
struct Load {
    /// The number of yields before it reads the database.
    before: usize,
    /// The number of yields after it has read the database.
    after: usize,
    fails: bool,
}

impl Load {
    fn new(random: &mut Random) -> Self {
        Self {
            before: random.below(3),
            after: random.below(4),
            fails: random.one_in(32),
        }
    }

    fn blocking(
        self,
        world: &World,
        keys: &[usize],
    ) -> Result<Vec<(usize, Loaded<u64>)>, &'static str> {
        (0..self.before).for_each(|_| thread::yield_now());
        let found = read_database(world, keys);
        (0..self.after).for_each(|_| thread::yield_now());
        if self.fails { Err("failed") } else { Ok(found) }
    }

    async fn run(
        self,
        world: Arc<World>,
        keys: Vec<usize>,
    ) -> Result<Vec<(usize, Loaded<u64>)>, &'static str> {
        yields(self.before).await;
        let found = read_database(&world, &keys);
        yields(self.after).await;
        if self.fails { Err("failed") } else { Ok(found) }
    }
}

async fn yields(mut count: usize) {
    poll_fn(|cx| {
        if count == 0 {
            return Poll::Ready(());
        }
        count -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn only(found: Vec<(usize, Loaded<u64>)>) -> Loaded<u64> {
    let (_, loaded) = found.into_iter().next().unwrap();
    loaded
}

/// A call of an async function, which may not have been polled yet.
struct Call {
    future: Pin<Box<dyn Future<Output = Found>>>,
    expected: Expected,
}

impl Call {
    /// Polls the call up to `polls` times. Returns the call if it is still pending.
    fn drive(mut self, polls: usize) -> Option<Self> {
        for _ in 0..polls {
            let mut cx = Context::from_waker(Waker::noop());
            if let Poll::Ready(found) = self.future.as_mut().poll(&mut cx) {
                self.expected.check(found);
                return None;
            }
            thread::yield_now();
        }
        Some(self)
    }
}

struct Reader {
    world: Arc<World>,
    random: Random,
    kept: Vec<Call>,
    reads: u64,
}

impl Reader {
    fn run(world: Arc<World>, seed: u64, reads: u64) {
        let mut reader = Self {
            world,
            random: Random(seed),
            kept: Vec::new(),
            reads: 0,
        };
        while reader.reads < reads {
            let writes = reader.world.writes.load(SeqCst);
            if reader.reads * READERS as u64 > (writes + 1) * READS_PER_WRITE {
                thread::yield_now();
                continue;
            }
            reader.read();
            if reader.random.one_in(8) && !reader.kept.is_empty() {
                reader.resume();
            }
        }
    }

    fn read(&mut self) {
        let key = self.random.below(KEYS);
        self.reads += 1;
        match self.random.below(20) {
            0..6 => self.get(key),
            6 => self.get_with(key),
            7 => self.look(key),
            8..12 => self.get_or_load(key),
            12..15 => self.get_or_load_async(key),
            15 | 16 => self.get_detached(key),
            17 => self.get_many(),
            18 => self.get_many_async(),
            _ if self.random.one_in(4) => self.iterate(),
            _ => assert!(self.world.cache.remove_expired() <= CAPACITY * 2),
        }
    }

    fn get(&self, key: usize) {
        let least = self.world.acknowledged[key].load(SeqCst);
        if let Some(found) = self.world.cache.get(&key) {
            self.world.check("get", key, found, least);
        }
    }

    fn get_with(&self, key: usize) {
        let least = self.world.acknowledged[key].load(SeqCst);
        if let Some(found) = self.world.cache.get_with(&key, |version| *version) {
            self.world.check("get_with", key, found, least);
        }
    }

    /// Calls functions that return no value to check, but visit entries during writes.
    fn look(&self, key: usize) {
        let cache = &self.world.cache;
        if cache.contains_key(&key) {
            let left = cache.remaining_ttl(&key);
            assert!(left.is_none_or(|left| left <= TIME_TO_LIVE));
        }
    }

    fn iterate(&self) {
        let least: Vec<u64> = (self.world.acknowledged.iter())
            .map(|version| version.load(SeqCst))
            .collect();
        for (key, found) in &self.world.cache {
            self.world.check("iter", key, found, least[key]);
        }
    }

    fn get_or_load(&mut self, key: usize) {
        let load = Load::new(&mut self.random);
        let expected = Expected::new(&self.world, "get_or_load", vec![key]);
        let world = &self.world;
        let found = world
            .cache
            .get_or_load_entry(&key, |&key| load.blocking(world, &[key]).map(only));
        expected.check(found.map(|version| vec![(key, version)]));
    }

    fn get_or_load_async(&mut self, key: usize) {
        let load = Load::new(&mut self.random);
        let expected = Expected::new(&self.world, "get_or_load_async", vec![key]);
        let world = Arc::clone(&self.world);
        let future = async move {
            let start = |_| {
                let found = load.run(Arc::clone(&world), vec![key]);
                async { Ok(only(found.await?)) }
            };
            let found = world.cache.get_or_load_entry_async(&key, start).await;
            Ok(vec![(key, found?)])
        };
        let future = Box::pin(future);
        self.begin(Call { future, expected });
    }

    #[cfg(not(feature = "tokio"))]
    fn get_detached(&self, key: usize) {
        self.get(key);
    }

    #[cfg(feature = "tokio")]
    fn get_detached(&mut self, key: usize) {
        if expires(key) {
            return self.get(key);
        }
        let load = Load::new(&mut self.random);
        let expected = Expected::new(&self.world, "detached", vec![key]);
        let world = Arc::clone(&self.world);
        let future = async move {
            let found = load.run(Arc::clone(&world), vec![key]);
            let start = |_| async { Ok(only(found.await?)) };
            let found = world
                .cache
                .detached()
                .get_or_load_entry_async(&key, start)
                .await;
            Ok(vec![(key, found?)])
        };
        let future = Box::pin(future);
        self.begin(Call { future, expected });
    }

    fn some_keys(&mut self) -> Vec<usize> {
        let count = 1 + self.random.below(5);
        self.reads += count as u64 - 1;
        (0..count).map(|_| self.random.below(KEYS)).collect()
    }

    fn get_many(&mut self) {
        let (load, keys) = (Load::new(&mut self.random), self.some_keys());
        let expected = Expected::new(&self.world, "get_many_or_load", keys.clone());
        let world = &self.world;
        let found = world
            .cache
            .get_many_or_load_entries(&keys, |missing| load.blocking(world, &missing));
        expected.check(found.map(|found| pairs(&keys, found)));
    }

    fn get_many_async(&mut self) {
        let (load, keys) = (Load::new(&mut self.random), self.some_keys());
        let expected = Expected::new(&self.world, "get_many_or_load_async", keys.clone());
        let world = Arc::clone(&self.world);
        let future = async move {
            let start = |missing| load.run(Arc::clone(&world), missing);
            let found = world
                .cache
                .get_many_or_load_entries_async(&keys, start)
                .await?;
            Ok(pairs(&keys, found))
        };
        let future = Box::pin(future);
        self.begin(Call { future, expected });
    }

    /// Polls a call until it ends, or drops it early, or keeps it without polling it.
    fn begin(&mut self, call: Call) {
        let polls = match self.random.below(8) {
            0 => 0,
            1 | 2 => 1 + self.random.below(6),
            _ => 1_000,
        };
        let Some(call) = call.drive(polls) else {
            return;
        };
        if self.kept.len() < MAX_KEPT && self.random.one_in(2) {
            self.kept.push(call);
        }
    }

    /// Drops a kept call, or continues it.
    fn resume(&mut self) {
        let which = self.random.below(self.kept.len());
        let call = self.kept.swap_remove(which);
        if !self.random.one_in(3) {
            let polls = 1 + self.random.below(100);
            self.kept.extend(call.drive(polls));
        }
    }
}

fn pairs(keys: &[usize], found: Vec<Option<u64>>) -> Vec<(usize, u64)> {
    let pairs = keys.iter().zip(found);
    pairs
        .filter_map(|(&key, version)| Some((key, version?)))
        .collect()
}

fn run(setup: Setup, reads: u64) -> Stats {
    let world = World::new(setup);
    let runtime = Runtime::new().unwrap();
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let world = &world;
            scope.spawn(move || write(world, writer));
        }
        let readers: Vec<_> = (0..READERS as u64)
            .map(|reader| {
                let (world, runtime) = (Arc::clone(&world), &runtime);
                scope.spawn(move || {
                    let _in_runtime = runtime.enter();
                    Reader::run(world, 1_000 + reader, reads.div_ceil(READERS as u64));
                })
            })
            .collect();
        let ended: Vec<_> = readers.into_iter().map(ScopedJoinHandle::join).collect();
        world.done.store(true, SeqCst);
        assert!(ended.iter().all(Result::is_ok), "a reader panicked");
    });
    drop(runtime);
    let stale = world.stale.lock().unwrap();
    let first = &stale[..stale.len().min(10)];
    assert!(stale.is_empty(), "{} stale reads: {first:#?}", stale.len());
    let stats = world.cache.stats();
    println!(
        "{setup:?}: {} hits, {} misses, {} loads, {} outdated, {} evicted, {} expired",
        stats.hits, stats.misses, stats.loads, stats.outdated, stats.evicted, stats.expired
    );
    validate(&world.cache);
    stats
}

#[test]
fn read_is_never_older_than_a_write_acknowledged_before_it_began() {
    let reads = env::var("HOTSET_STRESS_READS");
    let reads = reads.map_or(DEFAULT_READS, |reads| reads.parse().unwrap());
    let setups: Vec<_> = (POLICIES.into_iter())
        .flat_map(|policy| {
            [
                (None, false),
                (None, true),
                (Some(2), false),
                (Some(1), true),
            ]
            .map(|(permits, weighs)| Setup {
                policy,
                permits,
                weighs,
            })
        })
        .collect();
    let reads = reads.div_ceil(setups.len() as u64);
    let stats: Vec<_> = setups.iter().map(|setup| run(*setup, reads)).collect();
    // Every kind of event that may make a read stale has happened.
    let figures: [fn(&Stats) -> u64; 6] = [
        |stats| stats.hits,
        |stats| stats.loads,
        |stats| stats.coalesced,
        |stats| stats.outdated,
        |stats| stats.evicted,
        |stats| stats.expired,
    ];
    for figure in figures {
        assert_ne!(stats.iter().map(figure).sum::<u64>(), 0);
    }
}
