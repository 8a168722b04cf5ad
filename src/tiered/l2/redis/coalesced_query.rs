//! One query for all callers that need its result at the same time. No caller gets the result of a query that was sent
//! before its call.

use crate::tiered::l2::remote::RemoteError;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use std::future::Future;
use std::sync::Arc;
use tokio::runtime::Handle;

/// The result of one run of a query, for all callers that share the run.
type Run<T> = Shared<BoxFuture<'static, Result<T, RemoteError>>>;

/// Runs a query once at a time, each time in a task, so that a caller that is not polled or is dropped delays no other.
///
/// A query has to end by itself: the next run begins after it.
pub(super) struct CoalescedQuery<T> {
    runtime: Handle,
    state: Arc<Mutex<State<T>>>,
}

struct State<T> {
    /// The latest run that has begun.
    current: Option<Run<T>>,
    /// The run that begins when `current` has ended. Callers join it until then.
    next: Option<Run<T>>,
}

impl<T> State<T> {
    /// Begins the next run, which no further caller joins. Returns the one that has ended.
    fn begin_next(&mut self) -> Option<Run<T>> {
        std::mem::replace(&mut self.current, self.next.take())
    }
}

impl<T: Clone + Send + Sync + 'static> CoalescedQuery<T> {
    pub(super) fn new(runtime: Handle) -> Self {
        let state = State {
            current: None,
            next: None,
        };
        Self {
            runtime,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Returns the result of a run that begins after this call: of the next one, if one is in flight.
    ///
    /// # Errors
    ///
    /// Returns the error of the query, or an error if the runtime shuts down.
    pub(super) async fn run<F>(&self, query: impl FnOnce() -> F) -> Result<T, RemoteError>
    where
        F: Future<Output = Result<T, RemoteError>> + Send + 'static,
    {
        let run = {
            let mut state = self.state.lock();
            let previous = state.current.clone();
            let spawn = || self.spawn(previous, query());
            state.next.get_or_insert_with(spawn).clone()
        };
        run.await
    }

    /// Spawns the run that follows `previous`.
    fn spawn(
        &self,
        previous: Option<Run<T>>,
        query: impl Future<Output = Result<T, RemoteError>> + Send + 'static,
    ) -> Run<T> {
        let state = Arc::clone(&self.state);
        let run = self.runtime.spawn(async move {
            if let Some(previous) = previous {
                let _ = previous.await;
            }
            drop(state.lock().begin_next());
            query.await
        });
        run.map(|result| result?).boxed().shared()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::Pin;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
    use tokio::sync::Semaphore;

    /// A query that returns the number of its run, and ends when it gets a permit.
    struct NumberedQuery {
        query: CoalescedQuery<u32>,
        begun: Arc<AtomicU32>,
        permits: Arc<Semaphore>,
    }

    type Call<'a> = Pin<Box<dyn Future<Output = Result<u32, RemoteError>> + 'a>>;

    impl NumberedQuery {
        fn new() -> Self {
            Self {
                query: CoalescedQuery::new(Handle::current()),
                begun: Arc::default(),
                permits: Arc::new(Semaphore::new(0)),
            }
        }

        /// Starts a call, and polls it once.
        fn call(&self) -> Call<'_> {
            let query = || {
                let (begun, permits) = (Arc::clone(&self.begun), Arc::clone(&self.permits));
                async move {
                    let number = begun.fetch_add(1, SeqCst);
                    permits.acquire().await.unwrap().forget();
                    Ok(number)
                }
            };
            let mut call: Call<'_> = Box::pin(self.query.run(query));
            assert!(call.as_mut().now_or_never().is_none());
            call
        }

        /// Waits until this many runs have begun.
        async fn wait_until_begun(&self, runs: u32) {
            while self.begun.load(SeqCst) < runs {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn callers_before_a_run_begins_share_it() {
        let query = NumberedQuery::new();
        let first = query.call();
        query.wait_until_begun(1).await;
        // The first run is in flight.
        let others = [query.call(), query.call()];
        query.permits.add_permits(2);
        assert_eq!(first.await.unwrap(), 0);
        for other in others {
            assert_eq!(other.await.unwrap(), 1);
        }
        query.permits.add_permits(1);
        assert_eq!(query.call().await.unwrap(), 2);
    }

    #[tokio::test]
    async fn caller_that_is_unpolled_or_dropped_delays_no_other() {
        let query = NumberedQuery::new();
        let unpolled = query.call();
        query.wait_until_begun(1).await;
        drop(query.call());
        let other = query.call();
        query.permits.add_permits(2);
        assert_eq!(other.await.unwrap(), 1);
        assert_eq!(unpolled.await.unwrap(), 0);
    }
}
