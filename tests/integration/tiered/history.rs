//! Histories of the reads and writes of several processes during random failures.

use super::checker::{Kind, Operation, Summary, Time, assert_allowed, now, parse, violations};
use super::partitions::PARTITIONS;
use super::plain_reads::calls_of;
use super::servers::cluster::Cluster;
use super::servers::{Cut, Proxy, Server, TEST_TIMEOUT, soon};
use super::worker::{Database, Worker, kind_of};
use super::{MINUTE, SHORT_HEARTBEAT, builder_with};
use hotset::{
    Consistency, Loaded, LocalCacheBuilder, Propagation, TieredCache, TieredCacheBuilder,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// The number of keys.
const KEYS: u64 = 40;

/// The number of tags. Each even key has one of them.
const TAGS: u64 = 4;

fn tag(number: u64) -> String {
    format!("tag {number}")
}

fn tag_of(key: u64) -> Option<String> {
    (key % 2 == 0).then(|| tag(key / 2 % TAGS))
}

/// Returns the consistency class of a name in the arguments of a worker.
fn class(name: &str) -> Consistency {
    match name {
        "realtime" | "realtime-wait" => Consistency::Realtime,
        "l2only" => Consistency::L2Only,
        "bounded" | "bounded-replicas" => Consistency::Bounded(BOUND),
        // This class is weaker than the one that the history is checked against, so the checker must detect it.
        "planted" => MINUTE,
        _ => unreachable!("{name}"),
    }
}

/// The bound of the class `Bounded`.
pub(crate) const BOUND: Duration = Duration::from_millis(300);

/// The resolution of the coarse clock.
pub(crate) const CLOCK_RESOLUTION: Duration = Duration::from_millis(20);

/// The shared state of the tasks of one worker.
struct Actor {
    cache: TieredCache<u64, u64>,
    database: Database,
    process: usize,
    processes: u64,
    /// A lock for each key, so that its numbers rise.
    write_locks: Vec<Mutex<()>>,
    operations: UnboundedSender<Operation>,
    stop: AtomicBool,
}

/// Sets the layout in the arguments of a worker: a number of partitions, or for example `1>16:50`, if the namespace moves
/// from one partition to 16, and half of the keys are moved.
fn with_layout(cache: TieredCacheBuilder<u64, u64>, layout: &str) -> TieredCacheBuilder<u64, u64> {
    let Some((partitions, change)) = layout.split_once('>') else {
        return cache.partitions(layout.parse().unwrap());
    };
    let (next, percent) = change.split_once(':').unwrap();
    cache
        .partitions(partitions.parse().unwrap())
        .next_partitions(next.parse().unwrap())
        .moved_percent(percent.parse().unwrap())
}

/// Runs a worker, which reads and writes until it is stopped, and records its operations.
pub(crate) async fn work(url: &str, database: Database, words: &[&str]) {
    let [process, processes, consistency, deadline, log] = words else {
        unreachable!(
            "the number of the process, the number of processes, the class and the number of partitions, the deadline \
             in milliseconds, and the path of the log"
        );
    };
    let (consistency, layout) = consistency.split_once('/').unwrap_or((consistency, "1"));
    let mut log = File::create(log).unwrap();
    let (operations, mut recorded) = unbounded_channel::<Operation>();
    let recording = tokio::task::spawn_blocking(move || {
        let mut lines = String::new();
        while let Some(operation) = recorded.blocking_recv() {
            writeln!(lines, "{operation}").unwrap();
            while let Ok(operation) = recorded.try_recv() {
                writeln!(lines, "{operation}").unwrap();
            }
            log.write_all(lines.as_bytes()).unwrap();
            lines.clear();
        }
    });
    // So half of the reads that find a value also refresh it.
    let refresh_after =
        |local: LocalCacheBuilder<_, _>| local.refresh_after(Duration::from_millis(20));
    let cache = builder_with::<u64>(url, class(consistency), refresh_after);
    let cache = cache.replicas(u64::from(consistency == "realtime-wait"));
    let cache = cache.read_from_replicas(consistency == "bounded-replicas");
    let cache = with_layout(cache, layout);
    let actor = Actor {
        cache: cache
            .heartbeat(SHORT_HEARTBEAT)
            .deadline(Duration::from_millis(deadline.parse().unwrap()))
            .build()
            .unwrap(),
        database,
        process: process.parse().unwrap(),
        processes: processes.parse().unwrap(),
        write_locks: (0..KEYS).map(|_| Mutex::new(())).collect(),
        operations,
        stop: AtomicBool::new(false),
    };
    let tasks = futures_util::future::join_all((0..8).map(|_| actor.run()));
    let wait_for_stop = async {
        super::worker::command().await;
        actor.stop.store(true, SeqCst);
    };
    tokio::join!(tasks, wait_for_stop);
    drop(actor);
    recording.await.unwrap();
    println!("> done");
}

impl Actor {
    /// Reads and writes random keys until the worker is stopped.
    async fn run(&self) {
        let mut random = SmallRng::from_rng(&mut rand::rng());
        while !self.stop.load(SeqCst) {
            let key = random.random_range(0..KEYS);
            match random.random_range(0..100) {
                0..80 => self.read(key).await,
                80..85 => self.get(key).await,
                // A refreshed value has no tags.
                85..87 if key % 2 == 1 => self.refresh(key).await,
                87..90 => {
                    self.read_many([key, (key + 7) % KEYS, (key + 9) % KEYS])
                        .await;
                }
                90 if random.random_range(0..4) == 0 => self.increment_all().await,
                91 => self.increment_tag(key / 2 % TAGS).await,
                _ if key % 2 == 0 => self.increment(key).await,
                _ if key / 2 % self.processes == self.process as u64 % self.processes => {
                    self.write_through(key).await;
                }
                _ => {}
            }
            let pause = random.random_range(0..2_000);
            // The pause of a client between two operations. Without it, the processes would saturate the machine.
            tokio::time::sleep(Duration::from_micros(pause)).await;
        }
    }

    fn record(&self, key: u64, begun: Time, kind: Kind, number: u64) {
        let operation = Operation {
            process: self.process,
            key,
            begun,
            kind,
            number,
        };
        self.operations.send(operation).unwrap();
    }

    async fn read(&self, key: u64) {
        let begun = now();
        let load = |key| async move {
            let row = self.database.get(key).await;
            Ok::<_, ()>(Loaded::new(row).tags(tag_of(key)))
        };
        let loaded = self.cache.get_or_load_entry_async(&key, load).await;
        self.record(key, begun, Kind::Read(now()), loaded.unwrap());
    }

    async fn get(&self, key: u64) {
        let begun = now();
        if let Some(number) = self.cache.get(&key).await {
            self.record(key, begun, Kind::Read(now()), number);
        }
    }

    async fn refresh(&self, key: u64) {
        let begun = now();
        let load = |key| async move { Ok::<_, ()>(self.database.get(key).await) };
        let number = self.cache.refresh_async(&key, load).await.unwrap();
        self.record(key, begun, Kind::Read(now()), number);
    }

    async fn read_many(&self, keys: [u64; 3]) {
        let begun = now();
        let load = |missing: Vec<u64>| async {
            let mut rows = Vec::new();
            for key in missing {
                let row = self.database.get(key).await;
                rows.push((key, Loaded::new(row).tags(tag_of(key))));
            }
            Ok::<_, ()>(rows)
        };
        let numbers = self
            .cache
            .get_many_or_load_entries_async(&keys, load)
            .await
            .unwrap();
        for (key, number) in keys.into_iter().zip(numbers) {
            self.record(key, begun, Kind::Read(now()), number.unwrap());
        }
    }

    /// Changes the key in the database and invalidates it. Any process may do this.
    async fn increment(&self, key: u64) {
        let begun = now();
        let number = self.database.increment(key).await;
        let propagation = self.cache.invalidate(&key).await;
        self.record(key, begun, kind_of(propagation), number);
    }

    /// Changes all even keys with a tag in the database, and invalidates the tag.
    async fn increment_tag(&self, number: u64) {
        let keys = (0..KEYS).filter(|key| tag_of(*key) == Some(tag(number)));
        self.increment_many(keys, async || self.cache.invalidate_tag(&tag(number)).await)
            .await;
    }

    /// Changes all even keys in the database, and invalidates everything.
    async fn increment_all(&self) {
        let keys = (0..KEYS).filter(|key| key % 2 == 0);
        self.increment_many(keys, async || self.cache.clear().await)
            .await;
    }

    async fn increment_many(
        &self,
        keys: impl Iterator<Item = u64>,
        invalidate: impl AsyncFn() -> Propagation,
    ) {
        let begun = now();
        let mut changed = Vec::new();
        for key in keys {
            changed.push((key, self.database.increment(key).await));
        }
        let propagation = invalidate().await;
        for (key, number) in changed {
            self.record(key, begun, kind_of(propagation), number);
        }
    }

    /// Writes the key through the cache. Only one process does this for a key.
    async fn write_through(&self, key: u64) {
        let _guard = self.write_locks[usize::try_from(key).unwrap()].lock().await;
        let begun = now();
        let number = self.database.get(key).await + 1;
        let write = |number| async move {
            self.database.set(key, number).await;
            Ok::<_, ()>(())
        };
        let propagation = self.cache.write_through(key, number, write).await.unwrap();
        self.record(key, begun, kind_of(propagation), number);
    }
}

/// Several workers, each with its own URL of Redis, and their histories.
pub(crate) struct Workers {
    consistency: &'static str,
    deadline: Duration,
    urls: Vec<String>,
    database: Server,
    all: Vec<Worker>,
    logs: TempDir,
    started: usize,
}

impl Workers {
    pub(crate) fn start(consistency: &'static str, urls: Vec<String>, deadline: Duration) -> Self {
        let mut workers = Self {
            consistency,
            deadline,
            urls,
            database: Server::start(),
            all: Vec::new(),
            logs: tempfile::tempdir().unwrap(),
            started: 0,
        };
        for at in 0..workers.urls.len() {
            let worker = workers.worker(at);
            workers.all.push(worker);
        }
        workers
    }

    /// Starts a worker at a place. The number of its process is new, because the queue of a killed worker is lost. That
    /// number modulo the number of workers is the place, which selects the keys that the worker writes.
    fn worker(&mut self, at: usize) -> Worker {
        let workers = self.urls.len();
        let process = self.started / workers * workers + at;
        self.started += 1;
        let log = self.logs.path().join(process.to_string());
        Worker::start(&format!(
            "history {} {} {process} {workers} {} {} {}",
            self.urls[at],
            self.database.url(),
            self.consistency,
            self.deadline.as_millis(),
            log.display()
        ))
    }

    /// Kills a worker, and starts another one with a new number in its place.
    fn replace(&mut self, at: usize) {
        self.all[at].kill();
        self.started = self.started.div_ceil(self.urls.len()) * self.urls.len();
        self.all[at] = self.worker(at);
    }

    /// Returns the operations that the workers have recorded so far.
    pub(crate) fn operations(&self) -> Vec<Operation> {
        let logs = std::fs::read_dir(self.logs.path()).unwrap();
        let logs = logs.map(|log| std::fs::read_to_string(log.unwrap().path()).unwrap());
        logs.flat_map(|log| log.lines().filter_map(parse).collect::<Vec<_>>())
            .collect()
    }

    /// Ends the workers, and returns the operations that they have recorded.
    pub(crate) fn end(mut self) -> Vec<Operation> {
        for worker in &mut self.all {
            worker.send("stop");
        }
        for worker in &mut self.all {
            assert_eq!(worker.answer(), "done");
        }
        self.operations()
    }
}

/// A run of several workers during random failures.
struct Run {
    server: Server,
    proxies: Vec<Proxy>,
    /// The replica of the server, and the proxy between them, for workers that read from it.
    replica: Option<(Server, Proxy)>,
    workers: Workers,
    random: SmallRng,
}

impl Run {
    async fn start(consistency: &'static str, workers: usize) -> Self {
        let server = Server::start();
        let mut proxies = Vec::new();
        for _ in 0..workers {
            proxies.push(Proxy::start(server.address()).await);
        }
        let urls = proxies.iter().map(Proxy::url).collect();
        let mut replica = None;
        if consistency == "bounded-replicas" {
            let between = Proxy::start(server.address()).await;
            let port = between.port().to_string();
            let of = ["--replicaof", "127.0.0.1", &port];
            replica = Some((Server::start_with(&of), between));
        }
        Self {
            server,
            proxies,
            replica,
            workers: Workers::start(consistency, urls, Duration::from_millis(100)),
            random: SmallRng::from_rng(&mut rand::rng()),
        }
    }

    /// Waits for a random time of at most `max_millis`, for which a failure or the time after it lasts.
    async fn pause(&mut self, max_millis: u64) {
        let pause = self.random.random_range(max_millis / 5..max_millis);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }

    /// Injects a random failure and repairs it.
    async fn fail(&mut self) {
        if self.replica.is_some() && self.random.random_range(0..2) == 0 {
            return self.fail_replica().await;
        }
        let at = self.random.random_range(0..self.proxies.len());
        match self.random.random_range(0..10) {
            0..3 => {
                let what = [Cut::Subscriptions, Cut::All][self.random.random_range(0..2)];
                self.proxies[at].cut(what);
                self.pause(600).await;
                self.proxies[at].mend();
            }
            3 => {
                self.proxies[at].reset();
                self.pause(200).await;
                self.proxies[at].mend();
            }
            4..7 => {
                self.workers.all[at].signal(Signal::STOP);
                self.pause(600).await;
                self.workers.all[at].signal(Signal::CONT);
            }
            7 => {
                self.server.pause();
                self.pause(500).await;
                self.server.resume();
            }
            8 => {
                self.server.kill();
                self.pause(300).await;
                self.server.restart();
            }
            _ => self.workers.replace(at),
        }
    }
}

impl Run {
    /// Injects a random failure of the replica and repairs it.
    async fn fail_replica(&mut self) {
        let what = self.random.random_range(0..4);
        let (replica, between) = self.replica.as_mut().unwrap();
        match what {
            0 => between.cut(Cut::All),
            1 => between.reset(),
            2 => replica.pause(),
            _ => replica.kill(),
        }
        self.pause(600).await;
        let (replica, between) = self.replica.as_mut().unwrap();
        match what {
            0 | 1 => between.mend(),
            2 => replica.resume(),
            _ => replica.restart(),
        }
    }
}

/// Runs workers during random failures for a time, and returns their history.
async fn history_of(consistency: &'static str, workers: usize, time: Duration) -> Vec<Operation> {
    let begun = Instant::now();
    history_until(consistency, workers, |_| begun.elapsed() > time).await
}

/// Runs workers during random failures until `is_enough` returns `true` for the operations so far, and returns their
/// history.
async fn history_until(
    consistency: &'static str,
    workers: usize,
    is_enough: impl Fn(&Workers) -> bool,
) -> Vec<Operation> {
    let mut run = Run::start(consistency, workers).await;
    let works = || run.workers.operations().len() > 100;
    soon("the workers run", works).await;
    if let Some((replica, _)) = &run.replica {
        let is_read = || calls_of(replica, "mget") > 0;
        soon("the workers read from the replica", is_read).await;
    }
    let mut faults = 0;
    while !is_enough(&run.workers) {
        run.fail().await;
        faults += 1;
        run.pause(400).await;
    }
    let history = run.workers.end();
    println!("{consistency}: {}, {faults} faults", Summary(&history));
    history
}

/// Returns the duration of each history. Longer histories find rarer violations.
fn duration() -> Duration {
    let seconds = std::env::var("HOTSET_HISTORY_SECONDS");
    Duration::from_secs(seconds.map_or(20, |seconds| seconds.parse().unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn realtime_reads_of_six_processes_are_correct_during_random_failures() {
    let history = history_of("realtime", 6, duration()).await;
    assert_allowed(&history, Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn l2_only_reads_are_correct_during_random_failures() {
    let history = history_of("l2only", 4, duration() / 2).await;
    assert_allowed(&history, Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn bounded_reads_are_within_their_bound_during_random_failures() {
    let history = history_of("bounded", 4, duration() / 2).await;
    assert_allowed(&history, BOUND + CLOCK_RESOLUTION);
}

#[tokio::test(flavor = "multi_thread")]
async fn bounded_reads_from_a_replica_are_within_their_bound_during_random_failures() {
    let history = history_of("bounded-replicas", 4, duration() / 2).await;
    assert_allowed(&history, BOUND + CLOCK_RESOLUTION);
}

/// The deadline of workers on a cluster.
const CLUSTER_DEADLINE: Duration = Duration::from_millis(500);

/// Injects a random failure into a cluster, and waits until it is repaired.
async fn fail_cluster(cluster: &mut Cluster, workers: &mut Workers, random: &mut SmallRng) {
    let slots: Vec<u16> = cluster
        .partitions("test", PARTITIONS)
        .into_values()
        .collect();
    let slot = slots[random.random_range(0..slots.len())];
    let primary = cluster.primaries(slot)[0].0;
    let at = random.random_range(0..workers.urls.len());
    let millis = |max| Duration::from_millis(max);
    match random.random_range(0..9) {
        0 | 1 => cluster.move_slot(slot),
        2 => cluster.fail_over(slot, None),
        3 => cluster.fail_over(slot, Some("TAKEOVER")),
        4 => {
            // Too short for a failover.
            cluster.servers[primary].pause();
            tokio::time::sleep(millis(random.random_range(100..600))).await;
            cluster.servers[primary].resume();
        }
        5 => {
            cluster.servers[primary].pause();
            cluster.wait_for_failover(slot, primary);
            cluster.servers[primary].resume();
        }
        6 => {
            cluster.servers[primary].kill();
            cluster.wait_for_failover(slot, primary);
            cluster.servers[primary].restart();
        }
        7 => {
            workers.all[at].signal(Signal::STOP);
            tokio::time::sleep(millis(random.random_range(100..600))).await;
            workers.all[at].signal(Signal::CONT);
        }
        _ => workers.replace(at),
    }
    cluster.wait_until_settled();
}

#[tokio::test(flavor = "multi_thread")]
async fn realtime_reads_of_partitions_are_correct_during_random_failures_of_a_cluster() {
    let mut cluster = Cluster::start();
    let mut random = SmallRng::from_rng(&mut rand::rng());
    let urls = vec![cluster.url(); 4];
    let mut workers = Workers::start("realtime/16", urls, CLUSTER_DEADLINE);
    let works = || workers.operations().len() > 100;
    soon("the workers run", works).await;
    let (begun, mut faults) = (Instant::now(), 0);
    while begun.elapsed() < duration() {
        fail_cluster(&mut cluster, &mut workers, &mut random).await;
        faults += 1;
        tokio::time::sleep(Duration::from_millis(random.random_range(100..1_000))).await;
    }
    let history = workers.end();
    println!("cluster: {}, {faults} faults", Summary(&history));
    assert_allowed(&history, Duration::ZERO);
}

/// The deployments of a namespace that moves from one partition to 16 and back.
const DEPLOYMENTS: [&str; 9] = [
    "realtime/1",
    "realtime/1>16:0",
    "realtime/1>16:50",
    "realtime/1>16:100",
    "realtime/16",
    "realtime/16>1:0",
    "realtime/16>1:50",
    "realtime/16>1:100",
    "realtime/1",
];

/// Removes the notes about the layouts of earlier deployments, as if those had ended five minutes ago.
fn forget_layouts_before(deployment: &str, server: &Server) {
    let settings = b"hotset:{test}:settings".as_slice();
    let notes: Option<Vec<String>> = server.try_command(&[b"HKEYS", settings]);
    let layout = deployment.split(['/', ':']).nth(1).unwrap();
    let is_current = |note: &str| match (layout.split_once('>'), layout) {
        (Some((from, to)), _) => note.contains(&format!(" in {from} to {to} partitions, ")),
        (None, "1") => !note.contains(" partitions"),
        (None, count) => note.ends_with(&format!(" in {count} partitions")),
    };
    for note in notes.unwrap_or_default() {
        if !note.starts_with('#') && !is_current(&note) {
            let _: Option<u64> = server.try_command(&[b"HDEL", settings, note.as_bytes()]);
        }
    }
}

/// In each deployment the processes are killed and replaced. One of the version before remains for a while.
#[tokio::test(flavor = "multi_thread")]
async fn realtime_reads_are_correct_while_the_number_of_partitions_changes() {
    let mut run = Run::start(DEPLOYMENTS[0], 4).await;
    let works = || run.workers.operations().len() > 100;
    soon("the workers run", works).await;
    let (begun, mut faults) = (Instant::now(), 0);
    let count = u32::try_from(2 * DEPLOYMENTS.len()).unwrap();
    let mut end = Duration::ZERO;
    for deployment in DEPLOYMENTS {
        run.workers.consistency = deployment;
        for places in [0..3, 3..4] {
            places.for_each(|at| run.workers.replace(at));
            end += duration() / count;
            // At least one, even on a slow machine.
            loop {
                run.fail().await;
                faults += 1;
                run.pause(400).await;
                if begun.elapsed() > end {
                    break;
                }
            }
        }
        forget_layouts_before(deployment, &run.server);
    }
    let history = run.workers.end();
    println!("layouts: {}, {faults} faults", Summary(&history));
    assert_allowed(&history, Duration::ZERO);
}

/// The checker must detect caches that serve from L1 without proof.
#[tokio::test(flavor = "multi_thread")]
async fn history_checker_detects_reads_without_proof() {
    let begun = Instant::now();
    let wrong = |history: &[Operation]| violations(history, Duration::ZERO).len();
    let is_enough = |workers: &Workers| {
        assert!(begun.elapsed() < TEST_TIMEOUT, "no violation is detected");
        wrong(&workers.operations()) > 0
    };
    let history = history_until("planted", 4, is_enough).await;
    println!("{} reads were not allowed", wrong(&history));
}
