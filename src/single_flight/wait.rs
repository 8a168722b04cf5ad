//! The wait for a load or for a permit, for threads and tasks alike.

use crate::clock::{Instant, precise_now};
use crate::single_flight::Pending;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};

/// A timer that wakes its caller.
pub(crate) trait Timer {
    /// Sets the time at which the caller is woken at the latest (`None`: never). Returns `Ready` if it has passed.
    fn set(&mut self, at: Option<Instant>, cx: &mut Context<'_>) -> Poll<()>;
}

/// The error of a wait that reached its deadline.
#[derive(Debug)]
pub(crate) struct TimedOut;

/// Calls `poll` until it returns a value, or until `deadline`. `poll` returns the time at which it is to be called
/// again at the latest.
///
/// # Errors
///
/// Returns an error if there is no value until `deadline`.
pub(crate) async fn poll_until<T>(
    timer: &mut impl Timer,
    deadline: Option<Instant>,
    mut poll: impl FnMut(&mut Context<'_>) -> Result<T, Pending>,
) -> Result<T, TimedOut> {
    poll_fn(|cx| {
        loop {
            let again = match poll(cx) {
                Ok(value) => return Poll::Ready(Ok(value)),
                Err(Pending { again }) => again,
            };
            if deadline.is_some_and(|deadline| deadline <= precise_now()) {
                return Poll::Ready(Err(TimedOut));
            }
            ready!(timer.set(deadline.into_iter().chain(again).min(), cx));
        }
    })
    .await
}
