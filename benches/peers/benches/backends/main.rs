//! The cost of a read from a map, a local cache, Redis, and a tiered cache over Redis, and of operations over Redis for
//! the server.
//!
//! `cargo bench -p peers --bench backends` starts a `redis-server`, which must be installed. All backends take turns,
//! and the figures are medians of rounds. Reads of less than a microsecond are timed in batches of a hundred, so their
//! percentiles are those of the means of batches. `--quick` makes each turn a tenth as long.

mod operations;
mod processes;

use hdrhistogram::Histogram;
use hotset::{Consistency, LocalCache, TieredCache};
use peers::median;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};
use std::collections::HashMap;
use std::future::Future;
use std::hint::black_box;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};
use support::servers;

const ENTRIES: u64 = 10_000;
const ROUNDS: usize = 9;
/// The duration of a turn with one task, and of one with many tasks.
const TURN_DURATION: Duration = Duration::from_millis(200);
const TASKS: usize = 64;
const TTL: Duration = Duration::from_secs(3_600);

type Value = Arc<str>;

/// A store of values.
trait Backend: Send + Sync + 'static {
    /// The number of reads that are timed together.
    const BATCH: usize;

    /// Reads the value of a key that exists.
    fn read(&self, key: u64) -> impl Future<Output = Value> + Send;
}

/// Implements `Backend` by `get_or_load_async`. It is a macro, because a generic implementation could only call the
/// method of the trait `AsyncCache`, whose cost would be measured as well.
macro_rules! backend_by_get_or_load {
    ($name:ident) => {
        impl Backend for $name {
            const BATCH: usize = 100;

            async fn read(&self, key: u64) -> Value {
                let load = |_| async { Err::<Value, _>("the loader was called") };
                let loaded = self.0.get_or_load_async(&key, load).await;
                loaded.expect("the key exists")
            }
        }
    };
}

struct Map(RwLock<HashMap<u64, Value>>);

impl Backend for Map {
    const BATCH: usize = 100;

    async fn read(&self, key: u64) -> Value {
        let map = self.0.read().expect("no thread panics");
        map.get(&key).cloned().expect("the key exists")
    }
}

struct Local(LocalCache<u64, Value>);

impl Backend for Local {
    const BATCH: usize = 100;

    async fn read(&self, key: u64) -> Value {
        self.0.get(&key).expect("the key is cached")
    }
}

/// The local cache, with `get_or_load_async` instead of `get`.
struct LocalLoad(LocalCache<u64, Value>);

backend_by_get_or_load!(LocalLoad);

struct Plain(redis::aio::MultiplexedConnection);

impl Backend for Plain {
    const BATCH: usize = 1;

    async fn read(&self, key: u64) -> Value {
        let mut connection = self.0.clone();
        let mut get = redis::cmd("GET");
        let value: String = get
            .arg(key)
            .query_async(&mut connection)
            .await
            .expect("the key exists");
        value.into()
    }
}

struct Tiered<const BATCH: usize>(TieredCache<u64, Value>);

impl<const N: usize> Backend for Tiered<N> {
    const BATCH: usize = N;

    async fn read(&self, key: u64) -> Value {
        self.0.get(&key).await.expect("the key is cached")
    }
}

/// The tiered cache, with `get_or_load_async` instead of `get`.
struct TieredLoad(TieredCache<u64, Value>);

backend_by_get_or_load!(TieredLoad);

/// The results of one backend.
struct Rounds {
    name: &'static str,
    /// Reads per second with one task, by round.
    alone: Vec<f64>,
    /// Reads per second with many tasks, by round.
    together: Vec<f64>,
    /// Latencies with one task, in nanoseconds.
    times: Histogram<u64>,
}

