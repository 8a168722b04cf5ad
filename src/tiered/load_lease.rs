//! Load leases across processes: they are given back if no value was stored under them.

use crate::tiered::Inner;
use crate::tiered::l2::remote::{Fill, Head, LookupRequest, RemoteError, Token};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::Notify;

/// The lease of a key's load across processes, or a request for it whose answer is not known yet.
pub(crate) struct Lease<K, V> {
    inner: Arc<Inner<K, V>>,
    key: Box<[u8]>,
    token: Token,
    /// `true` while L2 may have granted the lease and no value was stored under it.
    open: bool,
    /// `true` once L2 has answered that it granted the lease.
    granted: bool,
}

/// A granted lease, with the head of the value that is stored under it.
pub(crate) type Granted<K, V> = (Lease<K, V>, Head);

impl<K, V> Lease<K, V> {
    /// Creates a request for a lease. Call this before L2 is asked, because the lease may be granted although the answer
    /// never arrives.
    pub(crate) fn ask(inner: &Arc<Inner<K, V>>, key: &[u8]) -> Self {
        Self {
            inner: Arc::clone(inner),
            key: key.into(),
            token: inner.token(),
            open: true,
            granted: false,
        }
    }

    /// Returns the question to L2 for the value or the lease. A value that was written under the token `refused` counts as
    /// absent.
    pub(crate) fn question(&self, refused: Option<Token>) -> LookupRequest<'_> {
        LookupRequest {
            key: &self.key,
            lease_token: Some(self.token),
            unreadable: refused,
            head_only: false,
        }
    }

    /// Returns the question to L2 for a caller that is about to replace the value, and needs only its head.
    pub(crate) fn question_for_head(&self) -> LookupRequest<'_> {
        LookupRequest {
            head_only: true,
            ..self.question(None)
        }
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    pub(crate) fn token(&self) -> Token {
        self.token
    }

    /// Notes that L2 has granted the lease.
    pub(crate) fn grant(&mut self) {
        self.granted = true;
    }

    /// Closes the lease, because it was not granted or has ended: it is not given back.
    pub(crate) fn close(mut self) {
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

/// A lease to give back.
pub(crate) struct Release {
    key: Box<[u8]>,
    token: Token,
    /// `true` if the request was not answered, so that it may still be on its way to L2.
    again: bool,
}

impl Release {
    /// Returns the lease to give back once more, if it may have been granted after it was given back.
    pub(crate) fn repeat(self) -> Option<Self> {
        self.again.then_some(Self {
            again: false,
            ..self
        })
    }
}

/// The queue of leases to give back, several in one round trip.
#[derive(Default)]
pub(crate) struct Releases {
    queue: Mutex<VecDeque<Release>>,
    pushed: Notify,
}

/// The length of the queue of leases to give back. Further leases end by their time.
const MAX_RELEASES: usize = 10_000;

/// The number of leases that are given back in one round trip.
const BATCH: usize = 256;

impl Releases {
    fn push(&self, release: Release) {
        self.put_back(release);
        self.pushed.notify_one();
    }

    /// Queues a lease without a notification, for the next round trip.
    pub(crate) fn put_back(&self, release: Release) {
        let mut queue = self.queue.lock();
        if queue.len() < MAX_RELEASES {
            queue.push_back(release);
        }
    }

    /// Takes the leases for one round trip from the queue.
    pub(crate) fn take(&self) -> Vec<Release> {
        let mut queue = self.queue.lock();
        let some = queue.len().min(BATCH);
        queue.drain(..some).collect()
    }

    /// Waits until a lease was pushed.
    pub(crate) async fn pushed(&self) {
        self.pushed.notified().await;
    }
}

impl<K, V> Inner<K, V> {
    /// Gives these leases back, without a value.
    pub(crate) async fn release(&self, leases: &[Release]) -> Result<(), RemoteError> {
        let fills = leases.iter().map(|release| Fill {
            key: &release.key,
            token: release.token,
            envelope: &[],
            ttl: None,
        });
        self.l2.release(&fills.collect::<Vec<_>>()).await
    }
}
