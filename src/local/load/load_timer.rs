//! The measurement of a run of a loader.

use crate::clock::{Nanos, saturating_nanos};
use crate::local::LocalCache;
use crate::stats::{Count, Counters};
use crate::trace::Span;
use std::time::{Duration, Instant};

impl<K, V, S> LocalCache<K, V, S> {
    /// Counts a run of a loader that started at `started`, and starts its timer and its tracing span.
    pub(crate) fn load_timer(&self, started: Instant) -> LoadTimer<'_> {
        let name = self.inner.settings.name.as_deref();
        #[cfg(feature = "redis")]
        if self.inner.settings.forgets {
            return LoadTimer::start(&self.inner.counters, started, Span::fetch(name));
        }
        LoadTimer::start(&self.inner.counters, started, Span::load(name))
    }
}

/// A timer of a run of a loader. When it is dropped, it counts the run, as a failure unless it was stopped with
/// success. So a panic or a cancellation counts as a failure.
pub(crate) struct LoadTimer<'a> {
    counters: &'a Counters,
    started: Instant,
    failed: bool,
    /// `None` until the timer is stopped.
    elapsed: Option<Duration>,
    pub(crate) span: Span,
}

impl<'a> LoadTimer<'a> {
    fn start(counters: &'a Counters, started: Instant, span: Span) -> Self {
        counters.count(Count::Load);
        Self {
            counters,
            started,
            failed: true,
            elapsed: None,
            span,
        }
    }

    /// Stops the timer. Returns the duration of the load.
    pub(crate) fn stop(mut self, succeeded: bool) -> Nanos {
        self.failed = !succeeded;
        self.elapsed = Some(self.started.elapsed());
        saturating_nanos(self.elapsed.unwrap_or_default())
    }
}

impl Drop for LoadTimer<'_> {
    fn drop(&mut self) {
        let elapsed = self.elapsed.unwrap_or_else(|| self.started.elapsed());
        self.counters.add_load_time(elapsed);
        if self.failed {
            self.counters.count(Count::LoadFailure);
        }
    }
}
