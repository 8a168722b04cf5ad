//! The connections to one primary, which caches of a hub share.

use crate::tiered::l2::redis::connector::Connector;
use crate::tiered::l2::redis::flow_control::FlowControl;
use crate::tiered::l2::redis::longest_deadline::LongestDeadline;
use crate::tiered::l2::redis::primary_resolver::PrimaryResolver;
use crate::tiered::l2::redis::replicas::Replicas;
use crate::tiered::l2::redis::transfer::{BULK_WINDOW, SMALL_WINDOW};
use crate::tiered::l2::redis::url::ServerUrl;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// The connections to a primary, and what they carry.
pub(super) struct Link {
    pub(super) connector: Connector,
    /// Flow control of the connection for small values.
    pub(super) small: FlowControl,
    /// Flow control of the connection for large values.
    pub(super) bulk: FlowControl,
    pub(super) deadline: Arc<LongestDeadline>,
    /// The replicas of the primary, for caches that read from them.
    pub(super) replicas: Replicas,
    pub(super) runtime: Handle,
    /// The task that watches for failovers, if the servers announce them.
    failover_watch: Option<JoinHandle<()>>,
}

impl Link {
    /// Creates a link to the primary that a resolver finds. Its connections are opened when they are needed for the first
    /// time.
    pub(super) fn new(
        url: &Arc<ServerUrl>,
        resolver: PrimaryResolver,
        deadline: Arc<LongestDeadline>,
        runtime: &Handle,
    ) -> Self {
        let connector = Connector::new(Arc::clone(url), resolver, Arc::clone(&deadline), runtime);
        Self {
            failover_watch: connector.watch_failovers(runtime),
            connector,
            small: FlowControl::new(SMALL_WINDOW, runtime.clone()),
            bulk: FlowControl::new(BULK_WINDOW, runtime.clone()),
            replicas: Replicas::new(Arc::clone(url), Arc::clone(&deadline)),
            runtime: runtime.clone(),
            deadline,
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(failover_watch) = &self.failover_watch {
            failover_watch.abort();
        }
    }
}
