//! What the benchmarks share: the caches side by side, and the work they are given.

// Each benchmark that includes this file is a crate of its own.
#![allow(unreachable_pub)]

use hotset::LocalCache;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Zipf};
use std::convert::Infallible;
use std::future::Future;
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Long enough that nothing expires in a run; what is measured is that it is checked.
const TTL: Duration = Duration::from_secs(3_600);

/// How many entries the caches hold.
pub const SIZES: [usize; 3] = [1_000, 100_000, 1_000_000];

/// A cache under test, `u64` to `u64`.
pub trait Peer: Sync + Sized {
    /// What the tables call it.
    const NAME: &'static str;
    /// Does it have a blocking `get`?
    const GETS: bool = true;
    /// Does it evict, or is it only the limit of what a look-up can be?
    const EVICTS: bool = true;
    /// Does it have a `get_or_load` of its own, for threads and for tasks?
    const LOADS: bool = true;
    const LOADS_ASYNC: bool = true;

    fn with_capacity(capacity: usize) -> Self;
    fn get(&self, key: u64) -> Option<u64>;
    fn insert(&self, key: u64, value: u64);
    fn get_or_load(&self, key: u64, load: impl FnOnce() -> u64) -> u64;

    /// Always a miss on a peer that has none.
    fn get_or_load_async(&self, _: u64, load: impl Fn() -> u64) -> impl Future<Output = u64> {
        std::future::ready(load())
    }
}

/// With a time to live; statistics are always on.
pub struct Hotset(LocalCache<u64, u64>);

impl Peer for Hotset {
    const NAME: &'static str = "hotset";

    fn with_capacity(capacity: usize) -> Self {
        let builder = LocalCache::builder().capacity(capacity).time_to_live(TTL);
        Self(builder.build().expect("settings are valid"))
    }

    fn get(&self, key: u64) -> Option<u64> {
        self.0.get(&key)
    }

    fn insert(&self, key: u64, value: u64) {
        self.0.insert(key, value);
    }

    fn get_or_load(&self, key: u64, load: impl FnOnce() -> u64) -> u64 {
        let loaded = self.0.get_or_load(&key, |_| Ok::<_, Infallible>(load()));
        loaded.expect("the loader does not fail")
    }

    async fn get_or_load_async(&self, key: u64, load: impl Fn() -> u64) -> u64 {
        let load = || async { Ok::<_, Infallible>(load()) };
        let loaded = self.0.get_or_load_async(&key, load).await;
        loaded.expect("the loader does not fail")
    }
}

/// Has no time to live, and in its default features no statistics.
pub struct QuickCache(quick_cache::sync::Cache<u64, u64>);

impl Peer for QuickCache {
    const NAME: &'static str = "quick_cache";

    fn with_capacity(capacity: usize) -> Self {
        Self(quick_cache::sync::Cache::new(capacity))
    }

    fn get(&self, key: u64) -> Option<u64> {
        self.0.get(&key)
    }

    fn insert(&self, key: u64, value: u64) {
        self.0.insert(key, value);
    }

    fn get_or_load(&self, key: u64, load: impl FnOnce() -> u64) -> u64 {
        let loaded = self
            .0
            .get_or_insert_with(&key, || Ok::<_, Infallible>(load()));
        loaded.expect("the loader does not fail")
    }

    async fn get_or_load_async(&self, key: u64, load: impl Fn() -> u64) -> u64 {
        let load = async { Ok::<_, Infallible>(load()) };
        let loaded = self.0.get_or_insert_async(&key, load).await;
        loaded.expect("the loader does not fail")
    }
}

/// With a time to live.
pub struct Moka(moka::sync::Cache<u64, u64>);

impl Peer for Moka {
    const NAME: &'static str = "moka";
    const LOADS_ASYNC: bool = false;

    fn with_capacity(capacity: usize) -> Self {
        let builder = moka::sync::Cache::builder().max_capacity(capacity as u64);
        Self(builder.time_to_live(TTL).build())
    }

    fn get(&self, key: u64) -> Option<u64> {
        self.0.get(&key)
    }

    fn insert(&self, key: u64, value: u64) {
        self.0.insert(key, value);
    }

    fn get_or_load(&self, key: u64, load: impl FnOnce() -> u64) -> u64 {
        let loaded = self.0.try_get_with(key, || Ok::<_, Infallible>(load()));
        loaded.expect("the loader does not fail")
    }
}

/// moka for tasks, with a time to live. Its own `get` and `insert` are futures as well, so only
/// loads are compared.
pub struct MokaFuture {
    cache: moka::future::Cache<u64, u64>,
    runtime: Runtime,
}

