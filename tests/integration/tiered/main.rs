//! Tests of `TieredCache` with real servers.

mod access;
mod api;
mod checker;
mod coherence;
mod config;
mod corners;
mod failover;
mod group_commit;
mod history;
mod hub;
mod large;
mod layout_change;
mod liveness;
mod losses;
mod lost_batches;
mod mixed;
mod outage;
mod partitions;
mod paths;
mod plain_reads;
mod processes;
mod reconnect;
mod refresh;
mod replica_reads;
mod rollout;
mod statistics;
mod traces;
mod unshared;
mod votes;
mod warm;
mod worker;

use hotset::{
    Consistency, LocalCache, LocalCacheBuilder, Propagation, RedisHub, RedisServer, RemoteValue,
    Schema, TieredCache, TieredCacheBuilder,
};
use std::time::{Duration, Instant};
use support::caches::wait_until_proven;
use support::servers::{self, TEST_TIMEOUT};

/// The heartbeat of most caches. Their read leases do not end during a test, and no busy machine makes their
/// subscriptions time out.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The heartbeat of caches in tests that need much time of the processor between two answers, or in which a late
/// heartbeat would hide a fault.
const LONG_HEARTBEAT: Duration = Duration::from_secs(60);

/// The heartbeat of caches whose read lease ends in a test, or whose server fails.
const SHORT_HEARTBEAT: Duration = Duration::from_millis(100);

/// The deadline of most caches, whose server always answers.
const DEADLINE: Duration = Duration::from_secs(30);

/// The deadline of caches whose server does not answer for a while.
const SHORT_DEADLINE: Duration = Duration::from_millis(500);

/// The lease of a load whose end no test awaits. It is longer than the longest wait of a test, so a test fails if a
/// caller waits until it ends.
const LONG_LEASE: Duration = Duration::from_secs(3_600);

/// Returns the builder for most tests.
fn builder<V: RemoteValue + Schema>(
    url: &str,
    consistency: Consistency,
) -> TieredCacheBuilder<u64, V> {
    builder_with(url, consistency, |local| local)
}

/// Returns the builder for tests that change the settings of L1.
fn builder_with<V: RemoteValue + Schema>(
    url: &str,
    consistency: Consistency,
    set_up: impl FnOnce(LocalCacheBuilder<u64, V>) -> LocalCacheBuilder<u64, V>,
) -> TieredCacheBuilder<u64, V> {
    let local = LocalCache::builder()
        .capacity(10_000)
        .time_to_live(Duration::from_secs(300));
    set_up(local)
        .redis(own_connections(url), "test")
        .consistency(consistency)
        .heartbeat(HEARTBEAT)
        .deadline(DEADLINE)
}

/// Returns a server whose connections no other cache shares, so that each cache of a test is like one of a process of
/// its own. A URL with TLS is returned as it is, because its certificates belong to the cache.
fn own_connections(url: &str) -> RedisServer {
    let has_tls = url.starts_with("rediss");
    let hub = (!has_tls).then(|| RedisHub::connect(url).ok()).flatten();
    // An invalid URL is an error of the cache.
    hub.map_or_else(|| url.into(), RedisServer::from)
}

/// The class `Bounded` with a bound of one minute.
const MINUTE: Consistency = Consistency::Bounded(Duration::from_secs(60));

/// Returns a cache whose invalidations are proven to arrive.
async fn proven<V: RemoteValue + Schema>(
    url: &str,
    consistency: Consistency,
) -> TieredCache<u64, V> {
    let cache = builder(url, consistency).build().unwrap();
    wait_until_proven(&cache).await;
    forget_lost_readers(url);
    cache
}

/// Removes the entry for readers of an earlier time, which a new namespace has because it may have lost them. Without
/// it, the first change need not wait until their read leases have ended. Does nothing if the URL names several servers.
fn forget_lost_readers(url: &str) {
    if !url.starts_with("redis://") {
        return;
    }
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_connection().unwrap();
    let mut call = redis::cmd("ZREM");
    let _: u64 = call
        .arg("hotset:{test}:readers")
        .arg("")
        .query(&mut connection)
        .unwrap();
}

/// Sets the remaining time to live of the only entry. A value is followed by its deadline, by the server's clock.
fn set_time_left(server: &servers::Server, left: Duration) {
    let entries = server.entries("test");
    let [entry] = &entries[..] else {
        panic!("one entry")
    };
    let left = u64::try_from(left.as_millis()).unwrap();
    let set: i64 = server.command(&[b"PEXPIRE", entry, left.to_string().as_bytes()]);
    assert_eq!(set, 1);
    let value: Vec<u8> = server.command(&[b"GET", entry]);
    if value.starts_with(b"hsV") {
        let (seconds, micros): (u64, u64) = server.command(&[b"TIME"]);
        let deadline = (seconds * 1_000 + micros / 1_000 + left).to_be_bytes();
        let at = (value.len() - deadline.len()).to_string();
        let _: u64 = server.command(&[b"SETRANGE", entry, at.as_bytes(), &deadline]);
    }
}

/// A loader that must not be called or whose error is expected.
async fn fails(_: u64) -> Result<u64, &'static str> {
    Err("not to be loaded")
}

/// A loader that returns `value`.
async fn value<V>(value: V) -> Result<V, &'static str> {
    Ok(value)
}

/// Invalidates a key until an invalidation is acknowledged.
async fn acknowledged(cache: &TieredCache<u64, u64>, key: u64) {
    let begun = Instant::now();
    while cache.invalidate(&key).await != Propagation::Acknowledged {
        assert!(begun.elapsed() < TEST_TIMEOUT, "{:?}", cache.health());
        // An open breaker refuses calls at once, so this pauses between them.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
