//! Invalidates entries of caches over Redis, for scripts and for services in other languages.
//!
//! ```sh
//! cargo run -p hotset-cli -- --url redis://127.0.0.1/ --namespace prices invalidate apple pear
//! cargo run -p hotset-cli -- --help
//! ```

use clap::{Parser, Subcommand};
use hotset::Invalidator;
use serde_json::Value;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

/// The environment variable with the URL of Redis.
const URL_VARIABLE: &str = "HOTSET_REDIS_URL";

/// Invalidates entries of caches over Redis, in all processes. Returns when no process serves them any more.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// The URL of Redis. Without it, the environment variable `HOTSET_REDIS_URL` is used, which other users of the
    /// machine cannot read, unlike the arguments of a program.
    #[arg(long)]
    url: Option<String>,

    /// The namespace of the caches.
    #[arg(long)]
    namespace: String,

    /// The heartbeat of the caches, in milliseconds.
    #[arg(long, default_value_t = 500)]
    heartbeat: u64,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Invalidates the entries of keys.
    Invalidate {
        /// Keys as JSON: 7, '"apple"', '[1, "x"]'. Text that is not JSON is a string, so apple is one as well.
        #[arg(required = true)]
        keys: Vec<String>,
    },
    /// Invalidates all entries with any of the tags.
    Tag {
        #[arg(required = true)]
        tags: Vec<String>,
    },
    /// Invalidates all entries.
    Clear,
    /// Checks that Redis can be reached, that the user has the required rights, and that messages arrive.
    Health,
    /// Prints what Redis stores for keys.
    Inspect {
        /// Keys, as for the command `invalidate`.
        #[arg(required = true)]
        keys: Vec<String>,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), Box<dyn Error>> {
    let url = options.url.or_else(|| std::env::var(URL_VARIABLE).ok());
    let url = url.ok_or_else(|| format!("there is no URL: set --url or {URL_VARIABLE}"))?;
    let heartbeat = Duration::from_millis(options.heartbeat);
    let invalidator = Invalidator::with_heartbeat(url, options.namespace, heartbeat)?;
    match options.command {
        Command::Invalidate { keys } => {
            for key in &keys {
                invalidator.invalidate(&parse_key(key)).await?;
                println!("{key}: invalidated");
            }
        }
        Command::Tag { tags } => {
            for tag in &tags {
                invalidator.invalidate_tag(tag).await?;
                println!("{tag}: invalidated");
            }
        }
        Command::Clear => {
            invalidator.clear().await?;
            println!("all entries: invalidated");
        }
        Command::Health => {
            let check = invalidator.check().await?;
            println!("a message took {:?}", check.round_trip);
            println!("invalidations so far: {}", check.invalidations);
            for warning in check.warnings {
                println!("warning: {warning}");
            }
        }
        Command::Inspect { keys } => {
            for key in &keys {
                match invalidator.inspect(&parse_key(key)).await? {
                    None => println!("{key}: no value"),
                    Some(entry) => {
                        let left = entry.time_to_live;
                        let left = left.map_or("does not expire".into(), |left| {
                            format!("expires in {left:?}")
                        });
                        println!("{key}: {} bytes, {left}", entry.size);
                    }
                }
            }
        }
    }
    Ok(())
}

/// Returns a key that is given as JSON or as plain text.
fn parse_key(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}
