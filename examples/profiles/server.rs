//! Threads that serve requests for a while and measure each one.

use crate::AnyError;
use crate::database::{Database, Profile, Reader};
use crate::traffic::{Replay, Traffic};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Longer times, in nanoseconds, count as this one.
const LONGEST: u64 = 60_000_000_000;

pub(crate) struct Server<'a> {
    pub(crate) database: &'a Database,
    pub(crate) traffic: &'a Traffic,
    pub(crate) threads: usize,
    pub(crate) duration: Duration,
}

/// What a run has done.
pub(crate) struct Run {
    pub(crate) name: &'static str,
    /// How long each request took, in nanoseconds.
    pub(crate) latencies: Histogram<u64>,
    pub(crate) elapsed: Duration,
    pub(crate) queries: u64,
}

#[allow(clippy::cast_precision_loss)]
impl Run {
    pub(crate) fn requests_per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    pub(crate) fn queries_per_request(&self) -> f64 {
        self.queries as f64 / self.latencies.len() as f64
    }

    pub(crate) fn mean_time(&self) -> Duration {
        Duration::from_secs_f64(self.latencies.mean() / 1e9)
    }
}

impl Server<'_> {
    /// Answers requests with `answer`, from the first one on, until the time is over.
    pub(crate) fn serve(
        &self,
        name: &'static str,
        answer: impl Fn(&Reader, u64) -> Result<Arc<Profile>, AnyError> + Sync,
    ) -> Result<Run, AnyError> {
        let readers = self.database.readers(self.threads)?;
        let bar = self.progress_bar(name)?;
        let replay = self.traffic.replay();
        let queries = self.database.queries();
        let started = Instant::now();
        let work = |reader: Reader| {
            let mut latencies = Histogram::new_with_max(LONGEST, 3)?;
            while latencies.is_empty() || started.elapsed() < self.duration {
                serve_block(&replay, &reader, &mut latencies, &answer)?;
                bar.set_position(millis(started.elapsed()));
            }
            Ok::<_, AnyError>(latencies)
        };
        let latencies = thread::scope(|scope| {
            let work = &work;
            let spawn = |reader| scope.spawn(move || work(reader));
            let threads: Vec<_> = readers.into_iter().map(spawn).collect();
            let mut all = Histogram::new_with_max(LONGEST, 3)?;
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

fn serve_block(
    replay: &Replay,
    reader: &Reader,
    latencies: &mut Histogram<u64>,
    answer: impl Fn(&Reader, u64) -> Result<Arc<Profile>, AnyError>,
) -> Result<(), AnyError> {
    for id in replay.next_block() {
        let started = Instant::now();
        answer(reader, *id)?;
        let nanos = started.elapsed().as_nanos();
        latencies.saturating_record(u64::try_from(nanos).unwrap_or(LONGEST));
    }
    Ok(())
}
