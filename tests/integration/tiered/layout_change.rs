//! Namespaces that move to another number of partitions while they are in use.

use super::servers::{Cut, Proxy, Server, in_time, soon};
use super::{DEADLINE, HEARTBEAT, LONG_LEASE, builder, builder_with, fails, value};
use futures_util::FutureExt;
use hotset::{
    BuildError, Consistency, Invalidator, Loaded, LocalCache, Propagation, Rollout, TieredCache,
    TieredCacheBuilder, WarmOptions, WarmOutcome, Warning,
};
use support::caches::wait_until_proven;

const KEYS: u64 = 100;
/// The key of the settings in Redis.
const SETTINGS: &[u8] = b"hotset:{test}:settings";

fn moving(server: &Server, rollout: &Rollout) -> TieredCacheBuilder<u64, u64> {
    let builder = builder_with(&server.url(), Consistency::Realtime, |local| {
        local.time_to_live(LONG_LEASE)
    });
    builder.rollout(rollout)
}

async fn build(builder: TieredCacheBuilder<u64, u64>) -> TieredCache<u64, u64> {
    let cache = builder.build().unwrap();
    wait_until_proven(&cache).await;
    cache
}

/// Removes the settings that processes noted before, as if five minutes had passed. They note theirs again.
fn let_notes_expire(server: &Server) {
    for note in notes(server) {
        let _: u64 = server.command(&[b"HDEL", SETTINGS, note.as_bytes()]);
    }
}

/// Returns the settings that processes have noted.
fn notes(server: &Server) -> Vec<String> {
    let mut notes: Vec<String> = server.command(&[b"HKEYS", SETTINGS]);
    // The other fields say which layouts are up to date.
    notes.retain(|note| !note.starts_with('#'));
    notes
}

async fn wait_until_moved(caches: &[&TieredCache<u64, u64>], percent: f64) {
    for cache in caches {
        soon("the keys are moved", || {
            (cache.health().moved_percent - percent).abs() < f64::EPSILON
        })
        .await;
    }
}

/// Reads all keys in L2, of which each has its key as its value.
async fn read_all(cache: &TieredCache<u64, u64>) {
    let keys: Vec<u64> = (0..KEYS).collect();
    let (one, many) = keys.split_at(keys.len() / 2);
    for key in one {
        assert_eq!(cache.get_or_load_async(key, fails).await.unwrap(), *key);
    }
    let load = |missing: Vec<u64>| async move {
        Err::<Vec<(u64, u64)>, _>(format!("not to be loaded: {missing:?}"))
    };
    let found = cache.get_many_or_load_async(many, load).await.unwrap();
    assert!(many.iter().copied().map(Some).eq(found));
}

fn is_held_back(cache: &TieredCache<u64, u64>) -> bool {
    let is_other = |warning: &Warning| matches!(warning, Warning::OtherSettings { .. });
    cache.health().warnings.iter().any(is_other)
}

