//! Reads from Redis without scripts, and what they leave to scripts.

use super::history::CLOCK_RESOLUTION;
use super::servers::{Server, TEST_TIMEOUT, soon};
use super::{LONG_LEASE, MINUTE, acknowledged, builder_with, fails, proven, value};
use futures_util::future::join_all;
use hotset::{Consistency, Loaded, Propagation, TieredCache, Warning};
use std::time::{Duration, Instant};
use support::caches::wait_until_proven;

/// Returns the number of calls of a command that the server has counted.
pub(super) fn calls_of(server: &Server, command: &str) -> u64 {
    let stats: String = server.command(&[b"INFO", b"commandstats"]);
    let prefix = format!("cmdstat_{command}:calls=");
    let line = stats.lines().find_map(|line| line.strip_prefix(&prefix));
    let calls = line.and_then(|line| line.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn values_in_redis_are_read_without_scripts_in_all_classes() {
    for class in [Consistency::Realtime, MINUTE, Consistency::L2Only] {
        let server = Server::start();
        // L1 has room for one entry.
        let cache = builder_with::<u64>(&server.url(), class, |local| local.capacity(1));
        let cache = cache.build().unwrap();
        wait_until_proven(&cache).await;
        let keys: Vec<u64> = (1..=100).collect();
        for &key in &keys {
            cache.insert(key, 10 * key).await;
        }
        let heartbeats = || cache.tier_stats().calls.renew.times.count();
        let (scripts, before) = (calls_of(&server, "evalsha"), heartbeats());
        for &key in &keys {
            assert_eq!(cache.get(&key).await, Some(10 * key));
            let loaded = cache.get_or_load_async(&key, fails).await;
            assert_eq!(loaded.unwrap(), 10 * key);
        }
        let many: Vec<_> = keys.iter().map(|key| Some(10 * key)).collect();
        assert_eq!(cache.get_many(&keys).await, many);
        let together = keys.iter().map(|key| cache.get(key));
        assert_eq!(join_all(together).await, many);
        let scripts = calls_of(&server, "evalsha") - scripts;
        // One more heartbeat may be in flight at the beginning and at the end.
        let heartbeats = heartbeats() - before + 2;
        assert!(
            scripts <= heartbeats,
            "{class:?}: {scripts} scripts, {heartbeats} heartbeats"
        );
    }
}

/// Returns the caches of two processes.
async fn two_processes(
    server: &Server,
    class: Consistency,
) -> (TieredCache<u64, u64>, TieredCache<u64, u64>) {
    let url = server.url();
    (proven(&url, class).await, proven(&url, class).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn read_without_script_returns_no_value_that_was_invalidated() {
    let server = Server::start();
    let (one, other) = two_processes(&server, Consistency::L2Only).await;
    let tagged = |value: u64| Loaded::new(value).tags(["even"]);
    for round in 1..=20 {
        for key in 1..=3 {
            other.insert_loaded(key, tagged(round * key)).await;
        }
        other.insert(4, round).await;
        let values = [1, 2, 3].map(|key| Some(round * key));
        assert_eq!(one.get_many(&[1, 2, 3]).await, values);
        match round % 4 {
            0 => acknowledged(&other, 1).await,
            1 => assert!(other.invalidate_tag("even").await.is_acknowledged()),
            2 => assert!(other.clear().await.is_acknowledged()),
            _ => {
                // Another incarnation begins with the invalidation.
                let _: u64 = server.command(&[b"DEL", b"hotset:{test}:state"]);
                acknowledged(&other, 1).await;
            }
        }
        assert_eq!(one.get(&1).await, None);
        let is_kept = round % 4 == 0;
        assert_eq!(one.get(&2).await, values[1].filter(|_| is_kept));
        let is_untagged_kept = round % 4 < 2;
        assert_eq!(one.get(&4).await, Some(round).filter(|_| is_untagged_kept));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn value_with_a_time_to_live_is_kept_in_l1_no_longer_than_in_redis() {
    let server = Server::start();
    let (one, other) = two_processes(&server, Consistency::Realtime).await;
    let ttl = Duration::from_millis(700);
    let begun = Instant::now();
    other.insert_with_ttl(1, 10, ttl).await;
    let read = one.get(&1).await;
    // A slow machine may be late for the first read.
    assert!(read == Some(10) || begun.elapsed() >= ttl);
    soon("the value expires in Redis", || {
        server.entries("test").is_empty()
    })
    .await;
    // The clocks of the process and the server may differ by the resolution of the process's clock.
    tokio::time::sleep(CLOCK_RESOLUTION).await;
    assert_eq!(one.get(&1).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn user_without_the_right_to_mget_reads_by_scripts_and_is_warned() {
    let server = Server::start();
    let full = proven::<u64>(&server.url(), Consistency::L2Only).await;
    for key in 1..=5 {
        full.insert(key, key).await;
    }
    let user = "ACL SETUSER app on >secret ~* &* +@all -mget";
    let () = server.command(&user.split(' ').map(str::as_bytes).collect::<Vec<_>>());
    let url = server.url().replace("://", "://app:secret@");
    let limited = proven::<u64>(&url, Consistency::L2Only).await;
    for key in 1..=5 {
        assert_eq!(limited.get(&key).await, Some(key));
    }
    let warnings = limited.health().warnings;
    assert!(
        matches!(&warnings[..], [Warning::Forbidden(why)] if why.contains("mget")),
        "{warnings:?}"
    );
    assert!(!limited.health().breaker_open);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalidations_of_many_tags_leave_most_values_with_other_tags() {
    const VALUES: u64 = 1_000;
    let server = Server::start();
    let cache = builder_with::<u64>(&server.url(), Consistency::L2Only, |local| {
        // Longer than the test takes on a busy machine.
        local.time_to_live(LONG_LEASE)
    });
    let cache = cache.deadline(TEST_TIMEOUT).build().unwrap();
    wait_until_proven(&cache).await;
    for key in 0..VALUES {
        let loaded = Loaded::new(key).tags([format!("own {key}")]);
        cache.insert_loaded(key, loaded).await;
    }
    let invalidate = |tags: std::ops::Range<u64>| async {
        for tag in tags {
            let propagation = cache.invalidate_tag(&format!("other {tag}")).await;
            assert_eq!(propagation, Propagation::Acknowledged);
        }
    };
    let keys: Vec<u64> = (0..VALUES).collect();
    let found = || async { cache.get_many(&keys).await.into_iter().flatten().count() };
    invalidate(0..1_000).await;
    assert!(found().await > 980);
    invalidate(1_000..12_000).await;
    assert!(found().await > 850);
    let length: u64 = server.command(&[b"STRLEN", b"hotset:{test}:tags"]);
    assert!(length <= (1 << 20) + 8, "{length} bytes");
    // Each tag is still invalidated, and newer values with the same tags are found.
    for key in 0..VALUES {
        if key % 10 == 0 {
            cache.invalidate_tag(&format!("own {key}")).await;
            assert_eq!(cache.get(&key).await, None);
        }
    }
    for key in 0..VALUES {
        let loaded = Loaded::new(key).tags([format!("own {key}"), format!("other {key}")]);
        cache.insert_loaded(key, loaded).await;
    }
    assert_eq!(found().await, keys.len());
    // What was evicted may have been the invalidation of any tag.
    let _: u64 = server.command(&[b"DEL", b"hotset:{test}:tags"]);
    assert_eq!(found().await, keys.len(), "no tag was invalidated since");
    cache.invalidate_tag("another").await;
    assert_eq!(
        found().await,
        keys.len(),
        "all values are newer than what was evicted"
    );
    let _: u64 = server.command(&[b"DEL", b"hotset:{test}:tags"]);
    assert_eq!(found().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn insertion_that_follows_an_invalidation_by_another_process_is_stored() {
    let server = Server::start();
    let (one, other) = two_processes(&server, Consistency::L2Only).await;
    for round in 0..100 {
        match round % 3 {
            0 => assert!(other.clear().await.is_acknowledged()),
            1 => assert!(other.invalidate_tag("new").await.is_acknowledged()),
            _ => {
                let _: u64 = server.command(&[b"DEL", b"hotset:{test}:state"]);
            }
        }
        let loaded = Loaded::new(round).tags(["new"]);
        let propagation = one.insert_loaded(1, loaded).await;
        assert_eq!(propagation, Propagation::Acknowledged);
        assert_eq!(other.get(&1).await, Some(round));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_insertions_at_the_same_time_is_stored() {
    let server = Server::start();
    let (one, other) = two_processes(&server, Consistency::Realtime).await;
    for round in 0..50 {
        let values: Vec<u64> = (0..8).map(|value| 8 * round + value).collect();
        let insertions = values.iter().map(|value| {
            let cache = if value % 2 == 0 { &one } else { &other };
            cache.insert(1, *value)
        });
        for propagation in join_all(insertions).await {
            assert_eq!(propagation, Propagation::Acknowledged);
        }
        let (seen, seen_by_other) = (one.get(&1).await, other.get(&1).await);
        assert!(values.contains(&seen.expect("a value is stored")));
        assert_eq!(seen, seen_by_other);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_values_and_tags_of_another_type_are_replaced() {
    let server = Server::start();
    let cache = proven::<u64>(&server.url(), Consistency::L2Only).await;
    let tagged = |value: u64| Loaded::new(value).tags(["tag"]);
    cache.insert_loaded(1, tagged(10)).await;
    let entry = server.entries("test").remove(0);
    let whole: Vec<u8> = server.command(&[b"GET", &entry]);
    cache.invalidate_tag("other").await;
    let mut many_tags = whole.clone();
    many_tags[36] = 200;
    let damaged = [
        &whole[..36],
        &whole[..40],
        &whole[..60],
        &many_tags,
        &[0xFF; 500],
    ];
    for (round, bytes) in (0..).zip(damaged) {
        let () = server.command(&[b"SET", &entry, bytes]);
        assert_eq!(cache.get(&1).await, None);
        let load = |_| async { Ok::<_, ()>(tagged(round)) };
        let loaded = cache.get_or_load_entry_async(&1, load).await;
        assert_eq!(loaded.unwrap(), round);
        assert_eq!(cache.get_or_load_async(&1, fails).await.unwrap(), round);
    }
    let _: u64 = server.command(&[b"DEL", b"hotset:{test}:tags"]);
    let _: u64 = server.command(&[b"LPUSH", b"hotset:{test}:tags", b"foreign"]);
    assert!(cache.invalidate_tag("tag").await.is_acknowledged());
    assert_eq!(cache.get(&1).await, None);
    assert!(!cache.health().breaker_open);
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_reads_the_value_by_a_script_after_its_lease_is_granted() {
    let server = Server::start();
    let cache = proven::<u64>(&server.url(), Consistency::L2Only).await;
    cache.insert(1, 10).await;
    assert_eq!(cache.get(&1).await, Some(10));
    let plain = || calls_of(&server, "mget") + calls_of(&server, "getrange");
    let before = plain();
    let refreshed = cache.refresh_async(&1, |_| value(11)).await;
    assert_eq!(refreshed.unwrap(), 11);
    assert_eq!(plain(), before);
    assert_eq!(cache.get(&1).await, Some(11));
}
