//! A history of what several processes read and wrote while much fails, and whether each read was
//! allowed.
//!
//! Each write of a key gives it a higher number than all before, in the database. So a read is wrong
//! if its number is lower than that of a write that was acknowledged before the read began (by more
//! than the bound, where the class has one), or, in the process that wrote, than that of a write that
//! had returned. Times are those of the machine's one monotonic clock.

use super::servers::{Cut, Proxy, Server};
use super::worker::{Database, Worker, kind_of};
use super::{MINUTE, builder};
use hotset::{Consistency, TieredCache};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};
use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

const KEYS: u64 = 40;

/// Nanoseconds.
type Time = u64;

pub(crate) fn now() -> Time {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// Returned then.
    Read(Time),
    Acknowledged(Time),
    Queued(Time),
}

/// What one process did to one key.
#[derive(Debug, Clone, Copy)]
struct Operation {
    process: usize,
    key: u64,
    begun: Time,
    kind: Kind,
    number: u64,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, ended) = match self.kind {
            Kind::Read(ended) => ('r', ended),
            Kind::Acknowledged(ended) => ('a', ended),
            Kind::Queued(ended) => ('q', ended),
        };
        let Self {
            process,
            key,
            begun,
            number,
            ..
        } = self;
        write!(f, "{kind} {process} {key} {begun} {ended} {number}")
    }
}

fn parse(line: &str) -> Option<Operation> {
    let words: Vec<&str> = line.split(' ').collect();
    let [kind, process, key, begun, ended, number] = words[..] else {
        // A process was killed while it wrote this.
        return None;
    };
    let ended = ended.parse().ok()?;
    Some(Operation {
        process: process.parse().ok()?,
        key: key.parse().ok()?,
        begun: begun.parse().ok()?,
        kind: match kind {
            "r" => Kind::Read(ended),
            "a" => Kind::Acknowledged(ended),
            _ => Kind::Queued(ended),
        },
        number: number.parse().ok()?,
    })
}

/// Writes of one key that count for a read which began at a time: those that ended before it.
#[derive(Default)]
struct Writes {
    /// By the time from which they count, with the highest number so far.
    floors: Vec<(Time, u64)>,
}

impl Writes {
    fn new(mut ended: Vec<(Time, u64)>) -> Self {
        ended.sort_unstable();
        let mut highest = 0;
        for (_, number) in &mut ended {
            highest = highest.max(*number);
            *number = highest;
        }
        Self { floors: ended }
    }

    fn floor(&self, begun: Time) -> u64 {
        let counting = self.floors.partition_point(|(ended, _)| *ended < begun);
        counting
            .checked_sub(1)
            .map_or(0, |last| self.floors[last].1)
    }
}

/// The reads that were not allowed.
fn violations(history: &[Operation], bound: Duration) -> Vec<Operation> {
    let bound = u64::try_from(bound.as_nanos()).unwrap();
    let mut everywhere: HashMap<u64, Vec<(Time, u64)>> = HashMap::new();
    let mut here: HashMap<(usize, u64), Vec<(Time, u64)>> = HashMap::new();
    for write in history {
        let (ended, acknowledged) = match write.kind {
            Kind::Read(_) => continue,
            Kind::Acknowledged(ended) => (ended, true),
            Kind::Queued(ended) => (ended, false),
        };
        if acknowledged {
            let writes = everywhere.entry(write.key).or_default();
            writes.push((ended + bound, write.number));
        }
        let own = here.entry((write.process, write.key)).or_default();
        own.push((ended, write.number));
    }
    let everywhere: HashMap<_, _> = everywhere
        .into_iter()
        .map(|(key, writes)| (key, Writes::new(writes)))
        .collect();
    let here: HashMap<_, _> = here
        .into_iter()
        .map(|(key, writes)| (key, Writes::new(writes)))
        .collect();
    let is_wrong = |operation: &&Operation| {
        let Kind::Read(_) = operation.kind else {
            return false;
        };
        let Operation {
            process,
            key,
            begun,
            number,
            ..
        } = **operation;
        let floor = everywhere.get(&key).map_or(0, |writes| writes.floor(begun));
        let own = here
            .get(&(process, key))
            .map_or(0, |writes| writes.floor(begun));
        number < floor.max(own)
    };
    history.iter().filter(is_wrong).copied().collect()
}

