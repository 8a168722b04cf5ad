//! Keys whose encodings could be confused.

use crate::cache;
use crate::servers::Server;
use hotset::{Schema, TieredCache, Warning};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use support::caches::wait_until_proven;

/// Defines a key of two fields without names.
macro_rules! key {
    ($name:ident($($part:ident),*), $schema:literal) => {
        #[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        struct $name($($part),*);

        hotset::schema!($name, $schema);
    };
}

type Tenant = u32;
type User = u32;

// The same key before and after a deployment that swaps its fields.
key!(Before(Tenant, User), "tenant, user");
key!(After(User, Tenant), "user, tenant");

#[tokio::test(flavor = "multi_thread")]
async fn value_of_a_key_with_another_schema_is_not_served() {
    let server = Server::start();
    let old: TieredCache<Before, String> = cache(&server, "users");
    let new: TieredCache<After, String> = cache(&server, "users");
    old.insert(Before(1, 2), "of tenant 1".into()).await;
    // User 1 of tenant 2.
    assert_eq!(new.get(&After(1, 2)).await, None);
    assert_eq!(new.tier_stats().unreadable, 1);
    let load = |_| async { Ok::<_, ()>("of tenant 2".to_string()) };
    let loaded = new.get_or_load_async(&After(1, 2), load).await;
    assert_eq!(loaded.unwrap(), "of tenant 2");
    assert_eq!(old.get(&Before(1, 2)).await, None);
    let warnings = new.health().warnings;
    assert!(
        warnings.iter().any(
            |warning| matches!(warning, Warning::UnreadableValues(why) if why.contains("schema"))
        ),
        "{warnings:?}"
    );
    // A batch does not get it either.
    old.insert(Before(3, 4), "of tenant 3".into()).await;
    let batch = new.get_many_or_load_async(&[After(3, 4)], |keys| async {
        Ok::<_, ()>(keys.into_iter().map(|key| (key, "of tenant 4".to_string())))
    });
    assert_eq!(batch.await.unwrap(), [Some("of tenant 4".to_string())]);
    assert_eq!(old.get(&Before(3, 4)).await, None);
    // A process that meets no unreadable value has no warning.
    let third: TieredCache<After, String> = cache(&server, "users");
    assert_eq!(
        third.get(&After(1, 2)).await.as_deref(),
        Some("of tenant 2")
    );
    assert!(
        !third
            .health()
            .warnings
            .iter()
            .any(|it| matches!(it, Warning::UnreadableValues(_)))
    );
}

/// The same key before and after a deployment that swaps its fields, which have names.
mod named {
    use serde::{Deserialize, Serialize};

    #[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
    pub(super) struct Before {
        pub(super) tenant: u32,
        pub(super) user: u32,
    }

    #[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
    pub(super) struct After {
        pub(super) user: u32,
        pub(super) tenant: u32,
    }

