//! One question for all callers that ask it together. No caller gets an answer to a question sent before its call.

use crate::tiered::l2::remote::RemoteError;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use std::future::Future;
use std::sync::Arc;
use tokio::runtime::Handle;

type Round<T> = Shared<BoxFuture<'static, Result<T, RemoteError>>>;

/// Runs one round at a time, each in a task, so that a caller that is not polled or is dropped delays no other.
///
/// A question has to end by itself: the next round begins after it.
pub(crate) struct CoalescedQuery<T> {
    runtime: Handle,
    state: Arc<Mutex<State<T>>>,
}

struct State<T> {
    /// The latest round that has begun.
    begun: Option<Round<T>>,
    /// The round that begins when `begun` has ended. Callers join it until then.
    next: Option<Round<T>>,
}

impl<T> State<T> {
    /// Begins the next round, which no further caller joins. Returns the one that has ended.
    fn begin_next(&mut self) -> Option<Round<T>> {
        std::mem::replace(&mut self.begun, self.next.take())
    }
}

impl<T: Clone + Send + Sync + 'static> CoalescedQuery<T> {
    pub(crate) fn new(runtime: Handle) -> Self {
        let state = State {
            begun: None,
            next: None,
        };
        Self {
            runtime,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Returns the answer of a round that begins after this call: of the next one, if one is in flight.
    ///
    /// # Errors
    ///
    /// Returns the error of the question, or an error if the runtime shuts down.
    pub(crate) async fn ask<F>(&self, question: impl FnOnce() -> F) -> Result<T, RemoteError>
    where
        F: Future<Output = Result<T, RemoteError>> + Send + 'static,
    {
        let round = {
            let mut state = self.state.lock();
            let before = state.begun.clone();
            let round = || self.spawn(before, question());
            state.next.get_or_insert_with(round).clone()
        };
        round.await
    }

    /// Spawns the round that follows `before`.
    fn spawn(
        &self,
        before: Option<Round<T>>,
        question: impl Future<Output = Result<T, RemoteError>> + Send + 'static,
    ) -> Round<T> {
        let state = Arc::clone(&self.state);
        let round = self.runtime.spawn(async move {
            if let Some(before) = before {
                let _ = before.await;
            }
            drop(state.lock().begin_next());
            question.await
        });
        round.map(|result| result?).boxed().shared()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::Pin;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
    use tokio::sync::Semaphore;

    struct Asked {
        rounds: CoalescedQuery<u32>,
        begun: Arc<AtomicU32>,
        go: Arc<Semaphore>,
    }

    type Answer<'a> = Pin<Box<dyn Future<Output = Result<u32, RemoteError>> + 'a>>;

    impl Asked {
        fn new() -> Self {
            Self {
                rounds: CoalescedQuery::new(Handle::current()),
                begun: Arc::default(),
                go: Arc::new(Semaphore::new(0)),
            }
        }

        /// Asks, and polls the call once.
        fn ask(&self) -> Answer<'_> {
            let question = || {
                let (begun, go) = (Arc::clone(&self.begun), Arc::clone(&self.go));
                async move {
                    let number = begun.fetch_add(1, SeqCst);
                    go.acquire().await.unwrap().forget();
                    Ok(number)
                }
            };
            let mut answer: Answer<'_> = Box::pin(self.rounds.ask(question));
            assert!(answer.as_mut().now_or_never().is_none());
            answer
        }

        /// Waits until this many rounds have begun.
        async fn has_begun(&self, rounds: u32) {
            while self.begun.load(SeqCst) < rounds {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn callers_that_ask_before_a_round_begins_share_it() {
        let asked = Asked::new();
        let first = asked.ask();
        asked.has_begun(1).await;
        // These come while it is in flight.
        let others = [asked.ask(), asked.ask()];
        asked.go.add_permits(2);
        assert_eq!(first.await.unwrap(), 0);
        for other in others {
            assert_eq!(other.await.unwrap(), 1);
        }
        asked.go.add_permits(1);
        assert_eq!(asked.ask().await.unwrap(), 2);
    }

    #[tokio::test]
    async fn caller_that_is_unpolled_or_dropped_delays_no_other() {
        let asked = Asked::new();
        let unpolled = asked.ask();
        asked.has_begun(1).await;
        drop(asked.ask());
        let other = asked.ask();
        asked.go.add_permits(2);
        assert_eq!(other.await.unwrap(), 1);
        assert_eq!(unpolled.await.unwrap(), 0);
    }
}
