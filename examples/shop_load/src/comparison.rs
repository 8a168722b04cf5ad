//! The cache off and on, in turns.

use crate::AnyError;
use crate::cpu::{Cpu, Processes};
use crate::http::{Connection, Request};
use crate::load::{Load, Stretch};
use crate::tally::Tally;
use indicatif::ProgressBar;
use serde::Deserialize;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The slices of one kind together.
#[derive(Default)]
pub(crate) struct Side {
    pub(crate) tally: Tally,
    pub(crate) elapsed: Duration,
    pub(crate) database_reads: u64,
    /// None where the processes are not known.
    pub(crate) cpu: Option<Cpu>,
}

pub(crate) struct Comparison {
    pub(crate) off: Side,
    pub(crate) on: Side,
    /// In the order in which they ran, off and on in turns.
    pub(crate) slices: Vec<Side>,
}

#[allow(clippy::cast_precision_loss)]
impl Side {
    fn add(&mut self, slice: &Self) {
        self.tally.add(&slice.tally);
        self.elapsed += slice.elapsed;
        self.database_reads += slice.database_reads;
        if let Some(cpu) = slice.cpu {
            *self.cpu.get_or_insert_default() += cpu;
        }
    }

    pub(crate) fn requests_per_second(&self) -> f64 {
        self.tally.requests() as f64 / self.elapsed.as_secs_f64()
    }

    /// In 1,000 requests.
    pub(crate) fn reads_per_1000(&self) -> f64 {
        self.database_reads as f64 * 1e3 / self.tally.requests() as f64
    }
}

impl Comparison {
    /// Of prices and stock.
    pub(crate) fn changes(&self) -> u64 {
        let sides = [&self.off, &self.on];
        let changes = sides.map(|side| side.tally.summary(|it| !it.is_cacheable()).requests);
        changes.iter().sum()
    }
}

/// Before the first slice, and not counted: connections are made, and the database reads its files. The
/// caches are left as they are.
const PRELUDE: Duration = Duration::from_secs(1);

pub(crate) fn duration(slices: u64, slice: Duration) -> Duration {
    PRELUDE + slice * u32::try_from(slices).unwrap_or(u32::MAX)
}

/// Lets slices with the cache off and on take turns. The two of a pair ask for the same.
pub(crate) fn run(
    load: &Load<'_>,
    (slices, slice): (u64, Duration),
    seed: u64,
    processes: Option<&Processes>,
    bar: &ProgressBar,
) -> Result<Comparison, AnyError> {
    let prelude = Stretch {
        uncached: true,
        duration: PRELUDE,
        seed,
    };
    load.run(&prelude, bar)?;
    let mut comparison = Comparison {
        off: Side::default(),
        on: Side::default(),
        slices: Vec::new(),
    };
    for number in 0..slices {
        let uncached = number % 2 == 0;
        bar.set_message(if uncached { "cache off" } else { "cache on" });
        let stretch = Stretch {
            uncached,
            duration: slice,
            seed: seed.wrapping_add(1 + number / 2),
        };
        let slice = measure(load, &stretch, processes, bar)?;
        let side = if uncached {
            &mut comparison.off
        } else {
            &mut comparison.on
        };
        side.add(&slice);
        comparison.slices.push(slice);
    }
    Ok(comparison)
}

fn measure(
    load: &Load<'_>,
    stretch: &Stretch,
    processes: Option<&Processes>,
    bar: &ProgressBar,
) -> Result<Side, AnyError> {
    let used = || processes.and_then(Processes::used);
    let (reads, cpu) = (database_reads(load.shops)?, used());
    let started = Instant::now();
    let tally = load.run(stretch, bar)?;
    Ok(Side {
        tally,
        elapsed: started.elapsed(),
        cpu: used().zip(cpu).map(|(after, before)| after - before),
        database_reads: database_reads(load.shops)? - reads,
    })
}

/// What shops tell of themselves.
#[derive(Deserialize)]
struct Stats {
    products: u64,
    database_reads: u64,
}

impl Stats {
    fn read(shop: SocketAddr) -> Result<Self, AnyError> {
        let fails = |problem: String| format!("http://{shop} is no shop: GET /stats: {problem}");
        let mut connection = Connection::new(shop);
        let answer = connection.ask(&Request::get("/stats"));
        let answer = answer.map_err(|error| fails(error.to_string()))?;
        if answer.status != 200 {
            return Err(fails(answer.reason()).into());
        }
        let stats = serde_json::from_slice(answer.body);
        Ok(stats.map_err(|error| fails(error.to_string()))?)
    }
}

/// By all shops so far, as they count them.
pub(crate) fn database_reads(shops: &[SocketAddr]) -> Result<u64, AnyError> {
    let reads = |shop: &SocketAddr| Ok(Stats::read(*shop)?.database_reads);
    shops.iter().map(reads).sum()
}

/// Fails if what will be asked for is not there.
pub(crate) fn check(shops: &[SocketAddr], products: u64) -> Result<(), AnyError> {
    for &shop in shops {
        let there = Stats::read(shop)?.products;
        if there < products {
            return Err(
                format!("http://{shop} has {there} products: say --products {there}").into(),
            );
        }
    }
    Ok(())
}
