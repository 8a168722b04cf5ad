//! Application code written against `Cache`.

use hotset::{AnyError, Cache, ErasedLoader, LoadError, Loaded, LocalCache};
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, PartialEq)]
struct NotFound(u32);

fn by_generic(cache: &impl Cache<u32, String>, key: u32) -> Result<String, LoadError<NotFound>> {
    cache.get_or_load(&key, |&key| {
        if key < 10 {
            Ok(key.to_string())
        } else {
            Err(NotFound(key))
        }
    })
}

fn by_reference(cache: &dyn Cache<u32, String>, key: u32) -> String {
    let load = |key: &u32| Ok::<_, NotFound>(Loaded::new(key.to_string()).ttl(Duration::MAX));
    (&cache).get_or_load(&key, load).unwrap()
}

#[test]
fn local_cache_can_be_used_through_every_pointer() {
    let local: LocalCache<u32, String> = LocalCache::new(10);
    let shared: Arc<dyn Cache<u32, String>> = Arc::new(local.clone());
    assert_eq!(by_generic(&local, 1).unwrap(), "1");
    assert_eq!(by_generic(&shared, 2).unwrap(), "2");
    assert_eq!(by_reference(&local, 3), "3");
    assert_eq!(by_reference(&*shared, 4), "4");
    assert_eq!(shared.get(&1), Some("1".to_string()));
    shared.insert(5, "five".to_string());
    shared.insert_with_ttl(6, "six".to_string(), Duration::ZERO);
    assert_eq!(local.get(&5).as_deref(), Some("five"));
    assert_eq!(local.get(&6), None);
    shared.invalidate(&5);
    assert_eq!(local.get(&5), None);
    shared.clear();
    assert!(local.is_empty());
    // Each lookup counts once, through every pointer.
    assert_eq!((local.stats().hits, local.stats().misses), (2, 6));
}

#[test]
fn error_keeps_its_type_through_a_trait_object() {
    let shared: Arc<dyn Cache<u32, String>> = Arc::new(LocalCache::new(10));
    match by_generic(&shared, 11) {
        Err(LoadError::Failed(error)) => assert_eq!(*error, NotFound(11)),
        other => panic!("{other:?}"),
    }
    let recursive = shared.get_or_load(&1, |key| {
        let inner = shared.get_or_load(key, |_| Ok::<_, NotFound>(String::new()));
        assert!(matches!(inner, Err(LoadError::Recursive)));
        Ok::<_, NotFound>("outer".to_string())
    });
    assert_eq!(recursive.unwrap(), "outer");
}

/// A cache that breaks the contract of the trait: its error is not from the loader.
struct Broken;

impl Cache<u32, String> for Broken {
    fn get(&self, _: &u32) -> Option<String> {
        None
    }
    fn insert(&self, _: u32, _: String) {}
    fn insert_with_ttl(&self, _: u32, _: String, _: Duration) {}
    fn invalidate(&self, _: &u32) {}
    fn clear(&self) {}
    fn get_or_load_erased(
        &self,
        key: &u32,
        load: &mut ErasedLoader<'_, u32, String>,
    ) -> Result<String, LoadError<AnyError>> {
        let _ = load(key);
        Err(LoadError::Failed(Arc::new("not the error of the loader")))
    }
}

#[test]
#[should_panic(expected = "an error that is not its loader's")]
fn error_that_is_not_from_the_loader_panics_instead_of_looping() {
    let _ = by_generic(&Broken, 11);
}
