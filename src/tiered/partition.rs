//! The partitions of a namespace.
//!
//! A partition has some of the keys, and everything in L2 that orders changes of them: a state, a list of readers, and a
//! channel for events. An invalidation of a key concerns its partition. One of a tag or of everything concerns all.

use crate::tiered::coherence::invalidation_acks::InvalidationAcks;
use crate::tiered::coherence::pending_invalidations::PendingInvalidations;
use crate::tiered::coherence::subscriber::Proof;
use crate::tiered::l2::circuit_breaker::CircuitBreaker;
use crate::tiered::l2::remote::{Fill, LookupReply, LookupRequest, RemoteError, Subject};
use crate::tiered::refresh::key_of_refresh_lease;
use futures_util::future::join_all;
use parking_lot::Mutex;
use std::future::Future;
use xxhash_rust::xxh3::xxh3_64;

/// A partition, as one process sees it.
pub(super) struct Partition {
    pub(super) l2: CircuitBreaker,
    /// The state of the subscription, written by the subscriber.
    pub(super) proof: Mutex<Proof>,
    pub(super) acks: InvalidationAcks,
    pub(super) pending_invalidations: PendingInvalidations,
}

impl Partition {
    /// Creates a partition whose queue has at most `max_queue` invalidations.
    pub(super) fn new(l2: CircuitBreaker, max_queue: usize) -> Self {
        Self {
            l2,
            proof: Mutex::default(),
            acks: InvalidationAcks::default(),
            pending_invalidations: PendingInvalidations::new(max_queue),
        }
    }
}

/// Returns the number of the partition of a key, of `count` partitions.
pub(super) fn number_of(name: &[u8], count: usize) -> usize {
    #[allow(clippy::cast_possible_truncation)] // The other bits are masked.
    let hash = xxh3_64(name) as usize;
    hash & (count - 1)
}

/// The partitions of a namespace. Their number is a power of two.
pub(super) struct Partitions(Box<[Partition]>);

impl std::ops::Index<usize> for Partitions {
    type Output = Partition;

    fn index(&self, number: usize) -> &Partition {
        &self.0[number]
    }
}

impl Partitions {
    pub(super) fn new(partitions: Vec<Partition>) -> Self {
        debug_assert!(partitions.len().is_power_of_two());
        Self(partitions.into())
    }

    /// Returns the numbers of all partitions.
    pub(super) fn numbers(&self) -> std::ops::Range<usize> {
        0..self.0.len()
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Partition> {
        self.0.iter()
    }

    /// Returns the number of the partition with this key, or with the key of this refresh lease.
    pub(super) fn number_of(&self, name: &[u8]) -> usize {
        number_of(key_of_refresh_lease(name).unwrap_or(name), self.0.len())
    }

    /// Returns the partition of a key.
    pub(super) fn of(&self, name: &[u8]) -> &Partition {
        &self.0[self.number_of(name)]
    }

    /// Returns the partitions that an invalidation concerns.
    pub(super) fn of_subject(&self, subject: &Subject) -> &[Partition] {
        match subject {
            Subject::Key(name) => std::slice::from_ref(self.of(name)),
            Subject::Tag(_) | Subject::All => &self.0,
        }
    }

    /// Calls L2 once for each partition that has some of the items, all at the same time. Returns the results in the
    /// order of the items. A partition whose call fails costs its own items only.
    async fn call_each<'a, T, R, F>(
        &'a self,
        items: &[T],
        name: impl for<'t> Fn(&'t T) -> &'t [u8],
        call: impl Fn(&'a CircuitBreaker, Vec<T>) -> F,
    ) -> Vec<Result<R, RemoteError>>
    where
        T: Copy,
        F: Future<Output = Result<Vec<R>, RemoteError>>,
    {
        let mut groups: Vec<(Vec<usize>, Vec<T>)> = Vec::new();
        groups.resize_with(self.0.len(), Default::default);
        for (place, item) in items.iter().enumerate() {
            let (places, group) = &mut groups[self.number_of(name(item))];
            places.push(place);
            group.push(*item);
        }
        let calls = self.0.iter().zip(groups);
        let calls = calls.filter(|(_, (places, _))| !places.is_empty());
        let calls = calls.map(|(partition, (places, group))| {
            let call = call(&partition.l2, group);
            async move { (places, call.await) }
        });
        let mut results: Vec<_> = items.iter().map(|_| Err(RemoteError::Open)).collect();
        for (places, replies) in join_all(calls).await {
            match replies {
                Ok(replies) => {
                    for (place, reply) in places.into_iter().zip(replies) {
                        results[place] = Ok(reply);
                    }
                }
                Err(error) => {
                    for place in places {
                        results[place] = Err(error.clone());
                    }
                }
            }
        }
        results
    }

    /// Looks up several keys, with one call for each partition.
    pub(super) async fn lookup(
        &self,
        requests: &[LookupRequest<'_>],
    ) -> Vec<Result<LookupReply, RemoteError>> {
        self.call_each(
            requests,
            |request| request.key,
            |l2, requests| async move { l2.lookup(&requests).await },
        )
        .await
    }

    /// Stores several values, with one call for each partition. Returns for each whether it was stored, or `None` if
    /// this value failed while others did not.
    pub(super) async fn fill(&self, fills: &[Fill<'_>]) -> Vec<Result<Option<bool>, RemoteError>> {
        self.call_each(
            fills,
            |fill| fill.key,
            |l2, fills| async move { l2.fill(&fills).await },
        )
        .await
    }

    /// Releases leases without a value, with one call for each partition.
    pub(super) async fn release(&self, leases: &[Fill<'_>]) -> Vec<Result<(), RemoteError>> {
        self.call_each(
            leases,
            |lease| lease.key,
            |l2, leases| async move {
                l2.release(&leases).await?;
                Ok(vec![(); leases.len()])
            },
        )
        .await
    }
}
