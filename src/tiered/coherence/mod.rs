//! The reasons why L1 may serve a value: invalidations are proven to arrive, or are waited for.

pub(crate) mod background;
pub(crate) mod event_sequence;
pub(crate) mod key_waiters;
pub(crate) mod pending_invalidations;
pub(crate) mod read_lease;
