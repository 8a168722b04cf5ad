//! What a read costs where values live in different places: in a plain map, in this process's cache, in
//! Redis, and in a tiered cache over it.
//!
//! `cargo bench -p peers --bench backends`: it starts a `redis-server` of its own, which must
//! be installed. All backends take turns in one run; figures are medians of rounds. Reads of less than
//! a microsecond are timed a hundred at a time, so their percentiles are of means of a hundred. `--quick`
//! makes each turn a tenth as long.

use hdrhistogram::Histogram;
use hotset::{Consistency, LocalCache, TieredCache};
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
const TURN: Duration = Duration::from_millis(200);
const TASKS: usize = 64;
const TTL: Duration = Duration::from_secs(3_600);

type Value = Arc<str>;

/// A place where values live.
trait Backend: Send + Sync + 'static {
    /// Reads that are timed together.
    const BATCH: usize;

    fn read(&self, key: u64) -> impl Future<Output = Value> + Send;
}

struct Dict(RwLock<HashMap<u64, Value>>);

impl Backend for Dict {
    const BATCH: usize = 100;

    async fn read(&self, key: u64) -> Value {
        let map = self.0.read().expect("nobody panics");
        map.get(&key).cloned().expect("it is held")
    }
}

struct Local(LocalCache<u64, Value>);

impl Backend for Local {
    const BATCH: usize = 100;

    async fn read(&self, key: u64) -> Value {
        self.0.get(&key).expect("it is held")
    }
}

/// `get_or_load_async`, in place of `get`.
struct LocalLoad(LocalCache<u64, Value>);

impl Backend for LocalLoad {
    const BATCH: usize = 100;

    async fn read(&self, key: u64) -> Value {
        let load = || async { Err::<Value, _>("it is held") };
        self.0
            .get_or_load_async(&key, load)
            .await
            .expect("it is held")
    }
}

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
            .expect("it is held");
        value.into()
    }
}

struct Tiered<const BATCH: usize>(TieredCache<u64, Value>);

impl<const N: usize> Backend for Tiered<N> {
    const BATCH: usize = N;

    async fn read(&self, key: u64) -> Value {
        self.0.get(&key).await.expect("it is held")
    }
}

struct TieredLoad(TieredCache<u64, Value>);

impl Backend for TieredLoad {
    const BATCH: usize = 100;

    async fn read(&self, key: u64) -> Value {
        let load = || async { Err::<Value, _>("it is held") };
        self.0
            .get_or_load_async(&key, load)
            .await
            .expect("it is held")
    }
}

/// What one backend did.
struct Rounds {
    name: &'static str,
    /// Reads a second, of one task and of many.
    alone: Vec<f64>,
    together: Vec<f64>,
    /// Nanoseconds, of one task.
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

    #[allow(clippy::cast_precision_loss)]
    async fn run<B: Backend>(&mut self, backend: &Arc<B>, keys: &Arc<[u64]>, turn: Duration) {
        let begun = Instant::now();
        let mut reads = 0;
        'round: loop {
            for batch in keys.chunks(B::BATCH) {
                let started = Instant::now();
                for key in batch {
                    black_box(backend.read(*key).await);
                }
                let each = started.elapsed().as_nanos() / batch.len() as u128;
                let each = u64::try_from(each).expect("not for centuries");
                self.times.record(each).expect("it resizes itself");
                reads += batch.len();
                if begun.elapsed() >= turn {
                    break 'round;
                }
            }
        }
        self.alone
            .push(reads as f64 / begun.elapsed().as_secs_f64());

        let begun = Instant::now();
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
                    if begun.elapsed() >= turn {
                        break;
                    }
                    // Others' turn, where a read does not wait.
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
            .push(reads as f64 / begun.elapsed().as_secs_f64());
    }
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Zipf 0.99 over all that is held.
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

async fn tiered(url: &str, consistency: Consistency) -> TieredCache<u64, Value> {
    let namespace = format!("{consistency:?}");
    let cache = LocalCache::builder()
        .capacity(2 * usize::try_from(ENTRIES).expect("few"))
        .time_to_live(TTL)
        .redis(url, namespace.replace(['{', '}', ' '], ""))
        .consistency(consistency)
        .deadline(Duration::from_secs(2))
        .build()
        .expect("valid settings");
    servers::soon("proven", || cache.health().proven_for.is_some()).await;
    for key in 0..ENTRIES {
        cache.insert(key, value(key)).await;
    }
    cache
}

fn value(key: u64) -> Value {
    format!("{key:0100}").into()
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let server = servers::Server::start();
    let client = redis::Client::open(server.url()).expect("a valid URL");
    let connection = client.get_multiplexed_async_connection().await;
    let mut connection = connection.expect("the server runs");
    let local = LocalCache::builder();
    let local = local.capacity(2 * usize::try_from(ENTRIES).expect("few"));
    let local = local.time_to_live(TTL).build().expect("valid settings");
    let mut dict = HashMap::new();
    for key in 0..ENTRIES {
        dict.insert(key, value(key));
        local.insert(key, value(key));
        let mut set = redis::cmd("SET");
        let set = set.arg(key).arg(&*value(key));
        let _: () = set
            .query_async(&mut connection)
            .await
            .expect("there is room");
    }
    let realtime = tiered(&server.url(), Consistency::Realtime).await;
    let l2_only = tiered(&server.url(), Consistency::L2Only).await;

    let dict = Arc::new(Dict(RwLock::new(dict)));
    let local_load = Arc::new(LocalLoad(local.clone()));
    let local = Arc::new(Local(local));
    let plain = Arc::new(Plain(connection));
    let tiered_load = Arc::new(TieredLoad(realtime.clone()));
    let realtime = Arc::new(Tiered::<100>(realtime));
    let l2_only = Arc::new(Tiered::<1>(l2_only));
    let names = [
        "dict: `RwLock<HashMap>`, no bound, no time to live",
        "local: `LocalCache::get`",
        "tiered, L1 hit: `TieredCache::get`, `Realtime`",
        "local: `LocalCache::get_or_load_async`",
        "tiered, L1 hit: `TieredCache::get_or_load_async`",
        "Redis: `GET`",
        "tiered, L2 hit: `TieredCache::get`, `L2Only`",
    ];
    let mut rounds = names.map(Rounds::new);
    let keys = zipf_keys();
    let is_quick = std::env::args().any(|argument| argument == "--quick");
    let turn = if is_quick { TURN / 10 } else { TURN };
    for _ in 0..ROUNDS {
        rounds[0].run(&dict, &keys, turn).await;
        rounds[1].run(&local, &keys, turn).await;
        rounds[2].run(&realtime, &keys, turn).await;
        rounds[3].run(&local_load, &keys, turn).await;
        rounds[4].run(&tiered_load, &keys, turn).await;
        rounds[5].run(&plain, &keys, turn).await;
        rounds[6].run(&l2_only, &keys, turn).await;
    }
    print(&mut rounds);
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
        "\nA hit in L1 costs {:.2} times a hit in the local cache, {:.2} with `get_or_load_async`.",
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
