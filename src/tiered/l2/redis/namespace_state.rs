//! The state of a namespace: whether it is valid, and its reads by processes that must not change it.

use crate::tiered::l2::redis::connection::ServerInfo;
use crate::tiered::l2::redis::plain_read::State;
use crate::tiered::l2::redis::round_trip::{PriorityClass, RoundTrip};
use crate::tiered::l2::redis::{CALL_OVERHEAD, Redis, parse};
use crate::tiered::l2::remote::RemoteError;
use redis::Pipeline;

/// Whether a script would begin a new incarnation of a namespace.
pub(crate) enum NamespaceState {
    /// There is no state, so a script would.
    Missing,
    /// The state belongs to the history of the server.
    Current,
    /// The state belongs to another history, so a script would.
    OtherHistory,
}

impl Redis {
    /// Returns the history in which a state of the partition has to have begun: that of the server, ':', and the
    /// generation of the layout, which is empty if every one is accepted.
    pub(super) fn history(&self, server: &ServerInfo) -> String {
        let generation = self.settings.layout.generation(self.partition.of);
        format!("{}:{generation}", server.history)
    }

    /// Checks whether a state is valid on a server, so that a script would not begin a new incarnation, and its values may
    /// be read.
    pub(super) fn is_valid(&self, state: &State<'_>, server: &ServerInfo) -> bool {
        let history = self.history(server);
        let history = history.as_bytes();
        let is_any = history.ends_with(b":");
        let is_same = state.history == history || is_any && state.history.starts_with(history);
        is_same && self.settings.layout.check_read(self.partition).is_ok()
    }

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
            Some(state) if self.is_valid(&state, &server) => NamespaceState::Current,
            Some(_) => NamespaceState::OtherHistory,
        })
    }
}
