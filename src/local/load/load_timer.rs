//! Counting and timing of loads.

use crate::clock::{Instant, Nanos, precise_now, saturating_nanos};
use crate::local::LocalCache;
use crate::stats::timer::OperationTimer;
use crate::stats::{Count, Counters};
use crate::sync::tick_counter::Ticks;
use crate::trace::Span;

impl<K, V, S> LocalCache<K, V, S> {
    /// Counts a load that started at `started`, and creates its timer and its tracing span.
    pub(crate) fn load_timer(&self, started: Instant) -> LoadTimer<'_> {
        let name = self.inner.settings.name.as_deref();
        #[cfg(feature = "redis")]
        if self.inner.settings.is_l1 {
            return LoadTimer::start(&self.inner.counters, started, Span::fetch(name));
        }
        LoadTimer::start(&self.inner.counters, started, Span::load(name))
    }
}

/// A timer of a load, which records the duration and the outcome when the load ends. A panic or a cancellation counts
/// as a failure.
pub(crate) struct LoadTimer<'a> {
    timer: OperationTimer<'a, Counters>,
    /// The ticks at the start of the load.
    started: Ticks,
    pub(crate) span: Span,
}

impl<'a> LoadTimer<'a> {
    fn start(counters: &'a Counters, started: Instant, span: Span) -> Self {
        counters.count(Count::Load);
        Self {
            timer: OperationTimer::new(counters, started),
            started: Ticks::now(),
            span,
        }
    }

    /// Stops the timer. Returns the duration of the load.
    pub(crate) fn stop(self, succeeded: bool) -> Nanos {
        saturating_nanos(self.timer.stop(succeeded))
    }

    /// Stops the timer of a load whose duration serves the statistics alone, so that a sample of short loads suffices.
    #[inline(always)]
    pub(crate) fn stop_sampled(self, succeeded: bool) {
        let is_short = self.started.are_recent();
        let (counters, started) = self.timer.into_parts();
        let measure = || precise_now().saturating_duration_since(started);
        counters.count_sampled_load(succeeded, is_short, measure);
    }
}
