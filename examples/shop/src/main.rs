//! A web shop with caches over a database, and a page with their live statistics.
//!
//! ```sh
//! cargo run --release -p shop              # then open http://127.0.0.1:8080
//! cargo run --release -p shop -- --help
//! cargo run --release -p shop -- \
//!     --database postgres://user@host/name --redis redis://host/ --snapshot target/shop
//! ```
//!
//! Several processes over one PostgreSQL and one Redis form one shop: a price that is changed in one process is visible
//! in all. Without Redis each process has its own caches, and only one process should change prices and stock.

// SQLite and PostgreSQL are names of products and not code items.
#![allow(clippy::doc_markdown)]

mod caches;
mod database;
mod error_response;
mod latency;
mod metrics;
mod options;
mod page;
mod records;
mod routes;
mod service;
mod snapshots;
mod stats;
mod store;
mod tier;

use caches::Caches;
use clap::Parser;
use database::Database;
use options::Options;
use service::Shop;
use std::error::Error;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::sleep;

pub(crate) type AnyError = Box<dyn Error + Send + Sync>;

/// The maximum time for running requests to finish during shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), AnyError> {
    if let Some(folder) = &options.snapshot {
        snapshots::check(folder)?;
    }
    let listener = TcpListener::bind(options.listen)
        .await
        .map_err(|error| format!("cannot listen at {}: {error}", options.listen))?;
    let database = Database::open(options.database.as_deref(), options.products).await?;
    let capacity = match options.capacity {
        Some(capacity) => capacity as usize,
        None => usize::try_from(database.products())?.div_ceil(2),
    };
    let caches = Caches::new(capacity, options.redis())?;
    if let Some(folder) = &options.snapshot {
        caches.restore(folder).await;
    }
    caches.warm(capacity, &database).await?;
    let shop = Arc::new(Shop::new(database, caches)?);
    serve(listener, &shop).await?;
    shop.finish(SHUTDOWN_TIMEOUT).await;
    if let Some(folder) = &options.snapshot {
        shop.caches.write(folder).await?;
    }
    Ok(())
}

/// Serves requests until SIGTERM or SIGINT, and then waits for running requests.
async fn serve(listener: TcpListener, shop: &Arc<Shop>) -> io::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    println!("listening on http://{}", listener.local_addr()?);
    let (stop_sender, stopped) = oneshot::channel();
    let shutdown = async move {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
        // The receiver is dropped if the server has failed.
        let _ = stop_sender.send(());
    };
    let served = axum::serve(listener, routes::router(Arc::clone(shop)));
    let timeout = async {
        if stopped.await.is_ok() {
            sleep(SHUTDOWN_TIMEOUT).await;
        }
    };
    tokio::select! {
        served = served.with_graceful_shutdown(shutdown) => served,
        () = timeout => Ok(()),
    }
}
