//! Instructions per operation: `cargo bench -p peers --bench instructions`.
//!
//! Valgrind executes each operation 100,000 and 120,000 times with 1,000 entries of type `u64`, in one thread. By then
//! the adaptive policy has ended its first observations, which are more frequent. The difference of the two counts,
//! divided by 20,000, does not depend on the load of the machine. Each figure is the median of three. It contains the
//! loop of the measurement, which is the row "loop".
//!
//! `--check` compares the figures of hotset with those in `instructions.txt`, and fails if one of them has grown by
//! more than 3% in each of three measurements. `--write` replaces that file. Other arguments select operations by name.

use hotset::{LocalCache, LocalCacheBuilder, Policy};
use peers::common::hotset_cache::TTL;
use peers::common::{Hotset, Numbers, Peer};
use peers::{Moka, MutexLru, QuickCache, Scc};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

const ENTRIES: u64 = 1_000;
/// The numbers of operations of the two runs.
const RUNS: [u64; 2] = [100_000, 120_000];
/// The growth of a figure that `--check` allows.
const MAX_GROWTH: f64 = 0.03;
/// The number of measurements in which a figure has grown if `--check` fails.
const CHECKS: usize = 3;
/// The option with which the program calls itself, before the operation, the cache and the number of operations.
const RUN_OPTION: &str = "--run";

/// The caches of the table. Those of hotset come first.
const CACHES: [&str; 9] = [
    "hotset",
    "hotset, TTL",
    "hotset, S3-FIFO",
    "hotset, CAR",
    "hotset, adaptive",
    "quick_cache",
    "moka",
    "Mutex<lru>",
    "scc",
];

const OPERATIONS: [(&str, Operation); 6] = [
    ("loop", Operation::Loop),
    ("get, hit", Operation::Get),
    ("insert, which evicts", Operation::Insert),
    ("insert, which replaces", Operation::Replace),
    ("get_or_load, hit", Operation::LoadHit),
    ("get_or_load, miss", Operation::LoadMiss),
];

#[derive(Clone, Copy, PartialEq)]
enum Operation {
    Loop,
    Get,
    Insert,
    Replace,
    LoadHit,
    LoadMiss,
}

impl Operation {
    /// Executes the operation `count` times on a cache that is full.
    fn run<P: Peer<Numbers>>(self, cache: &P, count: u64) {
        for key in 0..ENTRIES {
            cache.insert(key, key);
        }
        let cached = |at: u64| black_box(at % ENTRIES);
        let new = |at: u64| black_box(10 * ENTRIES + at);
        for at in 0..count {
            match self {
                Self::Loop => {
                    cached(at);
                }
                Self::Get => {
                    black_box(cache.get(&cached(at)));
                }
                Self::Insert => cache.insert(new(at), at),
                Self::Replace => cache.insert(cached(at), at),
                Self::LoadHit => {
                    black_box(cache.get_or_load(&cached(at), || at));
                }
                Self::LoadMiss => {
                    black_box(cache.get_or_load(&new(at), || at));
                }
            }
        }
    }

    /// Returns whether a cache has the operation.
    fn suits(self, cache: &str) -> bool {
        let loads = !["Mutex<lru>", "scc"].contains(&cache);
        loads || !matches!(self, Self::LoadHit | Self::LoadMiss)
    }
}

/// Executes an operation on the cache with this name.
fn run(operation: Operation, cache: &str, count: u64) {
    fn hotset(
        set_up: impl FnOnce(LocalCacheBuilder<u64, u64>) -> LocalCacheBuilder<u64, u64>,
    ) -> Hotset<Numbers> {
        // As many shards as by default with two processors, so that the figures do not depend on their number.
        let capacity = usize::try_from(ENTRIES).expect("a small number");
        let builder = LocalCache::builder().capacity(capacity).shards(8);
        Hotset::from(set_up(builder).build().expect("settings are valid"))
    }
    fn peer<P: Peer<Numbers>>() -> P {
        P::with_capacity(usize::try_from(ENTRIES).expect("a small number"))
    }
    let policy = |policy| hotset(|builder| builder.policy(policy));
    match cache {
        "hotset" => operation.run(&hotset(|builder| builder), count),
        "hotset, TTL" => operation.run(&hotset(|builder| builder.time_to_live(TTL)), count),
        "hotset, S3-FIFO" => operation.run(&policy(Policy::S3Fifo), count),
        "hotset, CAR" => operation.run(&policy(Policy::Car), count),
        "hotset, adaptive" => operation.run(&policy(Policy::Adaptive), count),
        "quick_cache" => operation.run(&peer::<QuickCache<_>>(), count),
        "moka" => operation.run(&peer::<Moka<_>>(), count),
        "Mutex<lru>" => operation.run(&peer::<MutexLru<_>>(), count),
        "scc" => operation.run(&peer::<Scc<_>>(), count),
        _ => unreachable!("{cache}"),
    }
}

