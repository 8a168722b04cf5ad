//! Connections that several caches share.

use super::plain_reads::calls_of;
use super::servers::{Server, in_time, soon};
use super::{HEARTBEAT, LONG_HEARTBEAT, SHORT_HEARTBEAT, builder, value};
use futures_util::future::join_all;
use futures_util::stream::{self, Stream, StreamExt};
use hotset::{
    BasicAuth, BuildError, Consistency, LocalCache, Propagation, RedisHub, RedisServer,
    StreamingCredentialsProvider, TieredCache, TieredCacheBuilder,
};
use std::borrow::Cow;
use std::collections::HashSet;
use std::pin::Pin;
use std::time::{Duration, Instant};
use support::caches::wait_until_proven;
use tokio::sync::watch;

/// Returns the builder of a cache of the class `Realtime` with a namespace of its own.
fn named(server: impl Into<RedisServer>, namespace: &str) -> TieredCacheBuilder<u64, String> {
    LocalCache::builder()
        .capacity(1_000)
        .redis(server, namespace)
        .consistency(Consistency::Realtime)
        .heartbeat(HEARTBEAT)
        .deadline(super::DEADLINE)
}

/// Returns the ids of the clients of a server, except for the one that asks.
fn clients(server: &Server) -> HashSet<u64> {
    let list: String = server.command(&[b"CLIENT", b"LIST"]);
    let others = list.lines().filter(|line| !line.contains("cmd=client"));
    let id = |line: &str| line.strip_prefix("id=")?.split(' ').next()?.parse().ok();
    others.filter_map(id).collect()
}

fn renewals(cache: &TieredCache<u64, String>) -> u64 {
    cache.tier_stats().calls.renew.times.count()
}

