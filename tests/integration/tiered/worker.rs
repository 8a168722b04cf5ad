//! A worker process, for tests of several processes: the binary of this test, with its task in an environment variable.
//! It reads commands from standard input and answers on standard output.

use super::checker::{Kind, now};
use super::history;
use super::servers::process::Process;
use super::servers::signal;
use super::{LONG_LEASE, SHORT_HEARTBEAT, builder_with};
use hotset::{Consistency, Propagation, TieredCache};
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;
use support::caches::wait_until_proven;

/// Environment variable with the task of a worker.
const TASK_VARIABLE: &str = "HOTSET_WORKER";

/// A handle of the parent process to a worker process.
pub(crate) struct Worker {
    process: Process,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts a worker. `task` is its task and the arguments of the task: see [`work`].
    pub(crate) fn start(task: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "worker::work", "--nocapture", "--quiet"])
            .env(TASK_VARIABLE, task)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = Process::spawn(&mut command).unwrap();
        Self {
            input: process.stdin.take().unwrap(),
            output: BufReader::new(process.stdout.take().unwrap()),
            process,
        }
    }

    /// Sends a command.
    pub(crate) fn send(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    /// Returns the next answer. Lines of the test harness are skipped.
    pub(crate) fn answer(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(
                self.output.read_line(&mut line).unwrap() > 0,
                "the worker ended"
            );
            if let Some(answer) = line.trim_end().strip_prefix("> ") {
                return answer.into();
            }
        }
    }

    pub(crate) fn signal(&self, which: Signal) {
        signal(&self.process, which);
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Prints an answer to the parent process.
fn answer(line: impl std::fmt::Display) {
    println!("> {line}");
}

/// Waits for the next command of the parent process.
pub(crate) async fn command() -> String {
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).unwrap();
        line.trim_end().to_string()
    });
    read.await.unwrap()
}

/// A database on a server of its own, with rows by key and a count of reads.
pub(crate) struct Database(redis::aio::MultiplexedConnection);

impl Database {
    pub(crate) async fn connect(url: &str) -> Self {
        let client = redis::Client::open(url).unwrap();
        // A process may be stopped while it waits for an answer.
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        Self(connection.await.unwrap())
    }

    async fn run(&self, call: &mut redis::Cmd) -> u64 {
        let mut connection = self.0.clone();
        let row: Option<u64> = call.query_async(&mut connection).await.unwrap();
        row.unwrap_or(0)
    }

    pub(crate) async fn get(&self, key: u64) -> u64 {
        self.run(redis::cmd("INCR").arg("reads")).await;
        self.run(redis::cmd("GET").arg(key)).await
    }

    pub(crate) async fn set(&self, key: u64, row: u64) {
        // The query returns the old row.
        self.run(redis::cmd("GETSET").arg(key).arg(row)).await;
    }

    pub(crate) async fn increment(&self, key: u64) -> u64 {
        self.run(redis::cmd("INCR").arg(key)).await
    }

    pub(crate) async fn reads(&self) -> u64 {
        self.run(redis::cmd("GET").arg("reads")).await
    }
}

/// Runs the task of a worker. In the test run of the parent it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work() {
    let Ok(task) = std::env::var(TASK_VARIABLE) else {
        return;
    };
    let words: Vec<&str> = task.split(' ').collect();
    let [name, cache_url, database_url, rest @ ..] = &words[..] else {
        unreachable!("the name of a task and the URLs of two servers");
    };
    let database = Database::connect(database_url).await;
    match *name {
        "stampede" => stampede(cache_url, database).await,
        "slow" => slow(cache_url, database).await,
        "history" => history::work(cache_url, database, rest).await,
        _ => unreachable!("{task}"),
    }
}

/// Lets a thousand tasks miss one key together, on command.
async fn stampede(url: &str, database: Database) {
    let cache: TieredCache<u64, u64> =
        builder_with(url, Consistency::Realtime, |local| local.lease(LONG_LEASE))
            .build()
            .unwrap();
    wait_until_proven(&cache).await;
    answer("ready");
    command().await;
    let get = || async {
        let load = async |key| {
            let row = database.get(key).await;
            // The query is slow enough that all tasks wait for it.
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok::<_, ()>(row)
        };
        cache.get_or_load_async(&1, load).await.unwrap()
    };
    let rows = futures_util::future::join_all((0..1_000).map(|_| get())).await;
    assert!(rows.iter().all(|row| *row == rows[0]));
    answer(rows[0]);
}

/// Loads a key with a query that ends on command, and then reads it again.
async fn slow(url: &str, database: Database) {
    let cache: TieredCache<u64, u64> =
        builder_with(url, Consistency::Realtime, |local| local.lease(LONG_LEASE))
            .heartbeat(SHORT_HEARTBEAT)
            .build()
            .unwrap();
    wait_until_proven(&cache).await;
    let load = async |key| {
        let row = database.get(key).await;
        answer("loading");
        command().await;
        Ok::<_, ()>(row)
    };
    let late = cache.get_or_load_async(&1, load).await.unwrap();
    answer(late);
    let load = async |key| Ok::<_, ()>(database.get(key).await);
    answer(cache.get_or_load_async(&1, load).await.unwrap());
    loop {
        command().await;
        answer(cache.get_or_load_async(&1, load).await.unwrap());
    }
}

/// Returns the outcome of a write, for a history.
pub(crate) fn kind_of(propagation: Propagation) -> Kind {
    match propagation {
        Propagation::Acknowledged | Propagation::NotShared => Kind::Acknowledged(now()),
        _ => Kind::Queued(now()),
    }
}
