//! Coherence of L1: the reasons why it may serve an entry although other processes change values.
//!
//! - [`event_sequence`]: the state machine that detects missing invalidations and proves that none is missing.
//! - [`read_lease`]: the time until which L1 may serve, granted by that proof.
//! - [`subscriber`]: the task that receives invalidations, applies and acknowledges them, and renews the read lease.
//! - [`invalidation_acks`]: a writer waits until every reader has acknowledged, or its read lease has ended.
//! - [`pending_invalidations`]: invalidations that are sent once Redis answers again.
//! - [`key_waiters`]: callers that wait for another process to load a key.
//! - [`background`]: the tasks that run while a cache exists.

pub(crate) mod background;
pub(crate) mod event_sequence;
pub(crate) mod invalidation_acks;
pub(crate) mod key_waiters;
pub(crate) mod pending_invalidations;
pub(crate) mod read_lease;
pub(crate) mod subscriber;
