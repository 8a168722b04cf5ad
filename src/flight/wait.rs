//! Waiting for a flight or for a permit, for threads and tasks alike.

use super::NotYet;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Instant;

/// Wakes its caller at a time.
pub(crate) trait Alarm {
    /// Has the task woken at `at` at the latest (`None`: never). Ready if the time has come.
    fn set(&mut self, at: Option<Instant>, cx: &mut Context<'_>) -> Poll<()>;
}

/// What was waited for did not come before the deadline.
#[derive(Debug)]
pub(crate) struct TooLate;

/// Polls `ready` until it is, or until `deadline`. `ready` says when to ask it again at the latest.
pub(crate) async fn until<T>(
    alarm: &mut impl Alarm,
    deadline: Option<Instant>,
    mut ready: impl FnMut(&mut Context<'_>) -> Result<T, NotYet>,
) -> Result<T, TooLate> {
    poll_fn(|cx| {
        loop {
            let again = match ready(cx) {
                Ok(value) => return Poll::Ready(Ok(value)),
                Err(NotYet { again }) => again,
            };
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Poll::Ready(Err(TooLate));
            }
            ready!(alarm.set(deadline.into_iter().chain(again).min(), cx));
        }
    })
    .await
}
