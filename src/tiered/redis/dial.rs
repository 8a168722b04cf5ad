//! One connection at a time, for whoever needs it.

use crate::random;
use crate::tiered::remote::RemoteError;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use std::future::Future;
use std::time::Duration;
use tokio::runtime::Handle;

type Dialing<C> = Shared<BoxFuture<'static, Result<C, RemoteError>>>;

/// Makes one connection at a time, for whoever needs it.
pub(crate) struct Dial<C> {
    patience: Duration,
    /// Not that of whoever happens to need a connection.
    runtime: Handle,
    current: Mutex<Option<(u64, Dialing<C>)>>,
}

impl<C: Clone + Send + Sync + 'static> Dial<C> {
    pub(crate) fn new(patience: Duration, runtime: Handle) -> Self {
        Self {
            patience,
            runtime,
            current: Mutex::new(None),
        }
    }

    /// The connection, and the number that tells it from those before. All who ask while it is made
    /// wait for the same one.
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

    /// In a task of its own: a caller who does not wait to the end has not tried in vain.
    fn dial(
        &self,
        connecting: impl Future<Output = Result<C, RemoteError>> + Send + 'static,
    ) -> Dialing<C> {
        let attempt = tokio::time::timeout(self.patience, connecting);
        let result = self.runtime.spawn(attempt).map(|result| match result {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(RemoteError::Timeout),
            Err(_) => Err(RemoteError::Disconnected("the runtime shuts down".into())),
        });
        result.boxed().shared()
    }

    /// The connection of this number is not to be used any more.
    pub(crate) fn discard(&self, number: u64) {
        self.discard_if(|other, _| other == number);
    }

    /// Nor is the one that there is, unless it is being made.
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
