//! Reads in the next layout of a namespace that is moving to it: see [`layout_change`](crate::tiered::layout_change).

use crate::tiered::fetch::L2Answer;
use crate::tiered::health::count;
use crate::tiered::l2::remote::{LookupReply, LookupRequest, RemoteError};
use crate::tiered::load::Fetched;
use crate::tiered::load_lease::LoadLease;
use crate::tiered::{Inner, RemoteKey, RemoteValue};
use std::time::Instant;

impl<K: RemoteKey, V: RemoteValue> Inner<K, V> {
    /// Checks whether the value that is loaded under this lease may be copied instead.
    pub(super) fn copies(&self, lease: &LoadLease<K, V>) -> bool {
        self.source_of(lease).is_some()
    }

    /// Returns the partition of the old layout that may have the value for this lease.
    fn source_of(&self, lease: &LoadLease<K, V>) -> Option<usize> {
        self.partitions
            .map
            .source_of(lease.key(), lease.partition())
    }

    /// Copies the value of the key from the old layout. If it has none, returns the lease.
    pub(super) async fn copy_value(&self, lease: LoadLease<K, V>) -> L2Answer<K, V> {
        match self.copy_values(vec![((), Some(lease))]).await.pop() {
            Some(((), Ok(fetched))) => L2Answer::Value(fetched),
            Some(((), Err(Some(lease)))) => L2Answer::LoadLease(lease),
            _ => L2Answer::L2Unavailable,
        }
    }

    /// Copies the values of several keys from the old layout, in one round trip. A key whose value is not copied keeps
    /// its lease.
    pub(super) async fn copy_values<T>(
        &self,
        to_load: Vec<(T, Option<LoadLease<K, V>>)>,
    ) -> Vec<(T, Result<Fetched<V>, Option<LoadLease<K, V>>>)> {
        let source_of = |lease: &Option<LoadLease<K, V>>| self.source_of(lease.as_ref()?);
        let sources: Vec<_> = to_load.iter().map(|(_, lease)| source_of(lease)).collect();
        let asked = Instant::now();
        // The old layout is asked after the new one has granted the lease.
        let requests = to_load
            .iter()
            .zip(&sources)
            .filter_map(|((_, lease), source)| {
                let request = LookupRequest::without_load(lease.as_ref()?.key());
                Some(((*source)?, request))
            });
        let requests: Vec<_> = requests.collect();
        if requests.is_empty() {
            let not_copied = to_load.into_iter();
            return not_copied.map(|(key, lease)| (key, Err(lease))).collect();
        }
        let mut replies = self.partitions.lookup(&requests).await.into_iter();
        let (mut results, mut fetched, mut fills) = (Vec::new(), Vec::new(), Vec::new());
        let mut copied = Vec::new();
        for ((key, lease), source) in to_load.into_iter().zip(sources) {
            let reply = source.and_then(|_| replies.next());
            let found = lease.as_ref().and_then(|lease| match reply {
                Some(Ok(LookupReply::Value { envelope, left, .. })) => {
                    self.decode(&envelope, lease.key(), left)
                }
                _ => None,
            });
            if let Some(found) = found {
                count(&self.counters.copied);
                fills.push((lease, fetched.len()));
                fetched.push(Fetched::found(found, asked));
                copied.push(key);
            } else {
                results.push((key, Err(lease)));
            }
        }
        self.fill(fills, &mut fetched).await;
        results.extend(copied.into_iter().zip(fetched.into_iter().map(Ok)));
        results
    }

    /// Looks up keys by their names, without loading. A key that the next layout does not have is looked up in the old
    /// one. If `may_be_old`, the values may be of an earlier time, which the replies contain.
    pub(super) async fn look_up_names(
        &self,
        names: &[&[u8]],
        may_be_old: bool,
    ) -> Vec<Result<LookupReply, RemoteError>> {
        let map = &self.partitions.map;
        let requests = names.iter().map(|name| {
            let request = LookupRequest {
                may_be_old,
                ..LookupRequest::without_load(name)
            };
            (map.number_of(name), request)
        });
        let requests: Vec<_> = requests.collect();
        let mut replies = self.partitions.lookup(&requests).await;
        let again: Vec<_> = (0..names.len())
            .filter(|&at| matches!(replies[at], Ok(LookupReply::None)))
            .filter_map(|at| {
                let (number, request) = requests[at];
                let source = map.source_of(names[at], number)?;
                Some((at, (source, request)))
            })
            .collect();
        if !again.is_empty() {
            let requests: Vec<_> = again.iter().map(|(_, request)| *request).collect();
            let found = self.partitions.lookup(&requests).await;
            for ((at, _), reply) in again.into_iter().zip(found) {
                replies[at] = reply;
            }
        }
        replies
    }
}
