//! The command line.

use clap::Parser;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Serves a web shop from caches over a database, and a page with their live statistics
///
/// Products, prices, stock, profiles and sessions have a cache each. An empty database is filled with generated data.
/// When the most popular products are cached, the program prints the address at which it listens. It stops on Ctrl-C
/// and SIGTERM.
#[derive(Parser)]
#[command(name = "shop")]
pub(crate) struct Options {
    /// Address to listen on; port 0 selects a free port, which is printed
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,

    /// SQLite file, or URL of PostgreSQL such as postgres://user@host/name [default: a temporary SQLite file]
    #[arg(long, value_name = "PATH or URL")]
    pub(crate) database: Option<String>,

    /// URL of the Redis over which processes share the caches, such as redis://host/
    #[arg(long, value_name = "URL")]
    pub(crate) redis: Option<String>,

    /// Maximum duration of a call to Redis, in milliseconds
    #[arg(long, value_name = "MILLISECONDS", default_value = "200")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) redis_deadline: u64,

    /// Number of products that an empty database is filled with
    #[arg(long, default_value = "10000")]
    #[arg(value_parser = clap::value_parser!(i64).range(1..=5_000_000))]
    pub(crate) products: i64,

    /// Capacity of each cache, in entries [default: half the number of products]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) capacity: Option<u32>,

    /// Folder for snapshots of the caches, which are written at the end and restored at the next start
    #[arg(long, value_name = "FOLDER")]
    pub(crate) snapshot: Option<PathBuf>,
}

/// The settings of the connection to Redis.
#[derive(Clone, Copy)]
pub(crate) struct Redis<'a> {
    pub(crate) url: &'a str,
    pub(crate) deadline: Duration,
}

impl Options {
    /// Returns the settings of Redis, if one is used.
    pub(crate) fn redis(&self) -> Option<Redis<'_>> {
        let deadline = Duration::from_millis(self.redis_deadline);
        self.redis.as_deref().map(|url| Redis { url, deadline })
    }
}
