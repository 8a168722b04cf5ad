//! The error of a call that may load.

use crate::error::loader::{Description, LoaderError};
use std::any::Any;
use std::error::Error;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// An error of any type that the callers of one load share.
pub type AnyError = dyn Any + Send + Sync;

/// The reason why [`get_or_load`](crate::LocalCache::get_or_load) returned no value.
///
/// It is an [`Error`] whatever the type of the loader's error, so the operator `?` converts it to `anyhow::Error`,
/// `eyre::Report` and `Box<dyn Error + Send + Sync>`. The loader's error is its [`source`](Error::source). The text
/// with `{}` therefore does not repeat the text of the loader's error, unless that is a string. The text with `{:#}`
/// contains the whole chain of errors.
///
/// Clones share the loader's error.
///
/// # Examples
///
/// An error response of a web service:
///
/// ```
/// use hotset::{LoadError, LocalCache};
/// use std::io;
///
/// fn status(error: &LoadError<io::Error>) -> u16 {
///     match error {
///         LoadError::Failed(error) if error.kind() == io::ErrorKind::NotFound => 404,
///         LoadError::Failed(_) => 502,
///         LoadError::WaitTimeout => 504,
///         _ => 500,
///     }
/// }
///
/// let pages: LocalCache<u32, String> = LocalCache::new(100);
/// let missing = || io::Error::new(io::ErrorKind::NotFound, "there is no page 7");
/// let error = pages.get_or_load(&7, |_| Err(missing())).unwrap_err();
/// assert_eq!(status(&error), 404);
/// assert_eq!(format!("{error:#}"), "the loader failed: there is no page 7");
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum LoadError<E: ?Sized> {
    /// The loader failed. All callers that waited for this load get the same error.
    Failed(SharedError<E>),
    /// Another caller's load, the wait for a permit, or the caller's own load in a task of `detached` took longer
    /// than this cache's `wait_timeout`. The load continues.
    WaitTimeout,
    /// The loader requested the key that it was loading, in the same thread or task, which would wait for itself
    /// without limit.
    Recursive,
    /// The runtime that ran a `detached` load was shut down.
    Shutdown,
}

impl<E: ?Sized> LoadError<E> {
    /// Returns the loader's error, or `None` if the loader did not fail.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{LoadError, LocalCache};
    /// use std::io::{Error, ErrorKind};
    ///
    /// let pages: LocalCache<u32, String> = LocalCache::new(100);
    /// let error = pages.get_or_load(&7, |_| Err(Error::from(ErrorKind::NotFound))).unwrap_err();
    /// assert_eq!(error.as_inner().map(Error::kind), Some(ErrorKind::NotFound));
    /// assert!(LoadError::<Error>::WaitTimeout.as_inner().is_none());
    /// ```
    #[must_use]
    pub fn as_inner(&self) -> Option<&E> {
        match self {
            Self::Failed(error) => Some(error),
            _ => None,
        }
    }

    /// Returns the loader's error, or `None` if the loader did not fail.
    ///
    /// The callers of one load share its error. [`Arc::into_inner`] returns the error itself to the last of them.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::LocalCache;
    /// use std::{io, sync::Arc};
    ///
    /// let pages: LocalCache<u32, String> = LocalCache::new(100);
    /// let error = pages.get_or_load(&7, |_| Err(io::Error::other("no connection"))).unwrap_err();
    /// // No other caller has waited for this load.
    /// let error: io::Error = error.into_inner().and_then(Arc::into_inner).unwrap();
    /// assert_eq!(error.to_string(), "no connection");
    /// ```
    #[must_use]
    pub fn into_inner(self) -> Option<Arc<E>> {
        match self {
            Self::Failed(error) => Some(error.error),
            _ => None,
        }
    }
}

impl<E> LoadError<E> {
    /// Creates a [`Failed`](Self::Failed) from the error of a loader.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::LoadError;
    /// use std::io;
    ///
    /// // For a double in a test.
    /// let error = LoadError::failed(io::Error::other("no connection"));
    /// assert_eq!(format!("{error:#}"), "the loader failed: no connection");
    /// ```
    pub fn failed<M>(error: E) -> Self
    where
        E: LoaderError<M>,
    {
        Self::Failed(SharedError::new(Arc::new(error)))
    }

    /// Converts the loader's error by `convert`, for example into the error type of the application.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{LoadError, LocalCache};
    ///
    /// let pages: LocalCache<u32, String> = LocalCache::new(100);
    /// let result = pages.get_or_load(&7, |_| "seven".parse::<u32>().map(|id| id.to_string()));
    /// let error: LoadError<String> = result.unwrap_err().map(|error| error.to_string());
    /// assert_eq!(error.as_inner().unwrap(), "invalid digit found in string");
    /// ```
    #[must_use]
    pub fn map<F, M>(self, convert: impl FnOnce(Arc<E>) -> F) -> LoadError<F>
    where
        F: LoaderError<M>,
    {
        match self {
            Self::Failed(error) => LoadError::failed(convert(error.error)),
            Self::WaitTimeout => LoadError::WaitTimeout,
            Self::Recursive => LoadError::Recursive,
            Self::Shutdown => LoadError::Shutdown,
        }
    }
}

impl LoadError<AnyError> {
    /// Creates a [`Failed`](Self::Failed) from the error of a loader, and erases its type.
    ///
    /// Most implementations of [`Cache`](crate::Cache) or [`AsyncCache`](crate::AsyncCache) do not need it, because
    /// they return only the errors of their callers' loaders. If its backend fails, an implementation runs the loader
    /// instead of returning an error.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{AnyError, LoadError};
    /// use std::io;
    ///
    /// let error: LoadError<AnyError> = LoadError::erased(io::Error::other("no connection"));
    /// assert_eq!(format!("{error:#}"), "the loader failed: no connection");
    /// ```
    pub fn erased<E, M>(error: E) -> Self
    where
        E: LoaderError<M>,
    {
        Self::Failed(SharedError::erased(error))
    }

