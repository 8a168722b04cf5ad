//! Tables that compare hotset with other caches: `cargo bench -p peers --bench compare`.
//!
//! Each cell is the median over rounds. In each round every cache has a turn with the same keys, with one thread and
//! then with two, so that disturbances of the machine affect all caches. Arguments select rows by name and size, as in
//! `cargo bench -p peers --bench compare -- hit churn 100000`. `--quick` makes each turn a tenth as long.

use hdrhistogram::Histogram;
use hotset::LocalCache;
use peers::common::hotset_cache::TTL;
use peers::common::{Adaptive, Bench, Contents, Hotset, Numbers, Peer, SIZES, Texts, Work};
use peers::{Foyer, Moka, MokaFuture, MutexLru, PlainMap, QuickCache, Scc, median};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, Instant};

const ROUNDS: u64 = 9;
/// The approximate duration of a turn.
const TURN_DURATION: Duration = Duration::from_millis(60);
const THREADS: [u64; 2] = [1, 2];
/// The numbers of threads in the table of hits by many threads.
const MANY_THREADS: [u64; 4] = [8, 64, 128, 512];

/// A cache in the table.
struct Column<'a> {
    is_ours: bool,
    /// A function that runs a turn of a round, and returns the nanoseconds per operation for each number of threads.
    turn: Box<dyn FnMut(u64) -> [f64; THREADS.len()] + 'a>,
}

/// Builds a cache for a workload, or returns `None` if the cache does not support it.
fn column<'a, C: Contents + 'a, P: Peer<C> + 'a>(
    work: Work,
    capacity: usize,
    keys: &'a [C::Key],
    turn: Duration,
) -> Option<Column<'a>> {
    if !work.suits::<C, P>() {
        return None;
    }
    let bench = Bench::<C, P>::new(work, capacity, keys);
    let operations = THREADS.map(|threads| {
        // The number of operations is doubled until they take at least half a turn.
        let mut operations = 1_000;
        while bench.time(threads, operations, 0) < turn / 2 {
            operations *= 2;
        }
        operations
    });
    Some(Column {
        is_ours: P::NAME == "hotset",
        turn: Box::new(move |round| {
            #[allow(clippy::cast_precision_loss)]
            std::array::from_fn(|at| {
                let time = bench.time(THREADS[at], operations[at], round + 1);
                time.as_nanos() as f64 / operations[at] as f64
            })
        }),
    })
}

/// The rows selected on the command line.
struct Picks {
    names: Vec<String>,
    sizes: Vec<String>,
    turn: Duration,
}

impl Picks {
    fn from_arguments() -> Self {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let quick = arguments.iter().any(|argument| argument == "--quick");
        let picks = arguments.into_iter();
        let (sizes, names) = picks
            .filter(|argument| !argument.starts_with("--"))
            .partition(|pick| pick.parse::<usize>().is_ok());
        Self {
            names,
            sizes,
            turn: if quick {
                TURN_DURATION / 10
            } else {
                TURN_DURATION
            },
        }
    }

    fn has_name(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|pick| name.contains(pick))
    }

    fn has_size(&self, size: usize) -> bool {
        self.sizes.is_empty() || self.sizes.contains(&size.to_string())
    }
}

const PEERS: &str =
    "hotset | adaptive | `quick_cache` | moka | foyer | scc | `Mutex<lru>` | plain map |";

fn main() {
    if let Some(name) =
        std::env::args().find_map(|a| Some(a.strip_prefix(MEMORY_OPTION)?.to_owned()))
    {
        return memory_of(&name);
    }
    let picks = Picks::from_arguments();
    println!(
        "Million operations per second over all threads, median of {ROUNDS} rounds. In parentheses: hotset's\n\
         figure divided by that of the other cache; for hotset, the figure with two threads divided by that\n\
         with one. hotset and moka have a time to live, hotset has statistics. \"adaptive\" is hotset with\n\
         `Policy::Adaptive`.\n\n\
         | work | entries | threads | {PEERS}\n\
         | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |"
    );
    for work in Work::ALL {
        for size in work.sizes() {
            if picks.has_name(work.name()) && picks.has_size(size) {
                rows::<Numbers>(work.name(), work, size, picks.turn);
            }
        }
    }
    for (name, work) in [("text hit", Work::Hit), ("text mixed", Work::Mixed)] {
        if picks.has_name(name) && picks.has_size(100_000) {
            rows::<Texts>(name, work, 100_000, picks.turn);
        }
    }
    if picks.has_name("threads") && picks.has_size(100_000) {
        println!(
            "\nMillion hits per second over all threads, with more threads than processors, which share the\n\
             same number of hits. Median of {ROUNDS} rounds; 100,000 entries.\n\n\
             | cache | 8 threads | 64 threads | 128 threads | 512 threads |\n\
             | --- | --: | --: | --: | --: |"
        );
        many_threads(picks.turn);
    }
    if picks.has_name("get_many") {
        println!(
            "\nNanoseconds for each key that hotset finds, by `get` and by `get_many` of {BATCH} keys at a time, by\n\
             one thread. All keys are equally frequent. Median of {ROUNDS} rounds.\n\n\
             | entries | `get` | `get_many` |\n| --: | --: | --: |"
        );
        for size in SIZES {
            if picks.has_size(size) {
                get_many(size, picks.turn);
            }
        }
    }
    if picks.has_name("memory") && picks.has_size(1_000_000) {
        println!(
            "\nBytes per entry beyond key and value in a cache of 1,000,000 entries of `u64` to `u64`: after it\n\
             is filled, and after 2,000,000 more insertions.\n\n\
             | cache | filled | after churn |\n| --- | --: | --: |"
        );
        for name in MEMORY_CACHES {
            // Each cache is measured in a separate process, whose memory contains nothing else.
            let program = std::env::current_exe().expect("the path of this program");
            let option = format!("{MEMORY_OPTION}{name}");
            let status = Command::new(program).arg(option).status();
            assert!(status.expect("this program starts").success());
        }
    }
    if picks.has_name("slowest") && picks.has_size(1_000_000) {
        println!(
            "\nDuration of an insertion: 10,000,000 insertions by one thread into an initially empty cache with\n\
             a capacity of 1,000,000.\n\n\
             | cache | median | 99.99% | slowest |\n| --- | --: | --: | --: |"
        );
        slowest::<Hotset<_>>();
        slowest::<QuickCache<_>>();
        slowest::<Moka<_>>();
        slowest::<Foyer<_>>();
        slowest::<Scc<_>>();
        slowest::<MutexLru<_>>();
    }
}

