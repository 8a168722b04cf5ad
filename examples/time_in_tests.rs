//! Tests expiration without waiting: a test advances the `ManualClock` of a cache.
//!
//! ```sh
//! cargo run --example time_in_tests
//! ```

use hotset::{LocalCache, ManualClock};
use std::error::Error;
use std::io;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// Simulates a query that fails for session 0.
fn query_user(session: u64) -> io::Result<String> {
    match session {
        0 => Err(io::Error::other("the query failed")),
        _ => Ok(format!("user of session {session}")),
    }
}

/// The sessions of a service. Production code passes no clock, so that the cache uses the system clock.
struct Sessions(LocalCache<u64, String>);

impl Sessions {
    fn new(clock: Option<ManualClock>) -> Result<Self, Box<dyn Error>> {
        let builder = LocalCache::builder()
            .capacity(1_000)
            .time_to_live(30 * MINUTE);
        Ok(Self(match clock {
            Some(clock) => builder.clock(clock).build()?,
            None => builder.build()?,
        }))
    }

    /// Returns the user of a session, through the cache.
    fn user(&self, session: u64) -> Result<String, Box<dyn Error>> {
        Ok(self.0.get_or_load(&session, |&id| query_user(id))?)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let clock = ManualClock::new();
    let sessions = Sessions::new(Some(clock.clone()))?;
    sessions.user(1)?;

    clock.advance(29 * MINUTE);
    sessions.user(1)?;
    assert_eq!(sessions.0.stats().loads, 1);
    println!("after 29 minutes the session is still cached");

    clock.advance(2 * MINUTE);
    sessions.user(1)?;
    assert_eq!(sessions.0.stats().loads, 2);
    println!("after 31 minutes it has expired and is loaded again");

    Sessions::new(None)?.user(1)?;
    println!("the same code runs with the system clock");
    Ok(())
}
