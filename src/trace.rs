//! Spans for the facade `tracing`, with the target `hotset`. Without the feature `tracing` they do nothing.
//!
//! Their level is `DEBUG`. A span `load` is one run of a loader, `fetch` is the work of an L1 on a miss, and `l2` is
//! one call to Redis. Events are in `tiered/log.rs`.

#[cfg(feature = "tracing")]
pub(crate) use enabled::Span;

#[cfg(not(feature = "tracing"))]
pub(crate) use disabled::Span;

#[cfg(feature = "tracing")]
mod enabled {
    use tracing::debug_span;
    use tracing::span::Entered;

    /// A span of `tracing`.
    pub(crate) struct Span(tracing::Span);

    impl Span {
        /// Creates the span of a run of a loader.
        pub(crate) fn load(cache: Option<&str>) -> Self {
            Self(debug_span!(target: "hotset", "load", cache))
        }

        /// Creates the span of the work of an L1 on a miss.
        #[cfg(feature = "redis")]
        pub(crate) fn fetch(cache: Option<&str>) -> Self {
            Self(debug_span!(target: "hotset", "fetch", cache))
        }

        /// Creates the span of a call to Redis.
        #[cfg(feature = "redis")]
        pub(crate) fn l2(cache: &str, operation: &'static str) -> Self {
            Self(debug_span!(target: "hotset", "l2", cache, operation))
        }

        /// Returns the current span of the caller, for a task that continues the caller's work.
        #[cfg(feature = "redis")]
        pub(crate) fn current() -> Self {
            Self(tracing::Span::current())
        }

        /// Enters the span until the guard is dropped.
        pub(crate) fn enter(&self) -> Entered<'_> {
            self.0.enter()
        }

        /// Wraps a future, which enters the span whenever it is polled.
        #[cfg(feature = "redis")]
        pub(crate) fn around<F: std::future::Future>(
            self,
            future: F,
        ) -> tracing::instrument::Instrumented<F> {
            tracing::Instrument::instrument(future, self.0)
        }
    }
}

#[cfg(not(feature = "tracing"))]
mod disabled {
    /// A span that does nothing.
    pub(crate) struct Span;

    /// A guard that does nothing.
    pub(crate) struct Entered;

    impl Span {
        pub(crate) fn load(_: Option<&str>) -> Self {
            Self
        }

        #[cfg(feature = "redis")]
        pub(crate) fn fetch(_: Option<&str>) -> Self {
            Self
        }

        #[cfg(feature = "redis")]
        pub(crate) fn l2(_: &str, _: &'static str) -> Self {
            Self
        }

        #[cfg(feature = "redis")]
        pub(crate) fn current() -> Self {
            Self
        }

        #[allow(clippy::unused_self)]
        pub(crate) fn enter(&self) -> Entered {
            Entered
        }

        #[cfg(feature = "redis")]
        #[allow(clippy::unused_self)]
        pub(crate) fn around<F: std::future::Future>(self, future: F) -> F {
            future
        }
    }
}