fn class(name: &str) -> Consistency {
    match name {
        "realtime" => Consistency::Realtime,
        "l2only" => Consistency::L2Only,
        "bounded" => Consistency::Bounded(BOUND),
        // Not what it is checked against: the checker is to notice.
        "planted" => MINUTE,
        _ => unreachable!("{name}"),
    }
}

const BOUND: Duration = Duration::from_millis(300);

/// What the tasks of one worker share.
struct Actor {
    cache: TieredCache<u64, u64>,
    database: Database,
    process: usize,
    processes: u64,
    /// One writer of a key at a time, so that numbers rise.
    writing: Vec<Mutex<()>>,
    notes: UnboundedSender<Operation>,
    stop: AtomicBool,
}

/// A worker: reads and writes until it is told to stop, and notes what it did.
pub(crate) async fn work(url: &str, database: Database, words: &[&str]) {
    let [process, processes, consistency, log] = words else {
        unreachable!("who, of how many, how, and where to note it");
    };
    let mut log = File::create(log).unwrap();
    let (notes, mut noted) = unbounded_channel::<Operation>();
    let noting = tokio::task::spawn_blocking(move || {
        let mut lines = String::new();
        while let Some(operation) = noted.blocking_recv() {
            writeln!(lines, "{operation}").unwrap();
            while let Ok(operation) = noted.try_recv() {
                writeln!(lines, "{operation}").unwrap();
            }
            log.write_all(lines.as_bytes()).unwrap();
            lines.clear();
        }
    });
    let cache = builder::<u64>(url, class(consistency));
    let actor = Actor {
        cache: cache.deadline(Duration::from_millis(100)).build().unwrap(),
        database,
        process: process.parse().unwrap(),
        processes: processes.parse().unwrap(),
        writing: (0..KEYS).map(|_| Mutex::new(())).collect(),
        notes,
        stop: AtomicBool::new(false),
    };
    let tasks = futures_util::future::join_all((0..8).map(|_| actor.act()));
    let told = async {
        super::worker::command().await;
        actor.stop.store(true, SeqCst);
    };
    tokio::join!(tasks, told);
    drop(actor);
    noting.await.unwrap();
    println!("> done");
}

impl Actor {
    async fn act(&self) {
        let mut random = SmallRng::from_rng(&mut rand::rng());
        while !self.stop.load(SeqCst) {
            let key = random.random_range(0..KEYS);
            match random.random_range(0..100) {
                0..80 => self.read(key).await,
                80..85 => self.look(key).await,
                85..90 => {
                    self.read_many([key, (key + 7) % KEYS, (key + 9) % KEYS])
                        .await;
                }
                _ if key % 2 == 0 => self.bump(key).await,
                _ if key / 2 % self.processes == self.process as u64 % self.processes => {
                    self.write_through(key).await;
                }
                _ => {}
            }
            let pause = random.random_range(0..2_000);
            tokio::time::sleep(Duration::from_micros(pause)).await;
        }
    }

    fn note(&self, key: u64, begun: Time, kind: Kind, number: u64) {
        let operation = Operation {
            process: self.process,
            key,
            begun,
            kind,
            number,
        };
        self.notes.send(operation).unwrap();
    }

    async fn read(&self, key: u64) {
        let begun = now();
        let load = || async { Ok::<_, ()>(self.database.get(key).await) };
        let number = self.cache.get_or_load_async(&key, load).await.unwrap();
        self.note(key, begun, Kind::Read(now()), number);
    }