impl Peer for MokaFuture {
    const NAME: &'static str = "moka";
    const GETS: bool = false;
    const EVICTS: bool = false;
    const LOADS: bool = false;

    fn with_capacity(capacity: usize) -> Self {
        let builder = moka::future::Cache::builder().max_capacity(capacity as u64);
        Self {
            cache: builder.time_to_live(TTL).build(),
            runtime: runtime(),
        }
    }

    fn get(&self, key: u64) -> Option<u64> {
        self.runtime.block_on(self.cache.get(&key))
    }

    fn insert(&self, key: u64, value: u64) {
        self.runtime.block_on(self.cache.insert(key, value));
    }

    fn get_or_load(&self, key: u64, load: impl FnOnce() -> u64) -> u64 {
        self.get(key).unwrap_or_else(load)
    }

    async fn get_or_load_async(&self, key: u64, load: impl Fn() -> u64) -> u64 {
        let load = async { Ok::<_, Infallible>(load()) };
        let loaded = self.cache.try_get_with(key, load).await;
        loaded.expect("the loader does not fail")
    }
}

/// The `lru` crate behind a mutex: what one writes on a first day.
pub struct MutexLru(Mutex<lru::LruCache<u64, u64>>);

impl Peer for MutexLru {
    const NAME: &'static str = "Mutex<lru>";
    const LOADS: bool = false;
    const LOADS_ASYNC: bool = false;

    fn with_capacity(capacity: usize) -> Self {
        let capacity = capacity.try_into().expect("a capacity above zero");
        Self(Mutex::new(lru::LruCache::new(capacity)))
    }

    fn get(&self, key: u64) -> Option<u64> {
        self.0.lock().unwrap().get(&key).copied()
    }

    fn insert(&self, key: u64, value: u64) {
        self.0.lock().unwrap().put(key, value);
    }

    fn get_or_load(&self, key: u64, load: impl FnOnce() -> u64) -> u64 {
        self.get(key).unwrap_or_else(load)
    }
}

/// A plain map, filled once: the limit of what a look-up can be. Not a cache.
pub struct PlainMap(hashbrown::HashMap<u64, u64, hotset::DefaultHasher>);

impl Peer for PlainMap {
    const NAME: &'static str = "plain map";
    const EVICTS: bool = false;
    const LOADS: bool = false;
    const LOADS_ASYNC: bool = false;

    fn with_capacity(capacity: usize) -> Self {
        Self((0..capacity as u64).map(|rank| (key(rank), rank)).collect())
    }

    fn get(&self, key: u64) -> Option<u64> {
        self.0.get(&key).copied()
    }

    fn insert(&self, _: u64, _: u64) {}

    fn get_or_load(&self, key: u64, load: impl FnOnce() -> u64) -> u64 {
        self.get(key).unwrap_or_else(load)
    }
}

/// The key of a rank: neighbors in rank are none in memory.
pub fn key(rank: u64) -> u64 {
    rank.wrapping_mul(0xD134_2543_DE82_EF95).rotate_left(29)
}

/// Keys in the order in which they are asked for.
pub fn zipf_keys(distinct: usize, exponent: f64, seed: u64) -> Vec<u64> {
    #[allow(clippy::cast_precision_loss)]
    let zipf = Zipf::new(distinct as f64, exponent).expect("a valid distribution");
    let mut rng = SmallRng::seed_from_u64(seed);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rank = |sample: f64| sample as u64 - 1;
    (0..1 << 19)
        .map(|_| key(rank(zipf.sample(&mut rng))))
        .collect()
}

/// What is done with the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// `get` of what is held, Zipf 0.99.
    Hit,
    /// `get` of one key by all.
    HotKey,
    /// `get`, and `insert` on a miss, Zipf 0.9 over ten times the capacity.
    Mixed,
    /// `insert` of ever new keys.
    Churn,
    /// `get_or_load` of what is held.
    LoadHit,
    /// `get_or_load` of ever new keys.
    LoadMiss,
    /// `get_or_load_async` of what is held.
    AsyncHit,
    /// `get_or_load_async` of ever new keys.
    AsyncMiss,
}