/// Returns the number of instructions of a run in a process of its own.
fn instructions(operation: &str, cache: &str, count: u64) -> u64 {
    let program = std::env::current_exe().expect("the path of this program");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([RUN_OPTION, operation, cache, &count.to_string()])
        .output()
        .expect("valgrind is installed");
    let report = String::from_utf8_lossy(&output.stderr);
    let collected = report
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    let collected = collected.and_then(|(_, count)| count.trim().parse().ok());
    collected.unwrap_or_else(|| panic!("callgrind has failed: {report}"))
}

/// Returns the number of instructions of one operation: the median of three measurements, because each process hashes
/// with other random keys.
#[allow(clippy::cast_precision_loss)]
fn per_operation(operation: &str, cache: &str) -> f64 {
    let mut figures = [(); 3].map(|()| {
        let [fewer, more] = RUNS.map(|count| instructions(operation, cache, count));
        (more as f64 - fewer as f64) / (RUNS[1] - RUNS[0]) as f64
    });
    figures.sort_by(f64::total_cmp);
    figures[1]
}

/// The committed figures of hotset, by operation and cache.
struct Baseline(BTreeMap<String, f64>);

impl Baseline {
    fn path() -> PathBuf {
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.txt"))
    }

    fn read() -> Self {
        let text = std::fs::read_to_string(Self::path()).expect("instructions.txt can be read");
        let lines = text.lines().filter_map(|line| {
            let (name, figure) = line.rsplit_once(": ")?;
            Some((name.to_owned(), figure.parse().ok()?))
        });
        Self(lines.collect())
    }

    fn write(&self) {
        let mut text = String::new();
        for (name, figure) in &self.0 {
            writeln!(text, "{name}: {figure:.0}").expect("writing to a string");
        }
        std::fs::write(Self::path(), text).expect("instructions.txt can be written");
    }

    /// Checks whether a figure has grown by too much.
    fn has_grown(&self, name: &str, figure: f64) -> bool {
        let old = self.0.get(name);
        old.is_some_and(|old| figure > old * (1.0 + MAX_GROWTH))
    }

    /// Returns the figures that have grown by too much, or that are missing.
    fn regressions(&self, measured: &Self) -> Vec<String> {
        let regressions = measured
            .0
            .iter()
            .filter_map(|(name, figure)| match self.0.get(name) {
                None => Some(format!("{name}: no figure in instructions.txt")),
                Some(old) if self.has_grown(name, *figure) => {
                    Some(format!("{name}: {figure:.0} instructions, {old:.0} before"))
                }
                Some(_) => None,
            });
        regressions.collect()
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [option, operation, cache, count] = &arguments[..] {
        if option == RUN_OPTION {
            let named = OPERATIONS.iter().find(|(name, _)| name == operation);
            let (_, operation) = named.expect("the name of an operation");
            run(*operation, cache, count.parse().expect("a number"));
            return ExitCode::SUCCESS;
        }
    }
    let has = |option: &str| arguments.iter().any(|argument| argument == option);
    let is_check = has("--check");
    let picks: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let is_picked = |name: &str| picks.is_empty() || picks.iter().any(|pick| name.contains(*pick));
    let caches: Vec<&str> = CACHES
        .into_iter()
        .filter(|cache| !is_check || cache.starts_with("hotset"))
        .collect();
    println!("Instructions per operation with {ENTRIES} entries of type `u64`, by callgrind.\n");
    println!("| | {} |", caches.join(" | "));
    println!("| --- |{}", " --: |".repeat(caches.len()));
    let baseline = is_check.then(Baseline::read);
    let mut measured = Baseline(BTreeMap::new());
    for (name, operation) in OPERATIONS.into_iter().filter(|(name, _)| is_picked(name)) {
        let mut row = format!("| {name} |");
        for cache in &caches {
            if !operation.suits(cache) {
                row += " |";
                continue;
            }
            let mut figure = per_operation(name, cache);
            let full_name = format!("{name}, {cache}");
            if let Some(baseline) = &baseline {
                for _ in 1..CHECKS {
                    if baseline.has_grown(&full_name, figure) {
                        figure = figure.min(per_operation(name, cache));
                    }
                }
            }
            write!(row, " {figure:.0} |").expect("writing to a string");
            if cache.starts_with("hotset") && operation != Operation::Loop {
                measured.0.insert(full_name, figure);
            }
        }
        println!("{row}");
    }
    if has("--write") {
        measured.write();
    }
    let regressions = baseline.map_or_else(Vec::new, |baseline| baseline.regressions(&measured));
    for regression in &regressions {
        eprintln!("{regression}");
    }
    if regressions.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
