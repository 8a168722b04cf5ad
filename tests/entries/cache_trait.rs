//! Application code written against `Cache`.

use hotset::{
    AnyError, Cache, ErasedBatchLoader, ErasedKey, ErasedLoader, LoadError, Loaded, LocalCache,
    Propagation,
};
use std::error::Error;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

#[derive(Debug, PartialEq)]
struct NotFound(u32);

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no row {}", self.0)
    }
}

impl Error for NotFound {}

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
    (&cache).get_or_load_entry(&key, load).unwrap()
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

type Outcome = Result<String, LoadError<AnyError>>;

/// A cache that stores nothing, and whose function answers the callers that load. Batches fail without a call of it.
struct Scripted(fn(ErasedLoader<'_, String>) -> Outcome);

impl Cache<u32, String> for Scripted {
    fn get_erased(&self, _: &dyn ErasedKey<u32>) -> Option<String> {
        None
    }
    fn insert_loaded(&self, _: u32, _: Loaded<String>) -> Propagation {
        Propagation::Acknowledged
    }
    fn invalidate_erased(&self, _: &dyn ErasedKey<u32>) -> Propagation {
        Propagation::Acknowledged
    }
    fn invalidate_tag(&self, _: &str) -> Propagation {
        Propagation::Acknowledged
    }
    fn clear(&self) -> Propagation {
        Propagation::Acknowledged
    }
    fn get_or_load_erased(
        &self,
        _: &dyn ErasedKey<u32>,
        loader: ErasedLoader<'_, String>,
    ) -> Outcome {
        (self.0)(loader)
    }
    fn get_many_or_load_erased(
        &self,
        _: &[&dyn ErasedKey<u32>],
        _: ErasedBatchLoader<'_, u32, String>,
    ) -> Result<Vec<Option<String>>, LoadError<AnyError>> {
        Err(LoadError::erased("no batches"))
    }
}

#[test]
fn error_of_a_cache_that_does_not_call_the_loader_reaches_the_caller() {
    let timeout = Scripted(|_| Err(LoadError::WaitTimeout));
    assert!(matches!(
        by_generic(&timeout, 1),
        Err(LoadError::WaitTimeout)
    ));
    let computed = timeout.get_or_insert_with(&1, |_| "computed".to_string());
    assert_eq!(computed, "computed");
    let recursive = Scripted(|_| Err(LoadError::Recursive));
    assert!(matches!(
        by_generic(&recursive, 1),
        Err(LoadError::Recursive)
    ));
}

#[test]
#[should_panic(expected = "an error that is not its loader's")]
fn error_that_is_not_from_the_loader_panics_instead_of_looping() {
    // The error of the first loader, which this cache returns to all callers. The trait does not allow that.
    static FIRST_ERROR: OnceLock<LoadError<AnyError>> = OnceLock::new();
    let broken = Scripted(|mut loader| {
        let loaded = loader.run().map(Loaded::into_value);
        loaded.map_err(|error| FIRST_ERROR.get_or_init(|| error).clone())
    });
    assert!(broken.get_or_load(&1, |_| Err("refused")).is_err());
    let _ = by_generic(&broken, 11);
}

#[test]
fn cache_that_returns_foreign_errors_without_end_panics_instead_of_looping() {
    let broken = Scripted(|_| Err(LoadError::erased("broken")));
    let panic_of = |call: &dyn Fn()| {
        let panicked = catch_unwind(AssertUnwindSafe(call)).unwrap_err();
        *panicked.downcast::<String>().unwrap()
    };
    let message = "get_or_load_erased returned an error that is not its loader's";
    assert_eq!(panic_of(&|| drop(by_generic(&broken, 11))), message);
    let batch = || drop(broken.get_many_or_load(&[11], |_| Err::<[_; 0], _>(NotFound(11))));
    assert_eq!(panic_of(&batch), message);
    // An error of the type of the caller's loader is returned.
    let error = broken.get_or_load(&1, |_| Err("not called")).unwrap_err();
    assert_eq!(error.as_inner(), Some(&"broken"));
}
