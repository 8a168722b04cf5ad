//! Who waits for what another process does: for a value, or for word that it has heard.

use crate::tiered::l2::remote::{Peer, Position};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, futures::OwnedNotified};

/// Those who wait for a key's value, by key.
#[derive(Default)]
pub(crate) struct KeyWaiters(Mutex<HashMap<Box<[u8]>, Waiting>>);

#[derive(Default)]
struct Waiting {
    notify: Arc<Notify>,
    waiters: usize,
}

/// One who waits. It misses no word that comes after it was made.
pub(crate) struct Wait<'a> {
    waiters_by_key: &'a KeyWaiters,
    key: &'a [u8],
    notified: Pin<Box<OwnedNotified>>,
}

impl KeyWaiters {
    pub(crate) fn enter<'a>(&'a self, key: &'a [u8]) -> Wait<'a> {
        let mut waiters_by_key = self.0.lock();
        let waiting = waiters_by_key.entry(key.into()).or_default();
        waiting.waiters += 1;
        let mut notified = Box::pin(Arc::clone(&waiting.notify).notified_owned());
        notified.as_mut().enable();
        Wait {
            waiters_by_key: self,
            key,
            notified,
        }
    }

    /// Something has become of the key.
    pub(crate) fn wake(&self, key: &[u8]) {
        if let Some(waiting) = self.0.lock().get(key) {
            waiting.notify.notify_waiters();
        }
    }

    /// Something may have become of any key.
    pub(crate) fn wake_all(&self) {
        for waiting in self.0.lock().values() {
            waiting.notify.notify_waiters();
        }
    }
}

impl Wait<'_> {
    pub(crate) const fn key(&self) -> &[u8] {
        self.key
    }

    /// Until there is word, but no longer than `most`.
    pub(crate) async fn wait(&mut self, most: Duration) {
        let _ = tokio::time::timeout(most, self.notified.as_mut()).await;
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let mut waiters_by_key = self.waiters_by_key.0.lock();
        if let Some(waiting) = waiters_by_key.get_mut(self.key) {
            waiting.waiters -= 1;
            if waiting.waiters == 0 {
                waiters_by_key.remove(self.key);
            }
        }
    }
}

/// How far peers have heard, as far as this process was told.
#[derive(Default)]
pub(crate) struct Acks {
    heard: Mutex<HashMap<Peer, Position>>,
    changed: Notify,
}

/// More peers are not remembered: those that are forgotten tell again.
const MAX_PEERS: usize = 10_000;

impl Acks {
    pub(crate) fn note(&self, peer: Peer, at: Position) {
        let mut heard = self.heard.lock();
        if heard.len() >= MAX_PEERS && !heard.contains_key(&peer) {
            heard.clear();
        }
        let last = heard.entry(peer).or_insert(at);
        // Words may overtake each other.
        if last.incarnation != at.incarnation || last.version < at.version {
            *last = at;
        }
        drop(heard);
        self.changed.notify_waiters();
    }

    /// Waits until each of the readers has heard of `at`, or its lease is over.
    pub(crate) async fn wait(&self, at: Position, readers: &[(Option<Peer>, Duration)]) {
        let begun = Instant::now();
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let Some(left) = self.longest(at, readers, begun.elapsed()) else {
                return;
            };
            let _ = tokio::time::timeout(left, changed).await;
        }
    }

    /// How long the longest lease still lasts of those who have not heard.
    fn longest(
        &self,
        at: Position,
        readers: &[(Option<Peer>, Duration)],
        elapsed: Duration,
    ) -> Option<Duration> {
        let heard = self.heard.lock();
        let has_heard = |peer: &Option<Peer>| {
            let position = peer.and_then(|peer| heard.get(&peer));
            position.is_some_and(|heard| {
                heard.incarnation == at.incarnation && heard.version >= at.version
            })
        };
        let waiting = readers.iter().filter(|(peer, _)| !has_heard(peer));
        let left = waiting
            .map(|(_, lease)| lease.saturating_sub(elapsed))
            .max()?;
        (!left.is_zero()).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_word_between_entering_and_waiting_is_not_missed_and_none_is_left_behind() {
        let waiters_by_key = KeyWaiters::default();
        let mut first = waiters_by_key.enter(b"a");
        let second = waiters_by_key.enter(b"a");
        waiters_by_key.wake(b"a");
        first.wait(Duration::MAX).await;
        drop(first);
        assert_eq!(waiters_by_key.0.lock().len(), 1);
        drop(second);
        assert_eq!(waiters_by_key.0.lock().len(), 0);
    }

    #[test]
    fn who_writes_waits_for_those_who_have_not_heard_and_whose_lease_lasts() {
        let acks = Acks::default();
        let at = |version| Position {
            incarnation: [1; 8],
            version,
        };
        let second = Duration::from_secs(1);
        let readers = [(Some(1), second), (Some(2), 2 * second), (None, second / 2)];
        let longest = |acks: &Acks, elapsed| acks.longest(at(5), &readers, elapsed);
        let none = Duration::ZERO;
        assert_eq!(longest(&acks, none), Some(2 * second));
        acks.note(2, at(4));
        assert_eq!(longest(&acks, none), Some(2 * second));
        acks.note(2, at(5));
        assert_eq!(longest(&acks, none), Some(second));
        acks.note(1, at(9));
        assert_eq!(longest(&acks, none), Some(second / 2));
        assert_eq!(longest(&acks, second), None);
        let mut other = at(9);
        other.incarnation = [2; 8];
        acks.note(1, other);
        assert_eq!(longest(&acks, none), Some(second));
    }
}
