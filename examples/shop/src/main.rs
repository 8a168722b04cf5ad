//! A shop, with its caches, and a page that shows what they do.
//!
//! ```sh
//! cargo run --release -p shop              # then open http://127.0.0.1:8080
//! cargo run --release -p shop -- --help
//! cargo run --release -p shop -- \
//!     --database postgres://user@host/name --redis redis://host/ --snapshot target/shop
//! ```
//!
//! Started several times over one PostgreSQL and one Redis, it is one shop: a price that is changed in one
//! process is seen in all. Without Redis each process has caches of its own, and only one should change
//! prices and stock.

// SQLite and PostgreSQL are names and no items.
#![allow(clippy::doc_markdown)]

mod caches;
mod database;
mod latency;
mod metrics;
mod options;
mod page;
mod records;
mod refusal;
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

/// How long requests may go on once it is to end.
const GRACE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
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
    shop.finish(GRACE).await;
    if let Some(folder) = &options.snapshot {
        shop.caches.write(folder).await?;
    }
    Ok(())
}

/// Until it is to end, and its customers have their answers.
async fn serve(listener: TcpListener, shop: &Arc<Shop>) -> io::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    println!("listening on http://{}", listener.local_addr()?);
    let (tell, told) = oneshot::channel();
    let ends = async move {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
        // Nobody listens if serving has failed.
        let _ = tell.send(());
    };
    let served = axum::serve(listener, routes::router(Arc::clone(shop)));
    let late = async {
        if told.await.is_ok() {
            sleep(GRACE).await;
        }
    };
    tokio::select! {
        served = served.with_graceful_shutdown(ends) => served,
        () = late => Ok(()),
    }
}