impl Work {
    pub const ALL: [Self; 8] = [
        Self::Hit,
        Self::HotKey,
        Self::Mixed,
        Self::Churn,
        Self::LoadHit,
        Self::LoadMiss,
        Self::AsyncHit,
        Self::AsyncMiss,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::HotKey => "one hot key",
            Self::Mixed => "mixed",
            Self::Churn => "churn",
            Self::LoadHit => "load hit",
            Self::LoadMiss => "load miss",
            Self::AsyncHit => "async load hit",
            Self::AsyncMiss => "async load miss",
        }
    }

    /// The sizes at which it makes a difference.
    pub fn sizes(self) -> Vec<usize> {
        match self {
            Self::HotKey => SIZES[..1].to_vec(),
            _ => SIZES.to_vec(),
        }
    }

    pub fn suits<P: Peer>(self) -> bool {
        match self {
            Self::Hit | Self::HotKey => P::GETS,
            Self::Mixed | Self::Churn => P::EVICTS,
            Self::LoadHit | Self::LoadMiss => P::LOADS,
            Self::AsyncHit | Self::AsyncMiss => P::LOADS_ASYNC,
        }
    }

    /// The keys that are asked for; none where they are ever new.
    pub fn keys(self, capacity: usize) -> Vec<u64> {
        match self {
            Self::Hit | Self::LoadHit | Self::AsyncHit => zipf_keys(capacity, 0.99, 1),
            Self::HotKey => vec![key(0); 1 << 10],
            Self::Mixed => zipf_keys(capacity * 10, 0.9, 2),
            Self::Churn | Self::LoadMiss | Self::AsyncMiss => Vec::new(),
        }
    }
}

/// A cache with the work it is to do.
pub struct Bench<'a, P> {
    cache: P,
    work: Work,
    keys: &'a [u64],
}

impl<'a, P: Peer> Bench<'a, P> {
    /// Fills the cache to its capacity, in random order: what is popular is neither first nor last
    /// in memory.
    pub fn new(work: Work, capacity: usize, keys: &'a [u64]) -> Self {
        let cache = P::with_capacity(capacity);
        let mut ranks: Vec<u64> = (0..capacity as u64).collect();
        ranks.shuffle(&mut SmallRng::seed_from_u64(3));
        for rank in ranks {
            cache.insert(key(rank), rank);
        }
        Self { cache, work, keys }
    }

    /// One operation.
    #[inline]
    fn step(&self, key: u64) -> u64 {
        match self.work {
            Work::Hit | Work::HotKey => self.cache.get(key).unwrap_or(0),
            Work::Mixed => self.cache.get(key).unwrap_or_else(|| {
                self.cache.insert(key, 1);
                1
            }),
            Work::Churn => {
                self.cache.insert(key, 1);
                1
            }
            _ => self.cache.get_or_load(key, || 1),
        }
    }

    /// So many operations on one thread, which starts where `seed` says.
    pub fn run(&self, operations: u64, seed: u64) -> u64 {
        let keys = Keys::new(self.keys, seed).take(operations);
        match self.work {
            Work::AsyncHit | Work::AsyncMiss => runtime().block_on(async {
                let mut sum = 0u64;
                for key in keys {
                    sum = sum.wrapping_add(self.cache.get_or_load_async(key, || 1).await);
                }
                sum
            }),
            _ => keys.fold(0, |sum: u64, key| sum.wrapping_add(self.step(key))),
        }
    }

    /// The time in which each of `threads` does so many operations, all starting together.
    pub fn time(&self, threads: u64, operations: u64, seed: u64) -> Duration {
        let gate = Barrier::new(usize::try_from(threads).expect("few threads"));
        thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|thread| {
                    let gate = &gate;
                    scope.spawn(move || {
                        // The first operations make the thread known to the cache.
                        std::hint::black_box(self.run(64, seed ^ thread));
                        gate.wait();
                        let start = Instant::now();
                        std::hint::black_box(self.run(operations, seed.wrapping_add(thread)));
                        start.elapsed()
                    })
                })
                .collect();
            let times = workers.into_iter().map(|worker| worker.join().unwrap());
            times.max().expect("at least one thread")
        })
    }
}

/// Keys without end: those that are given, over and over, or ever new ones.
struct Keys<'a> {
    given: &'a [u64],
    at: usize,
    fresh: u64,
}

impl<'a> Keys<'a> {
    fn new(given: &'a [u64], seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let fresh = rng.next_u64();
        let length = given.len().max(1) as u64;
        let at = usize::try_from(rng.next_u64() % length).expect("below a length");
        Self { given, at, fresh }
    }

    fn take(self, count: u64) -> std::iter::Take<Self> {
        Iterator::take(self, usize::try_from(count).expect("it fits into memory"))
    }
}

impl Iterator for Keys<'_> {
    type Item = u64;

    #[inline]
    fn next(&mut self) -> Option<u64> {
        if self.given.is_empty() {
            self.fresh = self.fresh.wrapping_add(0x9E37_79B9_7F4A_7C15);
            return Some(self.fresh);
        }
        let key = self.given[self.at];
        self.at += 1;
        if self.at == self.given.len() {
            self.at = 0;
        }
        Some(key)
    }
}

fn runtime() -> Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime of one thread")
}
