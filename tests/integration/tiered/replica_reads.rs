//! Reads from replicas.

use super::plain_reads::calls_of;
use super::servers::cluster::Cluster;
use super::servers::replicated::Replicated;
use super::servers::{Cut, Proxy, Server, in_time, soon, soon_async};
use super::{DEADLINE, LONG_LEASE, MINUTE, SHORT_HEARTBEAT, builder, builder_with, fails, value};
use hotset::{
    BuildError, Consistency, Loaded, RemoteError, ReplicaReads, TieredCache, TieredCacheBuilder,
};
use std::time::Duration;
use support::caches::wait_until_proven;

/// The deadline of caches whose replica does not reply. It is long, because the primary replies.
const PAUSED_DEADLINE: Duration = Duration::from_secs(8);

/// Returns the builder of a cache that reads from replicas, and has no L1.
fn reading(url: &str, class: Consistency) -> TieredCacheBuilder<u64, u64> {
    let cache = builder_with(url, class, |local| {
        local.capacity(0).time_to_live(LONG_LEASE)
    });
    cache.heartbeat(SHORT_HEARTBEAT).read_from_replicas(true)
}

/// A primary, its replica, and the proxy between them.
struct Pair {
    primary: Server,
    replica: Server,
    between: Proxy,
}

impl Pair {
    async fn start() -> Self {
        let primary = Server::start();
        let between = Proxy::start(primary.address()).await;
        let replica = Server::start();
        let port = between.port().to_string();
        let () = replica.command(&[b"REPLICAOF", b"127.0.0.1", port.as_bytes()]);
        let pair = Self {
            primary,
            replica,
            between,
        };
        let is_online = || pair.primary.info::<String>("replication", "slave0:ip") == "=127.0.0.1";
        let is_linked = || {
            let info: redis::InfoDict = pair.replica.command(&[b"INFO", b"replication"]);
            info.get::<String>("master_link_status") == Some("up".into())
        };
        soon("the replica follows", || is_linked() && is_online()).await;
        pair
    }

    /// Reads the value 10 of the key 1 from the replica, and then cuts the replica off from the primary.
    async fn read_and_cut_off(
        &self,
        reader: &TieredCache<u64, u64>,
        writer: &TieredCache<u64, u64>,
    ) {
        wait_until_proven(reader).await;
        wait_until_proven(writer).await;
        writer.insert(1, 10).await;
        self.wait_until_replicated().await;
        read_from_replica(reader, 1, 10).await;
        self.between.cut(Cut::All);
    }

    /// Waits until the replica has everything that the primary has.
    async fn wait_until_replicated(&self) {
        let offset = |server: &Server| server.info::<u64>("replication", "master_repl_offset:");
        let written = offset(&self.primary);
        soon("the replica has all changes", || {
            offset(&self.replica) >= written
        })
        .await;
    }
}

fn counts(cache: &TieredCache<u64, u64>) -> ReplicaReads {
    cache.tier_stats().replica_reads
}

/// Reads a key until a replica has served it.
async fn read_from_replica(cache: &TieredCache<u64, u64>, key: u64, expected: u64) {
    let served = counts(cache).served;
    soon_async("a replica serves the key", || async {
        let read = cache.get(&key).await;
        assert_eq!(read, Some(expected), "{:?}", counts(cache));
        counts(cache).served > served
    })
    .await;
}

