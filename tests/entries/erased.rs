//! The backend-neutral traits: test doubles with only the required methods, pointers, and keys in borrowed form.

use crate::common::seconds;
use equivalent::Equivalent;
use hotset::{
    AnyError, AsyncCache, Cache, CacheFuture, ErasedAsyncLoader, ErasedKey, ErasedLoader,
    LoadError, Loaded, LocalCache, Propagation, Stats,
};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A cache that implements only the required methods, on a list of pairs.
#[derive(Default)]
struct Double {
    pairs: Mutex<Vec<(String, u64)>>,
    lookups: AtomicUsize,
}

impl Double {
    fn find(&self, key: &dyn ErasedKey<String>) -> Option<u64> {
        self.lookups.fetch_add(1, SeqCst);
        let pairs = self.pairs.lock().unwrap();
        let pair = pairs.iter().find(|(own, _)| key.is_form_of(own));
        pair.map(|(_, value)| *value)
    }

    fn put(&self, key: String, loaded: Loaded<u64>) {
        let mut pairs = self.pairs.lock().unwrap();
        pairs.retain(|(own, _)| *own != key);
        pairs.push((key, loaded.into_value()));
    }

    fn remove(&self, key: &dyn ErasedKey<String>) {
        let mut pairs = self.pairs.lock().unwrap();
        pairs.retain(|(own, _)| !key.is_form_of(own));
    }

    fn keys(&self) -> Vec<String> {
        let pairs = self.pairs.lock().unwrap();
        let mut keys: Vec<_> = pairs.iter().map(|(key, _)| key.clone()).collect();
        keys.sort();
        keys
    }
}

impl Cache<String, u64> for Double {
    fn get_erased(&self, key: &dyn ErasedKey<String>) -> Option<u64> {
        self.find(key)
    }

    fn insert_loaded(&self, key: String, loaded: Loaded<u64>) -> Propagation {
        self.put(key, loaded);
        Propagation::Acknowledged
    }

    fn invalidate_erased(&self, key: &dyn ErasedKey<String>) -> Propagation {
        self.remove(key);
        Propagation::Queued
    }

    fn invalidate_tag(&self, _: &str) -> Propagation {
        Propagation::Acknowledged
    }

    fn clear(&self) -> Propagation {
        self.pairs.lock().unwrap().clear();
        Propagation::Acknowledged
    }

    fn get_or_load_erased(
        &self,
        key: &dyn ErasedKey<String>,
        mut loader: ErasedLoader<'_, u64>,
    ) -> Result<u64, LoadError<AnyError>> {
        if let Some(value) = self.find(key) {
            return Ok(value);
        }
        let value = loader.run()?.into_value();
        self.put(key.to_key(), Loaded::new(value));
        Ok(value)
    }
}

impl AsyncCache<String, u64> for Double {
    fn get_erased<'a>(&'a self, key: &'a dyn ErasedKey<String>) -> CacheFuture<'a, Option<u64>> {
        CacheFuture::new(async move {
            tokio::task::yield_now().await;
            self.find(key)
        })
    }

    fn insert_loaded(&self, key: String, loaded: Loaded<u64>) -> CacheFuture<'_, Propagation> {
        CacheFuture::new(async move {
            self.put(key, loaded);
            Propagation::Acknowledged
        })
    }

    fn invalidate_erased<'a>(
        &'a self,
        key: &'a dyn ErasedKey<String>,
    ) -> CacheFuture<'a, Propagation> {
        CacheFuture::new(async move {
            self.remove(key);
            Propagation::Queued
        })
    }

    fn invalidate_tag<'a>(&'a self, _: &'a str) -> CacheFuture<'a, Propagation> {
        CacheFuture::ready(Propagation::Acknowledged)
    }

    fn clear(&self) -> CacheFuture<'_, Propagation> {
        self.pairs.lock().unwrap().clear();
        CacheFuture::ready(Propagation::Acknowledged)
    }

    fn get_or_load_erased<'a>(
        &'a self,
        key: &'a dyn ErasedKey<String>,
        mut loader: ErasedAsyncLoader<'a, String, u64>,
    ) -> CacheFuture<'a, Result<u64, LoadError<AnyError>>> {
        CacheFuture::new(async move {
            if let Some(value) = self.find(key) {
                return Ok(value);
            }
            let value = loader.run(key.to_key()).await?.into_value();
            self.put(key.to_key(), Loaded::new(value));
            Ok(value)
        })
    }
}

