//! Looks up many keys at once: one query fetches all keys that are missing.
//!
//! ```sh
//! cargo run --example batch
//! ```

use hotset::LocalCache;
use std::error::Error;
use std::io;

/// Simulates `SELECT id, cents FROM prices WHERE id IN (..)`, on a table with the ids 1 to 99.
fn query_prices(ids: &[u64]) -> io::Result<Vec<(u64, u64)>> {
    println!("  one query for {ids:?}");
    if ids.len() > 100 {
        return Err(io::Error::other("too many ids in one query"));
    }
    let known = ids.iter().filter(|id| (1..100).contains(*id));
    Ok(known.map(|&id| (id, id * 100)).collect())
}

/// Prints the prices of these products, and the query that they need.
fn prices_of(prices: &LocalCache<u64, u64>, ids: &[u64]) -> Result<(), Box<dyn Error>> {
    println!("request for {ids:?}");
    let found = prices.get_many_or_load(ids, |missing| query_prices(&missing))?;
    // The values are in the order of the keys, with `None` for keys that the query did not return.
    println!("  prices {found:?}");
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let prices: LocalCache<u64, u64> = LocalCache::new(10_000);
    prices_of(&prices, &[1, 2, 3])?;
    prices_of(&prices, &[2, 3, 4, 5])?;
    prices_of(&prices, &[5, 4, 3, 500])?;
    prices_of(&prices, &[1, 5])
}
