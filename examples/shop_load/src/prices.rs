//! The check that no outdated price is served: writers and readers run concurrently, and Redis is killed meanwhile.

use crate::AnyError;
use crate::history::{Change, History, Read};
use crate::http::{Connection, Request};
use crate::mix::Popularity;
use indicatif::ProgressBar;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::Deserialize;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// The number of concurrent writers.
pub(crate) const WRITERS: u64 = 4;

/// The percentage of reads that are of a recently changed price.
pub(crate) const CLOSE_READS_PERCENT: u32 = 80;

/// The number of recently changed prices.
const RECENT_CHANGES: usize = 16;

/// The maximum time without an acknowledged change, after which the check fails. It is longer than any timeout of a
/// shop.
const MAX_GAP: Duration = Duration::from_secs(60);

/// The settings of the check.
pub(crate) struct PriceCheck<'a> {
    pub(crate) shops: &'a [SocketAddr],
    pub(crate) popularity: &'a Popularity,
    pub(crate) readers: u64,
    /// The number of changes that must be acknowledged.
    pub(crate) changes: u64,
    pub(crate) seed: u64,
}

/// The observations of one client, or of all clients.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) history: History,
    /// The number of changes whose invalidations were queued and not acknowledged.
    pub(crate) queued: u64,
    pub(crate) failed_changes: u64,
    pub(crate) failed_reads: u64,
    /// The first failure.
    pub(crate) failure: Option<String>,
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.history.add(other.history);
        self.queued += other.queued;
        self.failed_changes += other.failed_changes;
        self.failed_reads += other.failed_reads;
        self.failure = self.failure.take().or(other.failure);
    }
}

#[derive(Deserialize)]
struct Price {
    version: u64,
}

impl PriceCheck<'_> {
    /// Runs the check. Calls `disturb` after one third and after two thirds of the changes.
    pub(crate) fn run(
        &self,
        bar: &ProgressBar,
        mut disturb: impl FnMut(),
    ) -> Result<Seen, AnyError> {
        let progress = Progress::new(self.changes);
        let seen = Mutex::new(Seen::default());
        thread::scope(|scope| {
            for number in 0..WRITERS + self.readers {
                let (progress, seen) = (&progress, &seen);
                scope.spawn(move || {
                    let mut client = Client::new(self, progress, number);
                    while !progress.is_over() {
                        if number < WRITERS {
                            client.change();
                        } else {
                            client.read();
                        }
                    }
                    seen.lock().expect("no client panics").add(client.seen);
                });
            }
            let result = progress.watch(bar, &mut disturb);
            progress.stopped.store(true, Relaxed);
            result
        })?;
        Ok(seen.into_inner().expect("no client panics"))
    }
}

/// The progress of the check, which all clients share.
struct Progress {
    started: Instant,
    /// The number of changes that must be acknowledged.
    changes: u64,
    acknowledged: AtomicU64,
    /// The products of the last changes. 0 stands for none.
    recent: [AtomicU64; RECENT_CHANGES],
    stopped: AtomicBool,
}

impl Progress {
    fn new(changes: u64) -> Self {
        Self {
            started: Instant::now(),
            changes,
            acknowledged: AtomicU64::new(0),
            recent: Default::default(),
            stopped: AtomicBool::new(false),
        }
    }

    fn is_over(&self) -> bool {
        self.acknowledged.load(Relaxed) >= self.changes || self.stopped.load(Relaxed)
    }

    /// Records an acknowledged change.
    fn record_acknowledged(&self, id: u64) {
        let number = self.acknowledged.fetch_add(1, Relaxed);
        let index = usize::try_from(number).unwrap_or(0) % RECENT_CHANGES;
        self.recent[index].store(id, Relaxed);
    }

    fn pick_recent(&self, rng: &mut SmallRng) -> Option<u64> {
        let id = self.recent[rng.random_range(0..RECENT_CHANGES)].load(Relaxed);
        (id != 0).then_some(id)
    }

