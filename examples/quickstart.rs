//! Caches the result of a slow query: the first request runs it, later requests hit the cache.
//!
//! ```sh
//! cargo run --example quickstart
//! ```

use hotset::LocalCache;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Simulates a query that takes 50 ms and fails for id 0.
fn query_profile(id: u64) -> io::Result<Arc<str>> {
    // Simulates the time that a query of a database takes.
    thread::sleep(Duration::from_millis(50));
    if id == 0 {
        return Err(io::Error::other("the query failed"));
    }
    Ok(format!("profile of user {id}").into())
}

fn main() -> Result<(), Box<dyn Error>> {
    // Threads can share the cache by reference or by clone. A clone is another handle to the same entries.
    let profiles: LocalCache<u64, Arc<str>> = LocalCache::builder()
        .capacity(10_000)
        .time_to_live(Duration::from_secs(300))
        .build()?;

    for request in 1..=3 {
        let start = Instant::now();
        let profile = profiles.get_or_load(&7, |&id| query_profile(id))?;
        println!("request {request}: {profile}, {:.1?}", start.elapsed());
    }

    // Eight threads miss the same key together. One of them runs the query, and all get its result.
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| profiles.get_or_load(&8, |&id| query_profile(id)));
        }
    });
    println!(
        "8 threads miss together, total queries: {}",
        profiles.stats().loads
    );

    // A change in the database invalidates the entry. The next request runs the query again.
    profiles.invalidate(&7);
    profiles.get_or_load(&7, |&id| query_profile(id))?;
    println!(
        "after an invalidation, total queries: {}",
        profiles.stats().loads
    );
    Ok(())
}
