//! `/metrics`: what the caches and the shop count, for Prometheus.

pub(crate) use inner::Exporter;

#[cfg(not(feature = "metrics"))]
mod inner {
    use crate::AnyError;
    use crate::caches::Caches;

    pub(crate) struct Exporter;

    impl Exporter {
        #[allow(clippy::unnecessary_wraps)]
        pub(crate) fn start(_: &Caches) -> Result<Self, AnyError> {
            Ok(Self)
        }

        #[allow(clippy::unused_self)]
        pub(crate) fn render(&self) -> Result<String, &'static str> {
            Err("metrics need the feature: cargo run --release --features metrics --example shop")
        }
    }
}
