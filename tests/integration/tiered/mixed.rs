//! Caches that use one namespace with different settings, as during a deployment that changes them.

use super::servers::{Server, soon, soon_async};
use super::{LONG_HEARTBEAT, MINUTE, builder, forget_lost_readers};
use hotset::{Consistency, Postcard, Propagation, RemoteValue, TieredCache, Warning};
use std::time::Duration;
use support::caches::wait_until_proven;

/// Returns what a cache reports about the settings of others, in words.
fn warning<V: RemoteValue>(cache: &TieredCache<u64, V>) -> Option<String> {
    let warnings = cache.health().warnings;
    let mut found = warnings
        .iter()
        .filter(|warning| matches!(warning, Warning::OtherSettings { .. }));
    found.next().map(ToString::to_string)
}

#[tokio::test(flavor = "multi_thread")]
async fn realtime_change_does_not_wait_for_caches_of_other_classes() {
    let server = Server::start();
    // The read leases are longer than a change may take.
    let cache = |class| {
        let cache = builder::<u64>(&server.url(), class).heartbeat(LONG_HEARTBEAT);
        cache.build().unwrap()
    };
    let writer = cache(Consistency::Realtime);
    let others = [MINUTE, Consistency::L2Only, Consistency::L1Only].map(cache);
    for cache in others.iter().chain([&writer]) {
        wait_until_proven(cache).await;
    }
    forget_lost_readers(&server.url());
    for price in 1..=3 {
        let insertion = writer.insert(1, price);
        let changed = tokio::time::timeout(LONG_HEARTBEAT, insertion).await;
        assert_eq!(changed, Ok(Propagation::Acknowledged));
        for other in &others[..2] {
            soon_async("the price is known", async || {
                other.get(&1).await == Some(price)
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn different_classes_or_codecs_in_one_namespace_are_warnings() {
    let server = Server::start();
    let heartbeat = Duration::from_millis(100);
    let cache = |class| builder::<u64>(&server.url(), class).heartbeat(heartbeat);
    let first = cache(Consistency::Realtime).build().unwrap();
    let same = cache(Consistency::Realtime).build().unwrap();
    wait_until_proven(&first).await;
    wait_until_proven(&same).await;
    assert_eq!((warning(&first), warning(&same)), (None, None));

    let bounded = cache(MINUTE).build().unwrap();
    let postcard = cache(Consistency::Realtime)
        .codec(Postcard)
        .build()
        .unwrap();
    let knows = |cache: &TieredCache<u64, u64>, parts: [&str; 2]| {
        let warning = warning(cache).unwrap_or_default();
        parts.iter().all(|part| warning.contains(part))
    };
    soon("all caches warn of the others", || {
        [&first, &same]
            .iter()
            .all(|cache| knows(cache, ["Bounded", "postcard"]))
            && knows(&bounded, ["Realtime", "postcard"])
            && knows(&postcard, ["Realtime", "Bounded"])
    })
    .await;
}