    /// Converts the loader's error to the type `E`.
    ///
    /// # Errors
    ///
    /// Returns `self`, unchanged, if the loader's error has another type.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::LoadError;
    /// use std::{fmt, io};
    ///
    /// let error = LoadError::erased(io::Error::other("no connection"));
    /// // The error has another type, so it is returned unchanged.
    /// let error = error.downcast::<fmt::Error, _>().unwrap_err();
    /// let error: LoadError<io::Error> = error.downcast().unwrap();
    /// assert_eq!(error.as_inner().unwrap().to_string(), "no connection");
    /// ```
    pub fn downcast<E, M>(self) -> Result<LoadError<E>, Self>
    where
        E: LoaderError<M>,
    {
        match self {
            Self::Failed(SharedError { error, describe }) => match error.downcast::<E>() {
                Ok(error) => Ok(LoadError::Failed(SharedError::new(error))),
                Err(error) => Err(Self::Failed(SharedError { error, describe })),
            },
            Self::WaitTimeout => Ok(LoadError::WaitTimeout),
            Self::Recursive => Ok(LoadError::Recursive),
            Self::Shutdown => Ok(LoadError::Shutdown),
        }
    }
}

impl<E: ?Sized> Clone for LoadError<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Failed(error) => Self::Failed(error.clone()),
            Self::WaitTimeout => Self::WaitTimeout,
            Self::Recursive => Self::Recursive,
            Self::Shutdown => Self::Shutdown,
        }
    }
}

impl<E: ?Sized> fmt::Display for LoadError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => {
                f.write_str("the loader failed")?;
                match error.description() {
                    Description::Error(error) if f.alternate() => write_chain(error, f),
                    Description::Text(text) => write!(f, ": {text}"),
                    Description::Error(_) | Description::Empty => Ok(()),
                }
            }
            Self::WaitTimeout => {
                f.write_str("the load, or the wait for a permit, took longer than the wait timeout")
            }
            Self::Shutdown => {
                f.write_str("the runtime was shut down before the detached load ended")
            }
            Self::Recursive => f.write_str(
                "the loader requested the key that it is loading: load another key, or read with get",
            ),
        }
    }
}

/// Writes the texts of an error and of its sources.
fn write_chain(error: &(dyn Error + 'static), f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut next = Some(error);
    while let Some(error) = next {
        write!(f, ": {error}")?;
        next = error.source();
    }
    Ok(())
}

impl<E: ?Sized + fmt::Debug> Error for LoadError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed(error) => match error.description() {
                Description::Error(error) => Some(error),
                Description::Text(_) | Description::Empty => None,
            },
            _ => None,
        }
    }
}

/// The error of a loader, which all callers of its load share. It dereferences to the error.
///
/// # Examples
///
/// ```
/// use hotset::{LoadError, LocalCache};
/// use std::io;
///
/// let pages: LocalCache<u32, String> = LocalCache::new(100);
/// match pages.get_or_load(&7, |_| Err(io::ErrorKind::NotFound.into())) {
///     Err(LoadError::Failed(error)) => {
///         let error: &io::Error = &error;
///         assert_eq!(error.kind(), io::ErrorKind::NotFound);
///     }
///     other => panic!("{other:?}"),
/// }
/// ```
pub struct SharedError<E: ?Sized> {
    error: Arc<E>,
    /// [`LoaderError::describe`] of the error's type, which is not known everywhere.
    describe: fn(&E) -> Description<'_>,
}

impl<E> SharedError<E> {
    /// Shares an error.
    pub(crate) fn new<M>(error: Arc<E>) -> Self
    where
        E: LoaderError<M>,
    {
        Self {
            error,
            describe: E::describe,
        }
    }
}

impl SharedError<AnyError> {
    /// Shares an error, and erases its type.
    pub(crate) fn erased<E, M>(error: E) -> Self
    where
        E: LoaderError<M>,
    {
        Self {
            error: Arc::new(error),
            describe: |error| match error.downcast_ref::<E>() {
                Some(error) => error.describe(),
                None => Description::Empty,
            },
        }
    }
}

impl<E: ?Sized> SharedError<E> {
    /// Returns `true` if `this` and `other` are the error of the same load.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{LoadError, SharedError};
    ///
    /// let error = LoadError::failed("no connection");
    /// let (LoadError::Failed(first), LoadError::Failed(second)) = (error.clone(), error) else {
    ///     unreachable!()
    /// };
    /// assert!(SharedError::ptr_eq(&first, &second));
    /// ```
    #[must_use]
    pub fn ptr_eq(this: &Self, other: &Self) -> bool {
        Arc::ptr_eq(&this.error, &other.error)
    }

    /// Returns the parts of the error for the text and the source of a [`LoadError`].
    fn description(&self) -> Description<'_> {
        (self.describe)(&self.error)
    }
}

impl<E: ?Sized> Clone for SharedError<E> {
    fn clone(&self) -> Self {
        Self {
            error: Arc::clone(&self.error),
            describe: self.describe,
        }
    }
}

impl<E: ?Sized> Deref for SharedError<E> {
    type Target = E;

    fn deref(&self) -> &E {
        &self.error
    }
}

impl<E: ?Sized + fmt::Display> fmt::Display for SharedError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<E: ?Sized + fmt::Debug> fmt::Debug for SharedError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}
