//! The future that the methods of an async cache return.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// The future of a method of [`AsyncCache`](crate::AsyncCache): either a ready value, or a boxed future.
///
/// A hit returns a ready value, which needs no allocation.
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