#[tokio::test(flavor = "multi_thread")]
async fn hundred_caches_share_three_connections_and_send_their_heartbeats_together() {
    let server = Server::start();
    let caches: Vec<_> = (0..100)
        .map(|number| named(server.url(), &number.to_string()).build().unwrap())
        .collect();
    join_all(caches.iter().map(wait_until_proven)).await;
    for cache in &caches {
        cache.insert(1, "small".into()).await;
        cache.insert(2, "large".repeat(10_000)).await;
        let loaded = cache.get_or_load_async(&3, |_| value("loaded".to_string()));
        loaded.await.unwrap();
    }
    assert_eq!(clients(&server).len(), 3);
    let total = || caches.iter().map(renewals).sum::<u64>();
    let (scripts, before) = (calls_of(&server, "evalsha"), total());
    soon("each cache has sent several heartbeats", || {
        total() >= before + 500
    })
    .await;
    let scripts = calls_of(&server, "evalsha") - scripts;
    let renewals = total() - before;
    assert!(
        scripts <= renewals / 10,
        "{scripts} scripts, {renewals} renewals"
    );
    for cache in &caches {
        let health = cache.health();
        assert_eq!((health.subscriptions, health.gaps), (1, 0));
    }
    drop(caches);
    soon("the connections are closed", || clients(&server).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousand_caches_start_and_share_their_connections() {
    let server = Server::start();
    let caches: Vec<_> = (0..1_000)
        .map(|number| named(server.url(), &number.to_string()).build().unwrap())
        .collect();
    in_time(join_all(caches.iter().map(wait_until_proven))).await;
    assert_eq!(clients(&server).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn cache_keeps_its_subscription_while_others_with_the_same_namespace_come_and_go() {
    let server = Server::start();
    let start = async |server: RedisServer| {
        let cache = named(server, "test").heartbeat(LONG_HEARTBEAT);
        let cache = cache.build().unwrap();
        wait_until_proven(&cache).await;
        cache
    };
    let staying = start(server.url().into()).await;
    let hub = RedisHub::connect(server.url()).unwrap();
    let writer = start(hub.into()).await;
    for round in 0..30 {
        let passing = start(server.url().into()).await;
        let load = |_| value(round.to_string());
        staying.get_or_load_async(&1, load).await.unwrap();
        passing.get_or_load_async(&1, load).await.unwrap();
        assert_eq!(passing.tier_stats().loads, 0);
        assert_eq!(writer.invalidate(&1).await, Propagation::Acknowledged);
        assert_eq!(passing.get(&1).await, None);
        assert_eq!(staying.get(&1).await, None);
    }
    let health = staying.health();
    assert_eq!((health.subscriptions, health.gaps), (1, 0));
    // The channel of events, and that of each cache that exists.
    soon("unused channels are left", || {
        let channels: Vec<String> = server.command(&[b"PUBSUB", b"CHANNELS"]);
        channels.len() == 3
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn caches_of_a_hub_share_its_connections_and_no_others() {
    let server = Server::start();
    let hub = RedisHub::connect(server.url()).unwrap();
    let one = named(&hub, "one").build().unwrap();
    let two = named(hub, "two").build().unwrap();
    join_all([&one, &two].map(wait_until_proven)).await;
    assert_eq!(clients(&server).len(), 2);
    let without_hub = named(server.url(), "one").build().unwrap();
    wait_until_proven(&without_hub).await;
    assert_eq!(clients(&server).len(), 4);
    drop((one, two));
    soon("the connections of the hub are closed", || {
        clients(&server).len() == 2
    })
    .await;
    assert_eq!(without_hub.invalidate(&1).await, Propagation::Acknowledged);
}

#[tokio::test(flavor = "multi_thread")]
async fn cache_without_rights_disturbs_no_other_cache_of_its_hub() {
    let server = Server::start();
    let user = [
        "ACL",
        "SETUSER",
        "shop",
        "on",
        ">secret",
        "+@all",
        "~hotset:{allowed*",
        "&*",
    ];
    let () = server.command(&user.map(str::as_bytes));
    let url = server.url().replace("://", "://shop:secret@");
    let cache = |namespace: &str| named(&*url, namespace).build().unwrap();
    let allowed: Vec<_> = (0..20)
        .map(|number| cache(&format!("allowed{number}")))
        .collect();
    let denied = cache("denied");
    // Its heartbeat is so long that only the denied cache could end its subscription.
    let patient = named(&*url, "allowed").heartbeat(LONG_HEARTBEAT);
    let patient = patient.build().unwrap();
    join_all(allowed.iter().chain([&patient]).map(wait_until_proven)).await;
    soon("the denied cache was refused", || {
        denied.tier_stats().calls.renew.failures > 0
    })
    .await;
    let total = || allowed.iter().map(renewals).sum::<u64>();
    let (before, connected) = ((total(), renewals(&denied)), clients(&server));
    let scripts = calls_of(&server, "evalsha");
    soon("all caches have sent heartbeats", || {
        total() >= before.0 + 100 && renewals(&denied) >= before.1 + 5
    })
    .await;
    let scripts = calls_of(&server, "evalsha") - scripts;
    let renewals = total() - before.0;
    assert!(
        scripts <= renewals / 4,
        "{scripts} scripts, {renewals} renewals"
    );
    soon("the denied cache has subscribed again", || {
        denied.health().subscriptions >= 2
    })
    .await;
    assert!(
        connected.is_subset(&clients(&server)),
        "a connection was closed"
    );
    assert_eq!(denied.health().proven_for, None);
    assert!(!denied.health().warnings.is_empty());
    for cache in allowed {
        assert_eq!(cache.invalidate(&1).await, Propagation::Acknowledged);
    }
    assert_eq!(patient.health().subscriptions, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn cache_with_a_short_deadline_does_not_close_the_connection_of_others() {
    let server = Server::start();
    let patient = named(server.url(), "patient").build().unwrap();
    let hasty = named(server.url(), "hasty").heartbeat(SHORT_HEARTBEAT);
    let hasty = hasty.deadline(Duration::from_millis(1)).build().unwrap();
    wait_until_proven(&patient).await;
    patient.insert(1, "value".into()).await;
    loop {
        let before = clients(&server);
        let failures = || hasty.tier_stats().calls.renew.failures;
        let failed_before = failures();
        let begun = Instant::now();
        server.pause();
        soon("a call of the hasty cache has timed out", || {
            failures() > failed_before
        })
        .await;
        server.resume();
        let key = failed_before + 2;
        let loaded = patient.get_or_load_async(&key, |_| value("loaded".to_string()));
        assert_eq!(in_time(loaded).await.unwrap(), "loaded");
        let is_unchanged = before.is_subset(&clients(&server));
        // A connection that is silent for longer may be closed.
        if begun.elapsed() < Duration::from_millis(900) {
            assert!(is_unchanged, "a connection was closed");
            return;
        }
    }
}

/// The password that a test sets.
struct Password(watch::Receiver<&'static str>);

impl StreamingCredentialsProvider for Password {
    fn subscribe(
        &self,
    ) -> Pin<Box<dyn Stream<Item = redis::RedisResult<BasicAuth>> + Send + 'static>> {
        let mut passwords = self.0.clone();
        passwords.mark_changed();
        let next = |mut passwords: watch::Receiver<&'static str>| async {
            passwords.changed().await.ok()?;
            let password = (*passwords.borrow_and_update()).to_string();
            Some((Ok(BasicAuth::new("shop".into(), password)), passwords))
        };
        stream::unfold(passwords, next).boxed()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hub_takes_its_credentials_from_a_provider_also_when_they_change() {
    let server = Server::start();
    let set = |rule: &str| {
        let user = [
            b"ACL".as_slice(),
            b"SETUSER",
            b"shop",
            b"on",
            b"~*",
            b"&*",
            b"+@all",
        ];
        let () = server.command(&[&user[..], &[rule.as_bytes()]].concat());
    };
    let (password, passwords) = watch::channel("first");
    let hub = RedisHub::builder(server.url()).credentials(Password(passwords));
    let cache = named(hub.build().unwrap(), "test");
    set(">first");
    let cache = cache.heartbeat(SHORT_HEARTBEAT).build().unwrap();
    wait_until_proven(&cache).await;
    set(">second");
    password.send_replace("second");
    soon("all connections know the new password", || {
        calls_of(&server, "auth") + calls_of(&server, "hello") >= 4
    })
    .await;
    set("<first");
    let _: u64 = server.command(&[b"CLIENT", b"KILL", b"SKIPME", b"yes"]);
    soon("the cache has subscribed again", || {
        cache.health().subscriptions >= 2 && cache.health().proven_for.is_some()
    })
    .await;
    cache.insert(1, "value".into()).await;
    assert_eq!(cache.get(&1).await.as_deref(), Some("value"));
}

#[test]
fn caches_of_two_runtimes_have_connections_of_their_own() {
    let runtime = || {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.worker_threads(1).enable_all().build().unwrap()
    };
    let (ending, staying) = (runtime(), runtime());
    let server = Server::start();
    let start = async || {
        let cache = named(server.url(), "test").build().unwrap();
        wait_until_proven(&cache).await;
        cache
    };
    let first = ending.block_on(start());
    let second = staying.block_on(start());
    drop(ending);
    staying.block_on(async {
        assert_eq!(second.invalidate(&1).await, Propagation::Acknowledged);
        let loaded = in_time(second.get_or_load_async(&2, |_| value("loaded".to_string())));
        assert_eq!(loaded.await.unwrap(), "loaded");
    });
    drop(first);
}

#[tokio::test]
async fn redis_is_given_as_any_string_or_as_a_hub() {
    let url = String::from("redis://127.0.0.1:1/");
    let hub = RedisHub::connect(&url).unwrap();
    let _: [TieredCacheBuilder<u64, u64>; 7] = [
        builder(&url, Consistency::Realtime),
        LocalCache::builder().redis(&*url, "test"),
        LocalCache::builder().redis(&url, "test"),
        LocalCache::builder().redis(Cow::from(&*url), "test"),
        LocalCache::builder().redis(&hub, "test"),
        LocalCache::builder().redis(hub.clone(), "test"),
        LocalCache::builder().redis(RedisServer::from(&hub), "test"),
    ];
    let error = RedisHub::connect("http://localhost").unwrap_err();
    assert!(matches!(error, BuildError::RedisUrl(_)));
    assert!(!format!("{hub:?}{:?}", RedisServer::from(url)).contains("127.0.0.1"));
}