/// Inserts each key as its own value, and reads the keys until replicas have served `least` of them in one read. A cache
/// over several servers neither stores nor serves a value while its heartbeats are late, so missing values are inserted
/// again.
async fn insert_and_read_from_replicas(cache: &TieredCache<u64, u64>, keys: &[u64], least: u64) {
    soon_async("replicas serve the keys", || async {
        let served = counts(cache).served;
        let mut are_missing = false;
        for (&key, found) in keys.iter().zip(cache.get_many(keys).await) {
            if found.is_none() {
                are_missing = true;
                cache.insert(key, key).await;
            } else {
                assert_eq!(found, Some(key), "{:?}", counts(cache));
            }
        }
        !are_missing && counts(cache).served - served >= least
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_served_by_the_replica_and_misses_by_the_primary() {
    let pair = Pair::start().await;
    let cache = reading(&pair.primary.url(), MINUTE).build().unwrap();
    wait_until_proven(&cache).await;
    let keys: Vec<u64> = (1..=50).collect();
    for &key in &keys {
        cache.insert(key, 10 * key).await;
    }
    pair.wait_until_replicated().await;
    read_from_replica(&cache, 1, 10).await;
    let before = counts(&cache);
    let calls = |server| calls_of(server, "mget") + calls_of(server, "getrange");
    let (primary, replica) = (calls(&pair.primary), calls(&pair.replica));
    for &key in &keys {
        let loaded = cache.get_or_load_async(&key, fails).await;
        assert_eq!(loaded.unwrap(), 10 * key);
    }
    let many: Vec<_> = keys.iter().map(|key| Some(10 * key)).collect();
    assert_eq!(cache.get_many(&keys).await, many);
    let together = keys.iter().map(|key| cache.get(key));
    assert_eq!(futures_util::future::join_all(together).await, many);
    let after = counts(&cache);
    assert!(calls(&pair.replica) - replica > 50);
    let others = after.behind + after.old + after.undecided + after.failed
        - (before.behind + before.old + before.undecided + before.failed);
    // A busy machine may delay a heartbeat or a reply.
    if others == 0 {
        assert_eq!(calls(&pair.primary), primary, "{after:?}");
        assert!(after.served - before.served >= 147, "{after:?}");
    }
    let loaded = in_time(cache.get_or_load_async(&99, |_| value(990))).await;
    assert_eq!(loaded.unwrap(), 990);
    // Nothing but the keys of any cache is in Redis.
    let names: Vec<String> = pair.primary.command(&[b"KEYS", b"*"]);
    let is_known = |name: &String| {
        let part = name.strip_prefix("hotset:{test}:").unwrap_or_default();
        part.starts_with("e:") || ["state", "readers", "settings"].contains(&part)
    };
    assert!(names.iter().all(is_known), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn process_sees_its_own_changes_although_the_replica_lacks_them() {
    let pair = Pair::start().await;
    let cache = reading(&pair.primary.url(), MINUTE).build().unwrap();
    wait_until_proven(&cache).await;
    let tagged = |value: u64| Loaded::new(value).tags(["tag"]);
    for key in 1..=4 {
        cache.insert_loaded(key, tagged(10)).await;
    }
    pair.wait_until_replicated().await;
    read_from_replica(&cache, 1, 10).await;
    pair.between.cut(Cut::All);
    let behind = counts(&cache).behind;
    assert!(cache.insert(1, 11).await.is_acknowledged());
    assert_eq!(cache.get(&1).await, Some(11));
    assert!(cache.invalidate(&2).await.is_acknowledged());
    assert_eq!(cache.get(&2).await, None);
    assert!(cache.invalidate_tag("tag").await.is_acknowledged());
    assert_eq!(cache.get(&3).await, None);
    assert!(cache.clear().await.is_acknowledged());
    assert_eq!(cache.get_many(&[1, 2, 3, 4]).await, [None; 4]);
    assert!(counts(&cache).behind > behind, "{:?}", counts(&cache));
    // The replica has the old values all the time.
    assert_eq!(pair.replica.entries("test").len(), 4);
    pair.between.mend();
    cache.insert(5, 50).await;
    read_from_replica(&cache, 5, 50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn process_that_has_received_an_event_does_not_read_an_older_value() {
    let pair = Pair::start().await;
    let url = pair.primary.url();
    let reader = reading(&url, MINUTE).build().unwrap();
    let writer = builder::<u64>(&url, MINUTE).build().unwrap();
    pair.read_and_cut_off(&reader, &writer).await;
    let events = reader.tier_stats().events;
    assert!(writer.insert(1, 11).await.is_acknowledged());
    soon("the event arrives", || reader.tier_stats().events > events).await;
    assert_eq!(reader.get(&1).await, Some(11), "{:?}", counts(&reader));
}

/// The reader receives no events and no heartbeats, so it does not know of the change.
#[tokio::test(flavor = "multi_thread")]
async fn process_that_knows_of_no_change_reads_an_old_value_for_its_bound_at_most() {
    const BOUND: Duration = Duration::from_millis(1_500);
    let pair = Pair::start().await;
    let near = Proxy::start(pair.primary.address()).await;
    let class = Consistency::Bounded(BOUND);
    let reader = builder_with(&near.url(), class, |local| local.time_to_live(LONG_LEASE));
    let reader = reader.heartbeat(SHORT_HEARTBEAT).read_from_replicas(true);
    let reader = reader.deadline(Duration::from_millis(400)).build().unwrap();
    let writer = builder::<u64>(&pair.primary.url(), MINUTE).build().unwrap();
    pair.read_and_cut_off(&reader, &writer).await;
    near.cut(Cut::All);
    assert!(writer.insert(1, 11).await.is_acknowledged());
    let changed = std::time::Instant::now();
    let load = |_| value(11);
    loop {
        let begun = std::time::Instant::now();
        let read = reader.get_or_load_async(&1, load).await.unwrap();
        let allowed = begun < changed + BOUND + super::history::CLOCK_RESOLUTION;
        assert!(
            read == 11 || read == 10 && allowed,
            "{read} after {:?}",
            begun - changed
        );
        if begun > changed + 2 * BOUND {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(pair.replica.entries("test").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_replica_delays_few_reads_and_is_used_again_after_it_resumes() {
    let pair = Pair::start().await;
    let cache = reading(&pair.primary.url(), MINUTE);
    let cache = cache.deadline(PAUSED_DEADLINE).build().unwrap();
    wait_until_proven(&cache).await;
    for key in 1..=20 {
        cache.insert(key, key).await;
    }
    pair.wait_until_replicated().await;
    read_from_replica(&cache, 1, 1).await;
    let failed = counts(&cache).failed;
    pair.replica.pause();
    let begun = std::time::Instant::now();
    for round in 0..20 {
        for key in 1..=20 {
            assert_eq!(in_time(cache.get(&key)).await, Some(key), "{round}");
        }
    }
    // One read waits for the limit. A check of the replica that is in flight at the pause may fail as well.
    let failures = counts(&cache).failed - failed;
    assert!(failures <= 2, "{failures} in {:?}", begun.elapsed());
    pair.replica.resume();
    read_from_replica(&cache, 2, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_that_dies_or_lacks_its_primary_costs_no_read() {
    let mut pair = Pair::start().await;
    let cache = reading(&pair.primary.url(), MINUTE).build().unwrap();
    wait_until_proven(&cache).await;
    for key in 1..=20 {
        cache.insert(key, key).await;
    }
    pair.wait_until_replicated().await;
    read_from_replica(&cache, 1, 1).await;
    let read_all = || async {
        for key in 1..=20 {
            assert_eq!(in_time(cache.get(&key)).await, Some(key));
        }
    };
    // Without its primary, it refuses to serve.
    let options = ["CONFIG", "SET", "replica-serve-stale-data", "no"];
    let () = pair.replica.command(&options.map(str::as_bytes));
    pair.between.reset();
    read_all().await;
    pair.between.mend();
    read_from_replica(&cache, 1, 1).await;
    pair.replica.kill();
    read_all().await;
    pair.replica.restart();
    let port = pair.between.port().to_string();
    let () = pair
        .replica
        .command(&[b"REPLICAOF", b"127.0.0.1", port.as_bytes()]);
    read_from_replica(&cache, 1, 1).await;
    // It becomes a primary of its own, without further changes.
    let () = pair.replica.command(&[b"REPLICAOF", b"NO", b"ONE"]);
    cache.insert(1, 2).await;
    for _ in 0..20 {
        assert_eq!(cache.get(&1).await, Some(2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_spread_over_several_replicas() {
    let pair = Pair::start().await;
    let second = Server::start();
    let port = pair.primary.port().to_string();
    let () = second.command(&[b"REPLICAOF", b"127.0.0.1", port.as_bytes()]);
    let cache = reading(&pair.primary.url(), MINUTE).build().unwrap();
    wait_until_proven(&cache).await;
    cache.insert(1, 10).await;
    for server in [&pair.replica, &second] {
        let calls = calls_of(server, "mget");
        soon_async("the replica is read from", || async {
            assert_eq!(cache.get(&1).await, Some(10));
            calls_of(server, "mget") > calls
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_of_a_cluster_serve_reads_and_take_over() {
    let cluster = Cluster::start_without_failover();
    let cache = reading(&cluster.url(), MINUTE)
        .partitions(1)
        .build()
        .unwrap();
    wait_until_proven(&cache).await;
    insert_and_read_from_replicas(&cache, &[1], 1).await;
    let slot = cluster.slot("test");
    // A server may abort a failover that other servers have to agree to.
    cluster.fail_over(slot, Some("TAKEOVER"));
    cluster.wait_until_settled();
    let served = counts(&cache).served;
    soon_async("the new replica serves", || async {
        let read = cache.get(&1).await;
        if read != Some(12) {
            // A majority may notice the failover later, and Redis counts as empty after it.
            cache.insert(1, 12).await;
            return false;
        }
        counts(&cache).served > served
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_partition_is_read_from_the_replica_of_its_primary() {
    let cluster = Cluster::start_without_failover();
    let cache = reading(&cluster.url(), MINUTE).build().unwrap();
    wait_until_proven(&cache).await;
    let keys: Vec<u64> = (0..100).collect();
    insert_and_read_from_replicas(&cache, &keys, 99).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_behind_sentinels_serves_reads() {
    let replicated = Replicated::start().await;
    let cache = reading(&replicated.url(), MINUTE).build().unwrap();
    wait_until_proven(&cache).await;
    insert_and_read_from_replicas(&cache, &[1], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cache_without_a_replica_or_without_rights_there_reads_from_the_primary() {
    let pair = Pair::start().await;
    let user = "ACL SETUSER app on >secret ~* &* +@all";
    let words: Vec<_> = user.split(' ').map(str::as_bytes).collect();
    let () = pair.primary.command(&words);
    let alone = Server::start();
    // The replica does not know the user.
    let as_user = pair.primary.url().replace("://", "://app:secret@");
    for url in [as_user, alone.url()] {
        let cache = reading(&url, MINUTE).build().unwrap();
        wait_until_proven(&cache).await;
        cache.insert(1, 10).await;
        let renewals = || cache.tier_stats().calls.renew.times.count();
        let before = renewals();
        soon("the replica is checked", || renewals() > before + 3).await;
        assert_eq!(cache.get(&1).await, Some(10));
        assert_eq!(counts(&cache), ReplicaReads::default());
        assert!(cache.health().last_error.is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_classes_do_not_read_from_replicas() {
    let server = Server::start();
    for class in [
        Consistency::Realtime,
        Consistency::L2Only,
        Consistency::L1Only,
    ] {
        let error = reading(&server.url(), class).build().err().unwrap();
        assert_eq!(error, BuildError::ReadFromReplicas);
        assert!(error.to_string().contains("Consistency::Bounded(ttl)"));
    }
    let pair = Pair::start().await;
    let cache = builder::<u64>(&pair.primary.url(), MINUTE).deadline(DEADLINE);
    let cache = cache.build().unwrap();
    wait_until_proven(&cache).await;
    let connections = pair.replica.info::<u64>("clients", "connected_clients:");
    cache.insert(1, 10).await;
    assert_eq!(cache.get(&1).await, Some(10));
    // One is that of this query.
    assert!(connections <= 2, "{connections}");
    assert_eq!(counts(&cache), ReplicaReads::default());
}

/// The replica has all changes of this number of partitions, because other processes no longer change it.
#[tokio::test(flavor = "multi_thread")]
async fn process_whose_number_of_partitions_is_refused_does_not_read_from_replicas() {
    let pair = Pair::start().await;
    let cache = |partitions| {
        let cache = reading(&pair.primary.url(), MINUTE).partitions(partitions);
        cache.build().unwrap()
    };
    let old = cache(1);
    wait_until_proven(&old).await;
    old.insert(1, 10).await;
    pair.wait_until_replicated().await;
    read_from_replica(&old, 1, 10).await;
    drop(old);
    let is_refused = |cache: &TieredCache<u64, u64>| {
        matches!(cache.health().last_error, Some(RemoteError::Refused(_)))
    };
    let current = cache(4);
    soon("the other number is refused", || is_refused(&current)).await;
    // As if the processes with the first number had ended some time ago.
    let _: u64 = pair.primary.command(&[b"DEL", b"hotset:{test}:settings"]);
    wait_until_proven(&current).await;
    current.insert(1, 20).await;
    let refused = cache(1);
    // Before the first renewal, from the primary.
    refused.get(&1).await;
    soon("the number is refused", || is_refused(&refused)).await;
    let renewals = || refused.tier_stats().calls.renew;
    let before = renewals().failures;
    soon("renewals are refused", || renewals().failures > before + 3).await;
    for _ in 0..20 {
        assert_eq!(refused.get(&1).await, None);
    }
    assert_eq!(counts(&refused), ReplicaReads::default());
}
