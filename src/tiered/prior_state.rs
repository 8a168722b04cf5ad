//! The state of a key in L2 before a write: step 1 of the [protocol of a change](crate::tiered::publish).

use crate::consistency::Consistency;
use crate::tiered::l2::remote::{Head, LookupReply, Position, Token};
use crate::tiered::load_lease::{LeaseRequest, LoadLease};
use crate::tiered::{Inner, RemoteKey, RemoteValue};
use std::sync::Arc;

/// The state of a key in L2 before a write. If it is the same when the change is published, no other writer has changed
/// the key.
pub(super) struct PriorState<K, V> {
    head: Head,
    /// The number of the partition that was asked.
    partition: usize,
    /// `true` if the new value replaces whatever is under the key.
    is_any: bool,
    /// The load lease, if L2 had no value. Other callers wait for the new value meanwhile.
    lease: Option<LoadLease<K, V>>,
}

impl<K, V> PriorState<K, V> {
    /// Creates one for a key without a value, for which L2 has granted the load lease.
    pub(super) fn of_lease(lease: LoadLease<K, V>) -> Self {
        Self {
            head: lease.head(),
            partition: lease.partition(),
            is_any: false,
            lease: Some(lease),
        }
    }

    /// Creates one for a key whose value in this partition has this token, at the position of `head` in the order of
    /// invalidations.
    pub(super) fn of_value(partition: usize, token: Token, head: Head) -> Self {
        Self {
            head: Head { token, ..head },
            partition,
            is_any: false,
            lease: None,
        }
    }

    /// Creates one for an insertion that replaces whatever is under the key, begun at this position in the order of
    /// invalidations.
    pub(super) fn of_any(partition: usize, at: Position) -> Self {
        let Position {
            incarnation,
            version,
        } = at;
        Self {
            head: Head {
                incarnation,
                version,
                ..Head::NONE
            },
            partition,
            is_any: true,
            lease: None,
        }
    }

    /// Returns the head of the value or of the lease.
    pub(super) fn head(&self) -> Head {
        self.head
    }

    /// Returns `true` if the new value replaces whatever is under the key.
    pub(super) fn is_any(&self) -> bool {
        self.is_any
    }

    /// Returns the token of the value or of the lease.
    pub(super) fn token(&self) -> Token {
        self.head.token
    }

    /// Returns the number of the partition that was asked.
    pub(super) fn partition(&self) -> usize {
        self.partition
    }

    /// Returns the load lease, if L2 had no value.
    pub(super) fn into_lease(self) -> Option<LoadLease<K, V>> {
        self.lease
    }
}

impl<K: RemoteKey, V: RemoteValue> Inner<K, V> {
    /// Returns the state of a key in L2, and acquires the load lease if L2 has no value. This is step 1.
    pub(super) async fn prior_state(
        self: &Arc<Self>,
        name: &[u8],
        is_inserted: bool,
    ) -> Option<PriorState<K, V>> {
        // L2 is asked even if it does not store the key, to detect other writers. An insertion does not need that.
        let detects_writers =
            || self.settings.consistency != Consistency::L2Only && self.trusts_l2(name);
        if !self.uses_l2(name) && (is_inserted || !detects_writers()) {
            return None;
        }
        let request = LeaseRequest::new(self, name);
        let partition = request.partition();
        let l2 = &self.partitions[partition].l2;
        if let Some(at) = l2.position().filter(|_| is_inserted) {
            request.close();
            return Some(PriorState::of_any(partition, at));
        }
        let answers = l2.lookup(&[request.head_request()]).await;
        match answers.ok()?.pop()? {
            LookupReply::LeaseGranted { head, .. } => {
                Some(PriorState::of_lease(request.granted(head)))
            }
            LookupReply::Value {
                envelope, version, ..
            } => {
                request.close();
                let head = Head::of(&envelope).ok()?;
                // The new value is as recent as this reply. The version of the value that it replaces may be from before
                // an invalidation of one of the new value's tags.
                Some(PriorState::of_value(
                    partition,
                    head.token,
                    Head { version, ..head },
                ))
            }
            LookupReply::LeasedElsewhere { .. } | LookupReply::None => {
                request.close();
                None
            }
        }
    }

    /// Returns the lease under which a new value takes the place of the state `prior`.
    pub(super) fn lease_to_replace(
        self: &Arc<Self>,
        name: &[u8],
        prior: PriorState<K, V>,
    ) -> LoadLease<K, V> {
        let PriorState {
            head,
            partition,
            lease,
            ..
        } = prior;
        lease.unwrap_or_else(|| {
            let new = Head {
                token: self.token(),
                ..head
            };
            LoadLease::to_replace(self, (name, partition), head.token, new)
        })
    }
}
