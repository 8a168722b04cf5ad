//! The cost of operations over Redis for the server, and their rate with many tasks.

use super::{ENTRIES, ROUNDS, TASKS, Value, tiered, time, value};
use hdrhistogram::Histogram;
use hotset::{Consistency, LocalCache, RedisHub, TieredCache};
use peers::median;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use support::servers::{Server, soon};

/// The number of other processes that serve from their L1.
const OTHER_PROCESSES: usize = 64;

/// An operation on the key with this number. The numbers of one operation are consecutive.
type Run = Box<dyn Fn(u64) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// An operation, and the results of its rounds.
struct Operation {
    name: &'static str,
    /// The number of tasks that call it at the same time.
    tasks: usize,
    run: Arc<Run>,
    /// The number of the next key.
    next: Arc<AtomicU64>,
    /// Processor time of the server for each call, in microseconds, by round.
    server_times: Vec<f64>,
    /// Calls per second, by round.
    rates: Vec<f64>,
    /// Latencies in nanoseconds.
    latencies: Histogram<u64>,
}

impl Operation {
    fn new<F>(name: &'static str, run: impl Fn(u64) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self {
            name,
            tasks: TASKS,
            run: Arc::new(Box::new(move |number| Box::pin(run(number)))),
            next: Arc::default(),
            server_times: Vec::new(),
            rates: Vec::new(),
            latencies: Histogram::new(3).expect("three digits"),
        }
    }

    /// Returns the operation, called by one task at a time.
    fn in_one_task(self) -> Self {
        Self { tasks: 1, ..self }
    }

    /// Runs one turn.
    #[allow(clippy::cast_precision_loss)]
    async fn run(&mut self, server: &Server, turn: Duration) {
        let before = server.processor_seconds();
        let start = Instant::now();
        let tasks = (0..self.tasks).map(|_| {
            let (run, next) = (Arc::clone(&self.run), Arc::clone(&self.next));
            tokio::spawn(async move {
                let mut latencies: Histogram<u64> = Histogram::new(3).expect("three digits");
                while start.elapsed() < turn {
                    let begun = Instant::now();
                    run(next.fetch_add(1, Relaxed)).await;
                    let nanos = u64::try_from(begun.elapsed().as_nanos());
                    let nanos = nanos.expect("a latency fits into 64 bits");
                    latencies
                        .record(nanos)
                        .expect("the histogram resizes itself");
                }
                latencies
            })
        });
        let tasks: Vec<_> = tasks.collect();
        let mut calls = 0;
        for task in tasks {
            let latencies = task.await.expect("no task panics");
            calls += latencies.len();
            self.latencies
                .add(latencies)
                .expect("the histograms are alike");
        }
        self.rates
            .push(calls as f64 / start.elapsed().as_secs_f64());
        let seconds = server.processor_seconds() - before;
        self.server_times.push(seconds * 1e6 / calls as f64);
    }
}

/// Returns an operation on a connection or a cache, of which each call gets a clone.
fn operation<T, F>(
    name: &'static str,
    target: &T,
    run: impl Fn(T, u64) -> F + Send + Sync + 'static,
) -> Operation
where
    T: Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let target = target.clone();
    Operation::new(name, move |number| run(target.clone(), number))
}

/// Returns the operations on plain Redis.
fn plain_operations(connection: &MultiplexedConnection) -> [Operation; 4] {
    let key = |kind: &str, number: u64| format!("plain:{kind}:{number}");
    let seconds = super::TTL.as_secs();
    let get = |mut connection: MultiplexedConnection, number: u64| async move {
        let got: redis::RedisResult<String> = connection.get(number % ENTRIES).await;
        got.expect("the key exists");
    };
    let fill = move |mut connection: MultiplexedConnection, number: u64| async move {
        let key = key("fill", number);
        let got: redis::RedisResult<Option<String>> = connection.get(&key).await;
        assert_eq!(got.expect("the server replies"), None);
        let set = connection.set_ex(key, &*value(number), seconds).await;
        let () = set.expect("Redis has enough memory");
    };
    let set = move |mut connection: MultiplexedConnection, number: u64| async move {
        let key = key("set", number % ENTRIES);
        let set = connection.set_ex(key, &*value(number), seconds).await;
        let () = set.expect("Redis has enough memory");
    };
    let delete = move |mut connection: MultiplexedConnection, number: u64| async move {
        let key = key("set", number % ENTRIES);
        let mut calls = redis::pipe();
        calls.del(&key).publish("plain:events", key);
        let calls = calls.exec_async(&mut connection).await;
        calls.expect("the server replies");
    };
    [
        operation("`GET`", connection, get),
        operation("`GET` without a value, then `SET`", connection, fill),
        operation("`SET`", connection, set),
        operation("`DEL` and `PUBLISH`", connection, delete),
    ]
}

