//! Type erasure of loaders and of their errors.
//!
//! Callers of one key may use loaders with different error types, and a trait object cannot have a method with a
//! type parameter. So loads share their errors as [`AnyError`], and each caller converts the error of the shared load
//! back to the type of its own loader.

use crate::entry::Loaded;
use crate::error::{AnyError, LoadError, LoaderError};
use std::any::{Any, TypeId, type_name_of_val};
use std::fmt;
use std::future::Future;
use std::pin::Pin;

/// The result of a load, in the form that its callers share. The error is the loader's own, or the reason why the
/// loader did not run.
pub type LoadResult<V> = Result<Loaded<V>, LoadError<AnyError>>;

/// The result of a load of several keys, in the form that its callers share.
pub type BatchResult<K, V> = Result<Vec<(K, Loaded<V>)>, LoadError<AnyError>>;

/// The properties of a caller's loader that decide which loads the caller may share.
#[derive(Clone, Copy)]
pub(crate) struct LoaderProperties {
    /// The name of the loader's type, or `None` if it is not known.
    pub(crate) id: Option<&'static str>,
    pub(crate) error_type: ErrorType,
    /// `true` if the caller loads although there is a live value.
    pub(crate) reloads: bool,
}

impl LoaderProperties {
    /// The properties of a loader whose type is not known.
    #[cfg(feature = "tokio")]
    pub(crate) const ERASED: Self = Self {
        id: None,
        error_type: ErrorType(None),
        reloads: false,
    };

    /// Returns the properties of `load`, whose errors have the type `E`.
    pub(crate) fn new<E: Any, T>(load: &T) -> Self {
        Self {
            id: Some(type_name_of_val(load)),
            error_type: ErrorType::of::<E>(),
            reloads: false,
        }
    }

    /// Returns the properties of a loader that runs although there is a live value.
    pub(crate) const fn reloading(self) -> Self {
        Self {
            reloads: true,
            ..self
        }
    }
}

