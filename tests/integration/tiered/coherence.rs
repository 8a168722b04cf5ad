//! Reads after a change whose invalidation does not arrive.

use super::servers::{Cut, Proxy, Server, soon};
use super::{
    MINUTE, SHORT_DEADLINE, SHORT_HEARTBEAT, builder, fails, forget_lost_readers, proven, value,
};
use hotset::{Consistency, Propagation, TieredCache};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};
use support::caches::wait_until_proven;

const REALTIME: Consistency = Consistency::Realtime;

/// A price in a database, and the newest price whose change was acknowledged.
struct Price {
    database: AtomicU64,
    acknowledged: AtomicU64,
    /// The number of reads.
    reads: AtomicU64,
    stop: AtomicBool,
}

impl Price {
    fn new() -> Self {
        Self {
            database: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        }
    }

    async fn set(&self, cache: &TieredCache<u64, u64>, price: u64) -> Propagation {
        let write = |price| {
            self.database.store(price, SeqCst);
            async { Ok::<_, ()>(()) }
        };
        let propagation = cache.write_through(1, price, write).await.unwrap();
        if propagation == Propagation::Acknowledged {
            self.acknowledged.fetch_max(price, SeqCst);
        }
        propagation
    }

    /// Reads the price, and checks that it is not older than the newest one acknowledged before.
    async fn read(&self, cache: &TieredCache<u64, u64>) {
        while !self.stop.load(SeqCst) {
            let acknowledged = self.acknowledged.load(SeqCst);
            let load = |_| value(self.database.load(SeqCst));
            let read = cache.get_or_load_async(&1, load).await.unwrap();
            assert!(read >= acknowledged, "read {read} after {acknowledged}");
            self.reads.fetch_add(1, SeqCst);
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn realtime_read_during_any_kind_of_disconnection_is_not_older_than_the_last_acknowledged_write()
 {
    let server = Server::start();
    let proxy = Proxy::start(server.address()).await;
    let reader = builder::<u64>(&proxy.url(), REALTIME)
        .heartbeat(SHORT_HEARTBEAT)
        .deadline(SHORT_DEADLINE)
        .build()
        .unwrap();
    let writer = proven::<u64>(&server.url(), REALTIME).await;
    let price = Price::new();
    let mut next = 0;
    let has_read = |count: u64| {
        let before = price.reads.load(SeqCst);
        let reads = &price.reads;
        soon("the price is read", move || {
            reads.load(SeqCst) >= before + count
        })
    };
    let changes = async {
        for round in 0..12 {
            wait_until_proven(&reader).await;
            let hits = reader.stats().hits;
            soon("L1 serves", || reader.stats().hits >= hits + 10).await;
            let lost = [Cut::Subscriptions, Cut::All][round % 2];
            if round % 3 == 2 {
                proxy.reset();
            } else {
                proxy.cut(lost);
            }
            for _ in 0..3 {
                next += 1;
                assert_eq!(price.set(&writer, next).await, Propagation::Acknowledged);
            }
            has_read(10).await;
            proxy.mend();
            for _ in 0..20 {
                next += 1;
                assert_eq!(price.set(&writer, next).await, Propagation::Acknowledged);
            }
        }
        price.stop.store(true, SeqCst);
    };
    let readers = futures_util::future::join(price.read(&reader), price.read(&reader));
    tokio::join!(readers, changes);
    assert!(reader.tier_stats().unproven_reads > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn realtime_change_waits_for_readers_that_may_serve_the_old_value_and_no_longer() {
    let server = Server::start();
    let proxy = Proxy::start(server.address()).await;
    let cache = |url: &str, heartbeat| {
        let cache = builder::<u64>(url, REALTIME).heartbeat(heartbeat);
        cache.build().unwrap()
    };
    // A read lease of this reader is longer than the changes below may take.
    let reader = cache(&server.url(), Duration::from_secs(60));
    let writer = proven::<u64>(&server.url(), REALTIME).await;
    wait_until_proven(&reader).await;
    forget_lost_readers(&server.url());
    let price = Price::new();
    let soon_set =
        |number| tokio::time::timeout(Duration::from_secs(55), price.set(&writer, number));
    // The reader acknowledges the change.
    assert_eq!(soon_set(1).await.unwrap(), Propagation::Acknowledged);
    // A reader that does not acknowledge it delays the change until its read lease ends.
    let cut_off = cache(&proxy.url(), Duration::from_millis(500));
    wait_until_proven(&cut_off).await;
    let load = |_| value(price.database.load(SeqCst));
    assert_eq!(cut_off.get_or_load_async(&1, load).await.unwrap(), 1);
    proxy.cut(Cut::Subscriptions);
    assert_eq!(soon_set(2).await.unwrap(), Propagation::Acknowledged);
    assert_eq!(cut_off.get_or_load_async(&1, load).await.unwrap(), 2);
    drop(cut_off);
    proxy.mend();
    // A cache that was dropped has returned its read lease.
    drop(reader);
    soon("the read lease is returned", || {
        let readers: Vec<String> =
            server.command(&[b"ZRANGE", b"hotset:{test}:readers", b"0", b"-1"]);
        readers.len() == 1
    })
    .await;
    assert_eq!(soon_set(3).await.unwrap(), Propagation::Acknowledged);
}

#[tokio::test(flavor = "multi_thread")]
async fn bounded_entry_expires_after_its_bound_and_is_invalidated_after_a_gap() {
    let server = Server::start();
    let proxy = Proxy::start(server.address()).await;
    let bound = Duration::from_millis(700);
    let reader = builder::<u64>(&proxy.url(), Consistency::Bounded(bound))
        .build()
        .unwrap();
    let writer = proven::<u64>(&server.url(), MINUTE).await;
    wait_until_proven(&reader).await;
    reader.get_or_load_async(&1, value).await.unwrap();
    proxy.cut(Cut::Subscriptions);
    writer.insert(1, 2).await;
    let acknowledged = Instant::now();
    // The old value may be served until the bound has passed, which only reads can show.
    loop {
        let asked = acknowledged.elapsed();
        let read = reader.get_or_load_async(&1, fails).await.unwrap();
        if read == 2 {
            break;
        }
        assert!(asked < bound + Duration::from_millis(20), "{asked:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    let reader = builder::<u64>(&proxy.url(), MINUTE).build().unwrap();
    proxy.mend();
    wait_until_proven(&reader).await;
    assert_eq!(reader.get_or_load_async(&1, fails).await.unwrap(), 2);
    proxy.reset();
    writer.insert(1, 3).await;
    assert_eq!(reader.get_or_load_async(&1, fails).await.unwrap(), 2);
    let subscriptions = reader.health().subscriptions;
    proxy.mend();
    soon("the reader has subscribed again", || {
        let health = reader.health();
        health.subscriptions > subscriptions && health.proven_for.is_some()
    })
    .await;
    assert_eq!(reader.get_or_load_async(&1, fails).await.unwrap(), 3);
    assert_eq!(reader.health().gaps, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn l1_keeps_its_entries_over_a_lost_connection_if_nothing_was_invalidated_meanwhile() {
    let server = Server::start();
    let proxy = Proxy::start(server.address()).await;
    let reader = proven::<u64>(&proxy.url(), REALTIME).await;
    let writer = proven::<u64>(&server.url(), REALTIME).await;
    reader.get_or_load_async(&1, value).await.unwrap();
    let reconnect = async |meanwhile: bool| {
        let subscriptions = reader.health().subscriptions;
        proxy.reset();
        if meanwhile {
            assert_eq!(writer.invalidate(&2).await, Propagation::Acknowledged);
        }
        proxy.mend();
        soon("the reader has subscribed again", || {
            let health = reader.health();
            health.subscriptions > subscriptions && health.proven_for.is_some()
        })
        .await;
    };
    let before = reader.tier_stats();
    reconnect(false).await;
    assert_eq!(reader.get_or_load_async(&1, fails).await.unwrap(), 1);
    let after = reader.tier_stats();
    assert_eq!(after.l2_hits, before.l2_hits);
    assert_eq!(after.l1_invalidations, before.l1_invalidations);
    // Events are missed, so the reader does not know which entries are old.
    reconnect(true).await;
    assert_eq!(reader.get_or_load_async(&1, fails).await.unwrap(), 1);
    let after = reader.tier_stats();
    assert_eq!(after.l2_hits, before.l2_hits + 1);
    assert_eq!(after.l1_invalidations, before.l1_invalidations + 1);
    assert_eq!(reader.health().gaps, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_event_is_detected() {
    let server = Server::start();
    let reader = proven::<u64>(&server.url(), REALTIME).await;
    reader.get_or_load_async(&1, value).await.unwrap();
    assert_eq!(reader.get_or_load_async(&1, fails).await.unwrap(), 1);
    // Like an invalidation of the key whose event was lost.
    let state = b"hotset:{test}:state".as_slice();
    let _: u64 = server.command(&[b"SETRANGE", state, b"8", &2u64.to_be_bytes()]);
    let _: u64 = server.command(&[b"DEL", &server.entries("test")[0]]);
    soon("the gap is detected", || reader.health().gaps == 1).await;
    assert_eq!(reader.get_or_load_async(&1, |_| value(2)).await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_messages_on_the_channel_are_ignored() {
    let server = Server::start();
    let cache = proven::<u64>(&server.url(), REALTIME).await;
    cache.get_or_load_async(&1, value).await.unwrap();
    for message in [
        &b""[..],
        b"E",
        b"Eshort",
        b"F",
        b"B12345678901234567890123456",
        &[0xFF; 100],
    ] {
        let channel = b"hotset:{test}:events".as_slice();
        let _: u64 = server.command(&[b"PUBLISH", channel, message]);
    }
    let _ = cache.invalidate(&2).await;
    assert_eq!(cache.get_or_load_async(&1, fails).await.unwrap(), 1);
    assert_eq!(cache.health().gaps, 0);
}
