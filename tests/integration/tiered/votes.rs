//! Votes on the primary: no server is trusted alone, and no demoted server is trusted again.

use super::servers::cluster::Cluster;
use super::servers::replicated::Replicated;
use super::servers::scripted_sentinels::ScriptedSentinels;
use super::servers::{Cut, Proxy, Server, TEST_TIMEOUT, eventually, in_time, soon};
use super::{DEADLINE, LONG_HEARTBEAT, MINUTE, acknowledged, builder, set_time_left, value};
use hotset::{Consistency, Propagation, TieredCache, Warning};
use redis::InfoDict;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use support::caches::wait_until_proven;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

/// The deadline of caches in which a call waits for servers that do not answer.
const VOTE_DEADLINE: Duration = Duration::from_secs(2);

/// Returns a cache with this deadline whose invalidations are proven to arrive.
async fn proven(url: &str, consistency: Consistency, deadline: Duration) -> TieredCache<u64, u64> {
    let cache = builder(url, consistency).deadline(deadline);
    let cache = cache.build().unwrap();
    wait_until_proven(&cache).await;
    cache
}

/// Returns a field of `INFO replication`.
fn replication(server: &Server, field: &str) -> String {
    let info: InfoDict = server.command(&[b"INFO", b"replication"]);
    info.get(field).unwrap_or_default()
}

/// Makes a server a replica of the server at a port.
fn follow(replica: &Server, port: u16) {
    let () = replica.command(&[b"REPLICAOF", b"127.0.0.1", port.to_string().as_bytes()]);
}

/// Waits until a replica follows.
fn wait_for_replica(primary: &Server) {
    eventually("a replica follows", || {
        replication(primary, "slave0").contains("state=online")
    });
}

/// The new primary dies before the old one learns of it. So the old primary never was a replica, and keeps its
/// replication id.
#[tokio::test(flavor = "multi_thread")]
async fn demoted_primary_that_restarts_serves_no_old_value() {
    let mut replicated = Replicated::start().await;
    let old = replicated.primary();
    let cache = proven(&replicated.url(), Consistency::L2Only, VOTE_DEADLINE).await;
    assert_eq!(
        cache.get_or_load_async(&1, |_| value(10)).await.unwrap(),
        10
    );
    let id = replication(&replicated.servers[old], "master_replid");
    replicated.servers[(old + 2) % 3].kill();
    replicated.proxies[old].cut(Cut::All);
    replicated.wait_for_failover(old);
    let new = replicated.primary();
    acknowledged(&cache, 1).await;
    replicated.servers[new].kill();
    replicated.proxies[old].reset();
    replicated.proxies[old].mend();
    replicated.wait_for_failover(new);
    assert_eq!(replication(&replicated.servers[old], "master_replid"), id);
    let other = proven(&replicated.url(), Consistency::L2Only, VOTE_DEADLINE).await;
    assert_eq!(
        other.get_or_load_async(&1, |_| value(11)).await.unwrap(),
        11
    );
}

/// The first replica of a server changes its replication id, but loses no data.
#[tokio::test(flavor = "multi_thread")]
async fn attaching_the_first_replica_serves_no_old_value_and_recovers() {
    let (server, replica) = (Server::start(), Server::start());
    let one = proven(&server.url(), Consistency::Realtime, DEADLINE).await;
    let other = proven(&server.url(), Consistency::Realtime, DEADLINE).await;
    for cache in [&one, &other] {
        cache.get_or_load_async(&1, |_| value(10)).await.unwrap();
    }
    let id = replication(&server, "master_replid");
    follow(&replica, server.port());
    wait_for_replica(&server);
    assert_ne!(replication(&server, "master_replid"), id);
    acknowledged(&one, 1).await;
    assert_eq!(
        other.get_or_load_async(&1, |_| value(11)).await.unwrap(),
        11
    );
    for cache in [&one, &other] {
        wait_until_proven(cache).await;
    }
    assert_eq!(one.get(&1).await, Some(11));
}

