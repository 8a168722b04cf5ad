//! The load of the servers of a cluster, and reads and writes while one of them is dead.
//!
//! `cargo bench -p peers --bench cluster` starts six `redis-server` processes, three primaries with a replica each.
//! `--quick` makes each turn a tenth as long.

use futures_util::future::join_all;
use hdrhistogram::Histogram;
use hotset::{Consistency, LocalCache, RedisHub, TieredCache};
use peers::median;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use support::servers::cluster::Cluster;
use support::servers::{Server, soon};

const ENTRIES: usize = 10_000;
const ROUNDS: usize = 9;
/// The numbers of tasks that read at the same time.
const TASKS: [usize; 3] = [64, 256, 1_024];
const PARTITIONS: u16 = 16;
const IDLE_CACHES: usize = 100;
/// The duration of a turn.
const TURN_DURATION: Duration = Duration::from_secs(1);
const TTL: Duration = Duration::from_secs(3_600);

type Cache = TieredCache<String, Arc<str>>;

/// Builds a cache whose L1 has room for one entry.
async fn cache(hub: &RedisHub, namespace: &str, class: Consistency, partitions: u16) -> Cache {
    let cache = LocalCache::builder()
        .capacity(1)
        .time_to_live(TTL)
        .redis(hub, namespace)
        .consistency(class)
        .deadline(Duration::from_secs(2))
        .partitions(partitions)
        .build()
        .expect("valid settings");
    soon("proven", || cache.health().proven_for.is_some()).await;
    cache
}

fn hub(cluster: &Cluster) -> RedisHub {
    RedisHub::connect(cluster.url()).expect("the URL is valid")
}

fn key(number: usize) -> String {
    format!("key:{number}")
}

async fn insert_all(cache: &Cache) {
    for number in 0..ENTRIES {
        let inserted = cache.insert(key(number), "x".repeat(100).into()).await;
        assert!(inserted.is_acknowledged());
    }
}

fn primaries(cluster: &Cluster) -> Vec<&Server> {
    let primaries = cluster.primaries(0).into_iter();
    primaries.map(|(at, _)| &cluster.servers[at]).collect()
}

/// The results of a namespace with this number of partitions, for one number of tasks.
struct Layout {
    cache: Cache,
    /// Processor time of the busiest server and of all servers for each read, in microseconds, by round.
    busiest: Vec<f64>,
    all: Vec<f64>,
}

impl Layout {
    /// Reads with many tasks for one turn.
    #[allow(clippy::cast_precision_loss)]
    async fn run(&mut self, cluster: &Cluster, tasks: usize, turn: Duration) {
        let servers = primaries(cluster);
        let used = || servers.iter().map(|server| server.processor_seconds());
        let before: Vec<f64> = used().collect();
        let (start, reads) = (Instant::now(), AtomicU64::new(0));
        join_all((0..tasks).map(|task| {
            let (cache, reads) = (&self.cache, &reads);
            async move {
                let mut number = task * ENTRIES / tasks;
                while start.elapsed() < turn {
                    number = (number + 1) % ENTRIES;
                    let found = cache.get(&key(number)).await;
                    assert!(found.is_some(), "the key is cached");
                    reads.fetch_add(1, Relaxed);
                }
            }
        }))
        .await;
        let micros = used()
            .zip(before)
            .map(|(after, before)| (after - before) * 1e6 / reads.load(Relaxed) as f64);
        let micros: Vec<f64> = micros.collect();
        self.busiest
            .push(micros.iter().copied().fold(0.0, f64::max));
        self.all.push(micros.iter().sum());
    }
}

/// Measures the processor time of the servers for an L2 hit.
async fn measure_hits(cluster: &Cluster, turn: Duration) {
    let hub = hub(cluster);
    let mut caches = Vec::new();
    for partitions in [1, PARTITIONS] {
        let namespace = format!("hits:{partitions}");
        let cache = cache(&hub, &namespace, Consistency::L2Only, partitions).await;
        insert_all(&cache).await;
        caches.push(cache);
    }
    println!(
        "| tasks | busiest server, 1 partition | {PARTITIONS} partitions | ratio | all servers, 1 | {PARTITIONS} |"
    );
    println!("| --: | --: | --: | --: | --: | --: |");
    for tasks in TASKS {
        let layout = |cache: &Cache| Layout {
            cache: cache.clone(),
            busiest: Vec::new(),
            all: Vec::new(),
        };
        let mut layouts: Vec<Layout> = caches.iter().map(layout).collect();
        for _ in 0..ROUNDS {
            for layout in &mut layouts {
                layout.run(cluster, tasks, turn).await;
            }
        }
        let ratios = layouts[0].busiest.iter().zip(&layouts[1].busiest);
        let mut ratios: Vec<f64> = ratios.map(|(one, several)| several / one).collect();
        let busiest: Vec<f64> = layouts
            .iter_mut()
            .map(|layout| median(&mut layout.busiest))
            .collect();
        let all: Vec<f64> = layouts
            .iter_mut()
            .map(|layout| median(&mut layout.all))
            .collect();
        println!(
            "| {tasks} | {:.2} us | {:.2} us | {:.2} | {:.2} us | {:.2} us |",
            busiest[0],
            busiest[1],
            median(&mut ratios),
            all[0],
            all[1],
        );
    }
}