    /// Updates the progress bar and calls `disturb`, until the check is over.
    fn watch(&self, bar: &ProgressBar, disturb: &mut impl FnMut()) -> Result<(), AnyError> {
        let mut disturbed = 0;
        let mut last = (0, Instant::now());
        while !self.is_over() {
            let acknowledged = self.acknowledged.load(Relaxed);
            bar.set_position(acknowledged);
            if disturbed < 2 && 3 * acknowledged >= (disturbed + 1) * self.changes {
                disturbed += 1;
                disturb();
            }
            if acknowledged > last.0 {
                last = (acknowledged, Instant::now());
            } else if last.1.elapsed() > MAX_GAP {
                let seconds = MAX_GAP.as_secs();
                return Err(format!("no change was acknowledged for {seconds} seconds").into());
            }
            // The clients do not wake this thread, so that it takes no time of theirs. It polls the counters instead.
            thread::sleep(Duration::from_millis(1));
        }
        bar.set_position(self.acknowledged.load(Relaxed));
        Ok(())
    }
}

/// A reader or writer.
struct Client<'a> {
    progress: &'a Progress,
    popularity: &'a Popularity,
    connections: Vec<Connection>,
    shop: usize,
    rng: SmallRng,
    seen: Seen,
}

impl<'a> Client<'a> {
    fn new(check: &PriceCheck<'a>, progress: &'a Progress, number: u64) -> Self {
        let connections = check.shops.iter().copied().map(Connection::new);
        Self {
            progress,
            popularity: check.popularity,
            connections: connections.collect(),
            shop: usize::try_from(number).unwrap_or(0),
            rng: SmallRng::seed_from_u64(check.seed << 32 | number),
            seen: Seen::default(),
        }
    }

    /// Changes a price.
    fn change(&mut self) {
        let id = self.popularity.pick(&mut self.rng);
        let cents = self.rng.random_range(100..10_000);
        let (path, body) = (format!("/prices/{id}"), format!(r#"{{"cents":{cents}}}"#));
        let request = Request {
            method: "PUT",
            path: &path,
            uncached: false,
            body: &body,
        };
        let sent = self.progress.started.elapsed();
        match self.send(&request) {
            Ok((status, version)) => {
                let acknowledged = status == 200;
                self.seen.history.changes.push(Change {
                    id,
                    version,
                    sent,
                    answered: self.progress.started.elapsed(),
                    acknowledged,
                });
                if acknowledged {
                    self.progress.record_acknowledged(id);
                } else {
                    self.seen.queued += 1;
                }
            }
            Err(failure) => {
                self.seen.failed_changes += 1;
                self.seen.failure.get_or_insert(failure);
            }
        }
    }

    /// Reads a price.
    fn read(&mut self) {
        let recent = self.rng.random_ratio(CLOSE_READS_PERCENT, 100);
        let recent = recent.then(|| self.progress.pick_recent(&mut self.rng));
        let id = recent.flatten();
        let id = id.unwrap_or_else(|| self.popularity.pick(&mut self.rng));
        let path = format!("/prices/{id}");
        let sent = self.progress.started.elapsed();
        match self.send(&Request::get(&path)) {
            Ok((_, version)) => self.seen.history.reads.push(Read {
                id,
                version,
                sent,
                answered: self.progress.started.elapsed(),
            }),
            Err(failure) => {
                self.seen.failed_reads += 1;
                self.seen.failure.get_or_insert(failure);
            }
        }
    }

    /// Sends a request for a price to the shops in turn, and returns the status and the version.
    fn send(&mut self, request: &Request<'_>) -> Result<(u16, u64), String> {
        self.shop = (self.shop + 1) % self.connections.len();
        let fails = |problem| format!("{} {}: {problem}", request.method, request.path);
        let response = self.connections[self.shop].send(request);
        let response = response.map_err(|error| fails(error.to_string()))?;
        if !(200..300).contains(&response.status) {
            return Err(fails(response.reason()));
        }
        let price: Price =
            serde_json::from_slice(response.body).map_err(|error| fails(error.to_string()))?;
        Ok((response.status, price.version))
    }
}
