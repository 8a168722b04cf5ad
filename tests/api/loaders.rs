//! The usual bodies of loaders. None of them names the type of the value.

use hotset::{LoadError, Loaded, LocalCache};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// A row of a database, with a getter that is generic over the type of the column.
struct Row;

impl Row {
    #[allow(clippy::unused_self)]
    fn get<T: FromStr>(&self, column: usize) -> T
    where
        T::Err: std::fmt::Debug,
    {
        ["7", "alice"][column].parse().unwrap()
    }

    #[allow(clippy::unused_self)]
    fn try_get<T: FromStr>(&self, column: usize) -> Result<T, T::Err> {
        ["7", "alice"][column].parse()
    }
}

/// A response of a web service, whose body is deserialized into any type.
struct Response;

impl Response {
    #[allow(clippy::unused_async)]
    async fn json<T: FromStr>(self) -> Result<T, T::Err> {
        JSON.parse()
    }
}

const JSON: &str = r#"{"name": "alice"}"#;

fn alice() -> Value {
    json!({"name": "alice"})
}

#[test]
fn value_of_a_loader_that_deserializes_is_inferred() {
    let cache: LocalCache<u64, Value> = LocalCache::new(10);
    let loaded = cache.get_or_load(&1, |_| serde_json::from_str(JSON));
    assert_eq!(loaded.unwrap(), alice());
    let loaded = cache.get_or_load(&2, |_| {
        Ok::<_, serde_json::Error>(serde_json::from_str(JSON)?)
    });
    assert_eq!(loaded.unwrap(), alice());
    let shared: LocalCache<u64, Arc<Value>> = LocalCache::new(10);
    let loaded = shared.get_or_load(&1, |_| serde_json::from_str(JSON).map(Arc::new));
    assert_eq!(*loaded.unwrap(), alice());
}

#[test]
fn value_of_a_loader_that_reads_a_row_is_inferred() {
    let cache: LocalCache<u64, u64> = LocalCache::new(10);
    let loaded = cache.get_or_load(&1, |_| Ok::<_, io::Error>(Row.get(0)));
    assert_eq!(loaded.unwrap(), 7);
    assert_eq!(cache.get_or_load(&2, |_| Row.try_get(0)).unwrap(), 7);
}

#[test]
fn value_of_a_loader_that_converts_is_inferred() {
    let cache: LocalCache<u64, Arc<str>> = LocalCache::new(10);
    let loaded = cache.get_or_load(&1, |id| Ok::<_, io::Error>(format!("user {id}").into()));
    assert_eq!(&*loaded.unwrap(), "user 1");
}

#[test]
fn value_of_a_loader_that_collects_is_inferred() {
    let cache: LocalCache<u64, Vec<u64>> = LocalCache::new(10);
    let loaded = cache.get_or_load(&3, |&id| Ok::<_, io::Error>((0..id).collect()));
    assert_eq!(loaded.unwrap(), [0, 1, 2]);
    let loaded = cache.get_or_load(&4, |_| ["1", "2"].into_iter().map(str::parse).collect());
    assert_eq!(loaded.unwrap(), [1, 2]);
    let maps: LocalCache<u64, HashMap<String, u64>> = LocalCache::new(10);
    let loaded = maps.get_or_load(&1, |_| {
        Ok::<_, io::Error>([("a".into(), 1)].into_iter().collect())
    });
    assert_eq!(loaded.unwrap()["a"], 1);
}

#[test]
fn value_of_a_loader_that_parses_is_inferred() {
    let cache: LocalCache<String, u64> = LocalCache::new(10);
    assert_eq!(cache.get_or_load("12", |text| text.parse()).unwrap(), 12);
    assert_eq!(cache.get_or_load("13", str::parse).unwrap(), 13);
}

#[test]
fn value_of_a_loader_that_returns_the_default_is_inferred() {
    let cache: LocalCache<u64, Value> = LocalCache::new(10);
    let loaded = cache.get_or_load(&1, |_| Ok::<_, io::Error>(Default::default()));
    assert_eq!(loaded.unwrap(), Value::default());
}

#[test]
fn value_of_a_loader_of_optional_values_is_inferred() {
    let cache: LocalCache<u64, Option<Value>> = LocalCache::new(10);
    assert_eq!(
        cache.get_or_load(&1, |_| Ok::<_, io::Error>(None)).unwrap(),
        None
    );
    let loaded = cache.get_or_load(&2, |_| Ok::<_, io::Error>(Some(alice())));
    assert_eq!(loaded.unwrap(), Some(alice()));
}