#[allow(clippy::unnecessary_wraps)] // A loader.
fn lengths(missing: Vec<String>) -> Result<Vec<(String, u64)>, &'static str> {
    let pair = |key: String| (key.clone(), key.len() as u64);
    Ok(missing.into_iter().map(pair).collect())
}

/// Calls every method of a [`Cache`].
fn exercise(cache: &impl Cache<String, u64>) {
    assert_eq!(cache.get("a"), None);
    cache.insert("a".to_string(), 10);
    cache.insert_with_ttl("b".to_string(), 20, seconds(60));
    cache.insert_loaded("c".to_string(), Loaded::new(30).ttl(Duration::MAX));
    assert_eq!((cache.get("a"), cache.get("c")), (Some(10), Some(30)));
    let found = cache.get_many(["c", "x", "a", "c"]);
    assert_eq!(found, [Some(30), None, Some(10), Some(30)]);
    assert!(cache.contains_key("b") && !cache.contains_key("x"));
    assert_eq!(cache.remaining_ttl("c"), Some(Duration::MAX));
    assert_eq!(cache.remaining_ttl("x"), None);
    cache.invalidate("a");
    assert_eq!(cache.get("a"), None);
    let load = |key: &str| Ok::<_, &str>(key.len() as u64);
    assert_eq!(cache.get_or_load("four", load).unwrap(), 4);
    let owned = "four".to_string();
    let called = |_: &String| Err::<u64, _>("called");
    assert_eq!(cache.get_or_load(&owned, called).unwrap(), 4);
    let error = cache.get_or_load("x", |_| Err::<u64, _>("no")).unwrap_err();
    assert_eq!(error.into_inner().as_deref(), Some(&"no"));
    let entry = |_: &str| Ok::<_, &str>(Loaded::new(5).ttl(seconds(5)));
    assert_eq!(cache.get_or_load_entry("five", entry).unwrap(), 5);
    assert_eq!(cache.get_or_insert_with("six", |_| 6), 6);
    assert_eq!(cache.get_or_insert_with("six", |_| panic!("called")), 6);
    let found = cache.get_many_or_load(["six", "seven", "seven"], lengths);
    assert_eq!(found.unwrap(), [Some(6), Some(5), Some(5)]);
    let failed = cache.get_many_or_load(["y"], |_| Err::<Vec<_>, _>("no"));
    assert_eq!(failed.unwrap_err().as_inner(), Some(&"no"));
    let left_out = cache.get_many_or_load(["y"], |_| Ok::<_, &str>([]));
    assert_eq!(left_out.unwrap(), [None]);
    let entries =
        |missing: Vec<String>| Ok::<_, &str>(missing.into_iter().map(|key| (key, Loaded::new(1))));
    let found = cache.get_many_or_load_entries(["z"], entries);
    assert_eq!(found.unwrap(), [Some(1)]);
    let write = |value: &u64| if *value == 7 { Ok(()) } else { Err("no") };
    cache.write_through("w".to_string(), 7, write).unwrap();
    // The default implementation does not store the value.
    assert!(cache.get("w").is_none_or(|value| value == 7));
    let loaded = Loaded::new(8).ttl(seconds(60));
    let failed = cache.write_through_loaded("w".to_string(), loaded, write);
    assert_eq!(failed, Err("no"));
    let warmed = cache.warm(["warm".to_string()], lengths);
    assert_eq!((warmed.found, cache.get("warm")), (1, Some(4)));
    cache.flush();
    cache.invalidate_tag("tag");
    let _: Stats = cache.stats();
    cache.clear();
    assert_eq!(cache.get("z"), None);
}

