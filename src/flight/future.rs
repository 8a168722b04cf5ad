//! The front for tasks: an alarm by the runtime's timer, where there is one.

use super::Alarm;
use std::task::{Context, Poll};
use std::time::Instant;

/// Wakes a task in time with the feature `tokio` and in its runtime. Otherwise never: the task looks
/// at the time whenever something else wakes it.
#[derive(Default)]
pub(crate) struct TaskAlarm {
    #[cfg(feature = "tokio")]
    sleep: Option<std::pin::Pin<Box<tokio::time::Sleep>>>,
}

impl Alarm for TaskAlarm {
    #[cfg(not(feature = "tokio"))]
    fn set(&mut self, _: Option<Instant>, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    #[cfg(feature = "tokio")]
    fn set(&mut self, at: Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = at else {
            self.sleep = None;
            return Poll::Pending;
        };
        if self.sleep.is_none() && tokio::runtime::Handle::try_current().is_err() {
            return Poll::Pending;
        }
        let at = tokio::time::Instant::from_std(at);
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if sleep.deadline() != at {
            sleep.as_mut().reset(at);
        }
        sleep.as_mut().poll(cx)
    }
}
