//! The error types of loaders.

use std::any::Any;
use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::ops::DerefMut;
use std::sync::Arc;

/// The error type of a loader: every [`Error`] that is `Send + Sync + 'static`, every report that owns such an error
/// (`anyhow::Error`, `eyre::Report`, `Box<dyn Error + Send + Sync>`), every string type, and `()`.
///
/// A [`LoadError`](crate::LoadError) is an [`Error`] for each of these types, and its [`source`](Error::source) chain
/// contains the loader's error. An error of any other type can be returned as an [`OpaqueError`].
///
/// The parameter `M` distinguishes the groups of types. The compiler infers it. A function that is generic over its
/// loader's error type has the bound `E: Error + Send + Sync + 'static`, or `E: LoaderError<M>` with `M` as another
/// parameter.
///
/// # Examples
///
/// ```
/// use hotset::{LoadError, LoaderError, LocalCache};
///
/// fn length<E: LoaderError<M>, M>(
///     lengths: &LocalCache<String, usize>,
///     name: &str,
///     read: impl Fn(&str) -> Result<String, E>,
/// ) -> Result<usize, LoadError<E>> {
///     lengths.get_or_load(name, |name| Ok(read(name)?.len()))
/// }
///
/// let lengths = LocalCache::new(100);
/// assert_eq!(length(&lengths, "a", |_| Ok::<_, std::io::Error>("text".into()))?, 4);
/// # Ok::<(), LoadError<std::io::Error>>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the error type of a loader",
    note = "a loader's error is a `std::error::Error + Send + Sync + 'static`, an `anyhow::Error`, an `eyre::Report`, \
            a `Box<dyn Error + Send + Sync>`, or a string",
    note = "implement `std::error::Error` for it, or return it as `hotset::OpaqueError(error)`"
)]
pub trait LoaderError<M>: Any + Send + Sync {
    /// Returns the parts of this error that the text and the source of a [`LoadError`](crate::LoadError) are made of.
    fn describe(&self) -> Description<'_>;
}

/// The parts of a loader's error that the text and the source of a [`LoadError`](crate::LoadError) are made of.
///
/// # Examples
///
/// ```
/// use hotset::{Description, LoaderError};
/// use std::fmt;
///
/// assert!(matches!(fmt::Error.describe(), Description::Error(_)));
/// assert!(matches!("no connection".describe(), Description::Text("no connection")));
/// assert!(matches!(().describe(), Description::Empty));
/// ```
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Description<'a> {
    /// The error is the source.
    Error(&'a (dyn Error + 'static)),
    /// The error is a text. There is no source.
    Text(&'a str),
    /// The error has no text.
    Empty,
}

/// The groups of types that implement [`LoaderError`], as values of its parameter.
#[allow(unreachable_pub)] // Parts of the signatures of implementations.
pub mod group {
    /// Types that implement `Error`.
    #[derive(Debug)]
    pub enum IsError {}

    /// Types that own an `Error` of a type that is not known.
    #[derive(Debug)]
    pub enum IsReport {}

    /// Strings, and `()`.
    #[derive(Debug)]
    pub enum IsText {}
}

impl<E: Error + Send + Sync + 'static> LoaderError<group::IsError> for E {
    fn describe(&self) -> Description<'_> {
        Description::Error(self)
    }
}

// `DerefMut` and not `Deref`, because `Arc<dyn Error + Send + Sync>` implements `Error` and would belong to two groups.
impl<E> LoaderError<group::IsReport> for E
where
    E: DerefMut<Target = dyn Error + Send + Sync> + Send + Sync + 'static,
{
    fn describe(&self) -> Description<'_> {
        Description::Error(&**self)
    }
}

macro_rules! impl_for_text {
    ($($text:ty),*) => {$(
        // The notes above name the types that are allowed.
        #[diagnostic::do_not_recommend]
        impl LoaderError<group::IsText> for $text {
            fn describe(&self) -> Description<'_> {
                Description::Text(self)
            }
        }
    )*};
}

// Not all types that implement `AsRef<str>`, because a type that implements `Error` as well would belong to two groups.
impl_for_text!(String, &'static str, Box<str>, Arc<str>, Cow<'static, str>);

#[diagnostic::do_not_recommend]
impl LoaderError<group::IsText> for () {
    fn describe(&self) -> Description<'_> {
        Description::Empty
    }
}

/// An error of a type that does not implement [`Error`], for a loader that returns it.
///
/// Its text is the [`Debug`](fmt::Debug) text of the wrapped value.
///
/// # Examples
///
/// ```
/// use hotset::{LocalCache, OpaqueError};
///
/// #[derive(Debug, PartialEq)]
/// struct StatusCode(u16);
///
/// let pages: LocalCache<u32, String> = LocalCache::new(100);
/// let error = pages
///     .get_or_load(&7, |_| Err(StatusCode(404)).map_err(OpaqueError))
///     .unwrap_err();
/// assert_eq!(error.as_inner().unwrap().0, StatusCode(404));
/// assert_eq!(format!("{error:#}"), "the loader failed: StatusCode(404)");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OpaqueError<T>(pub T);

impl<T: fmt::Debug> fmt::Display for OpaqueError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: fmt::Debug> Error for OpaqueError<T> {}
