//! Loads values in tasks: 100 tasks request one key at the same time, and one query runs.
//!
//! ```sh
//! cargo run --example async_loading
//! ```

use hotset::LocalCache;
use std::error::Error;
use std::io;
use std::time::Duration;
use tokio::task::JoinSet;

/// Simulates a query that takes 50 ms and fails for key 0.
async fn query_price(id: u64) -> io::Result<u64> {
    // Simulates the time that a query of a database takes.
    tokio::time::sleep(Duration::from_millis(50)).await;
    if id == 0 {
        return Err(io::Error::other("the query failed"));
    }
    Ok(id * 100)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let prices: LocalCache<u64, u64> = LocalCache::builder()
        .capacity(10_000)
        .time_to_live(Duration::from_secs(60))
        .max_concurrent_loads(16)
        .build()?;

    let mut tasks = JoinSet::new();
    for _ in 0..100 {
        let prices = prices.clone();
        tasks.spawn(async move { prices.get_or_load_async(&7, query_price).await });
    }
    while let Some(price) = tasks.join_next().await {
        assert_eq!(price??, 700);
    }
    let stats = prices.stats();
    println!(
        "queries: {}, shared by {} other tasks",
        stats.loads, stats.coalesced
    );

    // All callers that wait for a load get its error. Errors are not cached.
    let failed = prices.get_or_load_async(&0, query_price).await;
    println!(
        "key 0: {:#}",
        failed.expect_err("the query for key 0 fails")
    );
    println!("cached entries: {}", prices.len());
    Ok(())
}
