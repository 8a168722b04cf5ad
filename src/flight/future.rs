//! The front for tasks: an alarm by the runtime's timer, or by the process's own where there is none.

use super::Alarm;
use super::timer::Timer;
use std::task::{Context, Poll};
use std::time::Instant;

/// Wakes a task in time: by `tokio::time` with the feature `tokio` and in its runtime, otherwise by a thread that
/// all such tasks of the process share.
#[derive(Default)]
pub(crate) struct TaskAlarm {
    #[cfg(feature = "tokio")]
    sleep: Option<(Instant, std::pin::Pin<Box<tokio::time::Sleep>>)>,
    timer: Option<Timer>,
}

impl Alarm for TaskAlarm {
    fn set(&mut self, at: Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
        #[cfg(feature = "tokio")]
        if tokio::runtime::Handle::try_current().is_ok() {
            self.timer = None;
            return self.set_sleep(at, cx);
        }
        // A timer that was set before is for a waker that may not be the task's any more.
        self.timer = None;
        let Some(at) = at else {
            return Poll::Pending;
        };
        if at <= Instant::now() {
            return Poll::Ready(());
        }
        self.timer = Timer::set(at, cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(feature = "tokio")]
impl TaskAlarm {
    fn set_sleep(&mut self, at: Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = at else {
            self.sleep = None;
            return Poll::Pending;
        };
        if !matches!(&self.sleep, Some((set, sleep)) if *set == at && !sleep.is_elapsed()) {
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