    async fn look(&self, key: u64) {
        let begun = now();
        if let Some(number) = self.cache.get(&key).await {
            self.note(key, begun, Kind::Read(now()), number);
        }
    }

    async fn read_many(&self, keys: [u64; 3]) {
        let begun = now();
        let load = |missing: Vec<u64>| async {
            let mut rows = Vec::new();
            for key in missing {
                rows.push((key, self.database.get(key).await));
            }
            Ok::<_, ()>(rows)
        };
        let numbers = self
            .cache
            .get_many_or_load_async(&keys, load)
            .await
            .unwrap();
        for (key, number) in keys.into_iter().zip(numbers) {
            self.note(key, begun, Kind::Read(now()), number.unwrap());
        }
    }

    /// Any process may do this to the key.
    async fn bump(&self, key: u64) {
        let begun = now();
        let number = self.database.bump(key).await;
        let delivery = self.cache.invalidate(&key).await;
        self.note(key, begun, kind_of(delivery), number);
    }

    /// One process does this to the key.
    async fn write_through(&self, key: u64) {
        let _alone = self.writing[usize::try_from(key).unwrap()].lock().await;
        let begun = now();
        let number = self.database.get(key).await + 1;
        let write = |number| async move {
            self.database.set(key, number).await;
            Ok::<_, ()>(())
        };
        let delivery = self.cache.write_through(key, number, write).await.unwrap();
        self.note(key, begun, kind_of(delivery), number);
    }
}

/// What several workers did while much failed.
struct Run {
    consistency: &'static str,
    server: Server,
    database: Server,
    proxies: Vec<Proxy>,
    workers: Vec<Worker>,
    logs: TempDir,
    started: usize,
    random: SmallRng,
}

impl Run {
    async fn start(consistency: &'static str, workers: usize) -> Self {
        let mut run = Self {
            consistency,
            server: Server::start(),
            database: Server::start(),
            proxies: Vec::new(),
            workers: Vec::new(),
            logs: tempfile::tempdir().unwrap(),
            started: 0,
            random: SmallRng::from_rng(&mut rand::rng()),
        };
        for _ in 0..workers {
            run.proxies.push(Proxy::start(run.server.address()).await);
        }
        for at in 0..workers {
            let worker = run.worker(at, workers);
            run.workers.push(worker);
        }
        run
    }

    /// Never twice of the same number, for what one had queued goes with it; always of the same one
    /// modulo the number of workers, whose keys it writes.
    fn worker(&mut self, at: usize, workers: usize) -> Worker {
        let process = self.started / workers * workers + at;
        self.started += 1;
        let log = self.logs.path().join(process.to_string());
        Worker::start(&format!(
            "history {} {} {process} {workers} {} {}",
            self.proxies[at].url(),
            self.database.url(),
            self.consistency,
            log.display()
        ))
    }

    async fn pause(&mut self, most: u64) {
        let pause = self.random.random_range(most / 5..most);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }

    /// Something fails, and is mended.
    async fn fail(&mut self) {
        let at = self.random.random_range(0..self.workers.len());
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
                self.workers[at].signal(Signal::STOP);
                self.pause(600).await;
                self.workers[at].signal(Signal::CONT);
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
            _ => {
                self.workers[at].kill();
                // The same place, another number.
                self.started = self.started.div_ceil(self.workers.len()) * self.workers.len();
                self.workers[at] = self.worker(at, self.workers.len());
            }
        }
    }

    /// Ends the workers, and collects what they have noted.
    fn end(mut self) -> Vec<Operation> {
        for worker in &mut self.workers {
            worker.tell("stop");
        }
        for worker in &mut self.workers {
            assert_eq!(worker.answer(), "done");
        }
        let logs = std::fs::read_dir(self.logs.path()).unwrap();
        let logs = logs.map(|log| std::fs::read_to_string(log.unwrap().path()).unwrap());
        logs.flat_map(|log| log.lines().filter_map(parse).collect::<Vec<_>>())
            .collect()
    }
}

