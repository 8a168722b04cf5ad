//! Type erasure of loaders and of their errors.
//!
//! Callers of one key may use loaders with different error types, and a trait object cannot have a method with a
//! type parameter. So loads share their errors as [`AnyError`], and each caller converts the error of the shared load
//! back to the type of its own loader.

use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
use std::any::{Any, TypeId};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// A loader of any type, for [`Cache::get_or_load_erased`](crate::Cache::get_or_load_erased).
pub type ErasedLoader<'a, K, V> = dyn FnMut(&K) -> Result<Loaded<V>, Arc<AnyError>> + 'a;

/// A future of an [`ErasedAsyncLoader`].
pub type BoxedLoad<'a, V> =
    Pin<Box<dyn Future<Output = Result<Loaded<V>, Arc<AnyError>>> + Send + 'a>>;

/// An async loader of any type, for [`AsyncCache::get_or_load_erased`](crate::AsyncCache::get_or_load_erased).
pub type ErasedAsyncLoader<'a, V> = dyn FnMut() -> BoxedLoad<'a, V> + Send + 'a;

/// The panic message for an implementation of a trait that returns an error of its own making.
pub(super) const FOREIGN_ERROR: &str =
    "get_or_load_erased returned an error that is not its loader's";

/// The panic message for an implementation of a trait that calls its loader a second time.
pub(super) const SECOND_CALL: &str = "a cache calls a loader at most once";

/// Calls `call` with the erased `load`, and converts its result to the error type of `load`.
///
/// A caller that waited for the load of another caller, which failed with an error of another type, cannot return
/// that error. It still has its loader, so it calls again.
///
/// # Panics
///
/// Panics if `call` calls the loader twice, or returns an error of another type although it called the loader.
pub(crate) fn with_erased<K, V, L, E>(
    load: impl FnOnce(&K) -> Result<L, E>,
    mut call: impl FnMut(&mut ErasedLoader<'_, K, V>) -> Result<V, LoadError<AnyError>>,
) -> Result<V, LoadError<E>>
where
    L: Into<Loaded<V>>,
    E: Any + Send + Sync,
{
    let mut load = Some(load);
    loop {
        let result = call(&mut |key| {
            let load = load.take().expect(SECOND_CALL);
            erase(load(key))
        });
        if let Some(result) = downcast(result) {
            return result;
        }
        assert!(load.is_some(), "{FOREIGN_ERROR}");
    }
}

/// Converts the result of a loader into the form that the callers of one load share.
pub(crate) fn erase<L: Into<Loaded<V>>, V, E: Any + Send + Sync>(
    result: Result<L, E>,
) -> Result<Loaded<V>, Arc<AnyError>> {
    match result {
        Ok(loaded) => Ok(loaded.into()),
        Err(error) => Err(Arc::new(error)),
    }
}

/// Erases the type of a loader. Each call except the first panics.
pub(crate) fn erase_loader<K, V, L, E>(
    load: impl FnOnce(&K) -> Result<L, E>,
) -> impl FnMut(&K) -> Result<Loaded<V>, Arc<AnyError>>
where
    L: Into<Loaded<V>>,
    E: Any + Send + Sync,
{
    let mut load = Some(load);
    move |key| {
        let load = load.take().expect(SECOND_CALL);
        erase(load(key))
    }
}

/// Converts a result to the error type of the caller's loader. Returns `None` if it is another caller's error of
/// another type.
pub(super) fn downcast<V, E: Any + Send + Sync>(
    result: Result<V, LoadError<AnyError>>,
) -> Option<Result<V, LoadError<E>>> {
    match result.map_err(LoadError::downcast::<E>) {
        Ok(value) => Some(Ok(value)),
        Err(Ok(error)) => Some(Err(error)),
        Err(Err(_)) => None,
    }
}

/// The result of a load, in the form that its callers share. The error is the loader's own, or the reason why the
/// loader did not run.
pub(crate) type LoadResult<V> = Result<Loaded<V>, LoadError<AnyError>>;

/// The result of a load of several keys, in the form that its callers share.
pub(crate) type BatchResult<K, V> = Result<Vec<(K, Loaded<V>)>, LoadError<AnyError>>;

/// Converts the result of a loader into a [`LoadResult`].
pub(crate) fn share<L: Into<Loaded<V>>, V, E: Any + Send + Sync>(
    result: Result<L, E>,
) -> LoadResult<V> {
    erase(result).map_err(LoadError::Failed)
}

/// Converts the result of a loader of several keys into a [`BatchResult`].
pub(crate) fn share_batch<M, K, L, V, E>(result: Result<M, E>) -> BatchResult<K, V>
where
    M: IntoIterator<Item = (K, L)>,
    L: Into<Loaded<V>>,
    E: Any + Send + Sync,
{
    match result {
        Ok(pairs) => Ok(pairs
            .into_iter()
            .map(|(key, loaded)| (key, loaded.into()))
            .collect()),
        Err(error) => Err(LoadError::Failed(Arc::new(error))),
    }
}

/// The error type of a caller's loader. The caller shares only loads that fail with errors of this type.
#[derive(Clone, Copy)]
pub(crate) struct ErrorType(Option<TypeId>);

impl ErrorType {
    /// Any type, for a caller whose loader is erased already.
    pub(crate) const ANY: Self = Self(None);

    /// Returns the error type `E`.
    pub(crate) fn of<E: Any>() -> Self {
        Self(Some(TypeId::of::<E>()))
    }

    /// Checks whether the caller may return this error of another caller's load.
    pub(crate) fn accepts(self, error: &LoadError<AnyError>) -> bool {
        match (self.0, error) {
            (Some(own), LoadError::Failed(error)) => (**error).type_id() == own,
            _ => true,
        }
    }
}

/// Converts the result of a call to the error type of the caller's loader, which was given to the call as an
/// [`ErrorType`].
///
/// # Panics
///
/// Panics if it is an error of another type.
pub(crate) fn typed<V, E: Any + Send + Sync>(
    result: Result<V, LoadError<AnyError>>,
) -> Result<V, LoadError<E>> {
    downcast(result).expect("the call returns only errors of its caller's type")
}
