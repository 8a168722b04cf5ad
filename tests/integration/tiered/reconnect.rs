//! Connections that the server closes.

use super::servers::Server;
use super::servers::replicated::Replicated;
use super::{MINUTE, fails, proven, value};
use hotset::{Consistency, Propagation, TieredCache};

/// Closes all connections of clients, like the server's `timeout` does with idle ones.
fn close_connections(server: &Server) {
    let _: u64 = server.command(&[b"CLIENT", b"KILL", b"TYPE", b"normal"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn read_after_the_server_closed_the_connection_runs_no_loader() {
    let server = Server::start();
    let cache = proven::<u64>(&server.url(), Consistency::L2Only).await;
    let keys: Vec<u64> = (0..20).collect();
    for key in &keys {
        cache.insert(*key, key * 10).await;
    }
    for round in 0..100 {
        let key = round % 20;
        close_connections(&server);
        match round % 3 {
            0 => {
                let found = cache.get_or_load_async(&key, fails).await;
                assert_eq!(found.unwrap(), key * 10, "{:?}", cache.health());
            }
            1 => assert_eq!(cache.get(&key).await, Some(key * 10)),
            _ => {
                let load = |_: Vec<u64>| async { Err::<[(u64, u64); 0], _>("not to be loaded") };
                let found = cache.get_many_or_load_async(&keys, load).await.unwrap();
                let expected: Vec<_> = keys.iter().map(|key| Some(key * 10)).collect();
                assert_eq!(found, expected);
            }
        }
    }
    let stats = cache.tier_stats();
    assert_eq!((stats.loads, stats.calls.lookup.failures), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn read_of_a_large_value_after_the_server_closed_its_connections_runs_no_loader() {
    let server = Server::start();
    let cache = proven::<Vec<u8>>(&server.url(), Consistency::L2Only).await;
    cache.insert(1, vec![7; 300_000]).await;
    for _ in 0..30 {
        close_connections(&server);
        let load = |_| async { Err::<Vec<u8>, _>("not to be loaded") };
        let found = cache.get_or_load_async(&1, load).await;
        assert_eq!(found.unwrap().len(), 300_000, "{:?}", cache.health());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn write_after_the_server_closed_the_connection_is_acknowledged_and_stored() {
    let server = Server::start();
    let one = proven::<u64>(&server.url(), Consistency::Realtime).await;
    let other = proven::<u64>(&server.url(), Consistency::Realtime).await;
    for round in 0..60 {
        let acknowledged = Propagation::Acknowledged;
        close_connections(&server);
        match round % 4 {
            0 => assert_eq!(one.insert(1, round).await, acknowledged),
            1 => {
                let written = one.write_through(1, round, |_| value(())).await;
                assert_eq!(written, Ok(acknowledged));
            }
            2 => {
                assert_eq!(one.invalidate(&1).await, acknowledged);
                let loaded = one.get_or_load_async(&1, |_| value(round)).await;
                assert_eq!(loaded.unwrap(), round);
            }
            _ => {
                assert_eq!(one.invalidate_tag("any").await, acknowledged);
                assert_eq!(one.clear().await, acknowledged);
                one.insert(1, round).await;
            }
        }
        let seen = other.get_or_load_async(&1, fails).await;
        let health = (one.health(), other.health());
        assert_eq!(seen.ok(), Some(round), "{health:?}");
    }
    assert_eq!((one.health().queued, one.tier_stats().deferred), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn fill_after_the_server_closed_the_connection_is_stored() {
    let server = Server::start();
    let cache: TieredCache<u64, u64> = proven(&server.url(), MINUTE).await;
    for key in 0..30 {
        let load = async |key| {
            // The connection is closed during the load.
            close_connections(&server);
            Ok::<_, ()>(key)
        };
        assert_eq!(cache.get_or_load_async(&key, load).await.unwrap(), key);
    }
    let stats = cache.tier_stats();
    assert_eq!((stats.fills, stats.lost_fills), (30, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn read_after_the_scripts_were_flushed_runs_no_loader() {
    let server = Server::start();
    let cache = proven::<u64>(&server.url(), Consistency::L2Only).await;
    cache.insert(1, 10).await;
    for _ in 0..20 {
        let _: String = server.command(&[b"SCRIPT", b"FLUSH"]);
        assert_eq!(cache.get_or_load_async(&1, fails).await.unwrap(), 10);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn write_after_the_sentinels_closed_their_connections_is_acknowledged() {
    let replicated = Replicated::start().await;
    let cache = proven::<u64>(&replicated.url(), Consistency::L2Only).await;
    for key in 0..30 {
        replicated.close_clients_of_sentinels();
        let written = cache.insert(key, key).await;
        assert_eq!(written, Propagation::Acknowledged, "{:?}", cache.health());
    }
}
