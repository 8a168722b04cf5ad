//! Codecs that a user writes or chooses.

use crate::servers::Server;
use crate::{MINUTE, Rate};
use hotset::{
    Codec, CodecError, Consistency, LocalCache, MessagePack, Postcard, Schema, Schemas,
    TieredCache, TieredCacheBuilder, WarmOptions, Warning,
};
use serde::{Serialize, de::DeserializeOwned};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use support::caches::wait_until_proven;

/// A readable format.
struct Json;

impl<K, V> Codec<K, V> for Json
where
    K: Serialize + DeserializeOwned,
    V: Serialize + DeserializeOwned,
{
    fn name(&self) -> &'static str {
        "json/1"
    }

    fn encode(&self, key: &K, value: &V) -> Result<Vec<u8>, CodecError> {
        serde_json::to_vec(&(key, value)).map_err(CodecError::new)
    }

    fn decode(&self, bytes: &[u8]) -> Result<(K, V), CodecError> {
        serde_json::from_slice(bytes).map_err(CodecError::new)
    }
}

/// A stand-in for a cipher with a nonce: the same value has another encoding each time.
#[derive(Default)]
struct Masked {
    nonce: AtomicU8,
}

impl<K, V> Codec<K, V> for Masked
where
    MessagePack: Codec<K, V>,
{
    fn name(&self) -> &'static str {
        "masked/1"
    }

    fn encode(&self, key: &K, value: &V) -> Result<Vec<u8>, CodecError> {
        let nonce = self.nonce.fetch_add(1, Relaxed) | 0x80;
        let plain = MessagePack.encode(key, value)?;
        let masked = plain.into_iter().map(|byte| byte ^ nonce);
        Ok(std::iter::once(nonce).chain(masked).collect())
    }

    fn decode(&self, bytes: &[u8]) -> Result<(K, V), CodecError> {
        let (nonce, masked) = bytes
            .split_first()
            .ok_or_else(|| CodecError::new("empty"))?;
        let plain: Vec<u8> = masked.iter().map(|byte| byte ^ nonce).collect();
        MessagePack.decode(&plain)
    }
}

/// A codec without serde that loses the text after the first newline.
struct FirstLine;

impl Codec<u64, String> for FirstLine {
    fn name(&self) -> &'static str {
        "first line"
    }

    fn encode(&self, key: &u64, value: &String) -> Result<Vec<u8>, CodecError> {
        let line = value.lines().next().unwrap_or_default();
        Ok(format!("{key}\n{line}").into_bytes())
    }

    fn decode(&self, bytes: &[u8]) -> Result<(u64, String), CodecError> {
        let text = std::str::from_utf8(bytes).map_err(CodecError::new)?;
        let (key, line) = text
            .split_once('\n')
            .ok_or_else(|| CodecError::new("no newline"))?;
        Ok((key.parse().map_err(CodecError::new)?, line.to_owned()))
    }
}

fn build<V>(
    server: &Server,
    with: impl FnOnce(TieredCacheBuilder<u64, V>) -> TieredCacheBuilder<u64, V>,
) -> TieredCache<u64, V>
where
    V: hotset::RemoteValue + Schema,
{
    let builder = LocalCache::builder().capacity(100);
    let builder = builder.redis(server.url(), "test");
    let builder = builder.deadline(std::time::Duration::from_secs(30));
    with(builder.consistency(Consistency::L2Only))
        .build()
        .unwrap()
}

/// Returns the envelope of a value in Redis.
async fn stored(server: &Server, key: u64) -> Vec<u8> {
    let client = redis::Client::open(server.url()).unwrap();
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None);
    let connection = client.get_multiplexed_async_connection_with_config(&config);
    let mut connection = connection.await.unwrap();
    let mut name = b"hotset:{test}:e:".to_vec();
    name.extend(rmp_serde::to_vec_named(&key).unwrap());
    let mut get = redis::cmd("GET");
    get.arg(&name).query_async(&mut connection).await.unwrap()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

type Value = HashMap<String, HashSet<u32>>;