/// Calls every method of an [`AsyncCache`].
async fn exercise_async(cache: &impl AsyncCache<String, u64>) {
    assert_eq!(cache.get("a").await, None);
    cache.insert("a".to_string(), 10).await;
    cache
        .insert_with_ttl("b".to_string(), 20, seconds(60))
        .await;
    let loaded = Loaded::new(30).ttl(Duration::MAX);
    cache.insert_loaded("c".to_string(), loaded).await;
    assert_eq!(cache.get("c").await, Some(30));
    let found = cache.get_many(["c", "x", "a", "c"]).await;
    assert_eq!(found, [Some(30), None, Some(10), Some(30)]);
    assert!(cache.contains_key("b").await && !cache.contains_key("x").await);
    assert_eq!(cache.remaining_ttl("c").await, Some(Duration::MAX));
    assert_eq!(cache.remaining_ttl("x").await, None);
    cache.invalidate("a").await;
    assert_eq!(cache.get("a").await, None);
    assert_eq!(cache.get_or_load_async("four", load_one).await.unwrap(), 4);
    let failing = |_| async { Err::<u64, _>("no") };
    let error = cache.get_or_load_async("x", failing).await.unwrap_err();
    assert_eq!(error.into_inner().as_deref(), Some(&"no"));
    let entry = |_| async { Ok::<_, &str>(Loaded::new(5).ttl(seconds(5))) };
    assert_eq!(
        cache.get_or_load_entry_async("five", entry).await.unwrap(),
        5
    );
    assert_eq!(
        cache.get_or_insert_with_async("six", |_| async { 6 }).await,
        6
    );
    let load = |missing| async { lengths(missing) };
    let found = cache
        .get_many_or_load_async(["six", "seven", "seven"], load)
        .await;
    assert_eq!(found.unwrap(), [Some(6), Some(5), Some(5)]);
    let failing = |_| async { Err::<Vec<_>, _>("no") };
    let failed = cache.get_many_or_load_async(["y"], failing).await;
    assert_eq!(failed.unwrap_err().as_inner(), Some(&"no"));
    let entries = |missing: Vec<String>| async {
        Ok::<_, &str>(missing.into_iter().map(|key| (key, Loaded::new(1))))
    };
    let found = cache.get_many_or_load_entries_async(["z"], entries).await;
    assert_eq!(found.unwrap(), [Some(1)]);
    let write = |value| async move { if value == 7 { Ok(()) } else { Err("no") } };
    cache
        .write_through("w".to_string(), 7, write)
        .await
        .unwrap();
    assert!(cache.get("w").await.is_none_or(|value| value == 7));
    let loaded = Loaded::new(8).ttl(seconds(60));
    let failed = cache.write_through_loaded("w".to_string(), loaded, write);
    assert_eq!(failed.await, Err("no"));
    let warming = cache.warm_async(["warm".to_string()], async |missing| lengths(missing));
    assert_eq!(warming.await.found, 1);
    assert_eq!(cache.get("warm").await, Some(4));
    cache.flush().await;
    cache.invalidate_tag("tag").await;
    let _: Stats = cache.stats();
    cache.clear().await;
    assert_eq!(cache.get("z").await, None);
}

async fn load_one(key: String) -> Result<u64, &'static str> {
    Ok(key.len() as u64)
}

