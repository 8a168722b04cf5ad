//! The partitions of a namespace.
//!
//! A partition has some of the keys, and everything in L2 that orders changes of them: a state, a list of readers, and a
//! channel for events. An invalidation of a key concerns its partition. One of a tag or of everything concerns all.

use crate::tiered::coherence::invalidation_acks::InvalidationAcks;
use crate::tiered::coherence::pending_invalidations::PendingInvalidations;
use crate::tiered::coherence::subscriber::Proof;
use crate::tiered::l2::circuit_breaker::CircuitBreaker;
use crate::tiered::l2::remote::{Fill, LookupReply, LookupRequest, RemoteError};
use crate::tiered::partition_map::PartitionMap;
use futures_util::future::join_all;
use parking_lot::Mutex;
use std::future::Future;
use std::ops::Range;

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

/// The partitions of a namespace: those of its layout and, while their number changes, those of the next layout after
/// them. The number of each layout is a power of two.
pub(super) struct Partitions {
    all: Box<[Partition]>,
    pub(super) map: PartitionMap,
}

impl std::ops::Index<usize> for Partitions {
    type Output = Partition;

    fn index(&self, number: usize) -> &Partition {
        &self.all[number]
    }
}

impl Partitions {
    pub(super) fn new(all: Vec<Partition>, map: PartitionMap) -> Self {
        debug_assert_eq!(all.len(), map.len());
        Self {
            all: all.into(),
            map,
        }
    }

    /// Returns the numbers of all partitions, including those of the next layout.
    pub(super) fn numbers(&self) -> Range<usize> {
        0..self.all.len()
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Partition> {
        self.all.iter()
    }

    /// Calls L2 once for each partition that has some of the items, all at the same time. Each item comes with the number
    /// of its partition. Returns the results in the order of the items. A partition whose call fails costs its own items
    /// only.
    async fn call_each<'a, T, R, F>(
        &'a self,
        items: &[(usize, T)],
        call: impl Fn(&'a CircuitBreaker, Vec<T>) -> F,
    ) -> Vec<Result<R, RemoteError>>
    where
        T: Copy,
        F: Future<Output = Result<Vec<R>, RemoteError>>,
    {
        let mut groups: Vec<(Vec<usize>, Vec<T>)> = Vec::new();
        groups.resize_with(self.all.len(), Default::default);
        for (place, (number, item)) in items.iter().enumerate() {
            let (places, group) = &mut groups[*number];
            places.push(place);
            group.push(*item);
        }
        let calls = self.all.iter().zip(groups);
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
        requests: &[(usize, LookupRequest<'_>)],
    ) -> Vec<Result<LookupReply, RemoteError>> {
        self.call_each(requests, |l2, requests| async move {
            l2.lookup(&requests).await
        })
        .await
    }

    /// Stores several values, with one call for each partition. Returns for each whether it was stored, or `None` if
    /// this value failed while others did not.
    pub(super) async fn fill(
        &self,
        fills: &[(usize, Fill<'_>)],
    ) -> Vec<Result<Option<bool>, RemoteError>> {
        self.call_each(fills, |l2, fills| async move { l2.fill(&fills).await })
            .await
    }

    /// Releases leases without a value, with one call for each partition.
    pub(super) async fn release(
        &self,
        leases: &[(usize, Fill<'_>)],
    ) -> Vec<Result<(), RemoteError>> {
        self.call_each(leases, |l2, leases| async move {
            l2.release(&leases).await?;
            Ok(vec![(); leases.len()])
        })
        .await
    }
}
