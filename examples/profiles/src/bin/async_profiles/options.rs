//! The command line: that of the program `profiles`, and what a service needs besides.

use clap::Parser;
use profiles::args::{Args, count};

/// Serves user profiles over HTTP, with the cache and without, and compares
///
/// An embedded SQLite database is filled with made-up profiles in a temporary folder, which is
/// removed at the end. A service on axum and tokio, with as many connections to the database as it
/// has threads, then answers the same requests twice: straight from the database, and through the
/// cache, which starts empty. A table shows what the clients saw, and what the cache saves per
/// request.
///
/// At the end the hottest profile expires, and 64 tasks and 4 threads ask for it at once. The
/// program fails if that takes more than one query.
#[derive(Parser)]
#[command(name = "async_profiles", allow_negative_numbers = true)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) args: Args,

    /// How many clients ask at the same time, each over a connection of its own
    #[arg(long, default_value = "16", value_parser = count::<1_024>)]
    pub(crate) clients: usize,

    /// Only serve, at this address, until ctrl-c
    ///
    /// An address has a port, such as 127.0.0.1:8080.
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["trace", "clients", "seconds"])]
    pub(crate) serve: Option<String>,
}
