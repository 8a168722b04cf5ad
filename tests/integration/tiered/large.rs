//! Large values together with small values over a slow link, and values and keys that Redis refuses.

use super::servers::Server;
use super::servers::slow_link::SlowLink;
use super::{builder, proven, value};
use futures_util::future::join_all;
use hotset::{Consistency, Propagation, TieredCache, Warning};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use support::caches::wait_until_proven;

/// Bandwidth in bytes per second, at which all large values together take twice the deadline. It is three times the
/// throughput below which a connection counts as broken, so that a busy machine does not fall below that.
const SLOW_BANDWIDTH: u32 = 3 << 20;
const DEADLINE: Duration = Duration::from_secs(2);

/// The size of a large value, in bytes.
const LARGE_SIZE: usize = 200_000;
const LARGE_KEYS: u64 = 64;
const SMALL_KEYS: u64 = 100;

/// Returns a large value that contains its key.
fn large(key: u64) -> String {
    format!("{key:8}").repeat(LARGE_SIZE / 8)
}

fn small(key: u64) -> String {
    key.to_string()
}

/// Starts a server that has all large and all small keys, and a cache over a slow link to it that asks Redis for each
/// key.
async fn over_slow_link() -> (Server, SlowLink, TieredCache<u64, String>) {
    let server = Server::start();
    fill(&server).await;
    let link = SlowLink::start(server.address(), SLOW_BANDWIDTH).await;
    let builder = builder(&link.url(), Consistency::L2Only).deadline(DEADLINE);
    let cache = builder.build().unwrap();
    wait_until_proven(&cache).await;
    (server, link, cache)
}

/// Stores all large and all small keys.
async fn fill(server: &Server) {
    let cache = proven(&server.url(), Consistency::L2Only).await;
    for key in 0..LARGE_KEYS {
        assert_eq!(
            cache.insert(key, large(key)).await,
            Propagation::Acknowledged
        );
    }
    for key in 1_000..1_000 + SMALL_KEYS {
        assert_eq!(
            cache.insert(key, small(key)).await,
            Propagation::Acknowledged
        );
    }
}

