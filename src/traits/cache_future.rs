//! The future that the methods of an async cache return.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// The future of a method of [`AsyncCache`](crate::AsyncCache): either a ready value, or a boxed future.
///
/// A hit returns a ready value, which needs no allocation.
///
/// # Examples
///
/// ```
/// use hotset::{AnyError, AsyncCache, CacheFuture, ErasedAsyncLoader, ErasedKey, LoadError, Loaded, Propagation};
///
/// /// A cache that stores nothing.
/// struct NoCache;
///
/// impl AsyncCache<String, u64> for NoCache {
///     fn get_erased<'a>(&'a self, _: &'a dyn ErasedKey<String>) -> CacheFuture<'a, Option<u64>> {
///         CacheFuture::ready(None)
///     }
///     fn insert_loaded(&self, _: String, _: Loaded<u64>) -> CacheFuture<'_, Propagation> {
///         CacheFuture::ready(Propagation::Acknowledged)
///     }
///     fn invalidate_erased<'a>(&'a self, _: &'a dyn ErasedKey<String>) -> CacheFuture<'a, Propagation> {
///         CacheFuture::ready(Propagation::Acknowledged)
///     }
///     fn invalidate_tag<'a>(&'a self, _: &'a str) -> CacheFuture<'a, Propagation> {
///         CacheFuture::ready(Propagation::Acknowledged)
///     }
///     fn clear(&self) -> CacheFuture<'_, Propagation> {
///         CacheFuture::ready(Propagation::Acknowledged)
///     }
///     fn get_or_load_erased<'a>(
///         &'a self,
///         key: &'a dyn ErasedKey<String>,
///         mut loader: ErasedAsyncLoader<'a, String, u64>,
///     ) -> CacheFuture<'a, Result<u64, LoadError<AnyError>>> {
///         CacheFuture::new(async move { loader.run(key.to_key()).await.map(Loaded::into_value) })
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), LoadError<std::io::Error>> {
/// let load = async |name: String| Ok::<_, std::io::Error>(name.len() as u64 * 100);
/// assert_eq!(NoCache.get_or_load_async("apple", load).await?, 500);
/// # Ok(())
/// # }
/// ```
#[must_use = "futures do nothing unless they are awaited"]
pub struct CacheFuture<'a, T>(Kind<'a, T>);

enum Kind<'a, T> {
    /// `None` after the value was returned.
    Ready(Option<T>),
    Boxed(Pin<Box<dyn Future<Output = T> + Send + 'a>>),
}

impl<'a, T> CacheFuture<'a, T> {
    /// Creates a future that is ready, without an allocation.
    pub const fn ready(value: T) -> Self {
        Self(Kind::Ready(Some(value)))
    }

    /// Creates a future from any other, which is boxed.
    pub fn new(future: impl Future<Output = T> + Send + 'a) -> Self {
        Self(Kind::Boxed(Box::pin(future)))
    }
}

// The value is never pinned; the boxed future is pinned in its own allocation.
impl<T> Unpin for CacheFuture<'_, T> {}

impl<T> Future for CacheFuture<'_, T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match &mut self.get_mut().0 {
            Kind::Ready(value) => Poll::Ready(value.take().expect("polled after it was ready")),
            Kind::Boxed(future) => future.as_mut().poll(cx),
        }
    }
}

impl<T> fmt::Debug for CacheFuture<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheFuture").finish_non_exhaustive()
    }
}
