//! The comparison of slices with the cache off and on, in turns.

use crate::AnyError;
use crate::cpu::{Cpu, Processes};
use crate::http::{Connection, Request};
use crate::load::{Load, RunSettings};
use crate::tally::Tally;
use indicatif::ProgressBar;
use serde::Deserialize;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The results of one slice, or the sum of all slices with the cache off or on.
#[derive(Default)]
pub(crate) struct Side {
    pub(crate) tally: Tally,
    pub(crate) elapsed: Duration,
    pub(crate) database_reads: u64,
    /// The processor time, or `None` if the processes are not known.
    pub(crate) cpu: Option<Cpu>,
}

/// The results of all slices.
pub(crate) struct Comparison {
    pub(crate) off: Side,
    pub(crate) on: Side,
    /// The slices in their order, off and on in turns.
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

    /// Returns the number of database reads per 1,000 requests.
    pub(crate) fn reads_per_1000(&self) -> f64 {
        self.database_reads as f64 * 1e3 / self.tally.requests() as f64
    }
}

impl Comparison {
    /// Returns the number of changes of prices and stock.
    pub(crate) fn changes(&self) -> u64 {
        let sides = [&self.off, &self.on];
        let changes = sides.map(|side| side.tally.summary(|it| !it.is_cacheable()).requests);
        changes.iter().sum()
    }
}

/// The duration of an uncounted run before the first slice, with the cache off, in which connections are opened and the
/// database reads its files.
const WARM_UP_DURATION: Duration = Duration::from_secs(1);

/// Returns the total duration of the comparison.
pub(crate) fn duration(slices: u64, slice: Duration) -> Duration {
    WARM_UP_DURATION + slice * u32::try_from(slices).unwrap_or(u32::MAX)
}

/// Runs slices with the cache off and on in turns. The two slices of a pair send the same requests.
pub(crate) fn run(
    load: &Load<'_>,
    (slices, slice): (u64, Duration),
    seed: u64,
    processes: Option<&Processes>,
    bar: &ProgressBar,
) -> Result<Comparison, AnyError> {
    let warm_up = RunSettings {
        uncached: true,
        duration: WARM_UP_DURATION,
        seed,
    };
    load.run(&warm_up, bar)?;
    let mut comparison = Comparison {
        off: Side::default(),
        on: Side::default(),
        slices: Vec::new(),
    };
    for number in 0..slices {
        let uncached = number % 2 == 0;
        bar.set_message(if uncached { "cache off" } else { "cache on" });
        let settings = RunSettings {
            uncached,
            duration: slice,
            seed: seed.wrapping_add(1 + number / 2),
        };
        let slice = measure(load, &settings, processes, bar)?;
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

/// Runs one slice.
fn measure(
    load: &Load<'_>,
    settings: &RunSettings,
    processes: Option<&Processes>,
    bar: &ProgressBar,
) -> Result<Side, AnyError> {
    let used = || processes.and_then(Processes::used);
    let (reads, cpu) = (database_reads(load.shops)?, used());
    let started = Instant::now();
    let tally = load.run(settings, bar)?;
    Ok(Side {
        tally,
        elapsed: started.elapsed(),
        cpu: used().zip(cpu).map(|(after, before)| after - before),
        database_reads: database_reads(load.shops)? - reads,
    })
}

/// The fields of `GET /stats` that are used here.
#[derive(Deserialize)]
struct Stats {
    products: u64,
    database_reads: u64,
}

impl Stats {
    fn read(shop: SocketAddr) -> Result<Self, AnyError> {
        let fails = |problem: String| format!("http://{shop} is not a shop: GET /stats: {problem}");
        let mut connection = Connection::new(shop);
        let response = connection.send(&Request::get("/stats"));
        let response = response.map_err(|error| fails(error.to_string()))?;
        if response.status != 200 {
            return Err(fails(response.reason()).into());
        }
        let stats = serde_json::from_slice(response.body);
        Ok(stats.map_err(|error| fails(error.to_string()))?)
    }
}

/// Returns the number of database reads that all shops have counted so far.
pub(crate) fn database_reads(shops: &[SocketAddr]) -> Result<u64, AnyError> {
    let reads = |shop: &SocketAddr| Ok(Stats::read(*shop)?.database_reads);
    shops.iter().map(reads).sum()
}

/// Returns an error if a shop does not respond or has too few products.
pub(crate) fn check(shops: &[SocketAddr], products: u64) -> Result<(), AnyError> {
    for &shop in shops {
        let available = Stats::read(shop)?.products;
        if available < products {
            let problem = format!("http://{shop} has only {available} products");
            return Err(format!("{problem}; use --products {available}").into());
        }
    }
    Ok(())
}
