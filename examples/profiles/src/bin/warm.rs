//! A service that is warm from its first second: the first run fills its cache from the database, every
//! later one from the snapshot that the run before has left.
//!
//! ```sh
//! cargo run --release -p profiles --features snapshot --bin warm              # twice
//! cargo run --release -p profiles --features snapshot --bin warm -- --behind  # serves meanwhile
//! ```

use clap::Parser;
use hotset::{LocalCache, Schema, SnapshotError, WarmOptions};
use indicatif::{ProgressBar, ProgressStyle};
use rand_distr::{Distribution, Zipf};
use rusqlite::{Connection, params, params_from_iter};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

type AnyError = Box<dyn Error + Send + Sync>;
type Products = LocalCache<u64, Arc<Product>>;

#[derive(Parser)]
struct Args {
    /// Where the database and the snapshot are.
    #[arg(long, default_value = "target/warm")]
    folder: PathBuf,
    #[arg(long, default_value_t = 500_000)]
    products: u64,
    /// Entries of the cache.
    #[arg(long, default_value_t = 50_000)]
    capacity: usize,
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Serve at once, and warm the cache behind that.
    #[arg(long)]
    behind: bool,
}

#[derive(Serialize, Deserialize)]
struct Product {
    name: String,
    cents: u64,
}

impl Schema for Product {
    fn schema() -> Cow<'static, str> {
        "product/1".into() // another number whenever the fields change
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
    if args.behind {
        thread::scope(|scope| {
            let warming = scope.spawn(|| warm(&cache, &args));
            serve(&cache, &args)?;
            warming.join().map_err(|_| "the warming panicked")?
        })?;
    } else {
        warm(&cache, &args)?;
        serve(&cache, &args)?;
    }
    let written = cache.snapshot(args.folder.join("snapshot"))?;
    println!(
        "snapshot: {} entries, {} bytes, in {:.0?}",
        written.entries, written.bytes, written.time_taken
    );
    Ok(())
}

/// From the snapshot, and what room is left from the database, best sellers first.
fn warm(cache: &Products, args: &Args) -> Result<(), AnyError> {
    match cache.restore(args.folder.join("snapshot")) {
        Ok(report) => println!(
            "restored {} entries in {:.0?}",
            report.restored, report.time_taken
        ),
        Err(SnapshotError::NotFound) => println!("the first run: there is no snapshot yet"),
        // Of another version, say: the cache is as it was.
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
        "warmed with {} keys in {:.0?}, {} failed",
        report.found, report.time_taken, report.failed
    );
    Ok(())
}

/// One customer after the other, who want best sellers more than the rest.
fn serve(cache: &Products, args: &Args) -> Result<(), AnyError> {
    let database = open(&args.folder)?;
    #[allow(clippy::cast_precision_loss)]
    let popularity = Zipf::new(args.products as f64, 1.0)?;
    let mut random = rand::rng();
    for second in 1..=args.seconds {
        let (mut asked, mut loaded, begun) = (0_u32, 0_u32, Instant::now());
        while begun.elapsed() < Duration::from_secs(1) {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let id = popularity.sample(&mut random) as u64;
            asked += 1;
            cache.get_or_load(&id, |&id| {
                loaded += 1;
                let mut found = fetch_many(&database, &[id])?;
                let found = found.pop().ok_or(rusqlite::Error::QueryReturnedNoRows);
                found.map(|(_, product)| product)
            })?;
        }
        let ratio = 100.0 * f64::from(asked - loaded) / f64::from(asked);
        println!("second {second}: {ratio:.1}% of {asked} from the cache");
    }
    Ok(())
}

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

/// Once.
fn create_database(args: &Args) -> rusqlite::Result<()> {
    let mut database = open(&args.folder)?;
    let table = "id INTEGER PRIMARY KEY, name TEXT NOT NULL, cents INTEGER NOT NULL";
    database.execute(
        &format!("CREATE TABLE IF NOT EXISTS products ({table})"),
        [],
    )?;
    let count = "SELECT count(*) FROM products";
    let there: u64 = database.query_row(count, [], |row| row.get(0))?;
    let transaction = database.transaction()?;
    {
        let insert = "INSERT INTO products (name, cents) VALUES (?1, ?2)";
        let mut insert = transaction.prepare(insert)?;
        for id in there + 1..=args.products {
            insert.execute(params![format!("product {id}"), id * 7 % 10_000])?;
        }
    }
    transaction.commit()
}