async fn history_of(consistency: &'static str, workers: usize, time: Duration) -> Vec<Operation> {
    let mut run = Run::start(consistency, workers).await;
    let begun = Instant::now();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut faults = 0;
    while begun.elapsed() < time {
        run.fail().await;
        faults += 1;
        run.pause(400).await;
    }
    let history = run.end();
    let count = |is: fn(&Kind) -> bool| history.iter().filter(|it| is(&it.kind)).count();
    println!(
        "{consistency}: {} operations, {} writes acknowledged and {} queued, {faults} faults",
        history.len(),
        count(|kind| matches!(kind, Kind::Acknowledged(_))),
        count(|kind| matches!(kind, Kind::Queued(_))),
    );
    history
}

fn assert_allowed(history: &[Operation], bound: Duration) {
    let wrong = violations(history, bound);
    if let Some(read) = wrong.first() {
        let mut around: Vec<_> = history.iter().filter(|it| it.key == read.key).collect();
        around.sort_by_key(|it| it.begun);
        let at = around.partition_point(|it| it.begun < read.begun);
        for it in &around[at.saturating_sub(30)..(at + 5).min(around.len())] {
            println!("{it}");
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong, the first {}",
        wrong.len(),
        wrong[0]
    );
}

/// How long each history is, in seconds: longer ones find what is rare.
fn seconds() -> Duration {
    let seconds = std::env::var("HOTSET_HISTORY_SECONDS");
    Duration::from_secs(seconds.map_or(20, |seconds| seconds.parse().unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_realtime_read_of_six_processes_is_wrong_while_much_fails() {
    let history = history_of("realtime", 6, seconds()).await;
    assert_allowed(&history, Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_read_from_l2_alone_is_wrong_while_much_fails() {
    let history = history_of("l2only", 4, seconds() / 2).await;
    assert_allowed(&history, Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_bounded_read_is_older_than_its_bound_while_much_fails() {
    let history = history_of("bounded", 4, seconds() / 2).await;
    // The coarse clock's grain on top.
    assert_allowed(&history, BOUND + Duration::from_millis(20));
}

/// The checker notices caches that trust their L1 without proof.
#[tokio::test(flavor = "multi_thread")]
async fn trust_without_proof_is_noticed() {
    let history = history_of("planted", 4, seconds() / 4).await;
    let wrong = violations(&history, Duration::ZERO);
    println!("{} wrong", wrong.len());
    assert!(!wrong.is_empty());
}

#[test]
fn the_checker_knows_right_from_wrong() {
    let lines = |lines: &[&str]| -> Vec<Operation> {
        lines.iter().map(|line| parse(line).unwrap()).collect()
    };
    let wrong =
        |history: &[&str], bound| violations(&lines(history), Duration::from_nanos(bound)).len();
    // Process 1 wrote 5 to key 7 from 100 to 200; process 2 reads.
    let write = "a 1 7 100 200 5";
    assert_eq!(wrong(&[write, "r 2 7 201 210 4"], 0), 1);
    assert_eq!(wrong(&[write, "r 2 7 201 210 5"], 0), 0);
    assert_eq!(wrong(&[write, "r 2 7 150 210 4"], 0), 0);
    assert_eq!(wrong(&[write, "r 2 8 201 210 4"], 0), 0);
    assert_eq!(wrong(&[write, "r 2 7 250 260 4"], 100), 0);
    assert_eq!(wrong(&[write, "r 2 7 301 310 4"], 100), 1);
    // A later one that was acknowledged with a lower number makes nothing allowed.
    assert_eq!(wrong(&[write, "a 2 7 150 300 4", "r 2 7 301 310 4"], 0), 1);
    // What is queued counts where it was written.
    let queued = "q 1 7 100 200 5";
    assert_eq!(wrong(&[queued, "r 2 7 201 210 4"], 0), 0);
    assert_eq!(wrong(&[queued, "r 1 7 201 210 4"], 0), 1);
    assert!(parse("r 1 7 20").is_none());
}
