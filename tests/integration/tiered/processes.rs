//! Several processes, some of which are stopped.

use super::servers::{Server, in_time};
use super::worker::{Database, Worker};
use super::{LONG_LEASE, builder_with, proven};
use hotset::{Consistency, Propagation, TieredCache};
use rustix::process::Signal;

/// Returns the arguments of a worker.
fn task(name: &str, cache: &Server, database: &Server) -> String {
    format!("{name} {} {}", cache.url(), database.url())
}

#[tokio::test(flavor = "multi_thread")]
async fn thousand_tasks_in_each_of_eight_processes_share_one_load() {
    let (cache, database) = (Server::start(), Server::start());
    let rows = Database::connect(&database.url()).await;
    rows.set(1, 42).await;
    let start = |_| Worker::start(&task("stampede", &cache, &database));
    let mut workers: Vec<Worker> = (0..8).map(start).collect();
    for worker in &mut workers {
        assert_eq!(worker.answer(), "ready");
    }
    for worker in &mut workers {
        worker.send("go");
    }
    for worker in &mut workers {
        assert_eq!(worker.answer(), "42");
    }
    assert_eq!(rows.reads().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn fill_of_a_process_that_was_stopped_beyond_its_lease_is_refused() {
    for invalidated in [false, true] {
        let (server, database) = (Server::start(), Server::start());
        let rows = Database::connect(&database.url()).await;
        rows.set(1, 1).await;
        let cache: TieredCache<u64, u64> =
            builder_with(&server.url(), Consistency::Realtime, |local| {
                local.lease(LONG_LEASE)
            })
            .build()
            .unwrap();
        let mut worker = Worker::start(&task("slow", &server, &database));
        assert_eq!(worker.answer(), "loading");
        worker.signal(Signal::STOP);
        rows.set(1, 2).await;
        if invalidated {
            assert_eq!(cache.invalidate(&1).await, Propagation::Acknowledged);
        } else {
            // Ends the load lease of the worker.
            let entry = server.entries("test").remove(0);
            let _: i64 = server.command(&[b"PEXPIRE", &entry, b"1"]);
        }
        let load = async |key| Ok::<_, ()>(rows.get(key).await);
        let loaded = in_time(cache.get_or_load_async(&1, load)).await;
        assert_eq!(loaded.unwrap(), 2);
        worker.signal(Signal::CONT);
        worker.send("go on");
        // The late value reaches only the callers that waited for it.
        assert_eq!(worker.answer(), "1");
        assert_eq!(worker.answer(), "2");
        let other = proven::<u64>(&server.url(), Consistency::Realtime).await;
        assert_eq!(other.get(&1).await, Some(2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn process_that_was_stopped_during_a_change_serves_the_new_value() {
    let (server, database) = (Server::start(), Server::start());
    let rows = Database::connect(&database.url()).await;
    rows.set(1, 1).await;
    let mut worker = Worker::start(&task("slow", &server, &database));
    assert_eq!(worker.answer(), "loading");
    worker.send("go on");
    assert_eq!(worker.answer(), "1");
    assert_eq!(worker.answer(), "1");
    let writer = proven::<u64>(&server.url(), Consistency::Realtime).await;
    for price in 2..8 {
        worker.signal(Signal::STOP);
        let write = |price| {
            let rows = &rows;
            async move {
                rows.set(1, price).await;
                Ok::<_, ()>(())
            }
        };
        let written = writer.write_through(1, price, write).await;
        assert_eq!(written, Ok(Propagation::Acknowledged));
        worker.send("read");
        worker.signal(Signal::CONT);
        assert_eq!(worker.answer(), price.to_string());
    }
}
