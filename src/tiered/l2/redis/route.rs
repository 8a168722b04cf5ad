//! The way from a partition to the server that serves its keys.

use crate::tiered::l2::redis::hub::Hub;
use crate::tiered::l2::redis::link::Link;
use crate::tiered::l2::remote::RemoteError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tokio::sync::watch;

/// Finds the link to the server that serves the keys of a partition. In a cluster, that changes when their slot moves.
pub(super) struct Route {
    hub: Arc<Hub>,
    replicas: u64,
    /// The slot of the keys, in a cluster.
    slot: Option<u16>,
    link: watch::Sender<Option<Arc<Link>>>,
    /// `true` if another server may serve the slot by now.
    is_doubtful: AtomicBool,
}

impl Route {
    /// Creates the route to keys of this slot, for changes that need this number of replicas.
    pub(super) fn new(hub: Arc<Hub>, slot: u16, replicas: u64) -> Self {
        let slot = hub.has_slots().then_some(slot);
        let link = slot.is_none().then(|| hub.link(None, replicas));
        Self {
            hub,
            replicas,
            slot,
            link: watch::Sender::new(link),
            is_doubtful: AtomicBool::new(false),
        }
    }

    /// Returns the slot of the keys, in a cluster.
    pub(super) fn slot(&self) -> Option<u16> {
        self.slot
    }

    /// Returns the last link, which a server has served that may have lost the slot meanwhile.
    pub(super) fn last(&self) -> Option<Arc<Link>> {
        self.link.borrow().clone()
    }

    /// Returns a receiver of changes of the link.
    pub(super) fn changes(&self) -> watch::Receiver<Option<Arc<Link>>> {
        self.link.subscribe()
    }

    /// Returns the link to the server that serves the keys.
    pub(super) async fn link(&self) -> Result<Arc<Link>, RemoteError> {
        let last = self.last();
        let Some(slot) = self.slot else {
            return last.ok_or(RemoteError::Open);
        };
        if let Some(link) = &last {
            if !self.is_doubtful.load(Relaxed) {
                return Ok(Arc::clone(link));
            }
        }
        let votes = self.hub.locate().await?;
        // While another server is dead there may be no majority.
        let elected = last.as_ref().and_then(|link| link.connector.elected());
        let remaining = elected.filter(|elected| votes.confirm(elected, slot));
        let primary = votes.primary_of(slot).cloned().or(remaining);
        let primary = primary.ok_or_else(|| {
            RemoteError::Undecided("no majority knows which server serves the slot".into())
        })?;
        let link = self.hub.link(Some(primary.id), self.replicas);
        self.is_doubtful.store(false, Relaxed);
        self.link.send_if_modified(|current| {
            let is_same = |current: &Arc<Link>| Arc::ptr_eq(current, &link);
            let changes = !current.as_ref().is_some_and(is_same);
            *current = Some(Arc::clone(&link));
            changes
        });
        Ok(link)
    }

    /// Notes that the server of this link may not serve the keys any more.
    pub(super) fn doubt(&self, link: &Arc<Link>) {
        let is_current = |current: &Arc<Link>| Arc::ptr_eq(current, link);
        if self.slot.is_some() && self.link.borrow().as_ref().is_some_and(is_current) {
            self.is_doubtful.store(true, Relaxed);
        }
    }
}
