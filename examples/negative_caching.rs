//! Caches the absence of rows, with a shorter time to live than that of rows: repeated requests for unknown keys do not
//! reach the database, and new rows become visible soon.
//!
//! ```sh
//! cargo run --example negative_caching
//! ```

use hotset::{Loaded, LocalCache, ManualClock};
use std::error::Error;
use std::io;
use std::time::Duration;

type Users = LocalCache<String, Option<u64>>;

/// The time to live of missing users.
const MISSING_TTL: Duration = Duration::from_secs(5);

/// Simulates a query on a table with one user.
fn query_user(name: &str) -> io::Result<Option<u64>> {
    println!("  query for {name}");
    match name {
        "" => Err(io::Error::other("the name is empty")),
        _ => Ok((name == "ada").then_some(1)),
    }
}

/// Returns the id of a user, or `None` if there is no such user.
fn find_user(users: &Users, name: &str) -> Result<Option<u64>, Box<dyn Error>> {
    let found = users.get_or_load_entry(name, |name| {
        query_user(name).map(|user| match user {
            Some(_) => Loaded::new(user),
            None => Loaded::new(None).ttl(MISSING_TTL),
        })
    })?;
    Ok(found)
}

fn main() -> Result<(), Box<dyn Error>> {
    // This clock is advanced by the program, so that it does not have to wait.
    let clock = ManualClock::new();
    let users: Users = LocalCache::builder()
        .capacity(10_000)
        .time_to_live(Duration::from_secs(300))
        .clock(clock.clone())
        .build()?;

    for name in ["ada", "ada", "nobody", "nobody"] {
        println!("{name}: {:?}", find_user(&users, name)?);
    }
    clock.advance(Duration::from_secs(10));
    println!("10 seconds later");
    for name in ["ada", "nobody"] {
        println!("{name}: {:?}", find_user(&users, name)?);
    }
    Ok(())
}
