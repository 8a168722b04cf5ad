//! The command line.

use clap::Parser;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A shop over a database, with its products, prices, stock, profiles and sessions in caches, and a page
/// that shows what these do
///
/// The database is filled when it is empty. Once the popular products are in the cache, it says where it
/// listens. It stops on Ctrl-C and SIGTERM.
#[derive(Parser)]
#[command(name = "shop")]
pub(crate) struct Options {
    /// Where to listen; with port 0 on a free port, which is printed
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,

    /// An SQLite file, or PostgreSQL at postgres://user@host/name; without it, an SQLite file that is
    /// removed at the end
    #[arg(long, value_name = "PATH or URL")]
    pub(crate) database: Option<String>,

    /// Share the caches with other processes over this Redis: redis://host/
    #[arg(long, value_name = "URL")]
    pub(crate) redis: Option<String>,

    /// How long a call to Redis may take before it counts as failed, in milliseconds
    #[arg(long, value_name = "MILLISECONDS", default_value = "200")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) redis_deadline: u64,

    /// How many products an empty database is filled with
    #[arg(long, default_value = "10000")]
    #[arg(value_parser = clap::value_parser!(i64).range(1..=5_000_000))]
    pub(crate) products: i64,

    /// How many entries each cache holds; half as many as there are products, if not said
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) capacity: Option<u32>,

    /// Write what the caches hold to this folder at the end, and begin with it at the next start
    #[arg(long, value_name = "FOLDER")]
    pub(crate) snapshot: Option<PathBuf>,
}

/// How Redis is asked.
#[derive(Clone, Copy)]
pub(crate) struct Redis<'a> {
    pub(crate) url: &'a str,
    pub(crate) deadline: Duration,
}

impl Options {
    pub(crate) fn redis(&self) -> Option<Redis<'_>> {
        let deadline = Duration::from_millis(self.redis_deadline);
        self.redis.as_deref().map(|url| Redis { url, deadline })
    }
}