impl Rounds {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            alone: Vec::new(),
            together: Vec::new(),
            times: Histogram::new(3).expect("three digits"),
        }
    }

    /// Runs one turn with one task, and one with many.
    #[allow(clippy::cast_precision_loss)]
    async fn run<B: Backend>(&mut self, backend: &Arc<B>, keys: &Arc<[u64]>, turn: Duration) {
        let turn_start = Instant::now();
        let mut reads = 0;
        'round: loop {
            for batch in keys.chunks(B::BATCH) {
                let started = Instant::now();
                for key in batch {
                    black_box(backend.read(*key).await);
                }
                let each = started.elapsed().as_nanos() / batch.len() as u128;
                let each = u64::try_from(each).expect("a latency fits into 64 bits");
                self.times
                    .record(each)
                    .expect("the histogram resizes itself");
                reads += batch.len();
                if turn_start.elapsed() >= turn {
                    break 'round;
                }
            }
        }
        self.alone
            .push(reads as f64 / turn_start.elapsed().as_secs_f64());
        self.run_together(backend, keys, turn).await;
    }

    /// Runs one turn with many tasks.
    #[allow(clippy::cast_precision_loss)]
    async fn run_together<B: Backend>(
        &mut self,
        backend: &Arc<B>,
        keys: &Arc<[u64]>,
        turn: Duration,
    ) {
        let turn_start = Instant::now();
        let tasks = (0..TASKS).map(|task| {
            let (backend, keys) = (Arc::clone(backend), Arc::clone(keys));
            tokio::spawn(async move {
                let mut reads = 0;
                let start = task * keys.len() / TASKS;
                for batch in keys[start..].chunks(B::BATCH).cycle() {
                    for key in batch {
                        black_box(backend.read(*key).await);
                    }
                    reads += batch.len();
                    if turn_start.elapsed() >= turn {
                        break;
                    }
                    // Reads from memory never wait, so the task yields to the other tasks.
                    if B::BATCH > 1 {
                        tokio::task::yield_now().await;
                    }
                }
                reads
            })
        });
        let tasks: Vec<_> = tasks.collect();
        let mut reads = 0;
        for task in tasks {
            reads += task.await.expect("no task panics");
        }
        self.together
            .push(reads as f64 / turn_start.elapsed().as_secs_f64());
    }
}

/// Returns a sequence of keys with Zipf exponent 0.99 over all entries.
fn zipf_keys() -> Arc<[u64]> {
    let mut rng = SmallRng::seed_from_u64(7);
    #[allow(clippy::cast_precision_loss)]
    let zipf = Zipf::new(ENTRIES as f64, 0.99).expect("a valid distribution");
    let mut ranks: Vec<u64> = (0..ENTRIES).collect();
    ranks.shuffle(&mut rng);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let key = |_| ranks[zipf.sample(&mut rng) as usize - 1];
    let mut keys: Vec<u64> = (0..1 << 18).map(key).collect();
    let turn = rng.random_range(0..keys.len());
    keys.rotate_left(turn);
    keys.into()
}

/// Builds a tiered cache and fills it.
async fn tiered(url: &str, consistency: Consistency) -> TieredCache<u64, Value> {
    let capacity = 2 * usize::try_from(ENTRIES).expect("the number is small");
    let cache = tiered_over(url, consistency, capacity).await;
    for key in 0..ENTRIES {
        cache.insert(key, value(key)).await;
    }
    cache
}

/// Returns a cache over Redis that has no values of its own.
async fn tiered_over(
    url: &str,
    consistency: Consistency,
    capacity: usize,
) -> TieredCache<u64, Value> {
    let namespace = format!("{consistency:?}");
    let cache = LocalCache::builder()
        .capacity(capacity)
        .time_to_live(TTL)
        .redis(url, namespace.replace(['{', '}', ' '], ""))
        .consistency(consistency)
        .deadline(Duration::from_secs(2))
        .build()
        .expect("valid settings");
    servers::soon("proven", || cache.health().proven_for.is_some()).await;
    cache
}

