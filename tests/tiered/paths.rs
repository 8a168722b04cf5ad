//! The path of a miss and of a write, where nothing fails.

use super::servers::{Server, soon};
use super::{MINUTE, builder, fails, proven, value};
use hotset::{AsyncCache, Consistency, Delivery, Loaded, LocalCache, TieredCache};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::sync::Semaphore;

const ALL: [Consistency; 4] = [
    Consistency::Realtime,
    MINUTE,
    Consistency::L2Only,
    Consistency::L1Only,
];

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_one_loads_another_finds() {
    let server = Server::start();
    let one = proven::<u64>(&server.url(), MINUTE).await;
    let other = proven::<u64>(&server.url(), MINUTE).await;
    assert_eq!(one.get_or_load_async(&1, || value(10)).await.unwrap(), 10);
    assert_eq!(other.get(&1).await, Some(10));
    assert_eq!(other.get_or_load_async(&1, fails).await.unwrap(), 10);
    assert_eq!(other.stats().hits, 1);
    assert_eq!(other.tier_stats().l2_hits, 1);
    assert_eq!(one.tier_stats().fills, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_invalidation_is_seen_by_all_at_once_or_soon() {
    for consistency in ALL {
        let server = Server::start();
        let one = proven::<u64>(&server.url(), consistency).await;
        let other = proven::<u64>(&server.url(), consistency).await;
        for round in 0..50 {
            let old = 2 * round;
            for cache in [&one, &other] {
                cache.get_or_load_async(&1, || value(old)).await.unwrap();
            }
            assert_eq!(one.invalidate(&1).await, Delivery::Acknowledged);
            let seen = one.get_or_load_async(&1, || value(old + 1)).await.unwrap();
            assert_eq!(seen, old + 1, "{consistency:?}");
            if matches!(consistency, Consistency::Bounded(_) | Consistency::L1Only) {
                let events = 2 * round + 1;
                soon("the event", || other.tier_stats().events >= events).await;
            }
            let seen = other
                .get_or_load_async(&1, || value(old + 1))
                .await
                .unwrap();
            assert_eq!(seen, old + 1, "{consistency:?}");
            one.invalidate(&1).await;
            soon("the event", || other.tier_stats().events >= 2 * round + 2).await;
        }
        assert_eq!(other.health().gaps, 0);
    }
}
