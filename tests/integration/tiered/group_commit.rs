//! Invalidations of many callers in one call.

use super::plain_reads::calls_of;
use super::servers::{Server, in_time, soon};
use super::{fails, proven, value};
use futures_util::future::join_all;
use hotset::{Consistency, Loaded, Propagation};

/// Number of callers at the same time.
const CALLERS: u64 = 200;

#[tokio::test(flavor = "multi_thread")]
async fn invalidations_at_the_same_time_share_calls_and_reach_other_processes() {
    let server = Server::start();
    let one = proven::<u64>(&server.url(), Consistency::Realtime).await;
    let other = proven::<u64>(&server.url(), Consistency::Realtime).await;
    let keys: Vec<u64> = (0..CALLERS).collect();
    for &key in &keys {
        other.get_or_load_async(&key, |_| value(key)).await.unwrap();
        assert_eq!(one.get(&key).await, Some(key));
    }
    let heartbeats = || -> u64 {
        let count =
            |cache: &hotset::TieredCache<u64, u64>| cache.tier_stats().calls.renew.times.count();
        count(&one) + count(&other)
    };
    let (scripts, before) = (calls_of(&server, "evalsha"), heartbeats());
    for propagation in join_all(keys.iter().map(|key| one.invalidate(key))).await {
        assert_eq!(propagation, Propagation::Acknowledged);
    }
    let scripts = calls_of(&server, "evalsha") - scripts;
    let heartbeats = heartbeats() - before + 4;
    assert!(scripts < CALLERS / 4 + heartbeats, "{scripts} scripts");
    assert_eq!(other.tier_stats().events, CALLERS);
    assert_eq!(other.health().gaps, 0);
    for key in keys {
        let read = other.get_or_load_async(&key, |_| value(key + 1)).await;
        assert_eq!(read.unwrap(), key + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_and_invalidations_of_keys_tags_and_everything_at_the_same_time_leave_no_old_value()
{
    let server = Server::start();
    let one = proven::<u64>(&server.url(), Consistency::Realtime).await;
    let other = proven::<u64>(&server.url(), Consistency::Realtime).await;
    for round in 0..50 {
        let keys: Vec<u64> = (0..20).collect();
        let old = |key: u64| Loaded::new(key).tags(["old"]);
        for &key in &keys {
            one.insert_loaded(key, old(key)).await;
            assert_eq!(other.get(&key).await, Some(key));
        }
        let change = async |key: u64| match (round + key) % 4 {
            0 => one.invalidate(&key).await,
            1 => one.insert(key, 1_000 + key).await,
            2 => {
                let written = one.write_through(key, 1_000 + key, async |_| Ok::<_, ()>(()));
                written.await.unwrap()
            }
            _ => one.invalidate_tag("old").await,
        };
        for propagation in in_time(join_all(keys.iter().map(|&key| change(key)))).await {
            assert_eq!(propagation, Propagation::Acknowledged);
        }
        for cache in [&one, &other] {
            for &key in &keys {
                let read = cache.get(&key).await;
                assert!(
                    read.is_none_or(|read| read == 1_000 + key),
                    "{key}: {read:?}"
                );
            }
        }
    }
    assert_eq!((one.health().gaps, other.health().gaps), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn invalidation_that_redis_refuses_does_not_fail_others_at_the_same_time() {
    let server = Server::start();
    // The names of the keys from 100 on are printable, as ACL patterns have to be. The user may not touch 101.
    let user = "ACL SETUSER app on >secret &* +@all ~hotset:{test}:[rst]* ~hotset:{test}:e:[!e]";
    let rights = user.replace("[!e]", "[^e]");
    let () = server.command(&rights.split(' ').map(str::as_bytes).collect::<Vec<_>>());
    let url = server.url().replace("://", "://app:secret@");
    let cache = proven::<u64>(&url, Consistency::L2Only).await;
    let keys: Vec<u64> = (100..120).collect();
    let results = join_all(keys.iter().map(|key| cache.invalidate(key))).await;
    for (key, propagation) in keys.iter().zip(results) {
        let expected = if *key == 101 {
            Propagation::Queued
        } else {
            Propagation::Acknowledged
        };
        assert_eq!(propagation, expected, "{key}");
    }
    soon("the missing right is reported", || {
        !cache.health().warnings.is_empty()
    })
    .await;
    assert_eq!(
        cache.get_or_load_async(&100, |_| value(1)).await.unwrap(),
        1
    );
    assert_eq!(cache.get_or_load_async(&100, fails).await.unwrap(), 1);
}