/// Defines a loader of an erased type.
macro_rules! erased_loader {
    ($(#[$about:meta])* $name:ident<$($generic:ident),*>: $load:ty, ($($key:ident: $argument:ty)?) -> $result:ty) => {
        $(#[$about])*
        pub struct $name<'a, $($generic),*> {
            load: &'a mut $load,
            pub(crate) properties: LoaderProperties,
        }

        impl<'a, $($generic),*> $name<'a, $($generic),*> {
            pub(crate) fn new(load: &'a mut $load, properties: LoaderProperties) -> Self {
                Self { load, properties }
            }

            /// Runs the loader.
            ///
            /// # Errors
            ///
            /// Returns the error of the loader.
            pub fn run(&mut self $(, $key: $argument)?) -> $result {
                (self.load)($($key)?)
            }
        }

        impl<$($generic),*> fmt::Debug for $name<'_, $($generic),*> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    };
}

erased_loader! {
    /// A loader of any type, for [`Cache::get_or_load_erased`](crate::Cache::get_or_load_erased). It has its key.
    ErasedLoader<V>: (dyn FnMut() -> LoadResult<V> + 'a), () -> LoadResult<V>
}

erased_loader! {
    /// A loader of several keys of any type, for
    /// [`Cache::get_many_or_load_erased`](crate::Cache::get_many_or_load_erased). It is given the missing keys.
    ErasedBatchLoader<K, V>: (dyn FnMut(Vec<K>) -> BatchResult<K, V> + 'a),
    (missing: Vec<K>) -> BatchResult<K, V>
}

/// A future of an [`ErasedAsyncLoader`].
pub type BoxedLoad<'a, V> = Pin<Box<dyn Future<Output = LoadResult<V>> + Send + 'a>>;

erased_loader! {
    /// An async loader of any type, for
    /// [`AsyncCache::get_or_load_erased`](crate::AsyncCache::get_or_load_erased). It is given the key in its owned
    /// form.
    ErasedAsyncLoader<K, V>: (dyn FnMut(K) -> BoxedLoad<'a, V> + Send + 'a),
    (key: K) -> BoxedLoad<'a, V>
}

/// A future of an [`ErasedAsyncBatchLoader`].
pub type BoxedBatchLoad<'a, K, V> = Pin<Box<dyn Future<Output = BatchResult<K, V>> + Send + 'a>>;

erased_loader! {
    /// An async loader of several keys of any type, for
    /// [`AsyncCache::get_many_or_load_erased`](crate::AsyncCache::get_many_or_load_erased). It is given the missing
    /// keys.
    ErasedAsyncBatchLoader<K, V>: (dyn FnMut(Vec<K>) -> BoxedBatchLoad<'a, K, V> + Send + 'a),
    (missing: Vec<K>) -> BoxedBatchLoad<'a, K, V>
}

/// The panic message for an implementation of a trait that returns an error of its own making.
pub(super) const FOREIGN_ERROR: &str =
    "get_or_load_erased returned an error that is not its loader's";

/// The number of times that a call is repeated because it returned the error of another caller's load. An
/// implementation that returns such errors without end is at fault.
pub(super) const MAX_REPETITIONS: usize = 10;

/// The panic message for an implementation of a trait that calls its loader a second time.
pub(super) const SECOND_CALL: &str = "a cache calls a loader at most once";

/// Calls `call` with the erased `load`, and converts its result to the error type of `load`.
///
/// An implementation of a trait outside of this crate may return the error of another caller's load, which has another
/// type. This caller cannot return that error. It still has its loader, so it calls again.
///
/// # Panics
///
/// Panics if `call` calls the loader twice, or returns an error of another type although it called the loader.
pub(crate) fn with_erased<V, E, M>(
    load: impl FnOnce() -> Result<Loaded<V>, E>,
    properties: LoaderProperties,
    mut call: impl FnMut(ErasedLoader<'_, V>) -> Result<V, LoadError<AnyError>>,
) -> Result<V, LoadError<E>>
where
    E: LoaderError<M>,
{
    let mut load = Some(load);
    for _ in 0..=MAX_REPETITIONS {
        let mut erased = || {
            let load = load.take().expect(SECOND_CALL);
            share(load())
        };
        let result = call(ErasedLoader::new(&mut erased, properties));
        if let Some(result) = downcast(result) {
            return result;
        }
        assert!(load.is_some(), "{FOREIGN_ERROR}");
    }
    panic!("{FOREIGN_ERROR}");
}

/// Calls `call`, which loads several keys, until its result has the error type of its loader.
///
/// Like [`with_erased`], but the loader may be called again.
pub(crate) fn typed_batch<T, E, M>(
    mut call: impl FnMut() -> Result<T, LoadError<AnyError>>,
) -> Result<T, LoadError<E>>
where
    E: LoaderError<M>,
{
    for _ in 0..=MAX_REPETITIONS {
        if let Some(result) = downcast(call()) {
            return result;
        }
    }
    panic!("{FOREIGN_ERROR}");
}

/// Repeats `call`, which loads several keys, until its result is not the error of another caller's load, of another
/// type.
///
/// Like [`typed_batch`], for a loader whose error type is erased.
pub(crate) fn repeat_batch<T>(
    properties: LoaderProperties,
    mut call: impl FnMut() -> Result<T, LoadError<AnyError>>,
) -> Result<T, LoadError<AnyError>> {
    for _ in 0..=MAX_REPETITIONS {
        let result = call();
        if properties.error_type.accepts_result(&result) {
            return result;
        }
    }
    panic!("{FOREIGN_ERROR}");
}

/// Takes a function that is called once: as the loader, or in its place if the loader did not run.
pub(crate) fn take_once<F>(function: &mut Option<F>) -> F {
    function
        .take()
        .expect("a call that ran its loader has a value")
}

/// Erases the type of a loader. Each call except the first panics.
pub(crate) fn erase_loader<V, E, M>(
    load: impl FnOnce() -> Result<Loaded<V>, E>,
) -> impl FnMut() -> LoadResult<V>
where
    E: LoaderError<M>,
{
    let mut load = Some(load);
    move || {
        let load = load.take().expect(SECOND_CALL);
        share(load())
    }
}

/// Converts a result to the error type of the caller's loader. Returns `None` if it is another caller's error of
/// another type.
pub(super) fn downcast<T, E, M>(
    result: Result<T, LoadError<AnyError>>,
) -> Option<Result<T, LoadError<E>>>
where
    E: LoaderError<M>,
{
    match result.map_err(LoadError::downcast::<E, M>) {
        Ok(value) => Some(Ok(value)),
        Err(Ok(error)) => Some(Err(error)),
        Err(Err(_)) => None,
    }
}

/// Converts the result of a loader into the form that the callers of one load share.
pub(crate) fn share<T, E, M>(result: Result<T, E>) -> Result<T, LoadError<AnyError>>
where
    E: LoaderError<M>,
{
    result.map_err(LoadError::erased)
}

/// Awaits an async loader of a value, and converts its result into a [`LoadResult`].
pub(crate) async fn share_value<V, E, M>(
    loading: impl Future<Output = Result<V, E>>,
) -> LoadResult<V>
where
    E: LoaderError<M>,
{
    share(loading.await.map(Loaded::new))
}

/// Awaits an async loader of an entry, and converts its result into a [`LoadResult`].
pub(crate) async fn share_entry<V, E, M>(
    loading: impl Future<Output = Result<Loaded<V>, E>>,
) -> LoadResult<V>
where
    E: LoaderError<M>,
{
    share(loading.await)
}

/// Converts the pairs of key and value, or of key and entry, that a loader returned into a [`BatchResult`].
pub(crate) fn share_batch<K, L, V, E, M>(
    result: Result<impl IntoIterator<Item = (K, L)>, E>,
) -> BatchResult<K, V>
where
    L: Into<Loaded<V>>,
    E: LoaderError<M>,
{
    share(result.map(|pairs| into_entries(pairs).collect()))
}

/// Awaits an async loader of several keys, and converts its result into a [`BatchResult`].
pub(crate) async fn share_batch_async<T, K, L, V, E, M>(
    loading: impl Future<Output = Result<T, E>>,
) -> BatchResult<K, V>
where
    T: IntoIterator<Item = (K, L)>,
    L: Into<Loaded<V>>,
    E: LoaderError<M>,
{
    share_batch(loading.await)
}

/// Converts pairs of key and value, or of key and entry, into pairs of key and entry.
pub(crate) fn into_entries<K, L: Into<Loaded<V>>, V>(
    pairs: impl IntoIterator<Item = (K, L)>,
) -> impl Iterator<Item = (K, Loaded<V>)> {
    let entry = |(key, value): (K, L)| (key, value.into());
    pairs.into_iter().map(entry)
}

/// The error type of a caller's loader, or `None` for any type. The caller shares only loads that fail with errors of
/// this type.
#[derive(Clone, Copy)]
pub(crate) struct ErrorType(Option<TypeId>);

impl ErrorType {
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

    /// Checks whether the caller may return this result, which may be that of another caller's load.
    pub(super) fn accepts_result<T>(self, result: &Result<T, LoadError<AnyError>>) -> bool {
        result
            .as_ref()
            .err()
            .is_none_or(|error| self.accepts(error))
    }
}

/// Converts the result of a call to the error type of the caller's loader, which was given to the call as an
/// [`ErrorType`].
///
/// # Panics
///
/// Panics if it is an error of another type.
#[inline]
pub(crate) fn typed<T, E, M>(result: Result<T, LoadError<AnyError>>) -> Result<T, LoadError<E>>
where
    E: LoaderError<M>,
{
    match result {
        Ok(value) => Ok(value),
        Err(error) => Err(typed_error(error)),
    }
}

/// Converts an error like [`typed`] converts a result.
///
/// # Panics
///
/// Panics if it is an error of another type.
pub(super) fn typed_error<E, M>(error: LoadError<AnyError>) -> LoadError<E>
where
    E: LoaderError<M>,
{
    error
        .downcast::<E, M>()
        .unwrap_or_else(|_| panic!("{FOREIGN_ERROR}"))
}