/// Measures a workload, and prints a row for each number of threads.
fn rows<C: Contents>(name: &str, work: Work, capacity: usize, turn: Duration) {
    let keys = &work.keys::<C>(capacity)[..];
    let mut columns = [
        column::<C, Hotset<C>>(work, capacity, keys, turn),
        column::<C, Adaptive<C>>(work, capacity, keys, turn),
        column::<C, QuickCache<C>>(work, capacity, keys, turn),
        column::<C, Moka<C>>(work, capacity, keys, turn)
            .or_else(|| column::<C, MokaFuture<C>>(work, capacity, keys, turn)),
        column::<C, Foyer<C>>(work, capacity, keys, turn),
        column::<C, Scc<C>>(work, capacity, keys, turn),
        column::<C, MutexLru<C>>(work, capacity, keys, turn),
        column::<C, PlainMap<C>>(work, capacity, keys, turn),
    ];
    let mut rounds = vec![Vec::new(); columns.len()];
    for round in 0..ROUNDS {
        for (column, figures) in columns.iter_mut().zip(&mut rounds) {
            figures.extend(column.as_mut().map(|column| (column.turn)(round)));
        }
    }
    // Million operations per second, by column and number of threads.
    #[allow(clippy::cast_precision_loss)]
    let mops = |rounds: &Vec<[f64; 2]>, at: usize| {
        let mut nanos: Vec<f64> = rounds.iter().map(|figures| figures[at]).collect();
        THREADS[at] as f64 * 1_000.0 / median(&mut nanos)
    };
    let ours = [0, 1].map(|at| mops(&rounds[0], at));
    for (at, threads) in THREADS.iter().enumerate() {
        print!("| {name} | {capacity} | {threads} |");
        for (column, rounds) in columns.iter().zip(&rounds) {
            match column {
                None => print!(" |"),
                Some(column) if column.is_ours && at == 0 => print!(" {:.1} |", ours[at]),
                Some(column) if column.is_ours => {
                    print!(" {:.1} (x{:.2}) |", ours[at], ours[at] / ours[0]);
                }
                Some(_) => {
                    let theirs = mops(rounds, at);
                    print!(" {theirs:.1} ({:.2}) |", ours[at] / theirs);
                }
            }
        }
        println!();
    }
}

/// A cache in the table of hits by many threads.
struct ManyThreadsRow<'a> {
    name: &'static str,
    /// The number of hits in a turn, which all threads share.
    hits: u64,
    /// A function that returns the nanoseconds of a turn with this number of threads in this round.
    turn: Box<dyn Fn(u64, u64) -> f64 + 'a>,
    /// The results so far, for each of [`MANY_THREADS`].
    nanos: [Vec<f64>; MANY_THREADS.len()],
}

impl<'a> ManyThreadsRow<'a> {
    fn new<P: Peer<Numbers> + 'a>(
        entries: usize,
        keys: &'a [<Numbers as Contents>::Key],
        turn: Duration,
    ) -> Self {
        let bench = Bench::<Numbers, P>::new(Work::Hit, entries, keys);
        // A multiple of each number of threads, which are powers of two.
        let mut hits = MANY_THREADS.into_iter().max().expect("some numbers") * 1_000;
        while bench.time(MANY_THREADS[0], hits / MANY_THREADS[0], 0) < turn {
            hits *= 2;
        }
        Self {
            name: P::NAME,
            hits,
            #[allow(clippy::cast_precision_loss)]
            turn: Box::new(move |threads, round| {
                bench.time(threads, hits / threads, round).as_nanos() as f64
            }),
            nanos: MANY_THREADS.map(|_| Vec::new()),
        }
    }
}