#[test]
fn every_method_of_cache_works_through_every_pointer() {
    let local = || LocalCache::<String, u64>::new(100);
    exercise(&local());
    exercise(&&local());
    exercise(&Double::default());
    let object: Arc<dyn Cache<String, u64>> = Arc::new(local());
    exercise(&object);
    exercise(&&*object);
    let object: Arc<dyn Cache<String, u64>> = Arc::new(Double::default());
    exercise(&object);
    let object: Box<dyn Cache<String, u64>> = Box::new(local());
    exercise(&object);
    let object: Box<dyn Cache<String, u64> + Send + Sync> = Box::new(Double::default());
    exercise(&object);
    let object: Arc<dyn Cache<String, u64> + Send + Sync> = Arc::new(local());
    exercise(&object);
}

#[tokio::test]
async fn every_method_of_async_cache_works_through_every_pointer() {
    let local = || LocalCache::<String, u64>::new(100);
    exercise_async(&local()).await;
    exercise_async(&&local()).await;
    exercise_async(&Double::default()).await;
    let object: Arc<dyn AsyncCache<String, u64>> = Arc::new(local());
    exercise_async(&object).await;
    exercise_async(&&*object).await;
    let object: Arc<dyn AsyncCache<String, u64>> = Arc::new(Double::default());
    exercise_async(&object).await;
    let object: Box<dyn AsyncCache<String, u64>> = Box::new(local());
    exercise_async(&object).await;
    let object: Box<dyn AsyncCache<String, u64> + Send + Sync> = Box::new(Double::default());
    exercise_async(&object).await;
}

#[test]
fn local_cache_acknowledges_every_change_to_a_thread() {
    let local: Arc<dyn Cache<String, u64>> = Arc::new(LocalCache::new(10));
    let key = || "a".to_string();
    let results = [
        local.insert(key(), 1),
        local.insert_with_ttl(key(), 1, seconds(1)),
        local.insert_loaded(key(), Loaded::new(1)),
        local.write_through(key(), 1, |_| Ok::<_, ()>(())).unwrap(),
        local.invalidate("a"),
        local.invalidate_tag("tag"),
        local.clear(),
    ];
    assert!(results.iter().all(|it| *it == Propagation::Acknowledged));
}

#[tokio::test]
async fn local_cache_acknowledges_every_change_to_a_task() {
    let local: Arc<dyn AsyncCache<String, u64>> = Arc::new(LocalCache::new(10));
    let key = || "a".to_string();
    let write = |_| async { Ok::<_, ()>(()) };
    let results = [
        local.insert(key(), 1).await,
        local.insert_with_ttl(key(), 1, seconds(1)).await,
        local.insert_loaded(key(), Loaded::new(1)).await,
        local.write_through(key(), 1, write).await.unwrap(),
        local.invalidate("a").await,
        local.invalidate_tag("tag").await,
        local.clear().await,
    ];
    assert!(results.iter().all(|it| *it == Propagation::Acknowledged));
}

#[test]
fn default_write_through_writes_and_then_invalidates() {
    let double = Double::default();
    let old = || double.put("a".to_string(), Loaded::new(1));
    old();
    let written = Cache::write_through(&double, "a".to_string(), 2, |value| {
        assert_eq!((*value, double.find(&"a")), (2, Some(1)));
        Ok::<_, &str>(())
    });
    assert_eq!(written, Ok(Propagation::Queued));
    assert_eq!(double.find(&"a"), None);

    old();
    let failed = Cache::write_through(&double, "a".to_string(), 2, |_| Err("down"));
    assert_eq!((failed, double.find(&"a")), (Err("down"), Some(1)));

    let panics = |_: &u64| -> Result<(), &str> { panic!("write") };
    let panicking = || Cache::write_through(&double, "a".to_string(), 2, panics);
    catch_unwind(AssertUnwindSafe(panicking)).unwrap_err();
    assert_eq!(double.find(&"a"), None);
}

