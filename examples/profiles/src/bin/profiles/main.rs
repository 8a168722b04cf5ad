//! A comparison of the same requests to a database with and without the cache.
//!
//! ```sh
//! cargo run --release -p profiles
//! cargo run --release -p profiles -- --help
//! ```
//!
//! The program creates an SQLite database of user profiles in a temporary folder, and serves requests with several
//! threads. Then the most popular profile expires, and many threads request it at the same time.

// SQLite is the name of a product and not a code item.
#![allow(clippy::doc_markdown)]

mod herd;

use clap::Parser;
use hotset::LocalCache;
use profiles::args::{self, Args};
use profiles::database::{Database, Profile};
use profiles::runs::Runs;
use profiles::traffic::Traffic;
use profiles::{AnyError, report};
use std::process::ExitCode;
use std::sync::Arc;

/// A cache of profiles. The values are `Arc`s, so that a hit clones a pointer and not the text.
pub(crate) type ProfileCache = LocalCache<u64, Arc<Profile>>;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return args::explain(&error),
    };
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), AnyError> {
    let traffic = match &args.trace {
        Some(path) => Traffic::from_trace(path)?,
        None => Traffic::zipf(args.profiles, args.seed),
    };
    let profiles = args.profiles.max(traffic.distinct());
    let database = Database::create(profiles, args.seed)?;
    let cache: ProfileCache = LocalCache::builder()
        .capacity(args.capacity)
        .time_to_live(args.ttl)
        .build()?;

    report::print_setup(args, profiles);
    let runs = Runs {
        database: &database,
        traffic: &traffic,
        duration: args.seconds,
    };
    let readers = || database.readers(args.threads);
    let alone = runs.run("database alone", readers()?, |reader, id| {
        Ok(reader.profile(id)?)
    })?;
    let cached = runs.run("through the cache", readers()?, |reader, id| {
        Ok(cache.get_or_load(&id, |&id| reader.profile(id))?)
    })?;

    report::print_table(&alone, &cached, cache.stats().hit_ratio());
    report::print_savings(&alone, &cached);
    herd::stampede(&cache, &database, traffic.hottest())?;
    report::print_stats(&cache.stats());
    Ok(())
}
