//! Writes to the database, for `write_through`: type erasure, and writes that are interrupted.
//!
//! Only the caller of a write gets its error, which may have any type. So an erased write leaves the error with its
//! caller, and tells the cache only that it has failed.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::thread;

/// The result of a write that has failed, without the error, which the caller of the write has.
#[derive(Debug)]
pub struct WriteFailed(());

/// The panic message for an implementation of a trait that returns the failure of another write.
pub(super) const FOREIGN_FAILURE: &str =
    "write_through_erased returned a failure although its write has not failed";

type BoxedBlockingWrite<'a, V> = Box<dyn FnOnce(&V) -> Result<(), WriteFailed> + 'a>;

/// A write to the database with an error of any type, for
/// [`Cache::write_through_erased`](crate::Cache::write_through_erased).
pub struct ErasedWrite<'a, V>(BoxedBlockingWrite<'a, V>);

impl<'a, V> ErasedWrite<'a, V> {
    /// Creates a write that stores its error in `error`.
    pub(super) fn new<E>(
        write: impl FnOnce(&V) -> Result<(), E> + 'a,
        error: &'a mut Option<E>,
    ) -> Self {
        Self(Box::new(|value| {
            write(value).map_err(|why| keep(why, error))
        }))
    }

    /// Writes the value to the database.
    ///
    /// # Errors
    ///
    /// Returns an error if the write has failed.
    pub fn run(self, value: &V) -> Result<(), WriteFailed> {
        (self.0)(value)
    }
}

/// A future of an [`ErasedAsyncWrite`].
pub type BoxedWrite<'a> = Pin<Box<dyn Future<Output = Result<(), WriteFailed>> + Send + 'a>>;

type BoxedAsyncWrite<'a, V> = Box<dyn FnOnce(V) -> BoxedWrite<'a> + Send + 'a>;

/// An async write to the database with an error of any type, for
/// [`AsyncCache::write_through_erased`](crate::AsyncCache::write_through_erased).
pub struct ErasedAsyncWrite<'a, V>(BoxedAsyncWrite<'a, V>);

impl<'a, V> ErasedAsyncWrite<'a, V> {
    /// Creates a write that stores its error in `error`.
    pub(super) fn new<E, F>(
        write: impl FnOnce(V) -> F + Send + 'a,
        error: &'a mut Option<E>,
    ) -> Self
    where
        F: Future<Output = Result<(), E>> + Send + 'a,
        E: Send,
    {
        Self(Box::new(|value| {
            let writing = write(value);
            Box::pin(async { writing.await.map_err(|why| keep(why, error)) })
        }))
    }

    /// Creates the future that writes the value to the database.
    ///
    /// # Errors
    ///
    /// The future returns an error if the write has failed.
    pub fn run(self, value: V) -> BoxedWrite<'a> {
        (self.0)(value)
    }
}

/// Leaves the error of a write with its caller.
fn keep<E>(error: E, place: &mut Option<E>) -> WriteFailed {
    *place = Some(error);
    WriteFailed(())
}

impl<V> fmt::Debug for ErasedWrite<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ErasedWrite").finish_non_exhaustive()
    }
}

impl<V> fmt::Debug for ErasedAsyncWrite<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ErasedAsyncWrite").finish_non_exhaustive()
    }
}

/// A guard that invalidates a key if a write to the database is interrupted: if it panics, or if its future is dropped.
/// It is then unknown whether the database has changed.
pub(crate) struct InvalidateOnDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> InvalidateOnDrop<F> {
    /// Creates a guard that calls `invalidate` when it is dropped.
    pub(crate) fn new(invalidate: F) -> Self {
        Self(Some(invalidate))
    }

    /// Drops the guard without a call.
    pub(crate) fn disarm(mut self) {
        self.0 = None;
    }
}

impl<F: FnOnce()> Drop for InvalidateOnDrop<F> {
    fn drop(&mut self) {
        let Some(invalidate) = self.0.take() else {
            return;
        };
        if thread::panicking() {
            // The invalidation runs user code, for instance a listener. A second panic would end the process.
            let _ = catch_unwind(AssertUnwindSafe(invalidate));
        } else {
            invalidate();
        }
    }
}