fn value() -> Value {
    let word = |number: u32| (format!("word {number}"), (0..number).collect());
    (0..20).map(word).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn value_of_another_codec_is_a_miss() {
    let server = Server::start();
    let caches = [
        build::<Value>(&server, |builder| builder),
        build(&server, |builder| builder.codec(Json)),
        build(&server, |builder| builder.codec(Masked::default())),
        build(&server, |builder| builder.codec(Postcard)),
    ];
    for (key, cache) in (300..).zip(&caches) {
        // The iteration orders of equal maps differ, and so do their encodings.
        for _ in 0..10 {
            cache.insert(key, value()).await;
            assert_eq!(cache.get(&key).await, Some(value()));
        }
        assert_eq!(cache.tier_stats().altered, 0);
    }
    for (key, cache) in (300..).zip(&caches) {
        let others = caches.iter().filter(|other| !std::ptr::eq(*other, cache));
        for other in others {
            let before = other.tier_stats().unreadable;
            assert_eq!(other.get(&key).await, None);
            assert_eq!(other.tier_stats().unreadable, before + 1);
        }
    }
    assert!(contains(&stored(&server, 300).await, b"word 7"));
}

#[tokio::test(flavor = "multi_thread")]
async fn map_in_shadow_mode_is_the_same_in_any_order() {
    let server = Server::start();
    let cache = build::<Value>(&server, |builder| builder.shadow(true));
    for _ in 0..20 {
        let load = |_| async { Ok::<_, ()>(value()) };
        assert_eq!(cache.get_or_load_async(&1, load).await.unwrap(), value());
    }
    let stats = cache.tier_stats();
    assert_eq!((stats.fills, stats.shadow_same), (1, 19));
    assert_eq!(stats.shadow_different, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn envelope_contains_the_output_of_the_codec() {
    let server = Server::start();
    let json = build::<String>(&server, |builder| builder.codec(Json));
    json.insert(7, "12.50".into()).await;
    assert!(contains(&stored(&server, 7).await, br#"[7,"12.50"]"#));
    let masked = build::<String>(&server, |builder| builder.codec(Masked::default()));
    masked.insert(8, "12.50".into()).await;
    assert!(!contains(&stored(&server, 8).await, b"12.50"));
    assert_eq!(masked.get(&8).await.as_deref(), Some("12.50"));
    // Any reader of MessagePack can read the default.
    let default = build::<String>(&server, |builder| builder);
    default.insert(9, "12.50".into()).await;
    let payload = rmp_serde::to_vec_named(&(9, "12.50")).unwrap();
    assert!(contains(&stored(&server, 9).await, &payload));
}

#[tokio::test(flavor = "multi_thread")]
async fn value_that_its_codec_truncates_is_not_shared() {
    let server = Server::start();
    let cache = build::<String>(&server, |builder| builder.codec(FirstLine));
    cache.insert(1, "one line".into()).await;
    cache.insert(2, "two\nlines".into()).await;
    assert_eq!(cache.get(&1).await.as_deref(), Some("one line"));
    assert_eq!(cache.get(&2).await, None);
    assert_eq!(cache.tier_stats().altered, 1);
    let expected = Warning::AlteredValues {
        codec: "first line".into(),
        schema: "String".into(),
    };
    assert!(cache.health().warnings.contains(&expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn value_that_postcard_alters_is_not_shared() {
    let server = Server::start();
    let cache = build::<Rate>(&server, |builder| builder.codec(Postcard));
    let whole = Rate {
        first: Some(1),
        amount: 2,
        last: Some(3),
    };
    let partial = Rate {
        first: None,
        amount: 0,
        last: Some(0),
    };
    cache.insert(1, whole.clone()).await;
    cache.insert(2, partial).await;
    assert_eq!(cache.get(&1).await, Some(whole));
    assert_eq!(cache.get(&2).await, None);
    assert_eq!(cache.tier_stats().altered, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn types_of_other_crates_are_stored_under_explicit_schemas() {
    let server = Server::start();
    let build = async |version: &'static str| -> TieredCache<u64, serde_json::Value> {
        let schemas = Schemas::new(u64::schema(), version);
        let builder = LocalCache::builder().capacity(100);
        let builder = builder.redis_with_schemas(server.url(), "documents", schemas);
        let builder = builder.deadline(std::time::Duration::from_secs(30));
        let cache = builder.consistency(MINUTE).build().unwrap();
        wait_until_proven(&cache).await;
        cache
    };
    let document = serde_json::json!({"title": "One", "tags": [1, -2, 3.5, null, {"a": true}]});
    let (one, two) = (build("document/1").await, build("document/2").await);
    one.insert(1, document.clone()).await;
    let other = build("document/1").await;
    assert_eq!(other.get(&1).await, Some(document));
    assert_eq!(two.get(&1).await, None);
    assert_eq!(one.tier_stats().altered, 0);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snapshot");
    assert_eq!(one.snapshot(&path).await.unwrap().entries, 1);
    let warmed = build("document/1").await;
    let report = warmed.warm_from_snapshot(WarmOptions::new(), &path).await;
    assert_eq!(report.unwrap().found, 1);
}
