//! L2, the cache that processes share: its interface, circuit breaker, envelope format and Redis backend.

pub(crate) mod calls;
pub(crate) mod circuit_breaker;
pub(crate) mod codec_health;
pub(crate) mod envelope;
pub(crate) mod fuzzing;
pub(crate) mod redis;
pub(crate) mod remote;
pub(crate) mod replica_reads;