/// Returns a URL whose first connection goes to the server `first`, and all others to the server `then`.
async fn url_of_moving_address(first: SocketAddr, then: SocketAddr) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut target = first;
        while let Ok((mut client, _)) = listener.accept().await {
            let to = std::mem::replace(&mut target, then);
            tokio::spawn(async move {
                let mut server = TcpStream::connect(to).await.unwrap();
                // An error means that the connection was closed.
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    format!("redis://127.0.0.1:{port}/")
}

/// The address begins to lead to another server between two connections of one process.
#[tokio::test(flavor = "multi_thread")]
async fn replica_of_the_new_primary_does_not_confirm_a_change_on_the_old_one() {
    let (old, new, replica) = (Server::start(), Server::start(), Server::start());
    follow(&replica, new.port());
    wait_for_replica(&new);
    let waiting = |url: &str| {
        builder::<u64>(url, Consistency::Realtime)
            .replicas(1)
            .build()
    };
    let reader = waiting(&new.url()).unwrap();
    wait_until_proven(&reader).await;
    assert_eq!(
        reader.get_or_load_async(&1, |_| value(10)).await.unwrap(),
        10
    );
    let writer = waiting(&url_of_moving_address(old.address(), new.address()).await).unwrap();
    acknowledged(&writer, 1).await;
    assert_eq!(
        reader.get_or_load_async(&1, |_| value(11)).await.unwrap(),
        11
    );
}

/// The old primary has lost its replica without notice, and has no state of the namespace yet.
#[tokio::test(flavor = "multi_thread")]
async fn primary_without_its_replicas_is_not_trusted() {
    let (old, new, replica) = (Server::start(), Server::start(), Server::start());
    let feed = Proxy::start(old.address()).await;
    follow(&new, feed.port());
    wait_for_replica(&old);
    feed.cut(Cut::All);
    let () = new.command(&[b"REPLICAOF", b"NO", b"ONE"]);
    follow(&replica, new.port());
    wait_for_replica(&new);
    let waiting = |url: &str| {
        let builder = builder::<u64>(url, Consistency::Realtime).replicas(1);
        builder.deadline(VOTE_DEADLINE).build().unwrap()
    };
    let writer = waiting(&new.url());
    wait_until_proven(&writer).await;
    acknowledged(&writer, 1).await;
    // The address still leads this cache to the old primary.
    let reader = waiting(&old.url());
    soon("the reader has tried", || {
        reader.health().last_error.is_some()
    })
    .await;
    assert!(reader.health().proven_for.is_none());
    assert_eq!(
        reader.get_or_load_async(&1, |_| value(10)).await.unwrap(),
        10
    );
    acknowledged(&writer, 1).await;
    assert_eq!(
        reader.get_or_load_async(&1, |_| value(11)).await.unwrap(),
        11
    );
}

/// The primary may be contacted under any of its names.
#[tokio::test(flavor = "multi_thread")]
async fn primary_of_a_cluster_needs_the_votes_of_others() {
    let cluster = Cluster::start();
    let primary = cluster.primaries(cluster.slot("test"))[0].0;
    for host in ["127.0.0.1", "localhost"] {
        let port = cluster.servers[primary].port();
        let cache = proven(
            &format!("redis-cluster://{host}:{port}"),
            Consistency::L2Only,
            VOTE_DEADLINE,
        )
        .await;
        acknowledged(&cache, 1).await;
        let others = (0..6).filter(|place| *place != primary);
        for place in others.clone() {
            cluster.servers[place].pause();
        }
        let propagation = cache.invalidate(&1).await;
        for place in others {
            cluster.servers[place].resume();
        }
        assert_eq!(propagation, Propagation::Queued, "{host}");
        cluster.wait_until_settled();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_for_votes_are_reused() {
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
        let cache = proven(&url, Consistency::L2Only, DEADLINE).await;
        let before = received();
        for key in 0..300 {
            acknowledged(&cache, key).await;
        }
        // The request of the test itself takes six connections.
        assert!(received() - before < 30, "{seeds}: {}", received() - before);
    }
}

/// The dead primary closes no connection, so a client that connects to it gets no error.
#[tokio::test(flavor = "multi_thread")]
async fn no_call_waits_for_a_connection_to_a_dead_primary() {
    let replicated = Replicated::start().await;
    let old = replicated.primary();
    // Connecting may take eight deadlines, which is longer than the test waits.
    let cache = builder::<u64>(&replicated.url(), Consistency::L2Only).deadline(TEST_TIMEOUT / 4);
    let cache = cache.build().unwrap();
    wait_until_proven(&cache).await;
    replicated.proxies[old].cut(Cut::All);
    let traffic = cache.clone();
    let traffic = tokio::spawn(async move {
        loop {
            traffic.invalidate(&1).await;
            // Calls that fail at once must not occupy the machine.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    replicated.wait_for_failover(old);
    wait_until_proven(&cache).await;
    traffic.abort();
}

/// All sentinels announce the failover, one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn failover_ends_the_subscription_once() {
    let replicated = Replicated::start().await;
    let cache = with_long_heartbeat(&replicated.url()).await;
    let old = replicated.primary();
    replicated.fail_over();
    replicated.wait_for_failover(old);
    replicated.wait_until_settled();
    wait_until_proven(&cache).await;
    let loaded = cache.get_or_load_async(&1, |_| value(10)).await;
    assert_eq!(loaded.unwrap(), 10);
    assert_eq!(cache.health().subscriptions, 2);
}

/// Returns a cache whose subscription never ends because a heartbeat is late.
async fn with_long_heartbeat(url: &str) -> TieredCache<u64, u64> {
    let cache = builder(url, MINUTE).heartbeat(LONG_HEARTBEAT);
    let cache = cache.build().unwrap();
    wait_until_proven(&cache).await;
    cache
}

/// A subscription that was opened after the first announcement would lead to the old primary again.
#[tokio::test(flavor = "multi_thread")]
async fn failover_ends_the_subscription_when_a_majority_of_the_sentinels_knows_of_it() {
    let (old, new) = (Server::start(), Server::start());
    let sentinels = ScriptedSentinels::start(&old).await;
    let cache = with_long_heartbeat(&sentinels.url()).await;
    let subscribes_to = |server: &Server| -> bool {
        let channels: Vec<String> = server.command(&[b"PUBSUB", b"CHANNELS", b"*:events"]);
        !channels.is_empty()
    };
    let before = sentinels.votes();
    sentinels.elect(0, &new);
    // The cache has asked all of them twice, so it has the result of the first vote.
    soon("the cache has asked for votes", || {
        sentinels.votes() >= before + 6
    })
    .await;
    assert_eq!(cache.health().subscriptions, 1);
    assert!(subscribes_to(&old));
    sentinels.elect(1, &new);
    soon("the cache has subscribed to the new primary", || {
        subscribes_to(&new) && cache.health().proven_for.is_some()
    })
    .await;
    sentinels.elect(2, &new);
    let loaded = cache.get_or_load_async(&1, |_| value(10)).await;
    assert_eq!(loaded.unwrap(), 10);
    assert_eq!(cache.health().subscriptions, 2);
    assert!(!subscribes_to(&old));
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_sentinel_delays_nothing_and_dropped_cache_releases_the_sentinels() {
    let replicated = Replicated::start().await;
    let before = replicated.clients_of_sentinels();
    let cache = proven(&replicated.url(), Consistency::Realtime, DEADLINE).await;
    assert!(replicated.clients_of_sentinels() > before);
    replicated.pause_sentinel(1);
    // If each change waited for the reply of the sentinel, they would take longer than the test waits.
    let changes = async {
        for key in 0..100 {
            assert_eq!(cache.invalidate(&key).await, Propagation::Acknowledged);
        }
    };
    in_time(changes).await;
    replicated.resume_sentinel(1);
    drop(cache);
    soon("connections are closed", || {
        replicated.clients_of_sentinels() <= before
    })
    .await;
}

#[tokio::test]
async fn clock_of_the_server_that_is_set_back_delays_no_change() {
    let server = Server::start();
    let cache = proven(&server.url(), Consistency::Realtime, DEADLINE).await;
    acknowledged(&cache, 1).await;
    let (seconds, _): (u64, u64) = server.command(&[b"TIME"]);
    // The entry of a reader from the time before the clock was set back.
    let end = ((seconds + 3_600) * 1_000).to_string();
    let _: u64 = server.command(&[b"ZADD", b"hotset:{test}:readers", end.as_bytes(), b""]);
    in_time(acknowledged(&cache, 1)).await;
}

/// Lets the only entry expire in an hour, as if the server's clock had been set back by an hour.
fn set_clock_back(server: &Server) {
    set_time_left(server, Duration::from_secs(3_600));
}

#[tokio::test]
async fn value_that_would_outlive_its_time_to_live_is_loaded_again() {
    let server = Server::start();
    let writer = proven(&server.url(), Consistency::L2Only, DEADLINE).await;
    writer.insert(1, 1).await;
    assert_eq!(writer.get(&1).await, Some(1));
    set_clock_back(&server);
    assert_eq!(writer.get(&1).await, None);
    assert_eq!(writer.get_many([&1]).await, [None]);
    let load = |_| async { Ok::<_, ()>(2) };
    assert_eq!(writer.get_or_load_async(&1, load).await.unwrap(), 2);
    assert_eq!(writer.get(&1).await, Some(2));
    set_clock_back(&server);
    let load_many = |keys: Vec<u64>| async { Ok::<_, ()>(keys.into_iter().map(|key| (key, 3))) };
    let loaded = writer.get_many_or_load_async([&1], load_many).await;
    assert_eq!(loaded.unwrap(), [Some(3)]);
    set_clock_back(&server);
    assert_eq!(
        writer
            .refresh_async(&1, async |_| Ok::<_, ()>(4))
            .await
            .unwrap(),
        4
    );
    assert_eq!(writer.get(&1).await, Some(4));
}

#[tokio::test]
async fn load_lease_that_would_outlive_its_time_passes_to_the_next_caller() {
    let server = Server::start();
    let dead = proven(&server.url(), Consistency::L2Only, DEADLINE).await;
    let other = proven(&server.url(), Consistency::L2Only, DEADLINE).await;
    let hangs = dead.get_or_load_async(&1, |_| std::future::pending::<Result<u64, ()>>());
    let load = |_| async { Ok::<_, ()>(2) };
    let loads = async {
        soon("the lease is granted", || {
            !server.entries("test").is_empty()
        })
        .await;
        set_clock_back(&server);
        other.get_or_load_async(&1, load).await.unwrap()
    };
    tokio::select! {
        _ = hangs => unreachable!("the load hangs"),
        loaded = in_time(loads) => assert_eq!(loaded, 2),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_right_on_a_voting_server_is_a_warning() {
    let cluster = Cluster::start();
    for server in &cluster.servers {
        let rights = "ACL SETUSER app on >secret ~* &* +@all -cluster|nodes";
        let () = server.command(&rights.split(' ').map(str::as_bytes).collect::<Vec<_>>());
    }
    let url = cluster.url().replace("://", "://app:secret@");
    let cache: TieredCache<u64, u64> = builder(&url, Consistency::L2Only).build().unwrap();
    let is_warned = || matches!(cache.health().warnings[..], [Warning::Forbidden(_)]);
    soon("the warning is reported", is_warned).await;
    assert!(!format!("{:?}", cache.health()).contains("secret"));
}