/// Counts the connections and the calls of a process with many caches that are not in use.
#[allow(clippy::cast_precision_loss)]
async fn measure_idle(cluster: &Cluster, turn: Duration) {
    let servers = primaries(cluster);
    let connections = || -> Vec<u64> {
        let counts = servers
            .iter()
            .map(|server| server.info("clients", "connected_clients:"));
        counts.collect()
    };
    let scripts = || -> u64 {
        let counts = servers
            .iter()
            .map(|server| server.info::<u64>("commandstats", "cmdstat_evalsha:calls="));
        counts.sum()
    };
    let before = connections();
    let hub = hub(cluster);
    let namespaces: Vec<_> = (0..IDLE_CACHES)
        .map(|number| format!("idle:{number}"))
        .collect();
    let caches = namespaces
        .iter()
        .map(|namespace| cache(&hub, namespace, Consistency::Realtime, PARTITIONS));
    let caches = join_all(caches).await;
    // The first renewals of a cache have more upkeep.
    tokio::time::sleep(5 * turn).await;
    let (begun, calls) = (Instant::now(), scripts());
    tokio::time::sleep(10 * turn).await;
    let rate = (scripts() - calls) as f64 / begun.elapsed().as_secs_f64();
    let added = connections()
        .into_iter()
        .zip(before)
        .map(|(after, before)| after - before);
    let added: Vec<_> = added.collect();
    println!(
        "\n{} idle caches with {PARTITIONS} partitions in one process: {added:?} connections to the three primaries, and \
         {rate:.0} scripts per second.",
        caches.len()
    );
}

/// What readers and a writer of keys on the other servers have seen in a phase.
struct Seen {
    reads: Histogram<u64>,
    writes: Histogram<u64>,
    hits: u64,
}

impl Seen {
    fn new() -> Self {
        let histogram = || Histogram::new(3).expect("three digits");
        Self {
            reads: histogram(),
            writes: histogram(),
            hits: 0,
        }
    }
}

/// Runs an operation, and records its duration in microseconds.
async fn timed<T>(times: &mut Histogram<u64>, operation: impl Future<Output = T>) -> T {
    let begun = Instant::now();
    let result = operation.await;
    let micros = u64::try_from(begun.elapsed().as_micros()).expect("a duration of seconds");
    times.record(micros).expect("the histogram resizes itself");
    result
}

/// Reads and writes keys for a time.
async fn use_keys(cache: &Cache, keys: &[String], time: Duration) -> Seen {
    let mut seen = Seen::new();
    let begun = Instant::now();
    for (number, key) in keys.iter().cycle().enumerate() {
        if begun.elapsed() > time {
            break;
        }
        if timed(&mut seen.reads, cache.get(key)).await.is_some() {
            seen.hits += 1;
        }
        if number % 100 == 0 {
            let inserted = timed(&mut seen.writes, cache.insert(key.clone(), "y".into())).await;
            assert!(inserted.is_acknowledged(), "{inserted:?}");
        }
    }
    seen
}

/// Kills a primary that no replica replaces, while keys of the others are in use.
#[allow(clippy::cast_precision_loss)]
async fn measure_dead_primary(mut cluster: Cluster, turn: Duration) {
    cluster.configure("cluster-require-full-coverage", "no");
    let hub = hub(&cluster);
    let cache = cache(&hub, "dead", Consistency::Realtime, PARTITIONS).await;
    insert_all(&cache).await;
    let (dead, _) = cluster.primaries(0)[0];
    let pattern = format!("hotset:{PARTITIONS}:{{dead/*:e:*");
    let names: Vec<Vec<u8>> = cluster.servers[dead].command(&[b"KEYS", pattern.as_bytes()]);
    let lost = names.iter().filter_map(|name| {
        let name = String::from_utf8_lossy(name).into_owned();
        Some(name[name.rfind("key:")?..].to_owned())
    });
    let lost: HashSet<String> = lost.collect();
    let others = (0..ENTRIES).map(key).filter(|key| !lost.contains(key));
    let (lost, others) = (
        lost.iter().cloned().collect::<Vec<_>>(),
        others.collect::<Vec<_>>(),
    );
    let before = use_keys(&cache, &others, 5 * turn).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let (reader, is_over_for_reader) = (cache.clone(), Arc::clone(&is_over));
    let read_lost = tokio::spawn(async move {
        let is_on = |_: &&String| !is_over_for_reader.load(Relaxed);
        for key in lost.iter().cycle().take_while(is_on) {
            let load = |_| async { Ok::<Arc<str>, std::convert::Infallible>("z".into()) };
            reader
                .get_or_load_async(key, load)
                .await
                .expect("the loader does not fail");
        }
    });
    cluster.servers[dead].kill();
    let after = use_keys(&cache, &others, 10 * turn).await;
    is_over.store(true, Relaxed);
    read_lost.await.expect("no task panics");
    println!(
        "\n| keys of the other primaries | hit ratio | read p50 | p99 | p99.9 | longest | longest write |"
    );
    println!("| --- | --: | --: | --: | --: | --: | --: |");
    for (phase, seen) in [("all primaries run", before), ("one is dead", after)] {
        let read = |quantile| seen.reads.value_at_quantile(quantile);
        println!(
            "| {phase} | {:.1}% | {} us | {} us | {} us | {} us | {} us |",
            100.0 * seen.hits as f64 / seen.reads.len() as f64,
            read(0.5),
            read(0.99),
            read(0.999),
            seen.reads.max(),
            seen.writes.max(),
        );
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let is_quick = std::env::args().any(|argument| argument == "--quick");
    let turn = if is_quick {
        TURN_DURATION / 10
    } else {
        TURN_DURATION
    };
    let cluster = Cluster::start_without_failover();
    measure_idle(&cluster, turn).await;
    measure_hits(&cluster, turn).await;
    measure_dead_primary(cluster, turn).await;
}
