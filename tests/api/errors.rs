//! Errors of loaders: conversions by `?`, texts, and chains of sources.

use hotset::{AnyError, Cache, LoadError, LoaderError, LocalCache, OpaqueError};
use std::borrow::Cow;
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

#[test]
fn error_of_a_nested_cache_has_each_text_once() {
    let (outer, inner) = (cache(), cache());
    let load = |key: &u32| inner.get_or_load(key, |_| Err::<u32, _>(query()));
    let error = outer.get_or_load(&1, load).unwrap_err();
    let expected = "the loader failed: the loader failed: the query failed: connection reset";
    assert_eq!(format!("{error:#}"), expected);
    assert_eq!(chain(&error), expected);
    let load = |key: &u32| inner.get_or_load(key, |_| Err::<u32, _>("no rows"));
    let error = outer.get_or_load(&1, load).unwrap_err();
    assert_eq!(
        format!("{error:#}"),
        "the loader failed: the loader failed: no rows"
    );
    assert_eq!(
        chain(&error),
        "the loader failed: the loader failed: no rows"
    );
    let innermost = error.as_inner().unwrap().as_inner();
    assert_eq!(innermost, Some(&"no rows"));
}

#[test]
fn text_without_a_chain_is_displayed_once_in_both_forms() {
    fn check<E: LoaderError<M> + fmt::Debug, M>(error: E, expected: &str) {
        let error = LoadError::failed(error);
        assert_eq!(
            (format!("{error}").as_str(), format!("{error:#}").as_str()),
            (expected, expected)
        );
        assert!(error.source().is_none());
    }

    check("no rows", "the loader failed: no rows");
    check(String::new(), "the loader failed: ");
    check(Cow::Borrowed("no rows"), "the loader failed: no rows");
    check(
        Cow::<'static, str>::Owned("no rows".to_string()),
        "the loader failed: no rows",
    );
    check(Box::<str>::from("no rows"), "the loader failed: no rows");
    check(Arc::<str>::from("no rows"), "the loader failed: no rows");
    check((), "the loader failed");
}

#[test]
fn errors_of_the_cache_have_no_source_and_name_the_cause() {
    let errors: [(LoadError<QueryError>, &str); 3] = [
        (
            LoadError::WaitTimeout,
            "the load, or the wait for a permit, took longer than the wait timeout",
        ),
        (
            LoadError::Recursive,
            "the loader requested the key that it is loading: load another key, or read with get",
        ),
        (
            LoadError::Shutdown,
            "the runtime was shut down before the detached load ended",
        ),
    ];
    for (error, text) in errors {
        assert_eq!(
            (error.to_string().as_str(), format!("{error:#}").as_str()),
            (text, text)
        );
        assert!(error.source().is_none());
        assert!(error.clone().as_inner().is_none());
    }
}

#[test]
fn erased_error_keeps_its_chain_and_its_type() {
    let error = LoadError::erased(query());
    assert_eq!(format!("{error:#}"), format!("the loader failed: {CHAIN}"));
    assert!(error.source().unwrap().is::<QueryError>());
    let error = error.downcast::<String, _>().unwrap_err();
    assert_eq!(format!("{error:#}"), format!("the loader failed: {CHAIN}"));
    let error = error.downcast::<QueryError, _>().unwrap();
    assert_eq!(error.as_inner().unwrap().to_string(), "the query failed");
    let timeout = LoadError::<AnyError>::WaitTimeout.downcast::<String, _>();
    assert!(matches!(timeout, Ok(LoadError::WaitTimeout)));
}

#[test]
fn load_error_is_send_sync_static_and_shares_its_inner_error() {
    fn check<T: Send + Sync + 'static>(_: &T) {}

    let error = cache().get_or_load(&1, |_| Err(query())).unwrap_err();
    check(&error);
    let (first, second) = (
        error.clone().into_inner().unwrap(),
        error.into_inner().unwrap(),
    );
    assert!(Arc::ptr_eq(&first, &second));
    let error = LoadError::failed("no rows");
    if let LoadError::Failed(shared) = &error {
        check(shared);
        assert_eq!((**shared, shared.clone().len()), ("no rows", 7));
        assert_eq!(
            format!("{shared:?} {error:?}"),
            "\"no rows\" Failed(\"no rows\")"
        );
    }
    check(&LoadError::<AnyError>::WaitTimeout);
}

#[test]
fn mapping_to_text_and_to_an_opaque_error_keeps_what_the_other_type_shows() {
    let error = LoadError::failed(query()).map(|error| error.to_string());
    assert_eq!(error.to_string(), "the loader failed: the query failed");
    let error = LoadError::failed("no rows").map(|text| OpaqueError(text.len()));
    assert_eq!(format!("{error:#}"), "the loader failed: 7");
    let error = LoadError::failed(()).map(|_| io::Error::other("connection reset"));
    assert_eq!(format!("{error:#}"), "the loader failed: connection reset");
}

#[test]
fn shared_error_is_displayed_like_the_error_of_the_loader() {
    let LoadError::Failed(shared) = LoadError::failed(anyhow::Error::new(query())) else {
        panic!("it is no failure");
    };
    assert_eq!(format!("{shared}"), "the query failed");
    assert_eq!(format!("{shared:#}"), CHAIN);
    let object: Arc<dyn Cache<u32, u32>> = Arc::new(cache());
    match object.get_or_load(&1, |_| Err("no rows")) {
        Err(LoadError::Failed(error)) => assert_eq!(format!("{error:>9}"), "  no rows"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn load_error_becomes_an_io_error() {
    let error = cache().get_or_load(&1, |_| Err(query())).unwrap_err();
    let error = io::Error::other(error);
    assert_eq!(chain(&error), format!("the loader failed: {CHAIN}"));
}
