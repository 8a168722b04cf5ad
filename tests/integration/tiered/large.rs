//! Large values together with small values over a slow link, and values and keys that Redis refuses.

use super::servers::Server;
use super::servers::slow_link::SlowLink;
use super::{LONG_HEARTBEAT, builder, forget_lost_readers, proven, value};
use futures_util::future::join_all;
use hotset::{Consistency, Propagation, TieredCache, Warning};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};
use support::caches::wait_until_proven;

/// Bandwidth in bytes per second, at which all large values together take twice the deadline. It is three times the
/// throughput below which a connection counts as broken.
const SLOW_BANDWIDTH: u32 = 3 << 20;

/// The number of attempts of a test on a machine that is too busy.
const ATTEMPTS: u32 = 3;

/// The deadline of the cache over the slow link.
const LINK_DEADLINE: Duration = Duration::from_secs(2);

/// The size of a large value, in bytes.
const LARGE_SIZE: usize = 200_000;
const LARGE_KEYS: u64 = 64;
const SMALL_KEYS: u64 = 100;

/// A server that has all large and all small keys, and a cache over a slow link to it that asks Redis for each key.
struct SlowServer {
    server: Server,
    _link: SlowLink,
    cache: TieredCache<u64, String>,
    /// `true` when the large values were transferred.
    done: AtomicBool,
}

/// Returns a large value that contains its key.
fn large(key: u64) -> String {
    format!("{key:8}").repeat(LARGE_SIZE / 8)
}

fn small(key: u64) -> String {
    key.to_string()
}

impl SlowServer {
    async fn start() -> Self {
        let server = Server::start();
        let link = SlowLink::start(server.address(), SLOW_BANDWIDTH).await;
        let builder = builder(&link.url(), Consistency::L2Only).deadline(LINK_DEADLINE);
        let cache = builder.build().unwrap();
        wait_until_proven(&cache).await;
        let slow = Self {
            server,
            _link: link,
            cache,
            done: AtomicBool::new(false),
        };
        slow.fill().await;
        slow
    }

    /// Stores all large and all small keys.
    async fn fill(&self) {
        let cache = proven(&self.server.url(), Consistency::L2Only).await;
        let large = (0..LARGE_KEYS).map(|key| (key, large(key)));
        let small = (1_000..1_000 + SMALL_KEYS).map(|key| (key, small(key)));
        for (key, value) in large.chain(small) {
            assert_eq!(cache.insert(key, value).await, Propagation::Acknowledged);
        }
    }

    /// Reads small keys until the large ones were transferred. Returns the number of reads, or `None` if a loader was
    /// called or the circuit was open.
    async fn read_small(&self) -> Option<u64> {
        let (mut reads, mut failed) = (0, false);
        while !self.done.load(SeqCst) {
            let key = 1_000 + reads % SMALL_KEYS;
            let load = |_| value(String::new());
            let found = self.cache.get_or_load_async(&key, load).await.unwrap();
            failed |= found != small(key) || self.cache.health().breaker_open;
            reads += 1;
        }
        (!failed).then_some(reads)
    }
}