/// Prints the rates of hits for each of [`MANY_THREADS`].
fn many_threads(turn: Duration) {
    const ENTRIES: usize = 100_000;
    let keys = Work::Hit.keys::<Numbers>(ENTRIES);
    let mut rows = [
        ManyThreadsRow::new::<Hotset<_>>(ENTRIES, &keys, turn),
        ManyThreadsRow::new::<QuickCache<_>>(ENTRIES, &keys, turn),
    ];
    for round in 1..=ROUNDS {
        for (at, threads) in MANY_THREADS.into_iter().enumerate() {
            for row in &mut rows {
                let nanos = (row.turn)(threads, round);
                row.nanos[at].push(nanos);
            }
        }
    }
    for mut row in rows {
        #[allow(clippy::cast_precision_loss)]
        let rate = |nanos: &mut Vec<f64>| row.hits as f64 * 1_000.0 / median(nanos);
        let rates = row.nanos.each_mut().map(rate);
        let cells = rates.map(|rate| format!(" {rate:.1} |"));
        println!("| {} |{}", row.name, cells.concat());
    }
}

/// The number of keys of one call of `get_many`.
const BATCH: usize = 32;

/// Prints the time for each key of single and of batched hits.
fn get_many(entries: usize, turn: Duration) {
    let cache = LocalCache::builder().capacity(entries).time_to_live(TTL);
    let cache = cache.build().expect("settings are valid");
    (0..)
        .take(entries)
        .for_each(|rank| cache.insert(Numbers::key(rank), rank));
    let mut rng = SmallRng::seed_from_u64(7);
    let count = entries.max(1 << 18) / BATCH * BATCH;
    let rank = |_| rng.random_range(0..entries as u64);
    let keys: Vec<u64> = (0..count).map(rank).map(Numbers::key).collect();
    let time = |look_up: &dyn Fn()| {
        let begin = Instant::now();
        let mut passes = 0;
        while begin.elapsed() < turn {
            look_up();
            passes += 1;
        }
        #[allow(clippy::cast_precision_loss)]
        let keys = (passes * count) as f64;
        begin.elapsed().as_secs_f64() * 1e9 / keys
    };
    let single = || {
        for key in &keys {
            black_box(cache.get(key));
        }
    };
    let batched = || {
        for batch in keys.chunks(BATCH) {
            black_box(cache.get_many(batch));
        }
    };
    let rounds = (0..ROUNDS).map(|_| (time(&single), time(&batched)));
    let (mut single, mut batched): (Vec<_>, Vec<_>) = rounds.unzip();
    println!(
        "| {entries} | {:.1} | {:.1} |",
        median(&mut single),
        median(&mut batched)
    );
}

/// The option of the processes that measure memory.
const MEMORY_OPTION: &str = "--memory-of=";
/// The caches whose memory is measured.
const MEMORY_CACHES: [&str; 7] = [
    "hotset",
    "adaptive",
    "quick_cache",
    "moka",
    "foyer",
    "scc",
    "Mutex<lru>",
];

/// Prints the memory of the cache with this name.
fn memory_of(name: &str) {
    match name {
        "hotset" => memory::<Hotset<_>>(),
        "adaptive" => memory::<Adaptive<_>>(),
        "quick_cache" => memory::<QuickCache<_>>(),
        "moka" => memory::<Moka<_>>(),
        "foyer" => memory::<Foyer<_>>(),
        "scc" => memory::<Scc<_>>(),
        _ => memory::<MutexLru<_>>(),
    }
}

/// Prints the memory of a cache.
fn memory<P: Peer<Numbers>>() {
    const ENTRIES: u64 = 1_000_000;
    let before = resident_bytes();
    let cache = P::with_capacity(1_000_000);
    let fill = |ranks: std::ops::Range<u64>| {
        ranks.for_each(|rank| cache.insert(Numbers::key(rank), rank));
        #[allow(clippy::cast_precision_loss)]
        let each = (resident_bytes() - before) as f64 / ENTRIES as f64;
        each - 16.0
    };
    let (filled, churned) = (fill(0..ENTRIES), fill(ENTRIES..3 * ENTRIES));
    println!("| {} | {filled:.1} | {churned:.1} |", P::NAME);
}

/// Returns the resident memory of this process on Linux, and 0 elsewhere.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1_024
}

/// Prints percentiles of the duration of insertions.
fn slowest<P: Peer<Numbers>>() {
    let cache = P::with_capacity(1_000_000);
    let mut times = Histogram::<u64>::new_with_max(1 << 36, 3).expect("a minute, three digits");
    let mut last = Instant::now();
    for rank in 0..10_000_000 {
        cache.insert(Numbers::key(rank), rank);
        let now = Instant::now();
        times.saturating_record(u64::try_from((now - last).as_nanos()).unwrap_or(u64::MAX));
        last = now;
    }
    println!(
        "| {} | {:.1?} | {:.1?} | {:.1?} |",
        P::NAME,
        Duration::from_nanos(times.value_at_quantile(0.5)),
        Duration::from_nanos(times.value_at_quantile(0.9999)),
        Duration::from_nanos(times.max()),
    );
}
