//! The connections to one primary, which caches of a hub share.

use crate::tiered::l2::redis::batching::{BatchOwner, Batches};
use crate::tiered::l2::redis::connector::Connector;
use crate::tiered::l2::redis::flow_control::FlowControl;
use crate::tiered::l2::redis::longest_deadline::LongestDeadline;
use crate::tiered::l2::redis::renewal::Renewal;
use crate::tiered::l2::redis::transfer::{BULK_WINDOW, SMALL_WINDOW};
use crate::tiered::l2::redis::url::ServerUrl;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// The connections to a primary, and what they carry.
pub(super) struct Link {
    pub(super) connector: Connector,
    /// Flow control of the connection for small values.
    pub(super) small: FlowControl,
    /// Flow control of the connection for large values.
    pub(super) bulk: FlowControl,
    pub(super) renewals: Batches<Renewal>,
    pub(super) deadline: Arc<LongestDeadline>,
    pub(super) runtime: Handle,
    /// The task that watches for failovers, if the servers announce them.
    failover_watch: Option<JoinHandle<()>>,
}

impl Link {
    /// Creates a link to the primary that serves `key`. Its connections are opened when they are needed for the first
    /// time.
    pub(super) fn new(url: &Arc<ServerUrl>, key: &str, runtime: &Handle) -> Self {
        let deadline = Arc::<LongestDeadline>::default();
        let connector = Connector::new(Arc::clone(url), key, Arc::clone(&deadline), runtime);
        Self {
            failover_watch: connector.watch_failovers(runtime),
            connector,
            small: FlowControl::new(SMALL_WINDOW, runtime.clone()),
            bulk: FlowControl::new(BULK_WINDOW, runtime.clone()),
            renewals: Batches::default(),
            deadline,
            runtime: runtime.clone(),
        }
    }
}

impl BatchOwner for Link {
    fn deadline(&self) -> Duration {
        self.deadline.get()
    }

    fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(failover_watch) = &self.failover_watch {
            failover_watch.abort();
        }
    }
}
