//! The workloads that the benchmarks share, and the caches under test.

// Each benchmark that includes this file is a separate crate.
#![allow(unreachable_pub)]

pub mod hotset_cache;

pub use hotset_cache::{Adaptive, Hotset, Peer};

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Zipf};
use std::hash::Hash;
use std::marker::PhantomData;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// The capacities of the caches, in entries.
pub const SIZES: [usize; 3] = [1_000, 100_000, 1_000_000];

/// The types of keys and values.
pub trait Contents: Sync {
    type Key: Hash + Eq + Clone + Send + Sync + 'static;
    type Value: Clone + Send + Sync + 'static;

    /// Returns the key with this rank.
    fn key(rank: u64) -> Self::Key;

    /// Returns the value of the key with this rank.
    fn value(rank: u64) -> Self::Value;
}

/// Keys and values of type `u64`.
pub struct Numbers;

impl Contents for Numbers {
    type Key = u64;
    type Value = u64;

    fn key(rank: u64) -> u64 {
        scatter(rank)
    }

    fn value(rank: u64) -> u64 {
        rank
    }
}

/// Keys of type `String` with 16 to 40 bytes, and values of type `Arc<[u8]>` with 100 bytes.
#[allow(dead_code)] // Not used by every benchmark.
pub struct Texts;

impl Contents for Texts {
    type Key = String;
    type Value = Arc<[u8]>;

    fn key(rank: u64) -> String {
        let scattered = scatter(rank);
        let length = 16 + usize::try_from(scattered % 25).expect("below 25");
        format!("{scattered:016x}/user/profile/of/the/first/kind")[..length].to_owned()
    }

    fn value(_: u64) -> Arc<[u8]> {
        Arc::new([7; 100])
    }
}

/// Maps ranks to numbers so that adjacent ranks are not adjacent in memory.
fn scatter(rank: u64) -> u64 {
    rank.wrapping_mul(0xD134_2543_DE82_EF95).rotate_left(29)
}

/// Returns a sequence of requested keys with a Zipf distribution. It is several times as long as the number of distinct
/// keys for small sizes, so that its order does not repeat soon.
pub fn zipf_keys<C: Contents>(distinct: usize, exponent: f64, seed: u64) -> Vec<C::Key> {
    #[allow(clippy::cast_precision_loss)]
    let zipf = Zipf::new(distinct as f64, exponent).expect("a valid distribution");
    let mut rng = SmallRng::seed_from_u64(seed);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rank = |sample: f64| sample as u64 - 1;
    (0..distinct.clamp(1 << 19, 1 << 22))
        .map(|_| C::key(rank(zipf.sample(&mut rng))))
        .collect()
}

/// A workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// `get` of cached keys, with Zipf exponent 0.99.
    Hit,
    /// `get` of the same key by all threads.
    HotKey,
    /// `get_with`, or the most similar method, of the same key by all threads.
    HotRead,
    /// `get`, and `insert` on a miss, with Zipf exponent 0.9 over ten times as many keys as the capacity.
    Mixed,
    /// `insert` of new keys.
    Churn,
    /// `get_or_load` of cached keys.
    LoadHit,
    /// `get_or_load` of new keys.
    LoadMiss,
    /// `get_or_load_async` of cached keys.
    AsyncHit,
    /// `get_or_load_async` of new keys.
    AsyncMiss,
}

impl Work {
    pub const ALL: [Self; 9] = [
        Self::Hit,
        Self::HotKey,
        Self::HotRead,
        Self::Mixed,
        Self::Churn,
        Self::LoadHit,
        Self::LoadMiss,
        Self::AsyncHit,
        Self::AsyncMiss,
    ];

    /// Returns the name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::HotKey => "one hot key",
            Self::HotRead => "one hot key, read in place",
            Self::Mixed => "mixed",
            Self::Churn => "churn",
            Self::LoadHit => "load hit",
            Self::LoadMiss => "load miss",
            Self::AsyncHit => "async load hit",
            Self::AsyncMiss => "async load miss",
        }
    }

    /// Returns the capacities at which the workload is measured.
    pub fn sizes(self) -> Vec<usize> {
        match self {
            Self::HotKey | Self::HotRead => SIZES[..1].to_vec(),
            _ => SIZES.to_vec(),
        }
    }

    /// Returns `true` if the cache supports the workload.
    pub fn suits<C: Contents, P: Peer<C>>(self) -> bool {
        match self {
            Self::Hit | Self::HotKey | Self::HotRead => P::GETS,
            Self::Mixed | Self::Churn => P::EVICTS,
            Self::LoadHit | Self::LoadMiss => P::LOADS,
            Self::AsyncHit | Self::AsyncMiss => P::LOADS_ASYNC,
        }
    }

    /// Returns the sequence of requested keys, which is empty for workloads with new keys.
    pub fn keys<C: Contents>(self, capacity: usize) -> Vec<C::Key> {
        match self {
            Self::Hit | Self::LoadHit | Self::AsyncHit => zipf_keys::<C>(capacity, 0.99, 1),
            Self::HotKey | Self::HotRead => vec![C::key(0); 1 << 10],
            Self::Mixed => zipf_keys::<C>(capacity * 10, 0.9, 2),
            Self::Churn | Self::LoadMiss | Self::AsyncMiss => Vec::new(),
        }
    }
}