/// Builds a cache of the class `Realtime` whose L1 has room for one entry. Like a process of its own, it shares its
/// connections with no other cache.
fn without_l1(url: &str, namespace: &str) -> TieredCache<u64, Value> {
    let hub = RedisHub::connect(url).expect("the URL is valid");
    LocalCache::builder()
        .capacity(1)
        .time_to_live(super::TTL)
        .redis(hub, namespace)
        .consistency(Consistency::Realtime)
        .deadline(Duration::from_secs(2))
        .build()
        .expect("valid settings")
}

/// Measures all operations in turn, and prints a table.
pub(super) async fn measure(server: &Server, connection: &MultiplexedConnection, turn: Duration) {
    let url = server.url();
    let l2_only = tiered(&url, Consistency::L2Only).await;
    // A cache of its own, because a cache adapts to the share of reads that find a value.
    let missing = without_l1(&url, "missing");
    let realtime = without_l1(&url, "operations");
    let crowded = without_l1(&url, "crowded");
    let others: Vec<_> = (0..OTHER_PROCESSES)
        .map(|_| without_l1(&url, "crowded"))
        .collect();
    for cache in others.iter().chain([&missing, &realtime, &crowded]) {
        soon("proven", || cache.health().proven_for.is_some()).await;
    }
    for key in 0..ENTRIES {
        realtime.insert(key, value(key)).await;
    }
    let read = |cache: TieredCache<u64, Value>, number: u64| async move {
        let read = cache.get(&(number % ENTRIES)).await;
        read.expect("the key is cached");
    };
    let load = |cache: TieredCache<u64, Value>, number: u64| async move {
        let load = |key| async move { Ok::<_, Infallible>(value(key)) };
        // No other operation uses these keys.
        let loaded = cache.get_or_load_async(&(ENTRIES + number), load).await;
        loaded.expect("the loader does not fail");
    };
    let insert = |cache: TieredCache<u64, Value>, number: u64| async move {
        let inserted = cache.insert(number % ENTRIES, value(number)).await;
        assert!(inserted.is_acknowledged());
    };
    let invalidate = |cache: TieredCache<u64, Value>, number: u64| async move {
        let invalidated = cache.invalidate(&(2 * ENTRIES + number)).await;
        assert!(invalidated.is_acknowledged());
    };
    let mut operations = Vec::from(plain_operations(connection));
    operations.extend([
        operation("L2 hit, `L2Only`", &l2_only, read),
        operation("L2 hit, `Realtime`", &realtime, read),
        operation("miss and fill", &missing, load),
        operation("`insert`", &realtime, insert),
        operation("`invalidate`", &realtime, invalidate),
        operation("`invalidate`, 64 other processes", &crowded, invalidate),
        operation("the same, 1 task", &crowded, invalidate).in_one_task(),
    ]);
    for _ in 0..ROUNDS {
        for operation in &mut operations {
            operation.run(server, turn).await;
        }
    }
    println!("\n{TASKS} tasks:\n\n| operation | server time | calls/s | p50 | p99 |");
    println!("| --- | --: | --: | --: | --: |");
    for operation in &mut operations {
        println!(
            "| {} | {:.1} us | {:.0} | {} | {} |",
            operation.name,
            median(&mut operation.server_times),
            median(&mut operation.rates),
            time(operation.latencies.value_at_quantile(0.5)),
            time(operation.latencies.value_at_quantile(0.99)),
        );
    }
}
