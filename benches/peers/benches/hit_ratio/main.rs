//! Hit ratios of the policies of hotset and of other caches: `cargo bench -p peers --bench hit_ratio`.
//!
//! Replays built-in traces, or the traces in the files and folders given as arguments (one 8-byte little-endian key per
//! access). Each access is a `get`, and an `insert` on a miss. The first half of a trace fills the cache, and hits are
//! counted in the second half. Capacities are 0.1, 1, 5, 10 and 20% of the distinct keys of a trace, at least 64. Prints
//! the means over ten seeds of the hashes, and with `--cells` all hit ratios, and writes charts to `target/hit_ratio/`.
//!
//! `--bounds` replays a load of entries with different sizes and times to live instead.

// The modules are used only in this crate.
#![allow(unreachable_pub)]

mod bounds;
mod caches;
mod chart;

use caches::CACHES;
use chart::Line;
use indicatif::{ProgressBar, ProgressStyle};
use peers::traces::{self, Trace};
use std::collections::HashSet;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

/// The capacities, in thousandths of the number of distinct keys.
const CAPACITIES_PER_1000: [usize; 5] = [1, 10, 50, 100, 200];
/// The minimum capacity, in entries.
const MIN_CAPACITY: usize = 64;
/// The index in `CACHES` of the cache that all others are compared with.
const EXACT_LRU: usize = 1;

/// The number of accesses of a built-in trace.
const TRACE_LENGTH: usize = 800_000;

/// The hit ratios of all caches for one trace and capacity.
struct Cell<'a> {
    trace: &'a Trace,
    capacity: usize,
    /// The hit ratios of each cache in percent, one for each run.
    runs: [Vec<f64>; CACHES.len()],
}

