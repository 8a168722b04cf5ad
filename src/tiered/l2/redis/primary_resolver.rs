//! The current primary, by vote of a majority of the servers that decide it.
//!
//! A primary that was replaced may not know it: paused, or cut off, it continues to confirm writes. Therefore none of
//! its replies counts until, after the reply, enough voters have said that it is still the primary of the same term. A
//! majority is needed at first, and half of the voters from then on: see [`Votes`]. Any two such groups share a voter,
//! and no voter goes back to an older primary or term. So everything that the old primary has confirmed was written
//! before the first write to the new one.

use crate::tiered::l2::redis::coalesced_query::CoalescedQuery;
use crate::tiered::l2::redis::connection::PRIMARY_CHANGED;
use crate::tiered::l2::redis::topology::{Primary, Role, Votes};
use crate::tiered::l2::redis::url::Topology;
use crate::tiered::l2::redis::voters::Voters;
use crate::tiered::l2::remote::RemoteError;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::runtime::Handle;

/// The current primary, and the votes for it.
#[derive(Debug, Clone, Default)]
pub(super) struct Decision {
    pub(super) primary: Primary,
    votes: Arc<Votes>,
}

impl Decision {
    /// Checks whether the primary still serves a slot that a majority has said it serves.
    pub(super) fn confirms(&self, slot: u16) -> bool {
        self.votes.confirm(&self.primary, slot)
    }
}

/// Asks the voters which server is the primary, or whether one server of a cluster is a primary.
pub(super) struct PrimaryResolver {
    voters: Arc<Voters>,
    /// The id of the server of a cluster. `None` where there is one primary at a time.
    server: Option<String>,
    /// The last primary that a majority has elected.
    elected: Mutex<Option<Primary>>,
    query: CoalescedQuery<Decision>,
}

impl PrimaryResolver {
    /// Creates a resolver for the only primary, or for a server of a cluster.
    pub(super) fn new(voters: Arc<Voters>, server: Option<String>, runtime: &Handle) -> Self {
        Self {
            voters,
            server,
            elected: Mutex::default(),
            query: CoalescedQuery::new(runtime.clone()),
        }
    }

    /// Returns the server that was the primary at some time after this call.
    pub(super) async fn primary(self: &Arc<Self>) -> Result<Primary, RemoteError> {
        Ok(self.decision().await?.primary)
    }

    /// Returns the server that was the primary at some time after this call, and the votes for it.
    ///
    /// # Errors
    ///
    /// Returns an error if there are too few votes, or if the server of a cluster is not a primary any more.
    pub(super) async fn decision(self: &Arc<Self>) -> Result<Decision, RemoteError> {
        if *self.voters.topology() == Topology::SingleServer {
            return Ok(Decision::default());
        }
        let resolve = || {
            let resolver = Arc::clone(self);
            async move { resolver.resolve().await }
        };
        self.query.run(resolve).await
    }

    async fn resolve(&self) -> Result<Decision, RemoteError> {
        let elected = self.elected.lock().clone();
        let decide = |votes: &Votes, _| match &self.server {
            None => votes.primary_of(0).cloned().map(Role::Primary),
            Some(id) => votes.role_of(id, elected.as_ref()),
        };
        let (Role::Primary(primary), votes) = self.voters.poll(decide).await? else {
            return Err(RemoteError::Disconnected(PRIMARY_CHANGED.into()));
        };
        *self.elected.lock() = Some(primary.clone());
        Ok(Decision {
            primary,
            votes: Arc::new(votes),
        })
    }

    /// Returns the last primary that a majority has elected.
    pub(super) fn elected(&self) -> Option<Primary> {
        self.elected.lock().clone()
    }

    /// Returns `true` if the voters announce a new primary.
    pub(super) fn announces_failovers(&self) -> bool {
        matches!(self.voters.topology(), Topology::Sentinels { .. })
    }

    /// Calls `on_primary` with the address of the new primary whenever a sentinel announces one.
    pub(super) async fn watch(&self, on_primary: impl Fn(&str)) {
        self.voters.watch(on_primary).await;
    }
}