/// Reads small keys until `done` and checks that none runs its loader. Returns the number of reads.
async fn read_small(cache: &TieredCache<u64, String>, done: &AtomicBool) -> u64 {
    let mut reads = 0;
    while !done.load(SeqCst) {
        let key = 1_000 + reads % SMALL_KEYS;
        let load = |_| value(String::new());
        let found = cache.get_or_load_async(&key, load).await.unwrap();
        assert_eq!(
            found,
            small(key),
            "the loader was called: {:?}",
            cache.health()
        );
        assert!(!cache.health().breaker_open, "{:?}", cache.health());
        reads += 1;
    }
    reads
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reads_of_large_values_over_a_slow_link_leave_the_circuit_closed() {
    let (_server, _link, cache) = over_slow_link().await;
    let (loads, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let read_large = |task: u64| {
        let (cache, loads) = (&cache, &loads);
        async move {
            for round in 0..2 {
                let key = (task + 7 * round) % LARGE_KEYS;
                let load = |key| async move {
                    loads.fetch_add(1, SeqCst);
                    Ok::<_, &str>(large(key))
                };
                let found = cache.get_or_load_async(&key, load).await.unwrap();
                assert!(found == large(key), "the value of {key}");
            }
        }
    };
    let all_large = async {
        join_all((0..LARGE_KEYS).map(read_large)).await;
        done.store(true, SeqCst);
    };
    let ((), small_reads) = tokio::join!(all_large, read_small(&cache, &done));
    let stats = cache.tier_stats();
    assert!(
        loads.load(SeqCst) <= 2,
        "{} of 128 were loaded: {stats:?} {:?}",
        loads.load(SeqCst),
        cache.health()
    );
    assert_eq!(stats.l2_hits + stats.loads, small_reads + 2 * LARGE_KEYS);
    assert!(small_reads > 10, "{small_reads} small keys were read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn batch_of_large_values_over_a_slow_link_is_served_by_redis() {
    let (_server, _link, cache) = over_slow_link().await;
    let done = AtomicBool::new(false);
    let keys: Vec<u64> = (0..LARGE_KEYS).chain(1_000..1_000 + SMALL_KEYS).collect();
    let batch = async {
        let load = |_: Vec<u64>| async { Err::<Vec<(u64, String)>, _>("not to be loaded") };
        let found = cache.get_many_or_load_async(&keys, load).await.unwrap();
        done.store(true, SeqCst);
        found
    };
    let (found, _) = tokio::join!(batch, read_small(&cache, &done));
    for (key, found) in keys.iter().zip(found) {
        let expected = if *key < LARGE_KEYS {
            large(*key)
        } else {
            small(*key)
        };
        assert!(found == Some(expected), "the value of {key}");
    }
    assert_eq!(cache.tier_stats().loads, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fills_and_writes_of_large_values_over_a_slow_link_leave_the_circuit_closed() {
    let (server, _link, cache) = over_slow_link().await;
    let done = AtomicBool::new(false);
    let write = |task: u64| {
        let cache = &cache;
        async move {
            let key = LARGE_KEYS + task;
            if task.is_multiple_of(2) {
                let load = |key| value(large(key));
                cache.get_or_load_async(&key, load).await.unwrap();
            } else {
                let written = cache.insert(key, large(key)).await;
                let health = cache.health();
                assert_ne!(written, Propagation::Queued, "{health:?}");
            }
        }
    };
    let all = async {
        join_all((0..LARGE_KEYS).map(write)).await;
        done.store(true, SeqCst);
    };
    let ((), small_reads) = tokio::join!(all, read_small(&cache, &done));
    assert!(small_reads > 10, "{small_reads} small keys were read");
    // On a busy machine a few may be late.
    let missing = 2 * LARGE_KEYS + SMALL_KEYS - server.entries("test").len() as u64;
    assert!(missing <= 3, "{missing}, {:?}", cache.tier_stats());
}

#[tokio::test(flavor = "multi_thread")]
async fn value_beyond_proto_max_bulk_len_is_not_sent() {
    const LIMIT: &str = "1048576";
    let server = Server::start_with(&["--proto-max-bulk-len", LIMIT]);
    let cache: TieredCache<u64, String> = builder(&server.url(), Consistency::Realtime)
        .max_value_size(64 << 20)
        .build()
        .unwrap();
    wait_until_proven(&cache).await;
    let beyond = "beyond".repeat(1 << 19);
    for key in 0..20 {
        assert_eq!(
            cache.insert(key, beyond.clone()).await,
            Propagation::NotShared
        );
        let other = 100 + key;
        let loaded = cache.get_or_load_async(&other, |_| value(beyond.clone()));
        assert_eq!(loaded.await.unwrap().len(), beyond.len());
        for key in [key, other] {
            assert!(cache.get(&key).await.is_some(), "it is cached in L1");
        }
    }
    let health = cache.health();
    assert!(
        !health.breaker_open && health.last_error.is_none(),
        "{health:?}"
    );
    assert_eq!(cache.tier_stats().unstorable, 40);
    assert_eq!(cache.tier_stats().l2_failures, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn value_beyond_an_unknown_proto_max_bulk_len_leaves_the_circuit_closed() {
    let server = Server::start_with(&["--proto-max-bulk-len", "1048576"]);
    let _: String = server.command(&[b"ACL", b"SETUSER", b"default", b"-config"]);
    let cache: TieredCache<u64, String> = builder(&server.url(), Consistency::Realtime)
        .max_value_size(64 << 20)
        .build()
        .unwrap();
    wait_until_proven(&cache).await;
    let beyond = "beyond".repeat(1 << 20);
    for key in 0..8 {
        let (inserted, loaded, small) = (key, 100 + key, 200 + key);
        let written = cache.insert(inserted, beyond.clone()).await;
        assert_eq!(written, Propagation::NotShared);
        let load = |_| value(beyond.clone());
        cache.get_or_load_async(&loaded, load).await.unwrap();
        for key in [inserted, loaded] {
            assert!(cache.get(&key).await.is_some(), "it is cached in L1");
        }
        assert!(!cache.health().breaker_open, "{:?}", cache.health());
        let written = cache.insert(small, "small".into()).await;
        assert_eq!(written, Propagation::Acknowledged);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_redis_refuses_do_not_fail_others_of_their_batch() {
    let server = Server::start();
    // The names of these keys in Redis are printable, as ACL patterns have to be.
    let keys: Vec<u64> = (100..110).collect();
    let load =
        |missing: Vec<u64>| async { Ok::<_, &str>(missing.into_iter().map(|key| (key, key))) };
    let one = proven::<u64>(&server.url(), Consistency::L2Only).await;
    one.get_many_or_load_async(&keys, load).await.unwrap();
    // This user may not touch three of them.
    let entries = server.entries("test");
    let names = ["state", "readers"].map(|name| format!("~hotset:{{test}}:{name}"));
    let allowed = entries[3..].iter().map(|entry| [b"~", &entry[..]].concat());
    let rights: Vec<Vec<u8>> = ["ACL", "SETUSER", "app", "on", ">secret", "&*", "+@all"]
        .map(|word| word.as_bytes().to_vec())
        .into_iter()
        .chain(names.map(String::into_bytes))
        .chain(allowed)
        .collect();
    let _: String = server.command(&rights.iter().map(|word| &word[..]).collect::<Vec<_>>());
    let url = server.url().replace("://", "://app:secret@");
    let limited = proven::<u64>(&url, Consistency::L2Only).await;
    let loaded = AtomicU64::new(0);
    let load = |missing: Vec<u64>| {
        loaded.fetch_add(missing.len() as u64, SeqCst);
        async { Ok::<_, &str>(missing.into_iter().map(|key| (key, key))) }
    };
    let found = limited.get_many_or_load_async(&keys, load).await.unwrap();
    assert_eq!(found, keys.iter().copied().map(Some).collect::<Vec<_>>());
    assert_eq!(loaded.load(SeqCst), 3);
    assert_eq!(limited.tier_stats().l2_hits, 7);
    let warnings = limited.health().warnings;
    assert!(
        matches!(warnings[..], [Warning::Forbidden(_)]),
        "{warnings:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn list_under_the_name_of_an_entry_is_replaced() {
    let server = Server::start();
    let cache = proven::<u64>(&server.url(), Consistency::L2Only).await;
    cache.insert(1, 10).await;
    let entry = &server.entries("test")[0];
    let spoil = || {
        let _: u64 = server.command(&[b"DEL", entry]);
        let _: u64 = server.command(&[b"RPUSH", entry, b"not a value"]);
    };
    spoil();
    assert_eq!(cache.get(&1).await, None);
    assert_eq!(
        cache.get_or_load_async(&1, |_| value(11)).await.unwrap(),
        11
    );
    assert_eq!(cache.get(&1).await, Some(11));
    spoil();
    assert_eq!(cache.insert(1, 12).await, Propagation::Acknowledged);
    assert_eq!(cache.get(&1).await, Some(12));
    spoil();
    assert_eq!(cache.invalidate(&1).await, Propagation::Acknowledged);
    assert_eq!(server.entries("test").len(), 0);
    assert_eq!(cache.tier_stats().l2_failures, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_right_to_read_entries_is_a_warning() {
    let server = Server::start();
    let rights = [
        "ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "-get",
    ];
    let () = server.command(&rights.map(str::as_bytes));
    let url = server.url().replace("://", "://app:secret@");
    let cache = proven::<u64>(&url, Consistency::L2Only).await;
    assert_eq!(
        cache.get_or_load_async(&1, |_| value(10)).await.unwrap(),
        10
    );
    let warnings = cache.health().warnings;
    // The value is stored in the background, by a script that reads the entry too.
    let is_forbidden = |warning: &Warning| matches!(warning, Warning::Forbidden(_));
    assert!(
        !warnings.is_empty() && warnings.iter().all(is_forbidden),
        "{warnings:?}"
    );
}
