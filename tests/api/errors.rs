//! Errors of loaders: conversions by `?`, texts, and chains of sources.

use hotset::{Cache, LoadError, LocalCache, OpaqueError};
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

type BoxedError = Box<dyn Error + Send + Sync>;

/// An error with a source.
#[derive(Debug)]
struct QueryError(io::Error);

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the query failed")
    }
}

impl Error for QueryError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

fn query() -> QueryError {
    QueryError(io::Error::other("connection reset"))
}

fn cache() -> LocalCache<u32, u32> {
    LocalCache::new(10)
}

/// Returns the texts of an error and of its sources.
fn chain(error: &(dyn Error + 'static)) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

/// Defines functions that load with an error of this type, and return it by `?` as each of the usual error types.
macro_rules! loads {
    ($name:ident: $error:ty = $new:expr, $text:expr) => {
        mod $name {
            use super::*;

            fn anyhow() -> anyhow::Result<u32> {
                let load = |_: &u32| -> Result<u32, $error> { Err($new) };
                Ok(cache().get_or_load(&1, load)?)
            }

            fn eyre() -> eyre::Result<u32> {
                let load = |_: &u32| -> Result<u32, $error> { Err($new) };
                Ok(cache().get_or_load(&1, load)?)
            }

            fn boxed() -> Result<u32, BoxedError> {
                let load = |_: &u32| -> Result<u32, $error> { Err($new) };
                Ok(cache().get_or_load(&1, load)?)
            }

            fn own() -> Result<u32, OwnError> {
                let load = |_: &u32| -> Result<u32, $error> { Err($new) };
                Ok(cache().get_or_load(&1, load)?)
            }

            struct OwnError(String);

            impl From<LoadError<$error>> for OwnError {
                fn from(error: LoadError<$error>) -> Self {
                    Self(format!("{error:#}"))
                }
            }

            async fn anyhow_async() -> anyhow::Result<u32> {
                let load = |_| async { Err::<u32, $error>($new) };
                Ok(cache().get_or_load_async(&1, load).await?)
            }

            #[tokio::test]
            async fn question_mark_converts_the_error_with_its_chain() {
                let texts = [
                    format!("{:#}", anyhow().unwrap_err()),
                    format!("{:#}", anyhow_async().await.unwrap_err()),
                    format!("{:#}", eyre().unwrap_err()),
                    chain(&*boxed().unwrap_err()),
                    own().unwrap_err().0,
                ];
                for text in texts {
                    assert_eq!(text, format!("the loader failed: {}", $text));
                }
            }
        }
    };
}

const CHAIN: &str = "the query failed: connection reset";

loads!(std_error: QueryError = query(), CHAIN);
loads!(anyhow_error: anyhow::Error = anyhow::Error::new(query()), CHAIN);
loads!(anyhow_context: anyhow::Error = anyhow::anyhow!("connection reset").context("the query failed"), CHAIN);
loads!(eyre_error: eyre::Report = eyre::Report::new(query()), CHAIN);
loads!(eyre_context: eyre::Report = eyre::eyre!("connection reset").wrap_err("the query failed"), CHAIN);
loads!(boxed_error: BoxedError = query().into(), CHAIN);
loads!(shared_error: Arc<dyn Error + Send + Sync> = Arc::new(query()), CHAIN);
loads!(string: String = "no rows".to_string(), "no rows");
loads!(str_slice: &'static str = "no rows", "no rows");

#[test]
fn source_of_a_load_error_is_the_error_of_the_loader() {
    let error = cache().get_or_load(&1, |_| Err(query())).unwrap_err();
    let source = error.source().unwrap();
    assert!(source.is::<QueryError>());
    assert!(source.source().unwrap().is::<io::Error>());
    assert_eq!(error.to_string(), "the loader failed");
}

#[test]
fn inner_error_is_that_of_the_loader() {
    let error = cache().get_or_load(&1, |_| Err(query())).unwrap_err();
    assert_eq!(error.as_inner().unwrap().to_string(), "the query failed");
    let shared = error.clone().into_inner().unwrap();
    assert_eq!(shared.to_string(), "the query failed");
    assert!(LoadError::<QueryError>::WaitTimeout.as_inner().is_none());
    assert!(LoadError::<QueryError>::Recursive.into_inner().is_none());
}

#[test]
fn mapped_error_has_the_other_type() {
    #[derive(Debug)]
    struct AppError(Arc<QueryError>);

    impl fmt::Display for AppError {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("no profile")
        }
    }

    impl Error for AppError {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&*self.0)
        }
    }

    let error = cache().get_or_load(&1, |_| Err(query())).unwrap_err();
    let mapped = error.map(AppError);
    let expected = "the loader failed: no profile: the query failed: connection reset";
    assert_eq!(format!("{mapped:#}"), expected);
    assert!(matches!(
        LoadError::<QueryError>::WaitTimeout.map(AppError),
        LoadError::WaitTimeout
    ));
}

#[test]
fn error_of_another_type_is_returned_as_an_opaque_error() {
    #[derive(Debug, PartialEq)]
    struct StatusCode(u16);

    fn load() -> Result<u32, BoxedError> {
        let load = |_: &u32| Err(OpaqueError(StatusCode(404)));
        Ok(cache().get_or_load(&1, load)?)
    }

    let error = load().unwrap_err();
    let error = error
        .downcast_ref::<LoadError<OpaqueError<StatusCode>>>()
        .unwrap();
    assert_eq!(error.as_inner().unwrap().0, StatusCode(404));
}

#[test]
fn generic_function_has_the_bound_of_an_error() {
    fn load<E: Error + Send + Sync + 'static>(error: E) -> Result<u32, LoadError<E>> {
        cache().get_or_load(&1, |_| Err(error))
    }

    assert!(load(query()).unwrap_err().as_inner().is_some());
}

#[test]
fn trait_object_returns_the_error_with_its_chain() {
    let object: Arc<dyn Cache<u32, u32>> = Arc::new(cache());
    let error = object.get_or_load(&1, |_| Err(query())).unwrap_err();
    assert_eq!(format!("{error:#}"), format!("the loader failed: {CHAIN}"));
}
