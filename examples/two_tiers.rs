//! Extends a cache over Redis: two caches simulate two processes, each with its own entries in memory, and a change in
//! one is visible in the other.
//!
//! ```sh
//! redis-server --port 6379
//! cargo run --features redis --example two_tiers
//! ```

use hotset::{Consistency, LocalCache, TieredCache};
use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Simulates a row of a database.
static PRICE: AtomicU64 = AtomicU64::new(100);

/// Builds a cache over Redis, as each process does.
fn connect(url: &str) -> Result<TieredCache<u64, u64>, Box<dyn Error>> {
    let prices = LocalCache::builder()
        .capacity(10_000)
        .time_to_live(Duration::from_secs(60))
        .redis(url, "example:two_tiers")
        .consistency(Consistency::Realtime);
    Ok(prices.build()?)
}

/// Simulates a query.
async fn query_price(id: u64) -> io::Result<u64> {
    println!("  query for product {id}");
    Ok(PRICE.load(Relaxed))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1);
    let url = url.unwrap_or_else(|| "redis://127.0.0.1:6379/".into());
    let (first, second) = (connect(&url)?, connect(&url)?);

    // Redis may still contain the entry of an earlier run.
    first.invalidate(&7).await;
    let price = first.get_or_load_async(&7, query_price).await?;
    println!("first process: {price}");
    let price = second.get_or_load_async(&7, query_price).await?;
    println!("second process, from Redis: {price}");

    let write = |price| async move {
        PRICE.store(price, Relaxed);
        Ok::<_, io::Error>(())
    };
    let propagation = first.write_through(7, 130, write).await?;
    println!("first process sets 130: {propagation:?}");
    let price = second.get_or_load_async(&7, query_price).await?;
    println!("second process: {price}");
    Ok(())
}
