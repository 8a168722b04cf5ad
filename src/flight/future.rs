//! The front for tasks: an alarm by the runtime's timer, where there is one.

use super::Alarm;
use std::task::{Context, Poll};
use std::time::Instant;

/// Wakes a task in time with the feature `tokio` and in its runtime. Otherwise never: the task looks
/// at the time whenever something else wakes it.
#[derive(Default)]
pub(crate) struct TaskAlarm {
    #[cfg(feature = "tokio")]
    sleep: Option<(Instant, std::pin::Pin<Box<tokio::time::Sleep>>)>,
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
        if !matches!(&self.sleep, Some((set, sleep)) if *set == at && !sleep.is_elapsed()) {
            if tokio::runtime::Handle::try_current().is_err() {
                return Poll::Pending;
            }
            // By what is left: tokio's clock may be a paused one, which is somewhere else.
            let left = at.saturating_duration_since(Instant::now());
            self.sleep = Some((at, Box::pin(tokio::time::sleep(left))));
        }
        match &mut self.sleep {
            Some((_, sleep)) => sleep.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}
