//! One question for all who ask it together: none of them gets an answer from before it came.

use crate::tiered::remote::RemoteError;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use std::future::Future;
use std::sync::Arc;
use tokio::runtime::Handle;

type Round<T> = Shared<BoxFuture<'static, Result<T, RemoteError>>>;

/// Runs one round at a time, each in a task of its own: a caller that is not polled, or goes away, delays
/// nobody else.
pub(crate) struct Rounds<T> {
    runtime: Handle,
    state: Arc<Mutex<State<T>>>,
}

struct State<T> {
    /// The last round that has begun.
    begun: Option<Round<T>>,
    /// The round that begins when that has ended. Callers join it until then.
    next: Option<Round<T>>,
}

impl<T> State<T> {
    /// Callers that come from now on are for the round after the next. Returns the one that has ended.
    fn begin_next(&mut self) -> Option<Round<T>> {
        std::mem::replace(&mut self.begun, self.next.take())
    }
}

impl<T: Clone + Send + Sync + 'static> Rounds<T> {
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
    /// If the question fails, or the runtime shuts down.
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
        let shuts_down = |_| RemoteError::Disconnected("the runtime shuts down".into());
        let round = round.map(move |result| result.map_err(shuts_down).and_then(|answer| answer));
        round.boxed().shared()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::Pin;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
    use tokio::sync::Semaphore;

    struct Asked {
        rounds: Rounds<u32>,
        begun: Arc<AtomicU32>,
        go: Arc<Semaphore>,
    }

    type Answer<'a> = Pin<Box<dyn Future<Output = Result<u32, RemoteError>> + 'a>>;

    impl Asked {
        fn new() -> Self {
            Self {
                rounds: Rounds::new(Handle::current()),
                begun: Arc::default(),
                go: Arc::new(Semaphore::new(0)),
            }
        }

        /// Asks, and is polled once.
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

        async fn has_begun(&self, rounds: u32) {
            while self.begun.load(SeqCst) < rounds {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn one_round_is_for_all_who_came_before_it_began() {
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
    async fn caller_that_is_not_polled_or_goes_away_delays_nobody() {
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
