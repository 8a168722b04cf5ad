//! The check that prices are never old: some change them, others read them all the while, and Redis is
//! killed in the middle.

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

/// How many change prices at the same time.
pub(crate) const WRITERS: u64 = 4;

/// Of 100 reads, so many are of a price that has just been changed.
pub(crate) const CLOSE_READS: u32 = 80;

/// How many changes are the last ones.
const RECENT: usize = 16;

/// Nothing that a shop does about an outage takes so long.
const LONGEST_GAP: Duration = Duration::from_secs(60);

pub(crate) struct PriceCheck<'a> {
    pub(crate) shops: &'a [SocketAddr],
    pub(crate) popularity: &'a Popularity,
    pub(crate) readers: u64,
    /// How many must be acknowledged.
    pub(crate) changes: u64,
    pub(crate) seed: u64,
}

/// What was seen.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) history: History,
    /// Changes that are in the database, while word of them to other shops is queued.
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
    /// `disturb` is called each time that another third of the changes is acknowledged, but for the
    /// last.
    pub(crate) fn run(
        &self,
        bar: &ProgressBar,
        mut disturb: impl FnMut(),
    ) -> Result<Seen, AnyError> {
        let board = Board::new(self.changes);
        let seen = Mutex::new(Seen::default());
        thread::scope(|scope| {
            for number in 0..WRITERS + self.readers {
                let (board, seen) = (&board, &seen);
                scope.spawn(move || {
                    let mut client = Client::new(self, board, number);
                    while !board.is_over() {
                        if number < WRITERS {
                            client.change();
                        } else {
                            client.read();
                        }
                    }
                    seen.lock().expect("no client panics").add(client.seen);
                });
            }
            let result = board.watch(bar, &mut disturb);
            board.stopped.store(true, Relaxed);
            result
        })?;
        Ok(seen.into_inner().expect("no client panics"))
    }
}

/// What clients tell each other.
struct Board {
    started: Instant,
    /// How many changes are to be acknowledged.
    changes: u64,
    acknowledged: AtomicU64,
    /// The products of the last changes. 0 is none.
    recent: [AtomicU64; RECENT],
    stopped: AtomicBool,
}

impl Board {
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

    fn announce(&self, id: u64) {
        let place = self.acknowledged.fetch_add(1, Relaxed);
        let place = usize::try_from(place).unwrap_or(0) % RECENT;
        self.recent[place].store(id, Relaxed);
    }

    fn pick_recent(&self, rng: &mut SmallRng) -> Option<u64> {
        let id = self.recent[rng.random_range(0..RECENT)].load(Relaxed);
        (id != 0).then_some(id)
    }

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
            } else if last.1.elapsed() > LONGEST_GAP {
                let seconds = LONGEST_GAP.as_secs();
                return Err(format!("no change was acknowledged for {seconds} seconds").into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        bar.set_position(self.acknowledged.load(Relaxed));
        Ok(())
    }
}

struct Client<'a> {
    board: &'a Board,
    popularity: &'a Popularity,
    connections: Vec<Connection>,
    shop: usize,
    rng: SmallRng,
    seen: Seen,
}

impl<'a> Client<'a> {
    fn new(check: &PriceCheck<'a>, board: &'a Board, number: u64) -> Self {
        let connections = check.shops.iter().copied().map(Connection::new);
        Self {
            board,
            popularity: check.popularity,
            connections: connections.collect(),
            shop: usize::try_from(number).unwrap_or(0),
            rng: SmallRng::seed_from_u64(check.seed << 32 | number),
            seen: Seen::default(),
        }
    }

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
        let asked = self.board.started.elapsed();
        match self.ask(&request) {
            Ok((status, version)) => {
                let acknowledged = status == 200;
                self.seen.history.changes.push(Change {
                    id,
                    version,
                    asked,
                    answered: self.board.started.elapsed(),
                    acknowledged,
                });
                if acknowledged {
                    self.board.announce(id);
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

    fn read(&mut self) {
        let recent = self.rng.random_ratio(CLOSE_READS, 100);
        let recent = recent.then(|| self.board.pick_recent(&mut self.rng));
        let id = recent.flatten();
        let id = id.unwrap_or_else(|| self.popularity.pick(&mut self.rng));
        let path = format!("/prices/{id}");
        let asked = self.board.started.elapsed();
        match self.ask(&Request::get(&path)) {
            Ok((_, version)) => self.seen.history.reads.push(Read {
                id,
                version,
                asked,
                answered: self.board.started.elapsed(),
            }),
            Err(failure) => {
                self.seen.failed_reads += 1;
                self.seen.failure.get_or_insert(failure);
            }
        }
    }

    /// Asks the shops in turn for a price, and gives the status and the version.
    fn ask(&mut self, request: &Request<'_>) -> Result<(u16, u64), String> {
        self.shop = (self.shop + 1) % self.connections.len();
        let fails = |problem| format!("{} {}: {problem}", request.method, request.path);
        let answer = self.connections[self.shop].ask(request);
        let answer = answer.map_err(|error| fails(error.to_string()))?;
        if !(200..300).contains(&answer.status) {
            return Err(fails(answer.reason()));
        }
        let price: Price =
            serde_json::from_slice(answer.body).map_err(|error| fails(error.to_string()))?;
        Ok((answer.status, price.version))
    }
}
