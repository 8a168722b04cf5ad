//! Who is believed to be the primary, and when: nobody alone, nobody twice, and nobody who was left.

use super::servers::cluster::Cluster;
use super::servers::replicated::Replicated;
use super::servers::{Cut, Proxy, Server, eventually, soon};
use super::{acknowledged, builder, value};
use hotset::{Consistency, Delivery, TieredCache, Warning};
use redis::InfoDict;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

async fn proven(url: &str, consistency: Consistency) -> TieredCache<u64, u64> {
    let cache = builder(url, consistency).deadline(Duration::from_millis(200));
    let cache = cache.build().unwrap();
    soon("proven", || cache.health().proven_for.is_some()).await;
    cache
}

fn replication(server: &Server, field: &str) -> String {
    let info: InfoDict = server.command(&[b"INFO", b"replication"]);
    info.get(field).unwrap_or_default()
}

fn follow(replica: &Server, port: u16) {
    let () = replica.command(&[b"REPLICAOF", b"127.0.0.1", port.to_string().as_bytes()]);
}

fn is_followed(primary: &Server) {
    eventually("a replica follows", || {
        replication(primary, "slave0").contains("state=online")
    });
}

/// Its successor dies before it is told of it, so it never was a replica, and has the same replication
/// id as before.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_comes_back_without_having_been_told_revives_nothing() {
    let mut it = Replicated::start().await;
    let old = it.primary();
    let cache = proven(&it.url(), Consistency::L2Only).await;
    assert_eq!(cache.get_or_load_async(&1, || value(10)).await.unwrap(), 10);
    let id = replication(&it.servers[old], "master_replid");
    it.servers[(old + 2) % 3].kill();
    it.proxies[old].cut(Cut::All);
    it.wait_for_failover(old);
    let new = it.primary();
    acknowledged(&cache, 1).await;
    it.servers[new].kill();
    it.proxies[old].reset();
    it.proxies[old].mend();
    it.wait_for_failover(new);
    assert_eq!(replication(&it.servers[old], "master_replid"), id);
    let other = proven(&it.url(), Consistency::L2Only).await;
    assert_eq!(other.get_or_load_async(&1, || value(11)).await.unwrap(), 11);
}

/// The first replica of a server gives it another replication id, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_replica_costs_a_new_beginning_and_no_more() {
    let (server, replica) = (Server::start(), Server::start());
    let one = proven(&server.url(), Consistency::Realtime).await;
    let other = proven(&server.url(), Consistency::Realtime).await;
    for cache in [&one, &other] {
        cache.get_or_load_async(&1, || value(10)).await.unwrap();
    }
    let id = replication(&server, "master_replid");
    follow(&replica, server.port());
    is_followed(&server);
    assert_ne!(replication(&server, "master_replid"), id);
    acknowledged(&one, 1).await;
    assert_eq!(other.get_or_load_async(&1, || value(11)).await.unwrap(), 11);
    for cache in [&one, &other] {
        soon("proven", || cache.health().proven_for.is_some()).await;
    }
    assert_eq!(one.get(&1).await, Some(11));
}

/// The first connection leads to one server, all others to another.
async fn splitting(first: SocketAddr, then: SocketAddr) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut target = first;
        while let Ok((mut client, _)) = listener.accept().await {
            let to = std::mem::replace(&mut target, then);
            tokio::spawn(async move {
                let mut server = TcpStream::connect(to).await.unwrap();
                // An error is the end of the connection.
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    format!("redis://127.0.0.1:{port}/")
}

/// An address that begins to lead to another server between two connections of one process.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_confirm_what_their_own_primary_was_told() {
    let (old, new, replica) = (Server::start(), Server::start(), Server::start());
    follow(&replica, new.port());
    is_followed(&new);
    let waiting = |url: &str| {
        builder::<u64>(url, Consistency::Realtime)
            .replicas(1)
            .build()
    };
    let reader = waiting(&new.url()).unwrap();
    soon("proven", || reader.health().proven_for.is_some()).await;
    assert_eq!(
        reader.get_or_load_async(&1, || value(10)).await.unwrap(),
        10
    );
    let writer = waiting(&splitting(old.address(), new.address()).await).unwrap();
    acknowledged(&writer, 1).await;
    assert_eq!(
        reader.get_or_load_async(&1, || value(11)).await.unwrap(),
        11
    );
}

/// A primary whose replica has left without a word, and that has nothing of the namespace yet.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_are_gone_confirm_nothing() {
    let (old, new, replica) = (Server::start(), Server::start(), Server::start());
    let feed = Proxy::start(old.address()).await;
    follow(&new, feed.port());
    is_followed(&old);
    feed.cut(Cut::All);
    let () = new.command(&[b"REPLICAOF", b"NO", b"ONE"]);
    follow(&replica, new.port());
    is_followed(&new);
    let waiting = |url: &str| {
        let builder = builder::<u64>(url, Consistency::Realtime).replicas(1);
        builder.heartbeat(Duration::from_secs(1)).build().unwrap()
    };
    let writer = waiting(&new.url());
    soon("proven", || writer.health().proven_for.is_some()).await;
    acknowledged(&writer, 1).await;
    // It finds the old one at the address.
    let reader = waiting(&old.url());
    soon("it has tried", || reader.health().last_error.is_some()).await;
    assert!(reader.health().proven_for.is_none());
    assert_eq!(
        reader.get_or_load_async(&1, || value(10)).await.unwrap(),
        10
    );
    acknowledged(&writer, 1).await;
    assert_eq!(
        reader.get_or_load_async(&1, || value(11)).await.unwrap(),
        11
    );
}