#[tokio::test]
async fn default_write_through_of_tasks_writes_and_then_invalidates() {
    let double = Double::default();
    double.put("a".to_string(), Loaded::new(1));
    let failing = |_| async { Err("down") };
    let failed = AsyncCache::write_through(&double, "a".to_string(), 2, failing);
    assert_eq!((failed.await, double.find(&"a")), (Err("down"), Some(1)));
    let write = |value| async move { (value == 2).then_some(()).ok_or("another value") };
    let written = AsyncCache::write_through(&double, "a".to_string(), 2, write);
    assert_eq!(written.await, Ok(Propagation::Queued));
    assert_eq!(double.find(&"a"), None);
}

#[test]
fn default_batch_passes_each_missing_key_once() {
    let double = Double::default();
    double.put("a".to_string(), Loaded::new(1));
    let found = Cache::get_many_or_load(&double, ["b", "a", "b", "c"], |missing| {
        assert_eq!(missing, ["b", "c"]);
        Ok::<_, &str>([("c".to_string(), 3), ("b".to_string(), 2)])
    });
    assert_eq!(found.unwrap(), [Some(2), Some(1), Some(2), Some(3)]);
    let none =
        Cache::get_many_or_load::<str, Vec<_>, &str, _>(&double, ["a"], |_| panic!("called"));
    assert_eq!(none.unwrap(), [Some(1)]);
}

#[tokio::test]
async fn default_batch_ignores_pairs_for_keys_that_the_loader_did_not_receive() {
    let pairs = || ["a", "b", "x"].map(|key| (key.to_string(), 9));
    let local = LocalCache::<String, u64>::new(10);
    local.insert("a".to_string(), 1);
    let found = local.get_many_or_load(["a", "b"], |_| Ok::<_, &str>(pairs()));
    assert_eq!(found.unwrap(), [Some(1), Some(9)]);
    assert_eq!((local.get("a"), local.get("x")), (Some(1), None));
    let double = Double::default();
    double.put("a".to_string(), Loaded::new(1));
    let found = Cache::get_many_or_load(&double, ["a", "b"], |_| Ok::<_, &str>(pairs()));
    assert_eq!(found.unwrap(), [Some(1), Some(9)]);
    assert_eq!(double.keys(), ["a", "b"]);
    double.remove(&"b");
    let load = |_| async move { Ok::<_, &str>(pairs()) };
    let found = double.get_many_or_load_async(["a", "b"], load).await;
    assert_eq!(found.unwrap(), [Some(1), Some(9)]);
    assert_eq!(double.keys(), ["a", "b"]);
    assert_eq!(double.find(&"a"), Some(1));
}

/// A key of two parts, and its borrowed form.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pair(String, u32);

/// The second field is hashed first, unlike with a derived implementation.
impl Hash for Pair {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u32(self.1);
        state.write(self.0.as_bytes());
        state.write_u8(0xff);
    }
}

#[derive(PartialEq, Eq, Clone, Copy)]
struct PairRef<'a>(&'a str, u32);

/// The unsized form of [`PairRef`], because `ToOwned` is implemented for each type that is `Clone`.
trait AsPair: Sync {
    fn parts(&self) -> (&str, u32);
}

impl AsPair for PairRef<'_> {
    fn parts(&self) -> (&str, u32) {
        (self.0, self.1)
    }
}

impl Hash for dyn AsPair + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (text, number) = self.parts();
        state.write_u32(number);
        state.write(text.as_bytes());
        state.write_u8(0xff);
    }
}

impl Equivalent<Pair> for dyn AsPair + '_ {
    fn equivalent(&self, key: &Pair) -> bool {
        self.parts() == (&key.0, key.1)
    }
}

impl std::borrow::Borrow<dyn AsPair> for Pair {
    fn borrow(&self) -> &(dyn AsPair + 'static) {
        self
    }
}

impl AsPair for Pair {
    fn parts(&self) -> (&str, u32) {
        (&self.0, self.1)
    }
}

impl ToOwned for dyn AsPair {
    type Owned = Pair;

    fn to_owned(&self) -> Pair {
        let (text, number) = self.parts();
        Pair(text.to_string(), number)
    }
}

/// A hasher whose result depends on which of its methods are called.
#[derive(Default)]
struct MethodSensitiveHasher(u64);

