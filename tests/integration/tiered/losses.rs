//! Losses in a server that goes on: evicted keys, `FLUSHALL`, and subscribers that are disconnected because they are slow.

use super::plain_reads::calls_of;
use super::servers::{Cut, Proxy, Server, in_time, soon};
use super::{MINUTE, SHORT_DEADLINE, SHORT_HEARTBEAT, acknowledged, builder, fails, value};
use hotset::{Consistency, Loaded, TieredCache};
use std::sync::LazyLock;
use support::caches::wait_until_proven;

/// The classes that read from Redis.
const CLASSES: [Consistency; 3] = [Consistency::Realtime, MINUTE, Consistency::L2Only];

/// A tag whose event does not fit into the buffer of 16 KiB that each connection has.
static LONG_TAG: LazyLock<String> = LazyLock::new(|| "tag".repeat(10_000));

/// A reader that can be cut off, and a writer that cannot.
struct Pair {
    class: Consistency,
    proxy: Proxy,
    reader: TieredCache<u64, u64>,
    writer: TieredCache<u64, u64>,
}

impl Pair {
    /// Creates the caches. Both have the value 10 under the key 1, with the tag [`LONG_TAG`].
    async fn new(server: &Server, class: Consistency) -> Self {
        let proxy = Proxy::start(server.address()).await;
        let cache = |url: &str| {
            let cache = builder::<u64>(url, class).heartbeat(SHORT_HEARTBEAT);
            cache.deadline(SHORT_DEADLINE).build().unwrap()
        };
        let (reader, writer) = (cache(&proxy.url()), cache(&server.url()));
        for cache in [&reader, &writer] {
            wait_until_proven(cache).await;
            let load = |_| value(Loaded::new(10).tags([&**LONG_TAG]));
            let loaded = cache.get_or_load_entry_async(&1, load).await;
            assert_eq!(loaded.unwrap(), 10);
        }
        Self {
            class,
            proxy,
            reader,
            writer,
        }
    }

    /// Checks what the class promises after an acknowledged change: the writer does not get the old value, nor does the
    /// reader, unless its class is `Bounded`.
    async fn check_after_change(&self) {
        in_time(acknowledged(&self.writer, 1)).await;
        self.check_reads().await;
    }

    async fn check_reads(&self) {
        let read = self.writer.get_or_load_async(&1, |_| value(11)).await;
        assert_eq!(read.unwrap(), 11, "{:?}", self.class);
        if self.class != MINUTE {
            let read = self.reader.get_or_load_async(&1, |_| value(11)).await;
            assert_eq!(read.unwrap(), 11, "{:?}", self.class);
        }
    }

    /// Checks that both caches share values again.
    async fn check_recovery(&self) {
        self.proxy.mend();
        for cache in [&self.reader, &self.writer] {
            wait_until_proven(cache).await;
        }
        soon("the breaker closes", || !self.reader.health().breaker_open).await;
        in_time(acknowledged(&self.writer, 2)).await;
        self.writer.insert(2, 20).await;
        let read = self.reader.get_or_load_async(&2, fails).await;
        assert_eq!(read.unwrap(), 20, "{:?}", self.class);
    }
}

/// Returns the incarnation of the namespace. It is empty if there is no state.
fn incarnation(server: &Server) -> Vec<u8> {
    server.command(&[b"GETRANGE", b"hotset:{test}:state", b"0", b"7"])
}

/// Changes a setting of the server.
fn set(server: &Server, name: &str, value: &str) {
    let () = server.command(&[b"CONFIG", b"SET", name.as_bytes(), value.as_bytes()]);
}

/// Checks that each class holds after a loss in the server during which the reader is cut off.
async fn check_classes(lose: impl AsyncFn(&Server)) {
    for class in CLASSES {
        let server = Server::start();
        let pair = Pair::new(&server, class).await;
        assert!(pair.writer.invalidate_tag("other").await.is_acknowledged());
        pair.proxy.cut(Cut::All);
        lose(&server).await;
        pair.check_after_change().await;
        pair.check_recovery().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_hold_after_redis_has_evicted_everything() {
    check_classes(async |server| {
        let before = incarnation(server);
        set(server, "maxmemory-policy", "allkeys-random");
        set(server, "maxmemory", "1");
        soon("the state is evicted", || incarnation(server) != before).await;
        set(server, "maxmemory", "0");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_hold_after_single_keys_of_the_namespace_were_evicted() {
    for key in ["state", "readers", "tags"] {
        let name = format!("hotset:{{test}}:{key}");
        check_classes(async |server| {
            let _: u64 = server.command(&[b"DEL", name.as_bytes()]);
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_hold_after_flushall() {
    check_classes(async |server| server.command(&[b"FLUSHALL"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_hold_after_slow_subscribers_were_disconnected() {
    for class in CLASSES {
        let server = Server::start();
        let pair = Pair::new(&server, class).await;
        let before = calls_of(&server, "subscribe");
        // The event of the change is longer than the buffer that each connection has in any case.
        set(&server, "client-output-buffer-limit", "pubsub 1 0 0");
        let change = in_time(pair.writer.invalidate_tag(&LONG_TAG)).await;
        assert!(change.is_acknowledged());
        pair.check_reads().await;
        set(&server, "client-output-buffer-limit", "pubsub 0 0 0");
        soon("both have subscribed again", || {
            calls_of(&server, "subscribe") >= before + 2
        })
        .await;
        pair.check_recovery().await;
    }
}