/// By whatever name it is asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_of_a_cluster_is_not_believed_alone() {
    let cluster = Cluster::start();
    let primary = cluster.primaries(cluster.slot("test"))[0].0;
    for host in ["127.0.0.1", "localhost"] {
        let port = cluster.servers[primary].port();
        let cache = proven(
            &format!("redis-cluster://{host}:{port}"),
            Consistency::L2Only,
        )
        .await;
        acknowledged(&cache, 1).await;
        let others = (0..6).filter(|place| *place != primary);
        for place in others.clone() {
            cluster.servers[place].pause();
        }
        let delivery = cache.invalidate(&1).await;
        for place in others {
            cluster.servers[place].resume();
        }
        assert_eq!(delivery, Delivery::Queued, "{host}");
        cluster.wait_until_settled();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_those_who_decide_are_kept() {
    let cluster = Cluster::start();
    let primaries = cluster.primaries(cluster.slot("test"));
    let is_primary = |place: &usize| primaries.iter().any(|(primary, _)| primary == place);
    let port = |place: usize| cluster.servers[place].port();
    let (first, second) = (port(primaries[0].0), port(primaries[1].0));
    let replica = port((0..6).find(|place| !is_primary(place)).unwrap());
    let received = || -> u64 {
        let of = |server: &Server| -> u64 {
            let info: InfoDict = server.command(&[b"INFO", b"stats"]);
            info.get("total_connections_received").unwrap()
        };
        cluster.servers.iter().map(of).sum()
    };
    for seeds in [
        format!("127.0.0.1:{first},127.0.0.1:{second}"),
        format!("localhost:{first},localhost:{second}"),
        format!("127.0.0.1:{first},127.0.0.1:{replica}"),
    ] {
        let url = format!("redis-cluster://{seeds}");
        let cache = proven(&url, Consistency::L2Only).await;
        let before = received();
        for key in 0..300 {
            acknowledged(&cache, key).await;
        }
        // The question itself takes six.
        assert!(received() - before < 30, "{seeds}: {}", received() - before);
    }
}

/// It closes nothing, so who connects to it learns nothing from it.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_connection_to_a_dead_primary() {
    let it = Replicated::start().await;
    let old = it.primary();
    // Eight of them are the time that connecting may take.
    let cache = builder::<u64>(&it.url(), Consistency::L2Only).deadline(Duration::from_secs(4));
    let cache = cache.build().unwrap();
    soon("proven", || cache.health().proven_for.is_some()).await;
    it.proxies[old].cut(Cut::All);
    let traffic = cache.clone();
    let traffic = tokio::spawn(async move {
        loop {
            traffic.invalidate(&1).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    it.wait_for_failover(old);
    let begun = Instant::now();
    soon("it works", || cache.health().proven_for.is_some()).await;
    traffic.abort();
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
}

/// All sentinels tell of it, one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn one_failover_ends_one_subscription() {
    let it = Replicated::start().await;
    let cache = proven(&it.url(), Consistency::Realtime).await;
    let old = it.primary();
    let before = cache.health().subscriptions;
    it.fail_over();
    it.wait_for_failover(old);
    it.wait_until_settled();
    soon("proven", || cache.health().proven_for.is_some()).await;
    acknowledged(&cache, 1).await;
    assert_eq!(cache.health().subscriptions, before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_sentinel_may_hang_and_none_is_kept_busy_by_a_cache_that_is_gone() {
    let it = Replicated::start().await;
    let before = it.clients_of_sentinels();
    let cache = proven(&it.url(), Consistency::Realtime).await;
    assert!(it.clients_of_sentinels() > before);
    it.pause_sentinel(1);
    for key in 0..100 {
        assert_eq!(cache.invalidate(&key).await, Delivery::Acknowledged);
    }
    it.resume_sentinel(1);
    drop(cache);
    soon("connections are closed", || {
        it.clients_of_sentinels() <= before
    })
    .await;
}

#[tokio::test]
async fn a_clock_that_was_set_back_holds_up_nobody() {
    let server = Server::start();
    let cache = proven(&server.url(), Consistency::Realtime).await;
    acknowledged(&cache, 1).await;
    let (seconds, _): (u64, u64) = server.command(&[b"TIME"]);
    // As it was noted before.
    let end = ((seconds + 600) * 1_000).to_string();
    let _: u64 = server.command(&[b"ZADD", b"hotset:{test}:readers", end.as_bytes(), b""]);
    let begun = Instant::now();
    acknowledged(&cache, 1).await;
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_missing_among_those_who_decide_is_warned_of() {
    let cluster = Cluster::start();
    for server in &cluster.servers {
        let rights = "ACL SETUSER app on >secret ~* &* +@all -cluster|nodes";
        let () = server.command(&rights.split(' ').map(str::as_bytes).collect::<Vec<_>>());
    }
    let url = cluster.url().replace("://", "://app:secret@");
    let cache: TieredCache<u64, u64> = builder(&url, Consistency::L2Only).build().unwrap();
    let is_warned = || matches!(cache.health().warnings[..], [Warning::Forbidden(_)]);
    soon("it is warned", is_warned).await;
    assert!(!format!("{:?}", cache.health()).contains("secret"));
}
