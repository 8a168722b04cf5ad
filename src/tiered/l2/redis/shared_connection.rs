//! One connection at a time, shared by all callers that need it.

use crate::random;
use crate::tiered::l2::redis::longest_deadline::LongestDeadline;
use crate::tiered::l2::remote::RemoteError;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use std::future::Future;
use std::sync::Arc;
use tokio::runtime::Handle;

/// The result of opening a connection, for all callers that wait for it.
type Attempt<C> = Shared<BoxFuture<'static, Result<C, RemoteError>>>;

/// Opens one connection at a time, shared by all callers that need it.
pub(super) struct SharedConnection<C> {
    deadline: Arc<LongestDeadline>,
    /// The runtime for connections, which outlive the runtimes of their callers.
    runtime: Handle,
    current: Mutex<Option<(u64, Attempt<C>)>>,
}

impl<C: Clone + Send + Sync + 'static> SharedConnection<C> {
    pub(super) fn new(deadline: Arc<LongestDeadline>, runtime: Handle) -> Self {
        Self {
            deadline,
            runtime,
            current: Mutex::new(None),
        }
    }

    /// Returns the connection, and the number that distinguishes it from earlier ones. All callers wait for the same
    /// connection while it is opened.
    pub(super) async fn get<F>(&self, connect: impl FnOnce() -> F) -> Result<(u64, C), RemoteError>
    where
        F: Future<Output = Result<C, RemoteError>> + Send + 'static,
    {
        let (number, attempt) = {
            let mut current = self.current.lock();
            let start = || (random::bits(), self.start(connect()));
            current.get_or_insert_with(start).clone()
        };
        let result = attempt.await;
        if result.is_err() {
            self.discard(number);
        }
        Ok((number, result?))
    }

    /// Starts to open a connection, in a task that continues if its caller is dropped.
    fn start(
        &self,
        connecting: impl Future<Output = Result<C, RemoteError>> + Send + 'static,
    ) -> Attempt<C> {
        let connecting = tokio::time::timeout(self.deadline.connect_timeout(), connecting);
        let result = self.runtime.spawn(connecting).map(|result| match result {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(RemoteError::Timeout),
            Err(error) => Err(error.into()),
        });
        result.boxed().shared()
    }

    /// Discards the connection of this number.
    pub(super) fn discard(&self, number: u64) {
        self.discard_if(|other, _| other == number);
    }

    /// Discards the current connection, unless it is still being opened.
    pub(super) fn discard_open(&self) {
        self.discard_if(|_, attempt| attempt.peek().is_some());
    }

    fn discard_if(&self, is_bad: impl FnOnce(u64, &Attempt<C>) -> bool) {
        let mut current = self.current.lock();
        let discarded = current.take_if(|(number, attempt)| is_bad(*number, attempt));
        drop(current);
        drop(discarded);
    }
}