/// Moves a namespace to another number of partitions. Values are copied, so that no loader runs. New processes have an
/// empty L1, so they read from Redis.
async fn move_without_loads(from: u16, to: u16) {
    let (server, rollout) = (Server::start(), Rollout::full());
    let old = build(moving(&server, &rollout).partitions(from)).await;
    for key in 0..KEYS {
        let loaded = old.get_or_load_async(&key, |_| value(key)).await;
        assert_eq!(loaded.unwrap(), key);
    }

    // The old process agrees with processes that write to both layouts, but not with reads in the new one.
    let change = || {
        let builder = moving(&server, &rollout);
        builder.partitions(from).next_partitions(to)
    };
    let first = build(change()).await;
    rollout.set_moved_percent(50.0).unwrap();
    soon("a warning names the old process", || is_held_back(&first)).await;
    assert!(first.health().moved_percent.abs() < f64::EPSILON);
    read_all(&first).await;
    assert_eq!(first.invalidate(&7).await, Propagation::Acknowledged);
    assert_eq!(old.get(&7).await, None);
    old.insert(7, 7).await;
    assert!(!is_held_back(&old), "{:?}", old.health().warnings);

    drop(old);
    let_notes_expire(&server);
    wait_until_moved(&[&first], 50.0).await;
    let second = build(change()).await;
    wait_until_moved(&[&second], 50.0).await;
    read_all(&second).await;
    let copied_at_half = second.tier_stats().copied;
    assert!(
        (20..80).contains(&copied_at_half),
        "{copied_at_half} of {KEYS}"
    );
    assert_eq!(second.invalidate(&7).await, Propagation::Acknowledged);
    assert_eq!(first.get(&7).await, None);
    assert_eq!(second.get(&7).await, None);
    second.insert(7, 7).await;

    rollout.set_moved_percent(100.0).unwrap();
    wait_until_moved(&[&first, &second], 100.0).await;
    let third = build(change()).await;
    wait_until_moved(&[&third], 100.0).await;
    read_all(&third).await;
    let copied = copied_at_half + third.tier_stats().copied;
    assert!((KEYS - 1..=KEYS).contains(&copied), "{copied} of {KEYS}");

    // The new process waits until the others copy no value any more.
    let new = moving(&server, &rollout).partitions(to).build().unwrap();
    soon("the new layout is refused", || is_held_back(&new)).await;
    assert_eq!(new.get_or_load_async(&7, |_| value(8)).await.unwrap(), 8);
    drop((first, second));
    soon("the last process copies no value", || {
        notes(&server).iter().any(|note| note.ends_with("moved"))
    })
    .await;
    let_notes_expire(&server);
    wait_until_proven(&new).await;
    let loads = new.tier_stats().loads;
    new.invalidate(&7).await;
    new.insert(7, 7).await;
    read_all(&new).await;
    assert_eq!(new.tier_stats().loads, loads);
    assert_eq!(third.tier_stats().loads, 0);
    assert_eq!(third.invalidate(&7).await, Propagation::Acknowledged);
    assert_eq!(new.get(&7).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn namespace_moves_to_more_partitions_without_loads() {
    move_without_loads(1, 16).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespace_moves_to_fewer_partitions_without_loads() {
    move_without_loads(16, 1).await;
}

/// A value keeps its time to live and its tags when it is copied, and a read without a loader finds it.
#[tokio::test(flavor = "multi_thread")]
async fn value_is_found_in_the_old_layout_with_its_time_to_live_and_tags() {
    let (server, rollout) = (Server::start(), Rollout::full());
    let change = || {
        let builder = moving(&server, &rollout);
        builder.partitions(1).next_partitions(4)
    };
    let writer = build(change()).await;
    let entry = |key| Loaded::new(key).tags(["tag"]).ttl(LONG_LEASE / 2);
    for key in 0..10 {
        writer.insert_loaded(key, entry(key)).await;
    }
    rollout.set_moved_percent(100.0).unwrap();
    let reader = build(change()).await;
    wait_until_moved(&[&writer, &reader], 100.0).await;
    // Neither of these stores the value in the new layout.
    let left = reader.remaining_ttl(&0).await.unwrap();
    assert!(left <= LONG_LEASE / 2);
    assert_eq!(reader.get(&0).await, Some(0));
    assert_eq!(reader.get_many(&[1, 2]).await, [Some(1), Some(2)]);
    assert_eq!(reader.tier_stats().copied, 0);

    assert_eq!(reader.get_or_load_async(&3, fails).await.unwrap(), 3);
    assert_eq!(reader.tier_stats().copied, 1);
    let other = build(change()).await;
    wait_until_moved(&[&other], 100.0).await;
    assert!(other.remaining_ttl(&3).await.unwrap() <= LONG_LEASE / 2);
    assert_eq!(other.get_or_load_async(&3, fails).await.unwrap(), 3);
    assert_eq!(other.tier_stats().copied, 0);

    let invalidated = writer.invalidate_tag("tag").await;
    assert_eq!(invalidated, Propagation::Acknowledged);
    for key in 0..10 {
        for cache in [&reader, &other] {
            assert_eq!(cache.get(&key).await, None);
        }
        for cache in [&reader, &other] {
            let loaded = cache.get_or_load_async(&key, |_| value(key + 1)).await;
            assert_eq!(loaded.unwrap(), key + 1);
        }
    }
    assert_eq!(
        (reader.tier_stats().copied, other.tier_stats().copied),
        (1, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_during_the_change_replaces_the_value_in_both_layouts() {
    let server = Server::start();
    let (all, none) = (Rollout::full(), Rollout::full());
    all.set_moved_percent(100.0).unwrap();
    let change = |rollout| {
        let builder = moving(&server, rollout);
        builder.partitions(1).next_partitions(4)
    };
    let in_old = build(change(&none)).await;
    let in_new = build(change(&all)).await;
    wait_until_moved(&[&in_new], 100.0).await;
    for (key, (one, other)) in [(1, (&in_old, &in_new)), (2, (&in_new, &in_old))] {
        for cache in [one, other] {
            let loaded = cache.get_or_load_async(&key, |_| value(10)).await;
            assert_eq!(loaded.unwrap(), 10);
        }
        let refreshed = one.refresh_async(&key, |_| value(20)).await;
        assert_eq!(refreshed.unwrap(), 20);
        assert_ne!(other.get(&key).await, Some(10));
        assert_eq!(one.get_or_load_async(&key, fails).await.unwrap(), 20);
    }
}

/// Changes of a process that knows one layout only would be lost in the other one.
#[tokio::test(flavor = "multi_thread")]
async fn layouts_that_do_not_agree_are_refused() {
    // The partitions, the next ones and the percentage of a first process and of a second one; and the percentage that
    // the second one reaches, or `None` if it is refused.
    type Setting = (u16, Option<u16>, f64);
    let cases: [(Setting, Setting, Option<f64>); 9] = [
        ((1, None, 0.0), (1, Some(4), 0.0), Some(0.0)),
        ((1, None, 0.0), (1, Some(4), 50.0), Some(0.0)),
        ((4, None, 0.0), (1, Some(4), 50.0), Some(100.0)),
        ((2, None, 0.0), (1, Some(4), 50.0), None),
        ((1, Some(4), 0.0), (1, None, 0.0), Some(0.0)),
        ((1, Some(4), 0.0), (4, None, 0.0), None),
        ((1, Some(4), 50.0), (1, None, 0.0), None),
        ((1, Some(4), 50.0), (1, Some(4), 0.0), Some(0.0)),
        ((1, Some(4), 50.0), (4, Some(1), 50.0), None),
    ];
    for (first, second, reached) in cases {
        let server = Server::start();
        let cache = |(partitions, next, percent): Setting| {
            let builder = moving(&server, &Rollout::full()).partitions(partitions);
            let builder = builder.moved_percent(percent);
            match next {
                Some(next) => builder.next_partitions(next).build().unwrap(),
                None => builder.build().unwrap(),
            }
        };
        let one = cache(first);
        wait_until_proven(&one).await;
        wait_until_moved(&[&one], first.2).await;
        let other = cache(second);
        if let Some(percent) = reached {
            wait_until_proven(&other).await;
            wait_until_moved(&[&other], percent).await;
            assert_eq!(other.invalidate(&1).await, Propagation::Acknowledged);
        } else {
            soon("the layout is refused", || is_held_back(&other)).await;
            assert_eq!(other.health().proven_for, None, "{first:?} {second:?}");
            assert_eq!(other.invalidate(&1).await, Propagation::Queued);
        }
        assert_eq!(one.invalidate(&1).await, Propagation::Acknowledged);
    }
}

/// While the old layout does not get an invalidation, a copy of the old value may be made. So the new layout gets the
/// invalidation again after the old one.
#[tokio::test(flavor = "multi_thread")]
async fn queued_invalidation_reaches_both_layouts() {
    let (mut server, rollout) = (Server::start(), Rollout::full());
    rollout.set_moved_percent(100.0).unwrap();
    let change = moving(&server, &rollout).partitions(4).next_partitions(8);
    let cache = build(change.deadline(super::SHORT_DEADLINE)).await;
    wait_until_moved(&[&cache], 100.0).await;
    cache.insert(1, 10).await;
    server.kill();
    assert_eq!(cache.invalidate(&1).await, Propagation::Queued);
    assert_eq!(cache.invalidate_tag("tag").await, Propagation::Queued);
    server.restart();
    in_time(cache.flush()).await;
    assert_eq!(cache.health().queued, 0);
    wait_until_proven(&cache).await;
    assert_eq!(cache.invalidate(&1).await, Propagation::Acknowledged);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalidator_reaches_both_layouts() {
    let (server, rollout) = (Server::start(), Rollout::full());
    let change = moving(&server, &rollout).partitions(1).next_partitions(4);
    let cache = build(change).await;
    let builder = || {
        let invalidator = Invalidator::builder(server.url(), "test").heartbeat(HEARTBEAT);
        invalidator.deadline(DEADLINE)
    };
    let invalidator = builder().partitions(1).next_partitions(4).build().unwrap();
    for percent in [0.0, 100.0] {
        rollout.set_moved_percent(percent).unwrap();
        wait_until_moved(&[&cache], percent).await;
        cache.insert(1, 10).await;
        assert!(invalidator.inspect(&1).await.unwrap().is_some());
        invalidator.invalidate(&1).await.unwrap();
        assert_eq!(cache.get(&1).await, None);
        assert!(invalidator.inspect(&1).await.unwrap().is_none());
        cache.insert_loaded(1, Loaded::new(10).tags(["tag"])).await;
        invalidator.invalidate_tag("tag").await.unwrap();
        assert_eq!(cache.get(&1).await, None);
    }
    assert!(invalidator.check().await.unwrap().warnings.is_empty());
    // One that writes to the old layout only would miss the keys that are read in the new one.
    let old = builder().partitions(1).build().unwrap();
    let refused = old.invalidate(&1).await.unwrap_err();
    assert!(refused.to_string().contains("partitions"), "{refused}");
}

/// Calls are refused until the reply to a renewal arrives. Its heartbeat may arrive first, on another connection.
#[tokio::test(flavor = "multi_thread")]
async fn namespace_is_proven_only_after_the_reply_that_accepts_its_partitions() {
    let (server, rollout) = (Server::start(), Rollout::full());
    let proxy = Proxy::start(server.address()).await;
    let other = build(moving(&server, &rollout).partitions(4)).await;
    let cache = builder::<u64>(&proxy.url(), Consistency::Realtime);
    let cache = cache.partitions(1).build().unwrap();
    soon("the number of partitions is refused", || {
        is_held_back(&cache)
    })
    .await;

    proxy.cut(Cut::Replies);
    drop(other);
    let_notes_expire(&server);
    soon("a renewal is accepted", || !notes(&server).is_empty()).await;
    let writer = build(moving(&server, &rollout).partitions(1)).await;
    writer.insert(1, 10).await;
    // The event of this insertion arrives after the heartbeat of the accepted renewal.
    soon("the cache receives events", || {
        cache.tier_stats().events > 0
    })
    .await;
    assert_eq!(cache.health().proven_for, None);
    let mut warming = Box::pin(cache.warm_from_l2(WarmOptions::new(), [1]));
    assert!((&mut warming).now_or_never().is_none());
    proxy.mend();
    let mut report = warming.await;
    // A warm-up waits for a few heartbeats only.
    while report.end == WarmOutcome::NotProven {
        report = cache.warm_from_l2(WarmOptions::new(), [1]).await;
    }
    assert_eq!((report.found, report.failed), (1, 0));
    wait_until_proven(&cache).await;
}

/// Values remain under the keys of a number of partitions while processes use another number, and miss invalidations.
#[tokio::test(flavor = "multi_thread")]
async fn values_from_before_another_number_of_partitions_are_not_served() {
    for (first, second) in [(1, 4), (4, 1), (4, 8)] {
        let (server, rollout) = (Server::start(), Rollout::full());
        let cache = |partitions| moving(&server, &rollout).partitions(partitions);
        let before = build(cache(first)).await;
        for key in 0..KEYS {
            before.insert(key, 10).await;
        }
        drop(before);
        let_notes_expire(&server);
        let between = build(cache(second)).await;
        assert_eq!(between.get(&1).await, None);
        assert_eq!(between.clear().await, Propagation::Acknowledged);
        drop(between);
        let_notes_expire(&server);

        // Also before invalidations are proven to arrive.
        let after = cache(first).build().unwrap();
        for key in 0..KEYS {
            assert_eq!(after.get(&key).await, None, "{first} {second}");
        }
        wait_until_proven(&after).await;
        after.insert(1, 20).await;
        drop(after);
        // Another process with the same number finds the new values, also after a pause without processes.
        for _ in 0..2 {
            let next = cache(first).build().unwrap();
            assert_eq!(next.get(&1).await, Some(20), "{first} {second}");
            wait_until_proven(&next).await;
            assert_eq!(next.get(&1).await, Some(20), "{first} {second}");
            drop(next);
            let_notes_expire(&server);
        }
    }
}

/// An invalidator is accepted with any number while no cache runs, and reaches the values of this number only.
#[tokio::test(flavor = "multi_thread")]
async fn values_that_an_invalidator_has_missed_are_not_served() {
    for (number, of_invalidator) in [(4, 1), (1, 4), (4, 4)] {
        let (server, rollout) = (Server::start(), Rollout::full());
        let cache = || build(moving(&server, &rollout).partitions(number));
        let before = cache().await;
        before.insert(1, 10).await;
        before.insert(2, 10).await;
        drop(before);
        let_notes_expire(&server);
        let invalidator = Invalidator::builder(server.url(), "test").heartbeat(HEARTBEAT);
        let invalidator = invalidator.deadline(DEADLINE).partitions(of_invalidator);
        invalidator.build().unwrap().invalidate(&1).await.unwrap();
        let after = cache().await;
        assert_eq!(after.get(&1).await, None, "{number} {of_invalidator}");
        let kept = (number == of_invalidator).then_some(10);
        assert_eq!(after.get(&2).await, kept, "{number} {of_invalidator}");
    }
}

/// The values of the next number are from a time before the current one was used.
#[tokio::test(flavor = "multi_thread")]
async fn namespace_that_moves_back_finds_no_values_from_before() {
    let (server, rollout) = (Server::start(), Rollout::full());
    for (from, to, old) in [(1, 4, None), (4, 1, Some(10)), (1, 4, Some(20))] {
        rollout.set_moved_percent(100.0).unwrap();
        let settled = build(moving(&server, &rollout).partitions(from)).await;
        let new = old.map_or(10, |old| old + 10);
        for key in 0..KEYS {
            assert_eq!(settled.get(&key).await, old);
            settled.insert(key, new).await;
        }
        drop(settled);
        let_notes_expire(&server);
        let change = || {
            moving(&server, &rollout)
                .partitions(from)
                .next_partitions(to)
        };
        let moving_cache = build(change()).await;
        wait_until_moved(&[&moving_cache], 100.0).await;
        for key in 0..KEYS {
            let found = moving_cache.get_or_load_async(&key, fails).await;
            assert_eq!(found.unwrap(), new, "{from} {to}");
        }
        drop(moving_cache);
        let_notes_expire(&server);
    }
}

#[tokio::test]
async fn next_number_of_partitions_is_checked() {
    for (partitions, next) in [(4, 4), (4, 3), (4, 0), (4, 2_048)] {
        let builder = LocalCache::<u64, u64>::builder().capacity(1);
        let builder = builder.redis("redis://127.0.0.1/", "test");
        let refused = builder.partitions(partitions).next_partitions(next).build();
        assert_eq!(refused.err(), Some(BuildError::NextPartitions));
    }
}