impl Cell<'_> {
    /// Returns the mean hit ratio of a cache.
    #[allow(clippy::cast_precision_loss)]
    fn percent(&self, cache: usize) -> f64 {
        let runs = &self.runs[cache];
        runs.iter().sum::<f64>() / runs.len() as f64
    }

    /// Returns the lead of a cache over LRU.
    fn lead(&self, cache: usize) -> f64 {
        self.percent(cache) - self.percent(EXACT_LRU)
    }

    /// Returns the difference between the best and the worst run of a cache.
    fn spread(&self, cache: usize) -> f64 {
        let runs = || self.runs[cache].iter().copied();
        runs().fold(0.0, f64::max) - runs().fold(100.0, f64::min)
    }

    /// Returns the trace and the capacity for a table.
    fn place(&self) -> String {
        format!("{}, {}", self.trace.name, self.capacity)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (options, paths): (Vec<_>, Vec<_>) = arguments.iter().partition(|a| a.starts_with("--"));
    if options.iter().any(|option| *option == "--bounds") {
        bounds::compare();
        return ExitCode::SUCCESS;
    }
    let traces = if paths.is_empty() {
        let mut traces = traces::generate(TRACE_LENGTH);
        traces.extend(traces::generate_phases(TRACE_LENGTH));
        Ok(traces)
    } else {
        let read = paths.iter().map(|path| traces::read_all(Path::new(path)));
        read.collect::<Result<Vec<_>, _>>()
            .map(|traces| traces.into_iter().flatten().collect())
    };
    let has_cells = options.iter().any(|option| *option == "--cells");
    match traces
        .map_err(Into::into)
        .and_then(|traces| compare(&traces, has_cells))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Replays all traces, prints the tables and draws the charts.
fn compare(traces: &[Trace], has_cells: bool) -> Result<(), Box<dyn Error>> {
    let cells = replay_all(traces);
    if has_cells {
        print_cells(&cells);
    }
    print_means(&cells);
    // The path is absolute, because cargo runs benchmarks in the folder of their package.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/hit_ratio");
    fs::create_dir_all(&folder)?;
    for of_trace in cells.chunk_by(|a, b| std::ptr::eq(a.trace, b.trace)) {
        draw(&folder, of_trace)?;
    }
    println!("\nThe charts are in {}.", folder.display());
    Ok(())
}

/// Replays all traces at all capacities, on one thread per core.
fn replay_all(traces: &[Trace]) -> Vec<Cell<'_>> {
    let cells = traces.iter().flat_map(|trace| {
        let distinct = trace.keys.iter().collect::<HashSet<_>>().len();
        let mut sizes = CAPACITIES_PER_1000
            .map(|size| (distinct * size / 1_000).max(MIN_CAPACITY))
            .to_vec();
        sizes.dedup();
        sizes.into_iter().map(move |capacity| (trace, capacity))
    });
    let cells: Vec<_> = cells
        .map(|(trace, capacity)| Cell {
            trace,
            capacity,
            runs: CACHES.map(|_| Vec::new()),
        })
        .collect();
    let jobs: Vec<_> = (0..cells.len())
        .flat_map(|cell| (0..CACHES.len()).map(move |cache| (cell, cache)))
        .flat_map(|(cell, cache)| (0..CACHES[cache].1).map(move |seed| (cell, cache, seed)))
        .collect();
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len}, {eta} left");
    let bar = ProgressBar::new(jobs.len() as u64).with_style(style.expect("a valid template"));
    let (cells, next) = (Mutex::new(cells), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(&(cell, cache, seed)) = jobs.get(next.fetch_add(1, Relaxed)) {
                    let (trace, capacity) = {
                        let cell = &cells.lock().unwrap()[cell];
                        (cell.trace, cell.capacity)
                    };
                    let percent = CACHES[cache].2(capacity, &trace.keys, seed) * 100.0;
                    cells.lock().unwrap()[cell].runs[cache].push(percent);
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    cells.into_inner().unwrap()
}

fn print_cells(cells: &[Cell<'_>]) {
    let names = CACHES.map(|(name, ..)| name).join(" | ");
    println!("| trace | entries | {names} |");
    println!("| --- | --: |{}", " --: |".repeat(CACHES.len()));
    for cell in cells {
        let percents: [usize; CACHES.len()] = std::array::from_fn(|cache| cache);
        let percents = percents.map(|cache| format!("{:.1}", cell.percent(cache)));
        let (name, capacity) = (&cell.trace.name, cell.capacity);
        println!("| {name} | {capacity} | {} |", percents.join(" | "));
    }
    println!();
}

fn print_means(cells: &[Cell<'_>]) {
    println!("| | mean hit ratio, % | worst against LRU, percentage points | | spread | |");
    println!("| --- | --: | --: | --- | --: | --- |");
    for (cache, (name, runs, _)) in CACHES.iter().enumerate() {
        let percents = cells.iter().map(|cell| cell.percent(cache));
        #[allow(clippy::cast_precision_loss)]
        let mean = percents.sum::<f64>() / cells.len() as f64;
        let worst = cells
            .iter()
            .min_by(|a, b| a.lead(cache).total_cmp(&b.lead(cache)));
        let worst = worst.expect("there is at least one trace");
        let widest = cells
            .iter()
            .max_by(|a, b| a.spread(cache).total_cmp(&b.spread(cache)));
        let widest = widest.filter(|_| *runs > 1).map_or_else(
            || " | ".to_owned(),
            |cell| format!("{:.2} | {}", cell.spread(cache), cell.place()),
        );
        let lead = worst.lead(cache);
        println!(
            "| {name} | {mean:.2} | {lead:+.2} | {} | {widest} |",
            worst.place()
        );
    }
}

/// Draws the chart of one trace.
fn draw(folder: &Path, cells: &[Cell<'_>]) -> Result<(), Box<dyn Error>> {
    let name = &cells[0].trace.name;
    let file = folder.join(format!("{}.svg", name.replace(' ', "_")));
    let lines: Vec<_> = CACHES
        .iter()
        .enumerate()
        .map(|(cache, (name, ..))| Line {
            name,
            #[allow(clippy::cast_precision_loss)]
            points: cells
                .iter()
                .map(|cell| (cell.capacity as f64, cell.percent(cache)))
                .collect(),
        })
        .collect();
    chart::draw(&file, name, &lines)
}
