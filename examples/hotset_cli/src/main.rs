//! Invalidates entries of caches over Redis, for scripts and for services in other languages.
//!
//! ```sh
//! cargo run -p hotset-cli -- --url redis://127.0.0.1/ --namespace prices invalidate apple pear
//! cargo run -p hotset-cli -- --help
//! ```

use clap::{Args, Parser, Subcommand};
use hotset::Invalidator;
use serde_json::Value;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

/// The environment variable with the URL of Redis.
const URL_VARIABLE: &str = "HOTSET_REDIS_URL";

/// Invalidates entries of caches over Redis, in all processes. Returns when no cache of the class Realtime serves them
/// any more.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// The URL of Redis, which has to be that of the caches. Without it, the environment variable `HOTSET_REDIS_URL` is
    /// used, which other users of the
    /// machine cannot read, unlike the arguments of a program.
    #[arg(long)]
    url: Option<String>,

    /// The namespace of the caches.
    #[arg(long)]
    namespace: String,

    /// The heartbeat of the caches, in milliseconds.
    #[arg(long, default_value_t = 500)]
    heartbeat: u64,

    /// The number of replicas that the caches require.
    #[arg(long, default_value_t = 0)]
    replicas: u64,

    /// The number of partitions of the namespace. Without it, that is 16 for a cluster and otherwise 1, as for the caches.
    #[arg(long)]
    partitions: Option<u16>,
    /// The number of partitions to which the caches are moving, if they have this setting.
    #[arg(long)]
    next_partitions: Option<u16>,

    /// How long a call to Redis may take, in milliseconds.
    #[arg(long, default_value_t = 2_000)]
    deadline: u64,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Invalidates the entries of keys.
    Invalidate(Keys),
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
    Inspect(Keys),
}

#[derive(Args)]
struct Keys {
    /// Keys as JSON: 7, '"apple"', '[1, "x"]'. Text that is not JSON is a string, so apple is one as well. A key has to
    /// have the type that the caches use: 7 and '"7"' are different keys.
    #[arg(required = true, allow_negative_numbers = true)]
    keys: Vec<String>,

    /// Takes all keys for strings, also those that are JSON.
    #[arg(long)]
    string: bool,
}

impl Keys {
    /// Returns each key with a description.
    fn parse(&self) -> Result<Vec<(Value, String)>, String> {
        let parse = |text: &String| {
            let key = if self.string {
                Value::from(&**text)
            } else {
                serde_json::from_str(text).unwrap_or_else(|_| text.as_str().into())
            };
            let kind = match &key {
                Value::Number(number) if number.is_f64() => {
                    return Err(format!(
                        "{text} is not an integer of 64 bits: if it is a string, add --string"
                    ));
                }
                Value::Number(_) => "integer",
                Value::String(_) => "string",
                _ => "JSON",
            };
            let description = format!("{kind} {key}");
            Ok((key, description))
        };
        self.keys.iter().map(parse).collect()
    }
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
    let mut invalidator = Invalidator::builder(url, options.namespace)
        .heartbeat(heartbeat)
        .deadline(Duration::from_millis(options.deadline))
        .replicas(options.replicas);
    if let Some(partitions) = options.partitions {
        invalidator = invalidator.partitions(partitions);
    }
    if let Some(partitions) = options.next_partitions {
        invalidator = invalidator.next_partitions(partitions);
    }
    let invalidator = invalidator.build()?;
    match options.command {
        Command::Invalidate(keys) => {
            for (key, description) in keys.parse()? {
                // A key of another type than that of the caches has no value.
                let is_known = invalidator.inspect(&key).await?.is_some();
                invalidator.invalidate(&key).await?;
                let remark = if is_known {
                    ""
                } else {
                    "; Redis had no value for it"
                };
                println!("{description}: invalidated{remark}");
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
            for warning in check.warnings {
                println!("warning: {warning}");
            }
        }
        Command::Inspect(keys) => {
            for (key, description) in keys.parse()? {
                match invalidator.inspect(&key).await? {
                    None => println!("{description}: no value"),
                    Some(entry) => {
                        let left = entry.time_to_live;
                        let left = left.map_or("does not expire".into(), |left| {
                            format!("expires in {left:?}")
                        });
                        println!("{description}: {} bytes, {left}", entry.size);
                    }
                }
            }
        }
    }
    Ok(())
}
