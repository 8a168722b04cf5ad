//! The shared cache behind L1: its interface, its circuit breaker, and its format.

pub(crate) mod calls;
pub(crate) mod circuit_breaker;
pub(crate) mod codec_health;
pub(crate) mod envelope;
pub(crate) mod redis;
pub(crate) mod remote;
