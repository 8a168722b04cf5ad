//! A load generator for the example `shop`: it measures the savings of the cache, and checks that no price is outdated.
//!
//! ```sh
//! cargo run --release -p shop_load
//! cargo run --release -p shop_load -- --help
//! ```
//!
//! It starts PostgreSQL, Redis and two shops over them, and compares slices of the same requests with the cache off and
//! on in turns. Then it changes and reads prices in both shops, while Redis is killed and restarted. Each read is
//! checked against the changes that were acknowledged before it was sent.

// PostgreSQL is the name of a product and not a code item.
#![allow(clippy::doc_markdown)]

mod chart;
mod comparison;
mod cpu;
mod history;
mod http;
mod load;
mod mix;
mod options;
mod prices;
mod report;
mod stage;
mod tally;

use clap::Parser;
use comparison::Comparison;
use indicatif::{ProgressBar, ProgressStyle};
use load::Load;
use mix::Popularity;
use options::Options;
use prices::PriceCheck;
use stage::Stage;
use std::error::Error;
use std::process::ExitCode;
use support::servers;

/// An error from any thread, for `main` to print.
pub(crate) type AnyError = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => return options::explain(&error),
    };
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("error: outdated prices were served");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the comparison and the check. Returns `true` if no outdated price was served.
fn run(options: &Options) -> Result<bool, AnyError> {
    let mut stage = if options.targets.is_empty() {
        Some(Stage::start(options.products)?)
    } else {
        println!("The shops were not started by this program, so Redis is not restarted.");
        None
    };
    let shops = stage
        .as_ref()
        .map_or(options.targets.clone(), Stage::addresses);
    comparison::check(&shops, options.products)?;
    let load = Load {
        shops: &shops,
        popularity: &Popularity::new(options.products, options.zipf),
        clients: options.clients,
        rate: options.rate,
    };
    let comparison = compare(options, &load, stage.as_ref())?;
    report::print_setup(options, shops.len());
    report::print_comparison(&comparison);
    if let Some(file) = &options.svg {
        chart::draw(file, &comparison)?;
    }
    let (changes, is_sound) = match options.changes {
        0 => (0, true),
        _ => check_prices(options, &load, stage.as_mut())?,
    };
    if let Some(stage) = stage {
        let reads = comparison::database_reads(&shops)?;
        let changes = comparison.changes() + changes;
        report::print_transactions(stage.transactions()?, reads, changes);
    }
    Ok(is_sound)
}

/// Runs the comparison with a progress bar.
fn compare(
    options: &Options,
    load: &Load<'_>,
    stage: Option<&Stage>,
) -> Result<Comparison, AnyError> {
    let duration = comparison::duration(options.slices, options.seconds);
    let bar = progress_bar(load::millis(duration), "{msg:10} [{bar:40}] {eta} left")?;
    let slices = (options.slices, options.seconds);
    let processes = stage.map(Stage::processes);
    let comparison = comparison::run(load, slices, options.seed, processes.as_ref(), &bar);
    bar.finish_and_clear();
    comparison
}

/// Runs the check of prices. Returns the number of changes, and `true` if no outdated price was served.
fn check_prices(
    options: &Options,
    load: &Load<'_>,
    mut stage: Option<&mut Stage>,
) -> Result<(u64, bool), AnyError> {
    let check = PriceCheck {
        shops: load.shops,
        popularity: load.popularity,
        readers: options.clients,
        changes: options.changes,
        seed: options.seed,
    };
    let bar = progress_bar(options.changes, "prices     [{bar:40}] {human_pos} changes")?;
    let mut restarts = 0;
    let seen = check.run(&bar, || {
        if let Some(stage) = &mut stage {
            stage.restart_redis(options.outage);
            restarts += 1;
        }
    });
    bar.finish_and_clear();
    let seen = seen?;
    let findings = seen.history.check();
    report::print_prices(&seen, &findings, options.clients, restarts);
    let changes = seen.history.changes.len() as u64;
    Ok((changes, findings.violations.is_empty()))
}

fn progress_bar(length: u64, style: &str) -> Result<ProgressBar, AnyError> {
    Ok(ProgressBar::new(length).with_style(ProgressStyle::with_template(style)?))
}
