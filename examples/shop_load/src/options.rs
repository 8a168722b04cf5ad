//! The command line, with everything checked before any work is done.

use clap::Parser;
use clap::builder::RangedU64ValueParser;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Loads shops with the cache and without, compares, and checks that no price is ever old
///
/// Without --target it starts a PostgreSQL, a Redis and two shops over them on free ports, kills Redis and
/// starts it again twice while prices are checked, and stops all at the end. It ends with status 1 if an
/// old price was served.
///
/// First, slices of load take turns with the cache off and on. The requests of a pair of slices are the
/// same. When a shop starts it warms its caches with what sells best; all that they load later counts.
///
/// Each client sends its next request when it has the answer to the last one (closed loop): while a shop
/// is slow, less is asked of it, and waits that other visitors would have had are not seen (coordinated
/// omission). With --rate requests are due at fixed times whatever the shop does (open loop), and a late
/// one has waited since it was due.
#[derive(Parser)]
#[command(name = "shop_load", allow_negative_numbers = true)]
pub(crate) struct Options {
    /// Load this shop, such as `http://127.0.0.1:8080`, instead; several share the load. Nothing is restarted
    ///
    /// Prices and stock are changed: give no shop that matters. All of them must share their database and
    /// Redis.
    #[arg(long = "target", value_name = "URL", value_parser = address)]
    pub(crate) targets: Vec<SocketAddr>,

    /// How many slices there are, half of them with the cache; an even number
    #[arg(long, default_value = "6", value_parser = slices)]
    pub(crate) slices: u64,

    /// How long a slice takes; fractions are fine
    #[arg(long, default_value = "5", value_parser = seconds)]
    pub(crate) seconds: Duration,

    /// How many clients ask at the same time, each over a connection of its own to each shop
    #[arg(long, default_value = "8", value_parser = count(1, 1_024))]
    pub(crate) clients: u64,

    /// How many requests are due a second, for all clients together [default: as many as are answered]
    #[arg(long, value_name = "REQUESTS", value_parser = count(1, 1_000_000))]
    pub(crate) rate: Option<u64>,

    /// How many products the shops have
    #[arg(long, default_value = "10000", value_parser = count(1, 1_000_000))]
    pub(crate) products: u64,

    /// The exponent of the Zipf distribution: 0 asks for all equally often, 1 for the second half as often as
    /// for the first
    #[arg(long, default_value = "1", value_parser = exponent)]
    pub(crate) zipf: f64,

    /// How many changes of prices must be acknowledged in the check; 0 leaves it out
    #[arg(long, default_value = "10000", value_parser = count(0, 10_000_000))]
    pub(crate) changes: u64,

    /// For how long Redis is down each time
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub(crate) outage: Duration,

    /// What the requests are derived from
    #[arg(long, default_value = "1", value_parser = count(0, 1_000_000_000))]
    pub(crate) seed: u64,

    /// Draw the comparison into this file
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

fn count(least: u64, most: u64) -> RangedU64ValueParser {
    RangedU64ValueParser::new().range(least..=most)
}

fn slices(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(slices @ 2..=1_000) if slices % 2 == 0 => Ok(slices),
        _ => Err("give an even number from 2 to 1000".into()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok();
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|duration| (1..=3_600_000).contains(&duration.as_millis()))
        .ok_or_else(|| "give a number of seconds from 0.001 to 3600".into())
}

fn exponent(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(exponent) if (0.0..=10.0).contains(&exponent) => Ok(exponent),
        _ => Err("give a number from 0 to 10".into()),
    }
}

fn address(url: &str) -> Result<SocketAddr, String> {
    let form = "give a URL with a port, such as http://127.0.0.1:8080";
    let place = url.strip_prefix("http://").ok_or(form)?;
    let place = place.trim_end_matches('/');
    let mut addresses = place
        .to_socket_addrs()
        .map_err(|error| format!("{error}; {form}"))?;
    addresses
        .next()
        .ok_or_else(|| format!("{place} has no address; {form}"))
}

/// Prints the help that was asked for, or what is wrong with the command line in one line.
pub(crate) fn explain(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        error.exit();
    }
    let text = error.to_string();
    let problem = text.lines().take_while(|line| !line.is_empty());
    let problem: Vec<_> = problem.map(str::trim).collect();
    eprintln!("{}; see --help", problem.join(" "));
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(option: &str) -> String {
        let parsed = Options::try_parse_from(["shop_load", option]);
        parsed.err().expect("it is refused").to_string()
    }

    #[test]
    fn the_command_line_is_sound() {
        <Options as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_can() {
        assert!(problem("--slices=3").contains("an even number"));
        assert!(problem("--seconds=nan").contains("from 0.001 to 3600"));
        assert!(problem("--clients=0").contains("1..=1024"));
        assert!(problem("--zipf=-1").contains("from 0 to 10"));
        assert!(problem("--target=localhost").contains("such as http://127.0.0.1:8080"));
        assert!(problem("--target=http://127.0.0.1").contains("such as http://127.0.0.1:8080"));
    }
}
