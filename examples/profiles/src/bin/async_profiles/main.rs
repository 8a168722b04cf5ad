//! An asynchronous web service with the cache: axum serves profiles from a database, with and without the cache.
//!
//! ```sh
//! cargo run --release -p profiles --features async --bin async_profiles
//! cargo run --release -p profiles --features async --bin async_profiles -- --help
//! cargo run --release -p profiles --features async --bin async_profiles -- --serve 127.0.0.1:8080
//! ```
//!
//! The database, the traffic and the report are those of the program `profiles`. Here clients request the profiles over
//! HTTP, and at the end many tasks and threads request the most popular one at the moment when it expires.

// SQLite is the name of a product and not a code item.
#![allow(clippy::doc_markdown)]

mod client;
mod herd;
mod options;
mod routes;
mod service;

use clap::Parser;
use client::Client;
use options::Options;
use profiles::database::Database;
use profiles::runs::Runs;
use profiles::traffic::Traffic;
use profiles::{AnyError, args, report};
use service::Service;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::ctrl_c;

fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => return args::explain(&error),
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), AnyError> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(options.args.threads)
        .enable_all()
        .build()?;
    let address = options.serve.as_deref().unwrap_or("127.0.0.1:0");
    let listener = runtime
        .block_on(TcpListener::bind(address))
        .map_err(|error| format!("cannot serve at {address}: {error}"))?;
    if options.serve.is_some() {
        serve(options, &runtime, listener)
    } else {
        measure(options, &runtime, listener)
    }
}

/// Serves requests until Ctrl-C.
fn serve(options: &Options, runtime: &Runtime, listener: TcpListener) -> Result<(), AnyError> {
    let database = Database::create(options.args.profiles, options.args.seed)?;
    let service = Arc::new(Service::new(&database, &options.args)?);
    let address = listener.local_addr()?;
    println!(
        "Serving until Ctrl-C. Examples:\n  \
         curl http://{address}/profiles/0\n  \
         curl http://{address}/uncached/profiles/0\n  \
         curl -X PUT -d 'Likes caches.' http://{address}/profiles/0/bio\n  \
         curl http://{address}/stats"
    );
    runtime.block_on(async {
        tokio::select! {
            result = axum::serve(listener, routes::router(service)) => Ok(result?),
            result = ctrl_c() => Ok(result?),
        }
    })
}

/// Measures requests without and with the cache, and then runs the stampede.
fn measure(options: &Options, runtime: &Runtime, listener: TcpListener) -> Result<(), AnyError> {
    let args = &options.args;
    let traffic = match &args.trace {
        Some(path) => Traffic::from_trace(path)?,
        None => Traffic::zipf(args.profiles, args.seed),
    };
    let profiles = args.profiles.max(traffic.distinct());
    let database = Database::create(profiles, args.seed)?;
    let service = Arc::new(Service::new(&database, args)?);
    let address = listener.local_addr()?;
    runtime.spawn(axum::serve(listener, routes::router(Arc::clone(&service))).into_future());

    println!("{} clients request http://{address}:", options.clients);
    report::print_setup(args, profiles);
    let runs = Runs {
        database: &database,
        traffic: &traffic,
        duration: args.seconds,
    };
    let clients = || Client::connect(address, options.clients);
    let alone = runs.run("database alone", clients()?, |client, id| {
        client.get(&format!("/uncached/profiles/{id}"))
    })?;
    let cached = runs.run("through the cache", clients()?, |client, id| {
        client.get(&format!("/profiles/{id}"))
    })?;

    let cache = &service.cache;
    report::print_table(&alone, &cached, cache.stats().hit_ratio());
    report::print_savings(&alone, &cached);
    runtime.block_on(herd::stampede(&service, &database, traffic.hottest()))?;
    report::print_stats(&cache.stats());
    Ok(())
}
