//! Spans for the facade `tracing`, target `hotset`; where that feature is off, nothing.
//!
//! They are of level `DEBUG`: the run of a loader is `load`, what an L1 does on a miss is `fetch`, a call to
//! Redis is `l2`. Events are in `tiered/log.rs`.

#[cfg(feature = "tracing")]
pub(crate) use on::Span;

#[cfg(not(feature = "tracing"))]
pub(crate) use off::Span;

#[cfg(feature = "tracing")]
mod on {
    use tracing::debug_span;
    use tracing::span::Entered;

    pub(crate) struct Span(tracing::Span);

    impl Span {
        pub(crate) fn load(cache: Option<&str>) -> Self {
            Self(debug_span!(target: "hotset", "load", cache))
        }

        #[cfg(feature = "redis")]
        pub(crate) fn fetch(cache: Option<&str>) -> Self {
            Self(debug_span!(target: "hotset", "fetch", cache))
        }

        #[cfg(feature = "redis")]
        pub(crate) fn l2(cache: &str, operation: &'static str) -> Self {
            Self(debug_span!(target: "hotset", "l2", cache, operation))
        }

        /// The caller's, for a task that goes on with its work.
        #[cfg(feature = "redis")]
        pub(crate) fn current() -> Self {
            Self(tracing::Span::current())
        }

        pub(crate) fn enter(&self) -> Entered<'_> {
            self.0.enter()
        }

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
mod off {
    pub(crate) struct Span;

    /// What entering it comes to.
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
