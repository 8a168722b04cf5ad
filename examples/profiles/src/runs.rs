//! Runs of requests: several threads serve requests for a given time, and measure each of them.

use crate::AnyError;
use crate::database::Database;
use crate::traffic::{Replay, Traffic};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use std::thread;
use std::time::{Duration, Instant};

/// The maximum latency in the histograms, in nanoseconds. Longer latencies count as this one.
const MAX_LATENCY_NANOS: u64 = 60_000_000_000;

/// The settings that all runs have in common.
pub struct Runs<'a> {
    pub database: &'a Database,
    pub traffic: &'a Traffic,
    pub duration: Duration,
}

/// The results of a run.
pub struct Run {
    pub name: &'static str,
    /// The latencies of all requests, in nanoseconds.
    pub latencies: Histogram<u64>,
    pub elapsed: Duration,
    /// The number of database queries.
    pub queries: u64,
}

#[allow(clippy::cast_precision_loss)]
impl Run {
    pub fn requests_per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    pub fn queries_per_request(&self) -> f64 {
        self.queries as f64 / self.latencies.len() as f64
    }

    pub fn mean_time(&self) -> Duration {
        Duration::from_secs_f64(self.latencies.mean() / 1e9)
    }
}

impl Runs<'_> {
    /// Serves requests with `answer`, starting with the first one, until the time is over. Each worker runs on its own
    /// thread.
    pub fn run<W: Send, T>(
        &self,
        name: &'static str,
        workers: Vec<W>,
        answer: impl Fn(&mut W, u64) -> Result<T, AnyError> + Sync,
    ) -> Result<Run, AnyError> {
        let bar = self.progress_bar(name)?;
        let replay = self.traffic.replay();
        let queries = self.database.queries();
        let started = Instant::now();
        let work = |mut worker: W| {
            let mut latencies = Histogram::new_with_max(MAX_LATENCY_NANOS, 3)?;
            while latencies.is_empty() || started.elapsed() < self.duration {
                answer_block(&replay, &mut worker, &mut latencies, &answer)?;
                bar.set_position(millis(started.elapsed()));
            }
            Ok::<_, AnyError>(latencies)
        };
        let latencies = thread::scope(|scope| {
            let work = &work;
            let spawn = |worker| scope.spawn(move || work(worker));
            let threads: Vec<_> = workers.into_iter().map(spawn).collect();
            let mut all = Histogram::new_with_max(MAX_LATENCY_NANOS, 3)?;
            for thread in threads {
                all.add(thread.join().expect("no thread panics")?)?;
            }
            Ok::<_, AnyError>(all)
        })?;
        bar.finish_and_clear();
        Ok(Run {
            name,
            latencies,
            elapsed: started.elapsed(),
            queries: self.database.queries() - queries,
        })
    }

    fn progress_bar(&self, name: &'static str) -> Result<ProgressBar, AnyError> {
        let style = "{msg:17} [{bar:40}] {eta} left";
        Ok(ProgressBar::new(millis(self.duration))
            .with_style(ProgressStyle::with_template(style)?)
            .with_message(name))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Serves one block of requests.
fn answer_block<W, T>(
    replay: &Replay,
    worker: &mut W,
    latencies: &mut Histogram<u64>,
    answer: impl Fn(&mut W, u64) -> Result<T, AnyError>,
) -> Result<(), AnyError> {
    for id in replay.next_block() {
        let started = Instant::now();
        answer(worker, *id)?;
        let nanos = started.elapsed().as_nanos();
        latencies.saturating_record(u64::try_from(nanos).unwrap_or(MAX_LATENCY_NANOS));
    }
    Ok(())
}