fn value(key: u64) -> Value {
    format!("{key:0100}").into()
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    if processes::read_if_asked().await {
        return;
    }
    let server = servers::Server::start();
    let client = redis::Client::open(server.url()).expect("a valid URL");
    let connection = client.get_multiplexed_async_connection().await;
    let mut connection = connection.expect("the server runs");
    let local = LocalCache::builder();
    let local = local.capacity(2 * usize::try_from(ENTRIES).expect("the number is small"));
    let local = local.time_to_live(TTL).build().expect("valid settings");
    let mut map = HashMap::new();
    for key in 0..ENTRIES {
        map.insert(key, value(key));
        local.insert(key, value(key));
        let mut set = redis::cmd("SET");
        let set = set.arg(key).arg(&*value(key));
        let _: () = set
            .query_async(&mut connection)
            .await
            .expect("Redis has enough memory");
    }
    let realtime = tiered(&server.url(), Consistency::Realtime).await;
    let l2_only = tiered(&server.url(), Consistency::L2Only).await;

    let map = Arc::new(Map(RwLock::new(map)));
    let local_load = Arc::new(LocalLoad(local.clone()));
    let local = Arc::new(Local(local));
    let plain = Arc::new(Plain(connection.clone()));
    let tiered_load = Arc::new(TieredLoad(realtime.clone()));
    let realtime = Arc::new(Tiered::<100>(realtime));
    let l2_only = Arc::new(Tiered::<1>(l2_only));
    let names = [
        "`RwLock<HashMap>`, no bound, no time to live",
        "`LocalCache::get`",
        "L1 hit: `TieredCache::get`, `Realtime`",
        "`LocalCache::get_or_load_async`",
        "L1 hit: `TieredCache::get_or_load_async`",
        "Redis: `GET`",
        "L2 hit: `TieredCache::get`, `L2Only`",
    ];
    let mut rounds = names.map(Rounds::new);
    let keys = zipf_keys();
    let is_quick = std::env::args().any(|argument| argument == "--quick");
    let turn = if is_quick {
        TURN_DURATION / 10
    } else {
        TURN_DURATION
    };
    for _ in 0..ROUNDS {
        rounds[0].run(&map, &keys, turn).await;
        rounds[1].run(&local, &keys, turn).await;
        rounds[2].run(&realtime, &keys, turn).await;
        rounds[3].run(&local_load, &keys, turn).await;
        rounds[4].run(&tiered_load, &keys, turn).await;
        rounds[5].run(&plain, &keys, turn).await;
        rounds[6].run(&l2_only, &keys, turn).await;
    }
    print(&mut rounds);
    operations::measure(&server, &connection, turn).await;
    tokio::task::block_in_place(|| processes::measure(&server.url(), turn));
}

fn print(rounds: &mut [Rounds]) {
    println!("| backend | reads/s, 1 task | p50 | p99 | reads/s, {TASKS} tasks |");
    println!("| --- | --: | --: | --: | --: |");
    for rounds in &mut *rounds {
        println!(
            "| {} | {:.0} | {} | {} | {:.0} |",
            rounds.name,
            median(&mut rounds.alone),
            time(rounds.times.value_at_quantile(0.5)),
            time(rounds.times.value_at_quantile(0.99)),
            median(&mut rounds.together),
        );
    }
    let ratio = |local: usize, tier: usize| {
        let ratios = rounds[local].alone.iter().zip(&rounds[tier].alone);
        median(&mut ratios.map(|(local, tier)| local / tier).collect::<Vec<_>>())
    };
    println!(
        "\nA hit in L1 costs {:.2} times as much as a hit in the local cache with `get`, and {:.2} times as much with \
         `get_or_load_async`.",
        ratio(1, 2),
        ratio(3, 4)
    );
}

#[allow(clippy::cast_precision_loss)]
fn time(nanos: u64) -> String {
    if nanos < 1_000 {
        format!("{nanos} ns")
    } else {
        format!("{:.1} us", nanos as f64 / 1_000.0)
    }
}
