//! The rate of reads from Redis with several processes.

use super::{Backend, Plain, Rounds, TASKS, Tiered, tiered_over, zipf_keys};
use hotset::Consistency;
use peers::median;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const PROCESSES: usize = 4;
const ROUNDS: usize = 5;

/// The first argument of a process that reads.
const READER: &str = "--reader";

/// The kinds of reads.
const KINDS: [&str; 3] = ["GET", "L2Only", "Realtime"];

/// A process that reads.
struct Reader(Child);

impl Reader {
    fn start(kind: &str, url: &str, turn: Duration) -> Self {
        let program = env::current_exe().expect("the program has a path");
        let process = Command::new(program)
            .args([READER, kind, url, &turn.as_millis().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        Self(process.expect("the program can be started again"))
    }

    /// Starts a turn.
    fn begin(&mut self) {
        let input = self.0.stdin.as_mut().expect("it is piped");
        input.write_all(b"\n").expect("the process runs");
    }

    /// Waits for the end of a turn, and returns its rate.
    fn rate(output: &mut impl BufRead) -> f64 {
        let mut line = String::new();
        output.read_line(&mut line).expect("the process runs");
        line.trim().parse().expect("a number")
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // It has ended if its input has.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads in turns, if this process was started for that. Returns `false` otherwise.
pub(super) async fn read_if_asked() -> bool {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [reader, kind, url, millis] = &arguments[..] else {
        return false;
    };
    if reader != READER {
        return false;
    }
    let turn = Duration::from_millis(millis.parse().expect("a number"));
    if kind == KINDS[0] {
        let client = redis::Client::open(&**url).expect("a valid URL");
        let connection = client.get_multiplexed_async_connection().await;
        read(Plain(connection.expect("the server runs")), turn).await;
    } else {
        let class = if kind == KINDS[1] {
            Consistency::L2Only
        } else {
            Consistency::Realtime
        };
        read(Tiered::<1>(tiered_over(url, class, 1).await), turn).await;
    }
    true
}

/// Runs a turn for each line of input, and prints the rate.
async fn read<B: Backend>(backend: B, turn: Duration) {
    let (backend, keys) = (Arc::new(backend), zipf_keys());
    for _ in std::io::stdin().lines() {
        let mut rounds = Rounds::new("");
        rounds.run_together(&backend, &keys, turn).await;
        println!("{}", rounds.together[0]);
    }
}

/// Measures reads of four processes at the same time, in turns, and prints them. Redis has the values.
pub(super) fn measure(url: &str, turn: Duration) {
    let mut readers = KINDS.map(|kind| {
        let readers = (0..PROCESSES).map(|_| Reader::start(kind, url, turn));
        let mut readers: Vec<_> = readers.collect();
        let outputs = readers.iter_mut().map(|reader| {
            let output = reader.0.stdout.take();
            BufReader::new(output.expect("it is piped"))
        });
        let outputs: Vec<_> = outputs.collect();
        (readers, outputs, Vec::new())
    });
    for _ in 0..ROUNDS {
        for (readers, outputs, rates) in &mut readers {
            readers.iter_mut().for_each(Reader::begin);
            rates.push(outputs.iter_mut().map(Reader::rate).sum::<f64>());
        }
    }
    println!("\n{PROCESSES} processes with {TASKS} tasks each, reads per second of all:\n");
    for (kind, (_, _, rates)) in KINDS.iter().zip(&mut readers) {
        println!("{kind}: {:.0}", median(rates));
    }
}
