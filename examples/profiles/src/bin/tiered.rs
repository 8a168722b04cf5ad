//! Prices in caches of several processes over one Redis and one database: a change in one process is visible in all.
//!
//! Start a Redis server, and this program in two terminals:
//!
//! ```sh
//! redis-server --port 6379
//! cargo run --release -p profiles --features redis --bin tiered
//! ```
//!
//! Enter `watch 7` in one and `set 7 130` in the other. `-- --help` lists the options and commands.

// SQLite is the name of a product and not a code item.
#![allow(clippy::doc_markdown)]

use clap::Parser;
use hotset::{Consistency, LocalCache, Propagation, TieredCache};
use profiles::AnyError;
use rusqlite::{Connection, OptionalExtension};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin, stdin};

type Prices = TieredCache<u64, u64>;

/// The list of commands that is printed at the start.
const COMMANDS: &str = "commands: get ID, set ID CENTS, watch ID, health, quit";

/// Serves prices from SQLite through a cache in each process, over one Redis
///
/// Reads these commands from standard input:
///   get ID          prints a price and where it came from
///   set ID CENTS    changes a price in the database and in all caches
///   watch ID        prints each change of a price, until Enter
///   health          prints the state of the connection to Redis
///   quit            ends the program
#[derive(Parser)]
#[command(name = "tiered", verbatim_doc_comment)]
struct Args {
    /// The URL of Redis
    #[arg(long, default_value = "redis://127.0.0.1:6379/")]
    redis: String,
    /// The SQLite file, which all processes must share
    #[arg(long, default_value_os_t = std::env::temp_dir().join("hotset-prices.sqlite"))]
    database: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), AnyError> {
    let database = Database::open(&args.database)?;
    let prices: Prices = LocalCache::builder()
        .capacity(100_000)
        .time_to_live(Duration::from_secs(300))
        .redis(args.redis, "example:prices")
        .consistency(Consistency::Realtime)
        .build()?;
    println!("{COMMANDS}:");
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [] => {}
            ["quit"] => break,
            ["health"] => println!("{:#?}", prices.health()),
            ["get", id] => match id.parse() {
                Ok(id) => get(&prices, &database, id).await?,
                Err(error) => println!("{id}: {error}"),
            },
            ["watch", id] => match id.parse() {
                Ok(id) => watch(&prices, &database, id, &mut lines).await?,
                Err(error) => println!("{id}: {error}"),
            },
            ["set", id, cents] => match (id.parse(), cents.parse()) {
                (Ok(id), Ok(cents)) => set(&prices, &database, id, cents).await?,
                _ => println!("set needs two numbers, such as: set 7 130"),
            },
            _ => println!("unknown command; {COMMANDS}"),
        }
    }
    Ok(())
}

async fn price(prices: &Prices, database: &Database, id: u64) -> Result<u64, AnyError> {
    let price = prices.get_or_load_async(&id, |id| database.price(id)).await;
    Ok(price?)
}

async fn get(prices: &Prices, database: &Database, id: u64) -> Result<(), AnyError> {
    let before = (prices.stats(), prices.tier_stats());
    let started = Instant::now();
    let price = price(prices, database, id).await?;
    let elapsed = started.elapsed();
    let place = if prices.stats().hits > before.0.hits {
        "this process"
    } else if prices.tier_stats().l2_hits > before.1.l2_hits {
        "Redis"
    } else {
        "the database"
    };
    println!("{price} cents, from {place}, in {elapsed:.1?}");
    Ok(())
}

async fn set(prices: &Prices, database: &Database, id: u64, cents: u64) -> Result<(), AnyError> {
    let started = Instant::now();
    let write = |cents| database.set_price(id, cents);
    let propagation = prices.write_through(id, cents, write).await?;
    let elapsed = started.elapsed();
    match propagation {
        Propagation::Acknowledged | Propagation::NotShared => {
            println!("acknowledged after {elapsed:.1?}: no process reads the old price any more");
        }
        _ => println!(
            "queued after {elapsed:.1?}: Redis does not answer, so other processes see the change later"
        ),
    }
    Ok(())
}

/// Reads a price every millisecond, and prints each change, until Enter.
async fn watch(
    prices: &Prices,
    database: &Database,
    id: u64,
    lines: &mut Lines<BufReader<Stdin>>,
) -> Result<(), AnyError> {
    println!("press Enter to stop");
    let (mut last, mut reads) = (None, 0_u64);
    let mut pause = tokio::time::interval(Duration::from_millis(1));
    loop {
        tokio::select! {
            line = lines.next_line() => {
                line?;
                return Ok(());
            }
            _ = pause.tick() => {}
        }
        let price = price(prices, database, id).await?;
        reads += 1;
        if last.replace(price) != Some(price) {
            println!("{price} cents at read {reads}");
        }
    }
}

/// The SQLite database. Queries block, so they run on the threads for blocking tasks.
#[derive(Clone)]
struct Database(Arc<Mutex<Connection>>);

impl Database {
    fn open(path: &Path) -> Result<Self, AnyError> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL;
             CREATE TABLE IF NOT EXISTS prices (id INTEGER PRIMARY KEY, cents INTEGER NOT NULL);",
        )?;
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    async fn run<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> rusqlite::Result<T> {
        let database = Arc::clone(&self.0);
        let blocking = move || query(&database.lock().expect("no query panics"));
        tokio::task::spawn_blocking(blocking)
            .await
            .expect("no query panics")
    }

    /// Returns the price of a product. The default is 100 cents.
    async fn price(&self, id: u64) -> rusqlite::Result<u64> {
        let query = "SELECT cents FROM prices WHERE id = ?1";
        let price = self.run(move |db| db.query_row(query, [id], |row| row.get(0)).optional());
        Ok(price.await?.unwrap_or(100))
    }

    async fn set_price(&self, id: u64, cents: u64) -> rusqlite::Result<()> {
        let query = "INSERT OR REPLACE INTO prices (id, cents) VALUES (?1, ?2)";
        self.run(move |db| db.execute(query, [id, cents])).await?;
        Ok(())
    }
}
