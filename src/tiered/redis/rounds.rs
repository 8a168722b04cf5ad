//! One question for all who ask it together: none of them gets an answer from before it came.

use parking_lot::Mutex;
use std::future::Future;

pub(crate) struct Rounds<T> {
    /// How many rounds were begun.
    begun: Mutex<u64>,
    /// The last one that ended, by its number. Locked while one is under way.
    last: tokio::sync::Mutex<Option<(u64, T)>>,
}

impl<T> Default for Rounds<T> {
    fn default() -> Self {
        Self {
            begun: Mutex::default(),
            last: tokio::sync::Mutex::new(None),
        }
    }
}

impl<T: Clone> Rounds<T> {
    /// The answer of a round that was begun after this was called: of the next one, if one is under
    /// way. If the caller who runs it goes, another one begins anew.
    pub(crate) async fn ask<F: Future<Output = T>>(&self, question: impl FnOnce() -> F) -> T {
        let came = *self.begun.lock();
        let mut last = self.last.lock().await;
        if let Some((_, answer)) = last.as_ref().filter(|(number, _)| *number > came) {
            return answer.clone();
        }
        let number = {
            let mut begun = self.begun.lock();
            *begun += 1;
            *begun
        };
        let answer = question().await;
        *last = Some((number, answer.clone()));
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use futures_util::future::join;
    use std::cell::Cell;
    use tokio::sync::Notify;

    #[tokio::test]
    async fn one_round_is_for_all_who_came_before_it_began() {
        let rounds = Rounds::default();
        let (asked, go) = (Cell::new(0), Notify::new());
        let ask = || {
            rounds.ask(|| async {
                let number = asked.replace(asked.get() + 1);
                go.notified().await;
                number
            })
        };
        let mut first = Box::pin(ask());
        assert!(first.as_mut().now_or_never().is_none());
        // These came while it was under way.
        let mut others = Box::pin(join(ask(), ask()));
        assert!(others.as_mut().now_or_never().is_none());
        go.notify_one();
        assert_eq!(first.await, 0);
        go.notify_one();
        assert_eq!(others.await, (1, 1));
        // One that is dropped answers nobody.
        assert!(ask().now_or_never().is_none());
        go.notify_one();
        assert_eq!(ask().await, 3);
    }
}
