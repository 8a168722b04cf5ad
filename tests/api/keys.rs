//! Keys in borrowed form.

use hotset::{AsyncCache, Cache, LocalCache};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Loads the length of a name, without the type of the key.
fn length(name: &str) -> io::Result<usize> {
    Ok(name.len())
}

#[test]
fn str_is_a_key_of_a_cache_with_strings() {
    let cache: LocalCache<String, usize> = LocalCache::new(10);
    let name = "pear".to_string();
    assert_eq!(cache.get_or_load("apple", length).unwrap(), 5);
    assert_eq!(cache.get_or_load(&name, |name| length(name)).unwrap(), 4);
    assert_eq!(cache.get_or_load(name.as_str(), length).unwrap(), 4);
    assert_eq!(cache.get_or_insert_with("fig", |name| name.len()), 3);
    assert_eq!(cache.update("fig", |length| Some(length? + 1)), Some(4));
    assert_eq!(cache.stats().loads, 3);
}

#[test]
fn other_borrowed_forms_are_keys() {
    let lists: LocalCache<Vec<u8>, usize> = LocalCache::new(10);
    let loaded = lists.get_or_load([1_u8, 2].as_slice(), |key| Ok::<_, io::Error>(key.len()));
    assert_eq!(loaded.unwrap(), 2);
    let files: LocalCache<PathBuf, bool> = LocalCache::new(10);
    assert!(files.get_or_insert_with(Path::new("/"), |path| path.is_absolute()));
}

#[test]
fn batch_accepts_keys_in_any_form() {
    let cache: LocalCache<String, usize> = LocalCache::new(10);
    let load = |names: Vec<String>| {
        let pair = |name: String| {
            let length = name.len();
            (name, length)
        };
        Ok::<_, io::Error>(names.into_iter().map(pair))
    };
    let names = ["apple".to_string(), "fig".to_string()];
    let expected = [Some(5), Some(3)];
    assert_eq!(
        cache.get_many_or_load(["apple", "fig"], load).unwrap(),
        expected
    );
    assert_eq!(cache.get_many_or_load(&names, load).unwrap(), expected);
    assert_eq!(
        cache.get_many_or_load(names.iter(), load).unwrap(),
        expected
    );
    assert_eq!(
        cache.get_many_or_load(&names.to_vec(), load).unwrap(),
        expected
    );
    let found = cache.get_many_or_load(names.iter().map(String::as_str), load);
    assert_eq!(found.unwrap(), expected);
    assert_eq!(cache.stats().loads, 1);
}

#[test]
fn batch_finds_repeated_keys_in_borrowed_form() {
    let cache: LocalCache<String, usize> = LocalCache::new(10);
    let found = cache.get_many_or_load(["a", "b", "a", "b"], |names| {
        assert_eq!(names, ["a", "b"]);
        Ok::<_, io::Error>([("a".to_string(), 1), ("b".to_string(), 2)])
    });
    assert_eq!(found.unwrap(), [Some(1), Some(2), Some(1), Some(2)]);
}

/// A key that counts its clones.
#[derive(Debug, PartialEq, Eq, Hash)]
struct CountedKey(u32);

static CLONES: AtomicU32 = AtomicU32::new(0);

impl Clone for CountedKey {
    fn clone(&self) -> Self {
        CLONES.fetch_add(1, Relaxed);
        Self(self.0)
    }
}

#[test]
fn hit_does_not_clone_the_key() {
    let cache: LocalCache<CountedKey, u32> = LocalCache::new(10);
    let key = CountedKey(7);
    let load = |_: &CountedKey| Ok::<_, io::Error>(70);
    assert_eq!(cache.get_or_load(&key, load).unwrap(), 70);
    let clones = CLONES.load(Relaxed);
    assert!(clones > 0);
    let object: Arc<dyn Cache<CountedKey, u32>> = Arc::new(cache.clone());
    assert_eq!(cache.get_or_load(&key, load).unwrap(), 70);
    assert_eq!(
        cache
            .get_many_or_load([&key], |_| Ok::<_, io::Error>([]))
            .unwrap(),
        [Some(70)]
    );
    assert_eq!(object.get_or_load(&key, load).unwrap(), 70);
    assert_eq!(object.get(&key), Some(70));
    assert!(object.contains_key(&key));
    assert_eq!(CLONES.load(Relaxed), clones);
}

#[tokio::test]
async fn trait_objects_accept_keys_in_borrowed_form() {
    let cache: LocalCache<String, usize> = LocalCache::new(10);
    let blocking: Arc<dyn Cache<String, usize>> = Arc::new(cache.clone());
    assert_eq!(blocking.get_or_load("apple", length).unwrap(), 5);
    assert_eq!(blocking.get("apple"), Some(5));
    assert_eq!(cache.get("apple"), Some(5));
    let tasks: Arc<dyn AsyncCache<String, usize>> = Arc::new(cache.clone());
    let loaded = tasks.get_or_load_async("pear", |name| async move { length(&name) });
    assert_eq!(loaded.await.unwrap(), 4);
    assert!(tasks.contains_key("apple").await);
    tasks.invalidate("apple").await;
    assert_eq!(blocking.get("apple"), None);
    let found = tasks.get_many_or_load_async(["pear", "fig"], |missing| async move {
        assert_eq!(missing, ["fig"]);
        Ok::<_, io::Error>([("fig".to_string(), 3)])
    });
    assert_eq!(found.await.unwrap(), [Some(4), Some(3)]);
    assert_eq!(cache.stats().loads, 3);
}

/// Loads two names with a loader that borrows, through any cache.
async fn lengths(cache: &impl AsyncCache<String, usize>) -> io::Result<Vec<Option<usize>>> {
    let suffix = String::from("s");
    let load = async |missing: Vec<String>| {
        let row = |name: String| (name.clone(), (name + &suffix).len());
        Ok::<_, io::Error>(missing.into_iter().map(row).collect::<Vec<_>>())
    };
    let found = cache.get_many_or_load_async(["pear", "fig"], load).await;
    found.map_err(io::Error::other)
}

#[tokio::test]
async fn batch_through_the_trait_runs_in_a_spawned_task() {
    let cache: LocalCache<String, usize> = LocalCache::new(10);
    let found = tokio::spawn(async move { lengths(&cache).await });
    assert_eq!(found.await.unwrap().unwrap(), [Some(5), Some(4)]);
}

#[tokio::test]
async fn pointer_to_a_cache_has_the_methods_of_the_cache() {
    // Both traits are in scope.
    let cache: Arc<LocalCache<u32, u32>> = Arc::new(LocalCache::new(10));
    cache.insert(1, 10);
    assert_eq!(cache.get(&1), Some(10));
    assert_eq!(
        cache.get_or_load(&2, |_| Ok::<_, io::Error>(20)).unwrap(),
        20
    );
    let loaded = cache.get_or_load_async(&3, |_| async { Ok::<_, io::Error>(30) });
    assert_eq!(loaded.await.unwrap(), 30);
    cache.invalidate(&1);
    assert!(!cache.contains_key(&1));
    cache.clear();
    assert_eq!(cache.stats().loads, 2);
    let boxed = Box::new(LocalCache::new(10));
    boxed.insert(1, 10);
    assert_eq!(boxed.get(&1), Some(10));
}
