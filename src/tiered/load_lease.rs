//! Load leases: the right of one process to load a key for all.
//!
//! L2 grants the lease of a key to one process at a time. A lease that is dropped before a value was stored under it is
//! released, so that another process loads without waiting for the lease to end.

use crate::tiered::Inner;
use crate::tiered::l2::remote::{Fill, Head, LookupRequest, Token};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::Notify;

/// A request for the load lease of a key. Unless it is [closed](Self::close) the lease is released when this is
/// dropped, because L2 may have granted it although the answer never arrived.
pub(crate) struct LeaseRequest<K, V> {
    inner: Arc<Inner<K, V>>,
    key: Box<[u8]>,
    /// The number of the partition that is asked, and that gets the value.
    partition: usize,
    token: Token,
    /// `true` while L2 may have granted the lease and no value was stored under it.
    open: bool,
    /// `true` once L2 has answered that it granted the lease.
    granted: bool,
}

impl<K, V> LeaseRequest<K, V> {
    /// Creates a request, before L2 is asked.
    pub(crate) fn new(inner: &Arc<Inner<K, V>>, key: &[u8]) -> Self {
        Self::in_partition(inner, key, inner.partitions.map.number_of(key))
    }

    /// Creates a request to this partition.
    pub(crate) fn in_partition(inner: &Arc<Inner<K, V>>, key: &[u8], partition: usize) -> Self {
        Self {
            inner: Arc::clone(inner),
            key: key.into(),
            partition,
            token: inner.token(),
            open: true,
            granted: false,
        }
    }

    /// Returns the request to L2 for the value or the lease. A value that was written under the token `unreadable`
    /// counts as absent.
    pub(crate) fn lookup_request(&self, unreadable: Option<Token>) -> LookupRequest<'_> {
        LookupRequest {
            key: &self.key,
            lease_token: Some(self.token),
            unreadable,
            head_only: false,
            in_order: false,
            may_be_old: self.inner.settings.reads_from_replicas(),
        }
    }

    /// Returns the request to L2 of a caller that refreshes. Its value is read after the refresh lease is granted, so
    /// that every invalidation of the value is later than the lease.
    pub(crate) fn request_in_order(&self) -> LookupRequest<'_> {
        LookupRequest {
            in_order: true,
            may_be_old: false,
            ..self.lookup_request(None)
        }
    }

    /// Returns the request to L2 of a caller that is about to replace the value, and needs only its head.
    pub(crate) fn head_request(&self) -> LookupRequest<'_> {
        LookupRequest {
            head_only: true,
            may_be_old: false,
            ..self.lookup_request(None)
        }
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    pub(crate) fn partition(&self) -> usize {
        self.partition
    }

    /// Converts the request into the lease that L2 has granted, for a value with this head.
    pub(crate) fn granted(mut self, head: Head) -> LoadLease<K, V> {
        self.granted = true;
        LoadLease {
            request: self,
            head,
        }
    }

    /// Closes the request, because the lease was not granted: it is not released.
    pub(crate) fn close(mut self) {
        self.open = false;
    }
}

impl<K, V> Drop for LeaseRequest<K, V> {
    fn drop(&mut self) {
        if self.open {
            self.inner.releases.push(Release {
                key: std::mem::take(&mut self.key),
                partition: self.partition,
                token: self.token,
                repeats: !self.granted,
            });
        }
    }
}

/// The load lease of a key, granted to this process. It is released when this is dropped, unless it is
/// [closed](Self::close).
pub(crate) struct LoadLease<K, V> {
    request: LeaseRequest<K, V>,
    head: Head,
}

impl<K, V> LoadLease<K, V> {
    /// Creates one for the holder of the refresh lease of a key. Under it, a value with the head `head` replaces the
    /// one with the token `replaced`. There is nothing to release.
    pub(crate) fn to_replace(
        inner: &Arc<Inner<K, V>>,
        (key, partition): (&[u8], usize),
        replaced: Token,
        head: Head,
    ) -> Self {
        let mut request = LeaseRequest::in_partition(inner, key, partition);
        request.token = replaced;
        request.open = false;
        request.granted(head)
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.request.key
    }

    pub(crate) fn partition(&self) -> usize {
        self.request.partition
    }

    pub(crate) fn token(&self) -> Token {
        self.request.token
    }

    /// Returns the head of the value that is stored under the lease.
    pub(crate) fn head(&self) -> Head {
        self.head
    }

    /// Closes the lease, because it has ended: it is not released.
    pub(crate) fn close(self) {
        self.request.close();
    }
}

/// A lease to release.
pub(crate) struct Release {
    key: Box<[u8]>,
    partition: usize,
    token: Token,
    /// `true` if the request was not answered, so that it may still be on its way to L2.
    repeats: bool,
}

impl Release {
    /// Returns the lease to release once more, if it may have been granted after it was released.
    pub(crate) fn repeat(self) -> Option<Self> {
        self.repeats.then_some(Self {
            repeats: false,
            ..self
        })
    }
}

/// The queue of leases to release, several in one round trip.
#[derive(Default)]
pub(crate) struct Releases {
    queue: Mutex<VecDeque<Release>>,
    pushed: Notify,
}

/// The maximum length of the queue of leases to release. Further leases end by their time.
const MAX_RELEASES: usize = 10_000;

/// The number of leases that are released in one round trip.
const RELEASE_BATCH: usize = 256;

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
        let count = queue.len().min(RELEASE_BATCH);
        queue.drain(..count).collect()
    }

    /// Waits until a lease was pushed.
    pub(crate) async fn pushed(&self) {
        self.pushed.notified().await;
    }
}

impl<K, V> Inner<K, V> {
    /// Releases leases in L2, without a value. Returns those that are released, and those for which L2 has failed.
    pub(super) async fn release(&self, leases: Vec<Release>) -> (Vec<Release>, Vec<Release>) {
        let fills = leases.iter().map(|release| {
            let fill = Fill {
                key: &release.key,
                token: release.token,
                envelope: &[],
                ttl: None,
            };
            (release.partition, fill)
        });
        let results = self.partitions.release(&fills.collect::<Vec<_>>()).await;
        let (mut released, mut failed) = (Vec::new(), Vec::new());
        for (lease, result) in leases.into_iter().zip(results) {
            match result {
                Ok(()) => released.push(lease),
                Err(_) => failed.push(lease),
            }
        }
        (released, failed)
    }
}
