//! The command line, with everything checked before any work is done.

use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Serves user profiles from an SQLite database, alone and then through the cache, and compares
///
/// An embedded SQLite database is filled with made-up profiles in a temporary folder, which is
/// removed at the end. Several threads, each with a connection of its own, then serve the same
/// requests twice: straight from the database, and through the cache, which starts empty. A table
/// shows what each run did, and what the cache saves per request.
///
/// At the end the hottest profile expires and 64 threads ask for it at once. The program fails if
/// that takes more than one query.
#[derive(Parser)]
#[command(name = "profiles", allow_negative_numbers = true)]
pub struct Args {
    /// Replay the accesses in this file in place of the built-in traffic
    ///
    /// The file holds keys and nothing else, one per access, in the order of access: unsigned
    /// 64-bit integers of 8 bytes each, the least significant byte first. A key may be any number.
    /// The first key that appears becomes profile 0, the next one that differs profile 1, and so
    /// on; if there are more keys than --profiles, as many profiles are made as there are keys. The
    /// threads share the accesses in order, and start again at the end of the file.
    ///
    /// Without this option the traffic is Zipf with exponent 1 over all profiles: the second
    /// hottest is asked for half as often as the hottest, the third a third as often, and so on.
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,

    /// How many profiles the cache holds at most
    #[arg(long, value_name = "ENTRIES", default_value = "20000")]
    #[arg(value_parser = count::<1_000_000_000>)]
    pub capacity: usize,

    /// How long the cache may answer with a profile before it is queried anew; fractions are fine
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub ttl: Duration,

    /// How many threads serve requests
    #[arg(long, default_value = "4", value_parser = count::<1_024>)]
    pub threads: usize,

    /// How long each of the two runs takes; fractions are fine
    #[arg(long, default_value = "5", value_parser = seconds)]
    pub seconds: Duration,

    /// What the made-up profiles and the built-in traffic are derived from
    #[arg(long, default_value = "1")]
    pub seed: u64,

    /// How many profiles the database holds
    #[arg(long, default_value = "100000", value_parser = count::<10_000_000>)]
    pub profiles: usize,
}

pub fn count<const MAX: usize>(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (1..=MAX).contains(&count) => Ok(count),
        _ => Err(format!("give a whole number from 1 to {MAX}")),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok();
    // `try_from_secs_f64` refuses what is negative, infinite or no number.
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "give a number of seconds above 0, such as 0.5 or 60".to_string())
}

/// Prints the help that was asked for, or what is wrong with the command line in one line.
pub fn explain(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        error.exit();
    }
    let text = error.to_string();
    let problem = text.lines().take_while(|line| !line.is_empty());
    let problem: Vec<_> = problem.map(str::trim).collect();
    eprintln!("{}; see --help", problem.join(" "));
    ExitCode::from(2)
}
