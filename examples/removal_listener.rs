//! Sends each removed entry to a thread, which closes the connection that is the value of the entry.
//!
//! ```sh
//! cargo run --example removal_listener
//! ```

use hotset::{LocalCache, RemovalCause};
use std::error::Error;
use std::sync::mpsc::sync_channel;
use std::thread;

/// Simulates a connection to a host, which takes some time to close.
#[derive(Clone, Debug)]
struct Connection {
    number: u32,
}

fn main() -> Result<(), Box<dyn Error>> {
    // If the thread falls behind by 100 connections, callers that remove entries wait for it.
    let (sender, removed) = sync_channel::<(String, Connection, RemovalCause)>(100);
    let closer = thread::spawn(move || {
        for (host, connection, cause) in removed {
            println!("closing {host} #{}: {cause:?}", connection.number);
        }
    });

    let connections = LocalCache::<String, Connection>::builder()
        .capacity(2)
        .on_removal(move |host, connection, cause| {
            // Fails only if the thread has ended.
            let _ = sender.send((host, connection, cause));
        })
        .build()?;

    for (number, host) in (1..).zip(["a.example", "b.example", "c.example", "b.example"]) {
        connections.insert(host.to_string(), Connection { number });
    }
    connections.invalidate("b.example");
    // The listener is not called for entries that are in the cache when it is dropped.
    connections.clear();

    // Drops the listener and its sender, so that the thread ends when it has received everything.
    drop(connections);
    closer.join().map_err(|_| "the thread panicked")?;
    Ok(())
}