/// Runs an attempt until it returns `true`. An attempt may fail on a machine that is so busy that storing the values
/// without the link takes more than a quarter of the time that the link takes: then not only the link limits the
/// connection.
///
/// # Panics
///
/// Panics if an attempt fails on another machine.
async fn some_attempt(mut attempt: impl AsyncFnMut(&SlowServer) -> bool) {
    for _ in 0..ATTEMPTS {
        let slow = SlowServer::start().await;
        if attempt(&slow).await {
            return;
        }
        let begun = Instant::now();
        slow.fill().await;
        let (took, bytes) = (begun.elapsed(), LARGE_KEYS * LARGE_SIZE as u64);
        let over_link = Duration::from_secs(bytes) / SLOW_BANDWIDTH;
        assert!(took > over_link / 4, "stored without the link in {took:?}");
    }
    println!("the machine is too busy for this test");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reads_of_large_values_over_a_slow_link_leave_the_circuit_closed() {
    some_attempt(async |slow| {
        let loads = AtomicU64::new(0);
        let read_large = |task: u64| {
            let (slow, loads) = (&slow, &loads);
            async move {
                for round in 0..2 {
                    let key = (task + 7 * round) % LARGE_KEYS;
                    let load = |key| async move {
                        loads.fetch_add(1, SeqCst);
                        Ok::<_, &str>(large(key))
                    };
                    let found = slow.cache.get_or_load_async(&key, load).await.unwrap();
                    assert!(found == large(key), "the value of {key}");
                }
            }
        };
        let all_large = async {
            join_all((0..LARGE_KEYS).map(read_large)).await;
            slow.done.store(true, SeqCst);
        };
        let ((), small_reads) = tokio::join!(all_large, slow.read_small());
        let stats = slow.cache.tier_stats();
        println!("{small_reads:?} small reads, {loads:?} loads, {stats:?}");
        let Some(small_reads) = small_reads.filter(|_| loads.load(SeqCst) <= 2) else {
            return false;
        };
        assert_eq!(stats.l2_hits + stats.loads, small_reads + 2 * LARGE_KEYS);
        small_reads > 10
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn batch_of_large_values_over_a_slow_link_is_served_by_redis() {
    some_attempt(async |slow| {
        let keys: Vec<u64> = (0..LARGE_KEYS).chain(1_000..1_000 + SMALL_KEYS).collect();
        let batch = async {
            let load = |missing: Vec<u64>| async {
                let values = missing.into_iter().map(|key| (key, String::new()));
                Ok::<_, &str>(values.collect::<Vec<_>>())
            };
            let found = slow.cache.get_many_or_load_async(&keys, load).await;
            slow.done.store(true, SeqCst);
            found.unwrap()
        };
        let (found, small_reads) = tokio::join!(batch, slow.read_small());
        let loads = slow.cache.tier_stats().loads;
        println!("{small_reads:?} small reads, {loads} loads");
        if loads > 0 {
            return false;
        }
        for (key, found) in keys.iter().zip(found) {
            let expected = if *key < LARGE_KEYS {
                large(*key)
            } else {
                small(*key)
            };
            assert!(found == Some(expected), "the value of {key}");
        }
        small_reads.is_some()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fills_and_writes_of_large_values_over_a_slow_link_leave_the_circuit_closed() {
    some_attempt(async |slow| {
        let queued = AtomicU64::new(0);
        let write = |task: u64| {
            let (slow, queued) = (&slow, &queued);
            async move {
                let key = LARGE_KEYS + task;
                if task.is_multiple_of(2) {
                    let load = |key| value(large(key));
                    slow.cache.get_or_load_async(&key, load).await.unwrap();
                } else if slow.cache.insert(key, large(key)).await == Propagation::Queued {
                    queued.fetch_add(1, SeqCst);
                }
            }
        };
        let all = async {
            join_all((0..LARGE_KEYS).map(write)).await;
            slow.done.store(true, SeqCst);
        };
        let ((), small_reads) = tokio::join!(all, slow.read_small());
        let missing = 2 * LARGE_KEYS + SMALL_KEYS - slow.server.entries("test").len() as u64;
        let stats = slow.cache.tier_stats();
        println!("{small_reads:?} small reads, {queued:?} queued, {missing} missing, {stats:?}");
        let is_complete = queued.load(SeqCst) == 0 && missing <= 3;
        is_complete && small_reads.is_some_and(|reads| reads > 10)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn value_beyond_proto_max_bulk_len_is_not_sent() {
    const LIMIT: &str = "1048576";
    let server = Server::start_with(&["--proto-max-bulk-len", LIMIT]);
    let cache: TieredCache<u64, String> = builder(&server.url(), Consistency::Realtime)
        .max_value_size(64 << 20)
        .heartbeat(LONG_HEARTBEAT)
        .build()
        .unwrap();
    wait_until_proven(&cache).await;
    forget_lost_readers(&server.url());
    let beyond = "beyond".repeat(1 << 19);
    // The circuit breaker remembers six calls.
    for key in 0..8 {
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
    assert_eq!(cache.tier_stats().unstorable, 16);
    assert_eq!(cache.tier_stats().l2_failures, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn value_beyond_an_unknown_proto_max_bulk_len_leaves_the_circuit_closed() {
    let server = Server::start_with(&["--proto-max-bulk-len", "1048576"]);
    let _: String = server.command(&[b"ACL", b"SETUSER", b"default", b"-config"]);
    let cache: TieredCache<u64, String> = builder(&server.url(), Consistency::Realtime)
        .max_value_size(64 << 20)
        .heartbeat(LONG_HEARTBEAT)
        .build()
        .unwrap();
    wait_until_proven(&cache).await;
    forget_lost_readers(&server.url());
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
    let names =
        ["state", "readers", "tags", "settings"].map(|name| format!("~hotset:{{test}}:{name}"));
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
