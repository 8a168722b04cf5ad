//! A namespace whose partitions are on all primaries of a cluster.

use super::servers::cluster::Cluster;
use super::servers::{Server, in_time, soon, soon_async};
use super::{DEADLINE, HEARTBEAT, LONG_LEASE, SHORT_DEADLINE, builder, builder_with, fails, value};
use futures_util::future::join_all;
use hotset::{
    Consistency, Invalidator, Loaded, PartitionHealth, Propagation, RemoteError, TieredCache,
    Warning,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use support::caches::wait_until_proven;

pub(super) const PARTITIONS: u16 = 16;

const KEYS: u64 = 100;
const KEY_COUNT: usize = 100;

/// Returns a cache that uses all primaries of the cluster.
async fn partitioned(cluster: &Cluster, consistency: Consistency) -> TieredCache<u64, u64> {
    let cache = builder_with(&cluster.url(), consistency, |local| {
        local.time_to_live(LONG_LEASE)
    });
    // If a heartbeat is late, a read removes the entries of its partition from L1. So the read lease is long enough for a
    // busy machine.
    let cache = cache.heartbeat(Duration::from_secs(5));
    let cache = cache.partitions(PARTITIONS).build().unwrap();
    wait_until_proven(&cache).await;
    cache
}

/// Loads the values of all keys, each of which is that of its key.
async fn load_all(cache: &TieredCache<u64, u64>) {
    for key in 0..KEYS {
        let loaded = cache.get_or_load_async(&key, |_| value(key)).await;
        assert_eq!(loaded.unwrap(), key);
    }
}

/// Returns the partition of each key, by the entries on the servers.
fn partitions_of_keys(cluster: &Cluster) -> BTreeMap<u64, u16> {
    let mut partitions = BTreeMap::new();
    for (index, _) in cluster.primaries(0) {
        let pattern = format!("hotset:{PARTITIONS}:{{test/*:e:*");
        let names: Vec<Vec<u8>> = cluster.servers[index].command(&[b"KEYS", pattern.as_bytes()]);
        for name in names {
            // A small integer is encoded as one byte.
            let key = u64::from(*name.last().unwrap());
            let text = String::from_utf8_lossy(&name);
            let number = text.split(['/', '.']).nth(1).unwrap().parse().unwrap();
            partitions.insert(key, number);
        }
    }
    partitions
}

/// Returns the keys that a cache has in L1.
async fn keys_in_l1(cache: &TieredCache<u64, u64>) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    for key in 0..KEYS {
        let before = cache.tier_stats();
        let read = cache.get(&key).await;
        let after = cache.tier_stats();
        let is_hit = (after.l2_hits, after.l2_misses) == (before.l2_hits, before.l2_misses);
        if read.is_some() && is_hit {
            found.insert(key);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_namespace_are_on_all_primaries_and_changes_reach_all_processes() {
    let cluster = Cluster::start_without_failover();
    let one = partitioned(&cluster, Consistency::Realtime).await;
    let other = partitioned(&cluster, Consistency::Realtime).await;
    load_all(&one).await;
    let slots = cluster.partitions("test", PARTITIONS);
    assert_eq!(slots.len(), usize::from(PARTITIONS));
    let partitions = partitions_of_keys(&cluster);
    assert_eq!(partitions.len(), KEY_COUNT);
    for (index, _) in cluster.primaries(0) {
        let entries = format!("hotset:{PARTITIONS}:{{test/*:e:*");
        let entries: Vec<Vec<u8>> = cluster.servers[index].command(&[b"KEYS", entries.as_bytes()]);
        assert!(entries.len() > KEY_COUNT / 6, "{} entries", entries.len());
    }

    let keys: Vec<u64> = (0..KEYS).collect();
    let found = other.get_many(&keys).await;
    assert_eq!(found, keys.iter().copied().map(Some).collect::<Vec<_>>());
    assert_eq!(one.invalidate(&7).await, Propagation::Acknowledged);
    assert_eq!(other.get(&7).await, None);
    assert_eq!(keys_in_l1(&other).await.len(), KEY_COUNT - 1);
    let tagged = Loaded::new(7).tags(["tag"]);
    one.insert_loaded(7, tagged).await;
    assert_eq!(other.get(&7).await, Some(7));
    assert_eq!(one.invalidate_tag("tag").await, Propagation::Acknowledged);
    assert_eq!(other.get(&7).await, None);
    assert_eq!(keys_in_l1(&other).await.len(), KEY_COUNT - 1);
    assert_eq!(one.clear().await, Propagation::Acknowledged);
    let found = other.get_many(&keys).await;
    assert!(found.into_iter().all(|value| value.is_none()));
    assert_eq!((one.health().gaps, other.health().gaps), (0, 0));
    let partitions = one.health().partitions;
    assert_eq!(partitions.len(), usize::from(PARTITIONS));
    let servers: BTreeSet<_> = partitions.iter().map(|it| it.server.clone()).collect();
    assert_eq!(servers.len(), 3);
    let is_good = |it: &PartitionHealth| it.proven_for.is_some() && it.cold_for.is_none();
    assert!(partitions.iter().all(is_good), "{partitions:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn moved_slot_costs_the_keys_of_its_partition_only() {
    let cluster = Cluster::start_without_failover();
    let cache = partitioned(&cluster, Consistency::Realtime).await;
    load_all(&cache).await;
    let partitions = partitions_of_keys(&cluster);
    let (moved, slot) = cluster.partitions("test", PARTITIONS).pop_first().unwrap();
    let before = cache.health();
    cluster.move_slot(slot);
    soon("the moved partition is proven again", || {
        let health = cache.health();
        health.subscriptions > before.subscriptions && health.proven_for.is_some()
    })
    .await;
    let cold = cache.health().partitions.into_iter().enumerate();
    let cold = cold.filter(|(_, partition)| partition.cold_for.is_some());
    assert_eq!(
        cold.map(|it| it.0).collect::<Vec<_>>(),
        [usize::from(moved)]
    );
    let in_l1 = keys_in_l1(&cache).await;
    for (key, partition) in partitions {
        assert!(
            partition == moved || in_l1.contains(&key),
            "{key} in {partition}"
        );
    }
    load_all(&cache).await;
    assert_eq!(keys_in_l1(&cache).await.len(), KEY_COUNT);
    assert_eq!(cache.invalidate(&7).await, Propagation::Acknowledged);
}

/// Each move of a slot raises the epoch of the server to which it moves.
#[tokio::test(flavor = "multi_thread")]
async fn moves_of_other_slots_cost_no_entry_of_l1() {
    let cluster = Cluster::start_without_failover();
    let cache = partitioned(&cluster, Consistency::Realtime).await;
    load_all(&cache).await;
    let used: BTreeSet<u16> = cluster
        .partitions("test", PARTITIONS)
        .into_values()
        .collect();
    let invalidations = cache.tier_stats().l1_invalidations;
    let mut others = (0..16_384).filter(|slot| !used.contains(slot));
    for _ in 0..100 {
        let slot = others.next().unwrap();
        cluster.move_slot(slot);
        cluster.move_slot(slot);
    }
    wait_until_proven(&cache).await;
    assert_eq!(keys_in_l1(&cache).await.len(), KEY_COUNT);
    assert_eq!(cache.tier_stats().l1_invalidations, invalidations);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_primary_costs_its_own_keys_only() {
    let mut cluster = Cluster::start_without_failover();
    // As is recommended for caches. Otherwise all servers refuse all calls.
    cluster.configure("cluster-require-full-coverage", "no");
    let cache = partitioned(&cluster, Consistency::Realtime).await;
    load_all(&cache).await;
    let (partitions, slots) = (
        partitions_of_keys(&cluster),
        cluster.partitions("test", PARTITIONS),
    );
    let dead = cluster.primaries(0)[0].0;
    let is_dead = |partition: &u16| cluster.primaries(slots[partition])[0].0 == dead;
    let (lost, others): (Vec<u64>, Vec<u64>) = (0..KEYS).partition(|key| is_dead(&partitions[key]));
    assert!(!lost.is_empty() && !others.is_empty());
    cluster.servers[dead].kill();
    soon("the cache notices that a server is dead", || {
        cache.health().breaker_open
    })
    .await;
    for round in 0..20 {
        for key in &others {
            let read = cache.get_or_load_async(key, fails).await;
            assert_eq!(read.unwrap(), *key, "round {round}");
        }
        let key = others[round % others.len()];
        assert_eq!(cache.insert(key, key).await, Propagation::Acknowledged);
    }
    let loads = lost.iter().map(|key| cache.get_or_load_async(key, value));
    for (loaded, key) in join_all(loads).await.into_iter().zip(&lost) {
        assert_eq!(loaded.unwrap(), *key);
    }
    assert_eq!(cache.invalidate(&lost[0]).await, Propagation::Queued);

    cluster.servers[dead].restart();
    soon("the queue is empty", || cache.health().queued == 0).await;
    wait_until_proven(&cache).await;
    assert_eq!(cache.get(&lost[0]).await, None);
    assert_eq!(cache.invalidate(&lost[0]).await, Propagation::Acknowledged);
}

/// The replica of a killed primary has no value that is known to be current.
#[tokio::test(flavor = "multi_thread")]
async fn failover_costs_the_partitions_of_the_dead_primary_only() {
    let mut cluster = Cluster::start();
    let cache = partitioned(&cluster, Consistency::Realtime).await;
    load_all(&cache).await;
    let partitions = partitions_of_keys(&cluster);
    let slots = cluster.partitions("test", PARTITIONS);
    let (dead, _) = cluster.primaries(0)[0];
    let lost: BTreeSet<u16> = slots
        .iter()
        .filter(|(_, slot)| cluster.primaries(**slot)[0].0 == dead)
        .map(|(number, _)| *number)
        .collect();
    assert!((5..=6).contains(&lost.len()), "{lost:?} of {PARTITIONS}");
    cluster.servers[dead].kill();
    cluster.wait_for_failover(0, dead);
    let numbers = |is: fn(&PartitionHealth) -> bool| -> BTreeSet<u16> {
        let all = (0..).zip(cache.health().partitions);
        all.filter(|(_, it)| is(it))
            .map(|(number, _)| number)
            .collect()
    };
    soon("the partitions of the new primary are proven", || {
        numbers(|it| it.cold_for.is_some()) == lost
            && numbers(|it| it.proven_for.is_none()).is_empty()
    })
    .await;
    let others = || {
        partitions
            .iter()
            .filter(|(_, number)| !lost.contains(number))
    };
    let in_l1 = keys_in_l1(&cache).await;
    for (key, number) in others() {
        assert!(in_l1.contains(key), "{key} in partition {number}");
    }
    load_all(&cache).await;
    assert_eq!(keys_in_l1(&cache).await.len(), KEY_COUNT);
}

#[tokio::test(flavor = "multi_thread")]
async fn tag_is_invalidated_everywhere_although_a_primary_was_paused() {
    let cluster = Cluster::start_without_failover();
    cluster.configure("cluster-require-full-coverage", "no");
    let build = async || {
        let cache = builder_with(&cluster.url(), Consistency::Realtime, |local| {
            local.time_to_live(LONG_LEASE)
        });
        let cache = cache.deadline(SHORT_DEADLINE).partitions(PARTITIONS);
        let cache = cache.build().unwrap();
        wait_until_proven(&cache).await;
        cache
    };
    let (writer, reader) = (build().await, build().await);
    for key in 0..KEYS {
        let inserted = writer
            .insert_loaded(key, Loaded::new(1).tags(["tag"]))
            .await;
        assert_eq!(inserted, Propagation::Acknowledged);
        assert_eq!(reader.get(&key).await, Some(1));
    }
    let partitions = partitions_of_keys(&cluster);
    let slots = cluster.partitions("test", PARTITIONS);
    let (paused, _) = cluster.primaries(0)[0];
    let is_paused = |key: &u64| cluster.primaries(slots[&partitions[key]])[0].0 == paused;
    let waiting: BTreeSet<u64> = (0..KEYS).filter(is_paused).collect();
    assert!(!waiting.is_empty() && waiting.len() < KEY_COUNT);

    cluster.servers[paused].pause();
    assert_eq!(writer.invalidate_tag("tag").await, Propagation::Queued);
    // The process itself reads no old value, and the other one none of the partitions that have the invalidation.
    for key in 0..KEYS {
        assert_eq!(writer.get(&key).await, None, "{key}");
        if !waiting.contains(&key) {
            assert_eq!(reader.get(&key).await, None, "{key}");
        }
    }
    for key in &waiting {
        assert_eq!(
            writer.get_or_load_async(key, |_| value(2)).await.unwrap(),
            2
        );
    }
    cluster.servers[paused].resume();
    in_time(writer.flush()).await;
    wait_until_proven(&reader).await;
    for key in 0..KEYS {
        assert_ne!(reader.get(&key).await, Some(1), "{key}");
    }
    soon_async("the invalidation is acknowledged", || async {
        writer.invalidate_tag("tag").await == Propagation::Acknowledged
    })
    .await;
    for key in 0..KEYS {
        assert_eq!(reader.get(&key).await, None, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalidator_without_cache_reaches_all_partitions() {
    let cluster = Cluster::start_without_failover();
    let cache = partitioned(&cluster, Consistency::Realtime).await;
    load_all(&cache).await;
    let tagged = Loaded::new(7).tags(["tag"]);
    cache.insert_loaded(7, tagged).await;
    let invalidator = |partitions| {
        let invalidator = Invalidator::builder(cluster.url(), "test").heartbeat(HEARTBEAT);
        let invalidator = invalidator.deadline(DEADLINE).partitions(partitions);
        invalidator.build().unwrap()
    };
    let right = invalidator(PARTITIONS);
    assert!(right.check().await.unwrap().warnings.is_empty());
    for key in 0..3 {
        assert!(right.inspect(&key).await.unwrap().is_some());
        right.invalidate(&key).await.unwrap();
        assert_eq!(cache.get(&key).await, None);
    }
    right.invalidate_tag("tag").await.unwrap();
    assert_eq!(cache.get(&7).await, None);
    assert_eq!(keys_in_l1(&cache).await.len(), KEY_COUNT - 4);
    right.clear().await.unwrap();
    assert_eq!(keys_in_l1(&cache).await.len(), 0);
    // The check of another number says that no cache has it.
    let wrong = invalidator(1).check().await.unwrap_err();
    assert!(wrong.to_string().contains("partitions"), "{wrong}");
}

/// Processes with another number would have other keys and events.
#[tokio::test(flavor = "multi_thread")]
async fn number_of_partitions_is_refused_while_processes_use_another_one() {
    for (first, second) in [(1, 4), (4, 1), (2, 4)] {
        let server = Server::start();
        let cache = |partitions| {
            let cache = builder::<u64>(&server.url(), Consistency::Realtime);
            cache.partitions(partitions).build().unwrap()
        };
        let proven = cache(first);
        wait_until_proven(&proven).await;
        proven.get_or_load_async(&1, |_| value(10)).await.unwrap();

        let refused = cache(second);
        let is_refused = |error: &RemoteError| matches!(error, RemoteError::Refused(why) if why.contains("partitions"));
        soon("the number is refused", || {
            refused.health().last_error.as_ref().is_some_and(is_refused)
        })
        .await;
        assert_eq!(
            refused.get_or_load_async(&1, |_| value(20)).await.unwrap(),
            20
        );
        assert_eq!(refused.invalidate(&1).await, Propagation::Queued);
        let health = refused.health();
        assert_eq!(health.proven_for, None);
        let is_warned = |warning: &Warning| matches!(warning, Warning::OtherSettings { .. });
        assert!(
            health.warnings.iter().any(is_warned),
            "{:?}",
            health.warnings
        );
        // The first cache is not disturbed.
        assert_eq!(proven.get_or_load_async(&1, fails).await.unwrap(), 10);
        assert_eq!(proven.invalidate(&1).await, Propagation::Acknowledged);
        let invalidator = |partitions| {
            let invalidator = Invalidator::builder(server.url(), "test").heartbeat(HEARTBEAT);
            let invalidator = invalidator.deadline(DEADLINE).partitions(partitions);
            invalidator.build().unwrap()
        };
        invalidator(first).invalidate(&1).await.unwrap();
        let error = invalidator(second).invalidate(&1).await.unwrap_err();
        assert!(is_refused(&error), "{error}");

        // As if the processes with the first number had ended some time ago.
        drop(proven);
        let settings = b"hotset:{test}:settings".as_slice();
        soon_async("the number is accepted", || async {
            let _: u64 = server.command(&[b"DEL", settings]);
            refused.health().proven_for.is_some() && refused.health().queued == 0
        })
        .await;
        assert_eq!(refused.invalidate(&1).await, Propagation::Acknowledged);
    }
}
