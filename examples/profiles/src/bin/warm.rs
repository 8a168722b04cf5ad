//! A service whose cache is warm when it starts: the first run fills the cache from the database, each later run from
//! the snapshot of the previous one.
//!
//! ```sh
//! cargo run --release -p profiles --features snapshot --bin warm                  # run this twice
//! cargo run --release -p profiles --features snapshot --bin warm -- --background  # serves requests while warming
//! ```

use clap::Parser;
use hotset::{LocalCache, Schema, SnapshotError, WarmOptions};
use indicatif::{ProgressBar, ProgressStyle};
use profiles::AnyError;
use rand_distr::{Distribution, Zipf};
use rusqlite::{Connection, params, params_from_iter};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

type Products = LocalCache<u64, Arc<Product>>;

/// Serves products from `SQLite` with a cache that is warm when it starts
///
/// The first run fills the cache from the database. At the end of each run the cache is written to a snapshot, from
/// which the next run starts.
#[derive(Parser)]
#[command(name = "warm")]
struct Args {
    /// The folder of the database and the snapshot
    #[arg(long, default_value = "target/warm")]
    folder: PathBuf,
    /// Number of products in the database
    #[arg(long, default_value_t = 500_000)]
    products: u64,
    /// Maximum number of entries in the cache
    #[arg(long, default_value_t = 50_000)]
    capacity: usize,
    /// Duration of the run, in seconds
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Serve at once, and warm the cache in the background
    #[arg(long)]
    background: bool,
}

#[derive(Serialize, Deserialize)]
struct Product {
    name: String,
    cents: u64,
}

impl Schema for Product {
    fn schema() -> Cow<'static, str> {
        "product/1".into() // change the number whenever the fields change
    }
}

fn main() -> Result<(), AnyError> {
    let args = Args::parse();
    std::fs::create_dir_all(&args.folder)?;
    create_database(&args)?;
    let cache: Products = LocalCache::builder()
        .capacity(args.capacity)
        .time_to_live(Duration::from_secs(3_600))
        .build()?;
    if args.background {
        thread::scope(|scope| {
            let warming = scope.spawn(|| warm(&cache, &args));
            serve(&cache, &args)?;
            warming
                .join()
                .map_err(|_| "the thread that warms the cache panicked")?
        })?;
    } else {
        warm(&cache, &args)?;
        serve(&cache, &args)?;
    }
    let written = cache.snapshot(args.folder.join("snapshot"))?;
    println!(
        "snapshot: {} entries and {} bytes written in {:.0?}",
        written.entries, written.bytes, written.time_taken
    );
    Ok(())
}

/// Fills the cache from the snapshot, and then from the database, in the order of popularity, until it is full.
fn warm(cache: &Products, args: &Args) -> Result<(), AnyError> {
    match cache.restore(args.folder.join("snapshot")) {
        Ok(report) => println!(
            "restored {} entries in {:.0?}",
            report.restored, report.time_taken
        ),
        Err(SnapshotError::NotFound) => println!("no snapshot found: this is the first run"),
        // For instance, the snapshot has another version. The cache is unchanged.
        Err(error) => println!("not restored: {error}"),
    }
    let database = open(&args.folder)?;
    let style = ProgressStyle::with_template("warming {wide_bar} {pos}/{len} {eta}")?;
    let bar = ProgressBar::new(args.capacity as u64).with_style(style);
    let warming = WarmOptions::new()
        .batch(500)
        .stop_after_failures(3)
        .on_progress(|progress| bar.set_position(progress.done()));
    let report = cache.warm_with(warming, 1..=args.products, |ids| {
        fetch_many(&database, &ids)
    });
    bar.finish_and_clear();
    println!(
        "loaded {} entries from the database in {:.0?}, {} failed",
        report.found, report.time_taken, report.failed
    );
    Ok(())
}

/// Serves one request after another. The keys have a Zipf distribution, and product 1 is the most popular.
fn serve(cache: &Products, args: &Args) -> Result<(), AnyError> {
    let database = open(&args.folder)?;
    #[allow(clippy::cast_precision_loss)]
    let popularity = Zipf::new(args.products as f64, 1.0)?;
    let mut random = rand::rng();
    for second in 1..=args.seconds {
        let (mut requests, mut loaded, started) = (0_u32, 0_u32, Instant::now());
        while started.elapsed() < Duration::from_secs(1) {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let id = popularity.sample(&mut random) as u64;
            requests += 1;
            cache.get_or_load(&id, |&id| {
                loaded += 1;
                let mut found = fetch_many(&database, &[id])?;
                let found = found.pop().ok_or(rusqlite::Error::QueryReturnedNoRows);
                found.map(|(_, product)| product)
            })?;
        }
        let ratio = 100.0 * f64::from(requests - loaded) / f64::from(requests);
        println!("second {second}: {requests} requests, hit ratio {ratio:.1}%");
    }
    Ok(())
}

/// Queries products by their ids.
fn fetch_many(database: &Connection, ids: &[u64]) -> rusqlite::Result<Vec<(u64, Arc<Product>)>> {
    let marks = vec!["?"; ids.len()].join(", ");
    let query = format!("SELECT id, name, cents FROM products WHERE id IN ({marks})");
    let mut query = database.prepare_cached(&query)?;
    let rows = query.query_map(params_from_iter(ids), |row| {
        let product = Product {
            name: row.get(1)?,
            cents: row.get(2)?,
        };
        Ok((row.get(0)?, Arc::new(product)))
    })?;
    rows.collect()
}

fn open(folder: &Path) -> rusqlite::Result<Connection> {
    Connection::open(folder.join("products.sqlite"))
}

/// Creates the database, and adds products until it has as many as requested.
fn create_database(args: &Args) -> rusqlite::Result<()> {
    let mut database = open(&args.folder)?;
    let table = "id INTEGER PRIMARY KEY, name TEXT NOT NULL, cents INTEGER NOT NULL";
    database.execute(
        &format!("CREATE TABLE IF NOT EXISTS products ({table})"),
        [],
    )?;
    let count = "SELECT count(*) FROM products";
    let existing: u64 = database.query_row(count, [], |row| row.get(0))?;
    let transaction = database.transaction()?;
    {
        let insert = "INSERT INTO products (name, cents) VALUES (?1, ?2)";
        let mut insert = transaction.prepare(insert)?;
        for id in existing + 1..=args.products {
            insert.execute(params![format!("product {id}"), id * 7 % 10_000])?;
        }
    }
    transaction.commit()
}
