//! One table of hotset beside its peers, for a person to read: `cargo bench --bench compare`.
//!
//! Each cell is the median over rounds; in each round every cache has its turn on the same keys,
//! so that what disturbs the machine disturbs all of them. Arguments pick rows by name and size, as
//! in `cargo bench --bench compare -- hit churn 100000`; `--quick` makes each turn a tenth as long.

mod common;

use common::{Bench, Hotset, Moka, MokaFuture, MutexLru, Peer, PlainMap, QuickCache, Work};
use std::time::Duration;

const ROUNDS: u64 = 9;
/// How long a turn takes, about.
const TURN: Duration = Duration::from_millis(60);

/// A cache in the table: told a round, it answers with the nanoseconds of an operation.
struct Column<'a> {
    name: &'static str,
    turn: Box<dyn FnMut(u64) -> f64 + 'a>,
}

fn column<'a, P: Peer + 'a>(
    work: Work,
    capacity: usize,
    threads: u64,
    keys: &'a [u64],
    turn: Duration,
) -> Option<Column<'a>> {
    if !work.suits::<P>() {
        return None;
    }
    let bench = Bench::<P>::new(work, capacity, keys);
    // As many operations as fill a turn, found out on the way.
    let mut operations = 1_000;
    while bench.time(threads, operations, 0) < turn / 2 {
        operations *= 2;
    }
    Some(Column {
        name: P::NAME,
        turn: Box::new(move |round| {
            #[allow(clippy::cast_precision_loss)]
            let each =
                bench.time(threads, operations, round + 1).as_nanos() as f64 / operations as f64;
            each
        }),
    })
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let turn = if quick { TURN / 10 } else { TURN };
    let picks = arguments
        .iter()
        .filter(|argument| !argument.starts_with("--"));
    let (sizes, names): (Vec<&String>, Vec<&String>) =
        picks.partition(|pick| pick.parse::<usize>().is_ok());
    println!(
        "Million operations a second over all threads, median of {ROUNDS} rounds; in brackets"
    );
    println!("hotset's figure over theirs. hotset and moka with a time to live, hotset with");
    println!("statistics.\n");
    println!(
        "| work | entries | threads | hotset | `quick_cache` | moka | `Mutex<lru>` | plain map |"
    );
    println!("| --- | --: | --: | --: | --: | --: | --: | --: |");
    for work in Work::ALL {
        if !names.is_empty() && names.iter().all(|name| !work.name().contains(*name)) {
            continue;
        }
        for capacity in work.sizes() {
            if !sizes.is_empty() && !sizes.contains(&&capacity.to_string()) {
                continue;
            }
            let keys = work.keys(capacity);
            for threads in [1, 2] {
                row(work, capacity, threads, &keys, turn);
            }
        }
    }
}

fn row(work: Work, capacity: usize, threads: u64, keys: &[u64], turn: Duration) {
    let mut columns = [
        column::<Hotset>(work, capacity, threads, keys, turn),
        column::<QuickCache>(work, capacity, threads, keys, turn),
        column::<Moka>(work, capacity, threads, keys, turn)
            .or_else(|| column::<MokaFuture>(work, capacity, threads, keys, turn)),
        column::<MutexLru>(work, capacity, threads, keys, turn),
        column::<PlainMap>(work, capacity, threads, keys, turn),
    ];
    let mut rounds: [Vec<f64>; 5] = Default::default();
    for round in 0..ROUNDS {
        for (column, figures) in columns.iter_mut().zip(&mut rounds) {
            figures.extend(column.as_mut().map(|column| (column.turn)(round)));
        }
    }
    let [ours, ..] = rounds
        .clone()
        .map(|figures| (!figures.is_empty()).then(|| median(figures)));
    let ours = ours.expect("hotset has every row");
    print!("| {} | {capacity} | {threads} |", work.name());
    for (column, figures) in columns.iter().zip(rounds) {
        #[allow(clippy::cast_precision_loss)]
        let mops = |nanos: f64| threads as f64 * 1_000.0 / nanos;
        match column {
            None => print!(" |"),
            Some(column) if column.name == Hotset::NAME => print!(" {:.1} |", mops(ours)),
            Some(_) => {
                let theirs = median(figures);
                print!(" {:.1} ({:.2}) |", mops(theirs), theirs / ours);
            }
        }
    }
    println!();
}
