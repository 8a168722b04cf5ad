//! The command line. All options are checked before the program starts any work.

use clap::Parser;
use clap::builder::RangedU64ValueParser;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Compares shops with and without the cache, and checks that no outdated price is served
///
/// Without --target the program starts PostgreSQL, Redis and two shops over them on free ports, and stops them at the
/// end. It kills and restarts Redis twice during the check of prices. The exit status is 1 if an outdated price was
/// served.
///
/// First, slices of load with the cache off and on take turns. The two slices of a pair send the same requests. Each
/// shop warms its caches with the best sellers when it starts; all later loads are counted.
///
/// By default each client sends its next request when it has the response to the last one (closed loop). While a shop
/// is slow, it gets fewer requests, so that delays of other visitors are not measured (coordinated omission). With
/// --rate requests are due at fixed times (open loop), and the latency of a late request starts when it was due.
#[derive(Parser)]
#[command(name = "shop_load", allow_negative_numbers = true)]
pub(crate) struct Options {
    /// URL of a running shop, such as http://127.0.0.1:8080, instead of new servers; can be repeated
    ///
    /// All shops must share their database and Redis. The program changes prices and stock, so do not use it with a
    /// shop whose data matters. It does not restart Redis.
    #[arg(long = "target", value_name = "URL", value_parser = address)]
    pub(crate) targets: Vec<SocketAddr>,

    /// Number of slices, half of them with the cache; must be even
    #[arg(long, default_value = "6", value_parser = slices)]
    pub(crate) slices: u64,

    /// Duration of a slice; may be a fraction
    #[arg(long, default_value = "5", value_parser = seconds)]
    pub(crate) seconds: Duration,

    /// Number of concurrent clients, each with its own connection to each shop
    #[arg(long, default_value = "8", value_parser = count(1, 1_024))]
    pub(crate) clients: u64,

    /// Requests per second of all clients together [default: closed loop]
    #[arg(long, value_name = "REQUESTS", value_parser = count(1, 1_000_000))]
    pub(crate) rate: Option<u64>,

    /// Number of products in the shops
    #[arg(long, default_value = "10000", value_parser = count(1, 1_000_000))]
    pub(crate) products: u64,

    /// Exponent of the Zipf distribution of products: with 0 all are equally popular, with 1 the second is requested
    /// half as often as the first
    #[arg(long, default_value = "1", value_parser = exponent)]
    pub(crate) zipf: f64,

    /// Number of acknowledged price changes in the check; 0 skips the check
    #[arg(long, default_value = "10000", value_parser = count(0, 10_000_000))]
    pub(crate) changes: u64,

    /// Duration of each outage of Redis
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub(crate) outage: Duration,

    /// Seed of the requests
    #[arg(long, default_value = "1", value_parser = count(0, 1_000_000_000))]
    pub(crate) seed: u64,

    /// File to write a chart of the comparison to, as SVG
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

fn count(min: u64, max: u64) -> RangedU64ValueParser {
    RangedU64ValueParser::new().range(min..=max)
}

/// Parses an even number.
fn slices(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(slices @ 2..=1_000) if slices % 2 == 0 => Ok(slices),
        _ => Err("give an even number from 2 to 1000".into()),
    }
}

/// Parses a number of seconds.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok();
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|duration| (1..=3_600_000).contains(&duration.as_millis()))
        .ok_or_else(|| "give a number of seconds from 0.001 to 3600".into())
}

/// Parses the exponent of a Zipf distribution.
fn exponent(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(exponent) if (0.0..=10.0).contains(&exponent) => Ok(exponent),
        _ => Err("give a number from 0 to 10".into()),
    }
}

/// Resolves the address in a URL.
fn address(url: &str) -> Result<SocketAddr, String> {
    let form = "give a URL with a port, such as http://127.0.0.1:8080";
    let host = url.strip_prefix("http://").ok_or(form)?;
    let host = host.trim_end_matches('/');
    let mut addresses = host
        .to_socket_addrs()
        .map_err(|error| format!("{error}; {form}"))?;
    addresses
        .next()
        .ok_or_else(|| format!("{host} has no address; {form}"))
}

/// Prints the help if it was requested, or else the error of the command line in one line.
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
        parsed.err().expect("the option is rejected").to_string()
    }

    #[test]
    fn command_line_definition_is_valid() {
        <Options as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn invalid_options_are_rejected_with_the_valid_range() {
        assert!(problem("--slices=3").contains("an even number"));
        assert!(problem("--seconds=nan").contains("from 0.001 to 3600"));
        assert!(problem("--clients=0").contains("1..=1024"));
        assert!(problem("--zipf=-1").contains("from 0 to 10"));
        assert!(problem("--target=localhost").contains("such as http://127.0.0.1:8080"));
        assert!(problem("--target=http://127.0.0.1").contains("such as http://127.0.0.1:8080"));
    }
}
