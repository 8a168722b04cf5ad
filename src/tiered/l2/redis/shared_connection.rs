//! One connection at a time, shared by all callers that need it.

use crate::random;
use crate::tiered::l2::remote::RemoteError;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use std::future::Future;
use std::time::Duration;
use tokio::runtime::Handle;

type Dialing<C> = Shared<BoxFuture<'static, Result<C, RemoteError>>>;

/// Opens one connection at a time, shared by all callers that need it.
pub(crate) struct SharedConnection<C> {
    patience: Duration,
    /// The runtime for connections, which outlive the runtimes of their callers.
    runtime: Handle,
    current: Mutex<Option<(u64, Dialing<C>)>>,
}

impl<C: Clone + Send + Sync + 'static> SharedConnection<C> {
    pub(crate) fn new(patience: Duration, runtime: Handle) -> Self {
        Self {
            patience,
            runtime,
            current: Mutex::new(None),
        }
    }

    /// Returns the connection, and the number that distinguishes it from earlier ones. All callers wait for the same
    /// connection while it is opened.
    pub(crate) async fn get<F>(&self, connect: impl FnOnce() -> F) -> Result<(u64, C), RemoteError>
    where
        F: Future<Output = Result<C, RemoteError>> + Send + 'static,
    {
        let (number, dialing) = {
            let mut current = self.current.lock();
            let dial = || (random::bits(), self.dial(connect()));
            current.get_or_insert_with(dial).clone()
        };
        let result = dialing.await;
        if result.is_err() {
            self.discard(number);
        }
        Ok((number, result?))
    }

    /// Opens a connection in a task, which goes on if its caller does not wait to the end.
    fn dial(
        &self,
        connecting: impl Future<Output = Result<C, RemoteError>> + Send + 'static,
    ) -> Dialing<C> {
        let attempt = tokio::time::timeout(self.patience, connecting);
        let result = self.runtime.spawn(attempt).map(|result| match result {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(RemoteError::Timeout),
            Err(error) => Err(error.into()),
        });
        result.boxed().shared()
    }

    /// Discards the connection of this number.
    pub(crate) fn discard(&self, number: u64) {
        self.discard_if(|other, _| other == number);
    }

    /// Discards the current connection, unless it is still being opened.
    pub(crate) fn hang_up(&self) {
        self.discard_if(|_, dialing| dialing.peek().is_some());
    }

    fn discard_if(&self, is_bad: impl FnOnce(u64, &Dialing<C>) -> bool) {
        let mut current = self.current.lock();
        let dropped = current.take_if(|(number, dialing)| is_bad(*number, dialing));
        drop(current);
        drop(dropped);
    }
}
