//! The state of a namespace, for processes that must not change it.

use crate::tiered::l2::redis::plain_read::State;
use crate::tiered::l2::redis::round_trip::{PriorityClass, RoundTrip};
use crate::tiered::l2::redis::{CALL_OVERHEAD, Redis, parse};
use crate::tiered::l2::remote::RemoteError;
use redis::Pipeline;

/// Whether a script would begin a new incarnation of a namespace.
pub(crate) enum NamespaceState {
    /// There is no state, so a script would.
    Missing,
    /// The state belongs to the replication history of the server.
    Current,
    /// The state belongs to another replication history, so a script would.
    OtherHistory,
}

impl Redis {
    /// Reads the state of the namespace.
    pub(crate) async fn namespace_state(&self) -> Result<NamespaceState, RemoteError> {
        let calls = |_: &_| {
            let mut calls = Pipeline::with_capacity(1);
            calls.cmd("GET").arg(&self.names.state);
            calls
        };
        let round_trip = RoundTrip::new(PriorityClass::Control, CALL_OVERHEAD);
        let (replies, server) = self.call_all(round_trip, calls).await?;
        let bytes = replies.into_iter().next().map(|reply| parse(reply?));
        let bytes: Option<Vec<u8>> = bytes.transpose()?.flatten();
        Ok(match bytes.as_deref().and_then(State::parse) {
            None => NamespaceState::Missing,
            Some(state) if state.history == server.history.as_bytes() => NamespaceState::Current,
            Some(_) => NamespaceState::OtherHistory,
        })
    }
}
