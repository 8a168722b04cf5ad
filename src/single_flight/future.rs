//! The async front: a timer of the tokio runtime, or of the process outside of one.

use crate::clock::{Instant, precise_now};
use crate::single_flight::Timer;
use crate::single_flight::timer::ScheduledWake;
use std::task::{Context, Poll};

/// A timer for a task: `tokio::time` with the feature `tokio` and in its runtime, otherwise a thread that all such
/// tasks of the process share.
#[derive(Default)]
pub(crate) struct TaskTimer {
    #[cfg(feature = "tokio")]
    sleep: Option<(Instant, std::pin::Pin<Box<tokio::time::Sleep>>)>,
    scheduled: Option<ScheduledWake>,
}

impl Timer for TaskTimer {
    fn set(&mut self, at: Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
        // A wake-up that was scheduled before may have another waker than the task has now.
        self.scheduled = None;
        #[cfg(feature = "tokio")]
        if tokio::runtime::Handle::try_current().is_ok() {
            return self.set_sleep(at, cx);
        }
        let Some(at) = at else {
            return Poll::Pending;
        };
        if at <= precise_now() {
            return Poll::Ready(());
        }
        self.scheduled = ScheduledWake::set(at, cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(feature = "tokio")]
impl TaskTimer {
    fn set_sleep(&mut self, at: Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = at else {
            self.sleep = None;
            return Poll::Pending;
        };
        if !matches!(&self.sleep, Some((set, sleep)) if *set == at && !sleep.is_elapsed()) {
            let sleep = tokio::time::sleep_until(at.into());
            self.sleep = Some((at, Box::pin(sleep)));
        }
        match &mut self.sleep {
            Some((_, sleep)) => sleep.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}
