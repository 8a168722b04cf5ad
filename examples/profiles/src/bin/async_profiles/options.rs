//! The command line: the options of the program `profiles`, and the options of the service.

use clap::Parser;
use profiles::args::{Args, count};

/// Compares an HTTP service for user profiles with and without the cache
///
/// The program fills an embedded SQLite database with generated profiles, in a temporary folder that is removed at the
/// end. A service on axum and tokio, with one connection to the database per thread, then answers the same requests
/// twice: directly from the database, and through the cache, which starts empty. A table compares the two runs as
/// measured by the clients, and the savings of the cache per request.
///
/// At the end the most popular profile expires, and 64 tasks and 4 threads request it at the same time. The program
/// fails if this takes more than one query.
#[derive(Parser)]
#[command(name = "async_profiles", allow_negative_numbers = true)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) args: Args,

    /// Number of concurrent clients, each with its own connection
    #[arg(long, default_value = "16", value_parser = count::<1_024>)]
    pub(crate) clients: usize,

    /// Only serve at this address until Ctrl-C, without measuring
    ///
    /// The address includes a port, such as 127.0.0.1:8080.
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["trace", "clients", "seconds"])]
    pub(crate) serve: Option<String>,
}