trait Shape: Send + Sync {
    fn area(&self) -> u64;
}

struct Square(u64);

impl Shape for Square {
    fn area(&self) -> u64 {
        self.0 * self.0
    }
}

#[test]
fn value_may_be_a_trait_object() {
    let cache: LocalCache<u64, Arc<dyn Shape>> = LocalCache::new(10);
    let loaded = cache.get_or_load(&3, |&side| Ok::<_, io::Error>(Arc::new(Square(side))));
    assert_eq!(loaded.unwrap().area(), 9);
    let loaded = cache.get_or_insert_with(&4, |&side| Arc::new(Square(side)));
    assert_eq!(loaded.area(), 16);
}

#[test]
fn loader_may_be_a_function() {
    fn fetch(id: &u64) -> io::Result<String> {
        Ok(format!("user {id}"))
    }

    fn fetch_by_name(name: &str) -> io::Result<String> {
        Ok(name.to_uppercase())
    }

    let users: LocalCache<u64, String> = LocalCache::new(10);
    assert_eq!(users.get_or_load(&1, fetch).unwrap(), "user 1");
    let names: LocalCache<String, String> = LocalCache::new(10);
    assert_eq!(names.get_or_load("a", fetch_by_name).unwrap(), "A");
}

#[test]
fn entry_of_a_loader_is_inferred() {
    let cache: LocalCache<String, u64> = LocalCache::new(10);
    let loaded = cache.get_or_load_entry("12", |text| {
        Ok::<_, std::num::ParseIntError>(Loaded::new(text.parse()?).ttl(Duration::from_secs(60)))
    });
    assert_eq!(loaded.unwrap(), 12);
    assert!(cache.remaining_ttl("12").unwrap() <= Duration::from_secs(60));
}

#[tokio::test]
async fn value_of_an_async_loader_is_inferred() {
    let cache: LocalCache<u64, Value> = LocalCache::new(10);
    let loaded = cache.get_or_load_async(&1, |_| async { Response.json().await });
    assert_eq!(loaded.await.unwrap(), alice());
    let loaded = cache.get_or_load_async(&2, |_| Response.json());
    assert_eq!(loaded.await.unwrap(), alice());
    let loaded = cache.get_or_load_async(&3, |_| async { Ok::<_, io::Error>(Default::default()) });
    assert_eq!(loaded.await.unwrap(), Value::default());
    let lists: LocalCache<u64, Vec<u64>> = LocalCache::new(10);
    let loaded = lists.get_or_load_async(
        &3,
        |id| async move { Ok::<_, io::Error>((0..id).collect()) },
    );
    assert_eq!(loaded.await.unwrap(), [0, 1, 2]);
    let shapes: LocalCache<u64, Arc<dyn Shape>> = LocalCache::new(10);
    let loaded =
        shapes.get_or_insert_with_async(&3, |side| async move { Arc::new(Square(side)) as _ });
    assert_eq!(loaded.await.area(), 9);
}

#[tokio::test]
async fn key_of_an_async_loader_is_owned_by_its_future() {
    async fn fetch(name: String) -> io::Result<usize> {
        Ok(name.len())
    }

    let lengths: LocalCache<String, usize> = LocalCache::new(10);
    assert_eq!(lengths.get_or_load_async("apple", fetch).await.unwrap(), 5);
    let loaded = lengths.get_or_load_async("pear", |name| async move { fetch(name).await });
    assert_eq!(loaded.await.unwrap(), 4);
    let spawned = lengths.clone();
    let task = tokio::spawn(async move {
        spawned
            .get_or_load_async("plum", |name| async move { fetch(name).await })
            .await
    });
    assert_eq!(task.await.unwrap().unwrap(), 4);
}

#[test]
fn batch_of_rows_is_inferred() {
    let cache: LocalCache<u64, u64> = LocalCache::new(10);
    let found = cache.get_many_or_load(&[1, 2], |ids| {
        Ok::<_, io::Error>(ids.into_iter().map(|id| (id, Row.get(0))))
    });
    assert_eq!(found.unwrap(), [Some(7), Some(7)]);
    let found: Result<_, LoadError<io::Error>> =
        cache.get_many_or_load(&vec![3, 4], |ids| Ok(HashMap::from([(ids[0], 30)])));
    assert_eq!(found.unwrap(), [Some(30), None]);
}