impl MethodSensitiveHasher {
    fn mix(&mut self, kind: u64, value: u64) {
        self.0 = (self.0.rotate_left(7) ^ kind ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

impl Hasher for MethodSensitiveHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.mix(1, u64::from(*byte));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.mix(2, number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.mix(3, number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.mix(4, number);
    }

    fn write_usize(&mut self, number: usize) {
        self.mix(5, number as u64);
    }

    fn write_i64(&mut self, number: i64) {
        self.mix(6, u64::from_ne_bytes(number.to_ne_bytes()));
    }

    fn write_u128(&mut self, number: u128) {
        self.mix(7, u64::try_from(number >> 64).unwrap_or(0));
    }
}

#[tokio::test]
async fn borrowed_form_of_a_key_is_found_with_a_hasher_that_depends_on_its_methods() {
    let cache: LocalCache<Pair, u64, BuildHasherDefault<MethodSensitiveHasher>> =
        LocalCache::builder()
            .capacity(100)
            .hasher(BuildHasherDefault::default())
            .build()
            .unwrap();
    let object: Arc<dyn Cache<Pair, u64>> = Arc::new(cache.clone());
    let tasks: Arc<dyn AsyncCache<Pair, u64>> = Arc::new(cache.clone());
    let (one, two) = (Pair("one".to_string(), 1), Pair("two".to_string(), 2));
    let form: &(dyn AsPair + 'static) = &PairRef("one", 1);
    object.insert(one.clone(), 10);
    assert_eq!(
        (cache.get(form), object.get(form), object.get(&one)),
        (Some(10), Some(10), Some(10))
    );
    assert_eq!(tasks.get(form).await, Some(10));
    let two_form: &(dyn AsPair + 'static) = &PairRef("two", 2);
    let loaded = object.get_or_load(two_form, |_| Ok::<_, &str>(20));
    assert_eq!(loaded.unwrap(), 20);
    assert_eq!(cache.get(&two), Some(20));
    let found = tasks.get_many_or_load_async([form, two_form], |_| async { Ok::<_, &str>([]) });
    assert_eq!(found.await.unwrap(), [Some(10), Some(20)]);
    tasks.invalidate(form).await;
    assert!(!cache.contains_key(&one));
}

#[test]
fn keys_of_many_types_have_the_same_hash_through_a_trait_object() {
    fn check<K>(keys: impl IntoIterator<Item = K>)
    where
        K: Eq + Hash + Clone + Send + Sync + 'static,
    {
        let cache: LocalCache<K, usize, BuildHasherDefault<MethodSensitiveHasher>> =
            LocalCache::builder()
                .capacity(1_000)
                .hasher(BuildHasherDefault::default())
                .build()
                .unwrap();
        let object: &dyn Cache<K, usize> = &cache;
        let keys: Vec<K> = keys.into_iter().collect();
        for (index, key) in keys.iter().enumerate() {
            cache.insert(key.clone(), index);
            assert_eq!((&object).get(key), Some(index));
            (&object).insert(key.clone(), index + 1);
            assert_eq!(cache.get(key), Some(index + 1));
        }
    }
    check(0..100_u8);
    check(-50..50_i64);
    check(0..100_u128);
    check(["", "a", "\u{e9}"].map(str::to_string));
    check((0..10).map(|len| vec![7_u16; len]));
    check((0..10).map(|number| (number, Some('x'), [number; 3])));
    check([(), ()]);
    check([Some(true), Some(false), None]);
}

#[test]
fn loader_of_a_batch_may_return_a_map() {
    let double = Double::default();
    let rows = HashMap::from([("a".to_string(), 1), ("b".to_string(), 2)]);
    let found = Cache::get_many_or_load(&double, ["a", "b"], |_| Ok::<_, &str>(rows.clone()));
    assert_eq!(found.unwrap(), [Some(1), Some(2)]);
}
