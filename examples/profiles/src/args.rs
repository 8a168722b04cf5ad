//! The command line. All options are checked before the program starts any work.

use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Compares requests for user profiles with and without the cache
///
/// The program fills an embedded SQLite database with generated profiles, in a temporary folder that is removed at the
/// end. Several threads, each with its own connection, then serve the same requests twice: directly from the database,
/// and through the cache, which starts empty. A table compares the two runs, and the savings of the cache per request.
///
/// At the end the most popular profile expires, and 64 threads request it at the same time. The program fails if this
/// takes more than one query.
#[derive(Parser)]
#[command(name = "profiles", allow_negative_numbers = true)]
pub struct Args {
    /// Replay the access trace in this file instead of the built-in traffic
    ///
    /// The file contains one key per access, in the order of access: unsigned 64-bit integers of 8 bytes, in
    /// little-endian order. Keys may have any value. The first distinct key is mapped to profile 0, the second to
    /// profile 1, and so on. If the trace has more distinct keys than --profiles, the database gets one profile per
    /// key. The threads share the accesses in order, and start again at the end of the file.
    ///
    /// The built-in traffic has a Zipf distribution with exponent 1 over all profiles: the second most popular profile
    /// is requested half as often as the most popular one, the third a third as often, and so on.
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,

    /// Maximum number of profiles in the cache
    #[arg(long, value_name = "ENTRIES", default_value = "20000")]
    #[arg(value_parser = count::<1_000_000_000>)]
    pub capacity: usize,

    /// Time to live of a cached profile; may be a fraction
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub ttl: Duration,

    /// Number of threads that serve requests
    #[arg(long, default_value = "4", value_parser = count::<1_024>)]
    pub threads: usize,

    /// Duration of each of the two runs; may be a fraction
    #[arg(long, default_value = "5", value_parser = seconds)]
    pub seconds: Duration,

    /// Seed of the generated profiles and of the built-in traffic
    #[arg(long, default_value = "1")]
    pub seed: u64,

    /// Number of profiles in the database
    #[arg(long, default_value = "100000", value_parser = count::<10_000_000>)]
    pub profiles: usize,
}

/// Parses a number from 1 to `MAX`.
pub fn count<const MAX: usize>(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (1..=MAX).contains(&count) => Ok(count),
        _ => Err(format!("give a whole number from 1 to {MAX}")),
    }
}

/// Parses a positive number of seconds.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok();
    // `try_from_secs_f64` rejects negative and infinite numbers and NaN.
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "give a number of seconds above 0, such as 0.5 or 60".to_string())
}

/// Prints the help if it was requested, or else the error of the command line in one line.
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