/// A cache with its workload.
pub struct Bench<'a, C: Contents, P> {
    cache: P,
    work: Work,
    keys: &'a [C::Key],
    value: C::Value,
    contents: PhantomData<C>,
}

impl<'a, C: Contents, P: Peer<C>> Bench<'a, C, P> {
    /// Builds a cache and fills it to its capacity, in random order, so that popular keys are spread over its memory.
    pub fn new(work: Work, capacity: usize, keys: &'a [C::Key]) -> Self {
        let cache = P::with_capacity(capacity);
        let mut ranks: Vec<u64> = (0..capacity as u64).collect();
        ranks.shuffle(&mut SmallRng::seed_from_u64(3));
        for rank in ranks {
            cache.insert(C::key(rank), C::value(rank));
        }
        Self {
            cache,
            work,
            keys,
            value: C::value(0),
            contents: PhantomData,
        }
    }

    /// Runs one operation, and returns whether it was a hit.
    #[inline]
    fn step(&self, key: &C::Key) -> bool {
        match self.work {
            Work::Hit | Work::HotKey => self.cache.get(key).is_some(),
            Work::HotRead => self.cache.read(key),
            Work::Mixed => {
                let hit = self.cache.get(key).is_some();
                if !hit {
                    self.cache.insert(key.clone(), self.value.clone());
                }
                hit
            }
            Work::Churn => {
                self.cache.insert(key.clone(), self.value.clone());
                false
            }
            _ => {
                self.cache.get_or_load(key, || self.value.clone());
                true
            }
        }
    }

    /// Runs `operations` operations on one thread, starting at the key determined by `seed`. Returns the number of
    /// hits.
    pub fn run(&self, operations: u64, seed: u64) -> u64 {
        match self.work {
            Work::AsyncHit | Work::AsyncMiss => runtime().block_on(async {
                let mut keys = Keys::<C>::new(self.keys, seed);
                for _ in 0..operations {
                    let load = || self.value.clone();
                    self.cache.get_or_load_async(keys.next(), load).await;
                }
                operations
            }),
            _ => {
                let mut keys = Keys::<C>::new(self.keys, seed);
                (0..operations)
                    .map(|_| u64::from(self.step(keys.next())))
                    .sum()
            }
        }
    }

    /// Returns the time in which each of `threads` threads runs `operations` operations, from the first start to the
    /// last end. All threads exist before the first one starts. If there are more of them than processors, some start
    /// late.
    pub fn time(&self, threads: u64, operations: u64, seed: u64) -> Duration {
        let gate = Barrier::new(usize::try_from(threads).expect("few threads"));
        // No two turns request the same new keys, which could still be cached.
        let seed_of = |thread: u64| (((seed << 12) + threads) << 12) + thread;
        thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|thread| {
                    let (gate, seed_of) = (&gate, &seed_of);
                    scope.spawn(move || {
                        // The first operations initialize the state of the thread in the cache.
                        std::hint::black_box(self.run(64, !seed_of(thread)));
                        gate.wait();
                        let start = Instant::now();
                        std::hint::black_box(self.run(operations, seed_of(thread)));
                        (start, Instant::now())
                    })
                })
                .collect();
            let times = workers.into_iter().map(|worker| worker.join().unwrap());
            let (starts, ends): (Vec<_>, Vec<_>) = times.unzip();
            let last_end = ends.into_iter().max().expect("at least one thread");
            last_end - starts.into_iter().min().expect("at least one thread")
        })
    }
}

/// An infinite sequence of keys: the given keys repeatedly, or new keys.
struct Keys<'a, C: Contents> {
    given: &'a [C::Key],
    at: usize,
    rank: u64,
    fresh: C::Key,
}

impl<'a, C: Contents> Keys<'a, C> {
    fn new(given: &'a [C::Key], seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let rank = rng.next_u64();
        let length = given.len().max(1) as u64;
        let at = usize::try_from(rng.next_u64() % length).expect("below a length");
        Self {
            given,
            at,
            rank,
            fresh: C::key(rank),
        }
    }

    #[inline]
    fn next(&mut self) -> &C::Key {
        if self.given.is_empty() {
            self.rank = self.rank.wrapping_add(1);
            self.fresh = C::key(self.rank);
            return &self.fresh;
        }
        let key = &self.given[self.at];
        self.at += 1;
        if self.at == self.given.len() {
            self.at = 0;
        }
        key
    }
}

/// Builds a runtime that uses only the current thread.
pub fn runtime() -> Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime of one thread")
}