    hotset::schema!(Before, "member/1");
    hotset::schema!(After, "member/1");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_with_swapped_named_fields_share_values_and_invalidations() {
    let server = Server::start();
    let old: TieredCache<named::Before, u8> = cache(&server, "members");
    let new: TieredCache<named::After, u8> = cache(&server, "members");
    let before = |tenant, user| named::Before { tenant, user };
    let after = |tenant, user| named::After { user, tenant };
    old.insert(before(1, 2), 12).await;
    assert_eq!(new.get(&after(1, 2)).await, Some(12));
    assert_eq!(new.get(&after(2, 1)).await, None);
    new.invalidate(&after(1, 2)).await;
    assert_eq!(old.get(&before(1, 2)).await, None);
    new.insert(after(2, 1), 21).await;
    assert_eq!(old.get(&before(2, 1)).await, Some(21));
    assert_eq!(old.get(&before(1, 2)).await, None);
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Filter {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    a: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    b: Option<u8>,
}

hotset::schema!(Filter, "filter/1");

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_skip_different_fields_have_different_values() {
    let server = Server::start();
    let writer: TieredCache<Filter, u8> = cache(&server, "filters");
    let reader: TieredCache<Filter, u8> = cache(&server, "filters");
    let (a, b) = (
        Filter {
            a: Some(1),
            b: None,
        },
        Filter {
            a: None,
            b: Some(1),
        },
    );
    writer.insert(a.clone(), 1).await;
    assert_eq!(
        (reader.get(&a).await, reader.get(&b).await),
        (Some(1), None)
    );
    writer.insert(b.clone(), 2).await;
    assert_eq!(reader.get(&a).await, Some(1));
    assert_eq!(reader.get(&b).await, Some(2));
    // An invalidation names its key to other processes.
    writer.invalidate(&a).await;
    assert_eq!(
        (reader.get(&a).await, reader.get(&b).await),
        (None, Some(2))
    );
}

/// A key that is serialized without one of its fields.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Partial {
    id: u8,
    #[serde(skip)]
    region: u8,
}

hotset::schema!(Partial, "partial/1");

#[tokio::test(flavor = "multi_thread")]
async fn key_that_decodes_to_another_key_is_not_shared() {
    let server = Server::start();
    let writer: TieredCache<Partial, u8> = cache(&server, "partial");
    let reader: TieredCache<Partial, u8> = cache(&server, "partial");
    let key = |region| Partial { id: 1, region };
    let load = async |value| Ok::<u8, ()>(value);
    assert_eq!(
        writer
            .get_or_load_async(&key(0), |_| load(10))
            .await
            .unwrap(),
        10
    );
    assert_eq!(
        reader
            .get_or_load_async(&key(1), |_| load(11))
            .await
            .unwrap(),
        11
    );
    assert_eq!(reader.get(&key(0)).await, Some(10));
    assert_eq!(reader.get(&key(1)).await, None);
    let warnings = reader.health().warnings;
    let expected = Warning::UnencodableKeys {
        schema: "partial/1".into(),
    };
    assert!(warnings.contains(&expected), "{warnings:?}");
    let options: TieredCache<Option<Option<u8>>, u8> = cache(&server, "options");
    assert_eq!(
        options.get_or_load_async(&None, |_| load(1)).await.unwrap(),
        1
    );
    assert_eq!(
        options
            .get_or_load_async(&Some(None), |_| load(2))
            .await
            .unwrap(),
        2
    );
    assert_eq!(options.get(&Some(None)).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalidation_reaches_keys_of_all_shapes_in_other_processes() {
    let server = Server::start();
    let build = || -> TieredCache<(String, Filter, Option<i64>), u8> {
        let builder = hotset::LocalCache::builder().capacity(100);
        let builder = builder.redis(server.url(), "invalidated");
        let builder = builder.consistency(hotset::Consistency::Realtime);
        // The read lease does not end during the test.
        let builder = builder.heartbeat(Duration::from_secs(1));
        builder.deadline(Duration::from_secs(30)).build().unwrap()
    };
    let (writer, reader) = (build(), build());
    for cache in [&writer, &reader] {
        wait_until_proven(cache).await;
    }
    let key = |text: &str, number| {
        let filter = Filter {
            a: None,
            b: Some(1),
        };
        (text.to_string(), filter, number)
    };
    let keys = [key("", None), key("a", Some(-1)), key("b", Some(300))];
    for key in &keys {
        writer.insert(key.clone(), 1).await;
        assert_eq!(reader.get(key).await, Some(1));
    }
    writer.invalidate(&keys[1]).await;
    // The other keys stay in L1, because the invalidation names a single key.
    let hits = reader.stats().hits;
    assert_eq!(reader.get(&keys[0]).await, Some(1));
    assert_eq!(reader.get(&keys[1]).await, None);
    assert_eq!(reader.get(&keys[2]).await, Some(1));
    assert_eq!(reader.stats().hits, hits + 2);
}

#[test]
fn schema_of_a_key_names_its_parts() {
    assert_eq!(<(Filter, Option<u64>)>::schema(), "(filter/1,option(u64))");
}
