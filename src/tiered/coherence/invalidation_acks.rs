//! Acknowledgements of invalidations by other processes.

use crate::tiered::l2::remote::{Peer, Position};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// The positions up to which peers have applied all invalidations, as far as they have acknowledged that to this
/// process.
#[derive(Default)]
pub(crate) struct InvalidationAcks {
    acknowledged: Mutex<HashMap<Peer, Position>>,
    changed: Notify,
}

/// The maximum number of peers that are remembered. When it is exceeded, all are dropped, and each is remembered again
/// from its next acknowledgement on.
const MAX_PEERS: usize = 10_000;

impl InvalidationAcks {
    /// Records that `peer` has applied all invalidations up to `at`.
    pub(crate) fn record(&self, peer: Peer, at: Position) {
        let mut acknowledged = self.acknowledged.lock();
        if acknowledged.len() >= MAX_PEERS && !acknowledged.contains_key(&peer) {
            acknowledged.clear();
        }
        let last = acknowledged.entry(peer).or_insert(at);
        // Acknowledgements may overtake each other.
        if last.incarnation != at.incarnation || last.version < at.version {
            *last = at;
        }
        drop(acknowledged);
        self.changed.notify_waiters();
    }

    /// Waits until each of the readers has acknowledged `at`, or its read lease has ended.
    pub(crate) async fn wait(&self, at: Position, readers: &[(Option<Peer>, Duration)]) {
        let begun = Instant::now();
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let Some(left) = self.longest_lease(at, readers, begun.elapsed()) else {
                return;
            };
            let _ = tokio::time::timeout(left, changed).await;
        }
    }

    /// Returns the remaining time of the longest read lease among the readers that have not acknowledged `at`, or
    /// `None` if there is no such reader. The leases of `readers` were current `elapsed` ago.
    fn longest_lease(
        &self,
        at: Position,
        readers: &[(Option<Peer>, Duration)],
        elapsed: Duration,
    ) -> Option<Duration> {
        let acknowledged = self.acknowledged.lock();
        let has_acknowledged = |peer: &Option<Peer>| {
            let position = peer.and_then(|peer| acknowledged.get(&peer));
            position.is_some_and(|position| {
                position.incarnation == at.incarnation && position.version >= at.version
            })
        };
        let longest = readers
            .iter()
            .filter(|(peer, _)| !has_acknowledged(peer))
            .map(|(_, lease)| lease.saturating_sub(elapsed))
            .max()?;
        (!longest.is_zero()).then_some(longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writer_waits_for_readers_without_acknowledgement_until_their_leases_end() {
        let acks = InvalidationAcks::default();
        let at = |version| Position {
            incarnation: [1; 8],
            version,
        };
        let second = Duration::from_secs(1);
        let readers = [(Some(1), second), (Some(2), 2 * second), (None, second / 2)];
        let longest =
            |acks: &InvalidationAcks, elapsed| acks.longest_lease(at(5), &readers, elapsed);
        let none = Duration::ZERO;
        assert_eq!(longest(&acks, none), Some(2 * second));
        acks.record(2, at(4));
        assert_eq!(longest(&acks, none), Some(2 * second));
        acks.record(2, at(5));
        assert_eq!(longest(&acks, none), Some(second));
        acks.record(1, at(9));
        assert_eq!(longest(&acks, none), Some(second / 2));
        assert_eq!(longest(&acks, second), None);
        let mut other = at(9);
        other.incarnation = [2; 8];
        acks.record(1, other);
        assert_eq!(longest(&acks, none), Some(second));
    }
}
