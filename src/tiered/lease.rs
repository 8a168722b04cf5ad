//! A question to L2 for the lead of a load, and the lead: given back if nothing comes of it.

use super::Inner;
use super::remote::{Ask, Fill, Head, RemoteError, Token};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::Notify;

/// The lead of a key's load, across processes; or the question for it, until the answer is known.
pub(super) struct Lease<K, V> {
    inner: Arc<Inner<K, V>>,
    key: Box<[u8]>,
    token: Token,
    /// L2 may have granted it, and nothing was stored under it.
    open: bool,
    /// L2 has answered that it did.
    granted: bool,
}

/// A lease that was granted, and what is to be written under it.
pub(super) type Granted<K, V> = (Lease<K, V>, Head);

impl<K, V> Lease<K, V> {
    /// Before L2 is asked: the answer may never come.
    pub(super) fn ask(inner: &Arc<Inner<K, V>>, key: &[u8]) -> Self {
        Self {
            inner: Arc::clone(inner),
            key: key.into(),
            token: inner.token(),
            open: true,
            granted: false,
        }
    }

    /// The question. A value that `refused` wrote is as good as none.
    pub(super) fn question(&self, refused: Option<Token>) -> Ask<'_> {
        Ask {
            key: &self.key,
            lead: Some(self.token),
            refused,
            head_only: false,
        }
    }

    /// The question for one who is about to replace the value.
    pub(super) fn question_for_head(&self) -> Ask<'_> {
        Ask {
            head_only: true,
            ..self.question(None)
        }
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    pub(super) fn token(&self) -> Token {
        self.token
    }

    /// L2 has answered that this process leads.
    pub(super) fn grant(&mut self) {
        self.granted = true;
    }

    /// It was not granted, or is no more.
    pub(super) fn close(mut self) {
        self.open = false;
    }
}

impl<K, V> Drop for Lease<K, V> {
    fn drop(&mut self) {
        if self.open {
            self.inner.releases.push(Release {
                key: std::mem::take(&mut self.key),
                token: self.token,
                again: !self.granted,
            });
        }
    }
}

/// A lease to be given back.
pub(super) struct Release {
    key: Box<[u8]>,
    token: Token,
    /// It was not answered in time, and the question may still be on its way.
    again: bool,
}

impl Release {
    /// Once it was given back: to be given back again, if that may have come too early.
    pub(super) fn repeat(self) -> Option<Self> {
        self.again.then_some(Self {
            again: false,
            ..self
        })
    }
}

/// Leases to be given back, soon and at once.
#[derive(Default)]
pub(super) struct Releases {
    queue: Mutex<VecDeque<Release>>,
    pushed: Notify,
}

/// More are left to end by themselves.
const MAX_RELEASES: usize = 10_000;

/// As many are given back in one round trip.
const BATCH: usize = 256;

impl Releases {
    fn push(&self, release: Release) {
        self.put_back(release);
        self.pushed.notify_one();
    }

    /// For the next time.
    pub(super) fn put_back(&self, release: Release) {
        let mut queue = self.queue.lock();
        if queue.len() < MAX_RELEASES {
            queue.push_back(release);
        }
    }

    pub(super) fn take(&self) -> Vec<Release> {
        let mut queue = self.queue.lock();
        let some = queue.len().min(BATCH);
        queue.drain(..some).collect()
    }

    /// Waits until something was pushed.
    pub(super) async fn pushed(&self) {
        self.pushed.notified().await;
    }
}

impl<K, V> Inner<K, V> {
    pub(super) async fn release(&self, leases: &[Release]) -> Result<(), RemoteError> {
        let fills = leases.iter().map(|release| Fill {
            key: &release.key,
            token: release.token,
            envelope: &[],
            ttl: None,
        });
        self.l2.release(&fills.collect::<Vec<_>>()).await
    }
}
