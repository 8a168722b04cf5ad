//! Invalidations that L2 has not received yet.
//!
//! While an invalidation is pending, L2 may still contain the invalidated value, so this process does not ask L2 for
//! it.

use crate::tiered::l2::remote::Subject;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::sync::Notify;

/// The bounded queue of pending invalidations, each subject once.
pub(crate) struct PendingInvalidations {
    queue: Mutex<Queue>,
    /// The length of the queue, so that reads find it empty without a lock.
    len: AtomicUsize,
    /// The maximum number of invalidations.
    limit: usize,
    pushed: Notify,
    emptied: Notify,
}

#[derive(Default)]
struct Queue {
    by_number: BTreeMap<u64, Subject>,
    numbers: HashMap<Subject, u64>,
    /// The number of the newest invalidation.
    newest: u64,
    /// The number of invalidations of more than one key.
    broad: usize,
}

impl Queue {
    /// Appends an invalidation, in place of an older one of the same subject.
    fn insert(&mut self, subject: Subject) {
        self.remove(&subject);
        self.newest += 1;
        self.broad += usize::from(!matches!(subject, Subject::Key(_)));
        self.by_number.insert(self.newest, subject.clone());
        self.numbers.insert(subject, self.newest);
    }

    fn remove(&mut self, subject: &Subject) {
        if let Some(number) = self.numbers.remove(subject) {
            self.by_number.remove(&number);
            self.broad -= usize::from(!matches!(subject, Subject::Key(_)));
        }
    }

    fn clear(&mut self) {
        *self = Self {
            newest: self.newest,
            ..Self::default()
        };
    }
}

/// The effect of [`push`](PendingInvalidations::push) on the queue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pushed {
    /// The queue was empty before.
    First,
    /// The queue was not empty before.
    Another,
    /// The queue was full: it now contains one invalidation of everything.
    Overflowed,
}

impl PendingInvalidations {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            queue: Mutex::default(),
            len: AtomicUsize::new(0),
            limit,
            pushed: Notify::new(),
            emptied: Notify::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len.load(Relaxed)
    }

    /// Queues an invalidation. If there are too many, one invalidation of everything replaces all of them.
    pub(crate) fn push(&self, subject: Subject) -> Pushed {
        let mut queue = self.queue.lock();
        queue.insert(subject);
        let has_all = queue.numbers.contains_key(&Subject::All);
        let overflows = queue.numbers.len() > self.limit && !has_all;
        if overflows || has_all {
            queue.clear();
            queue.insert(Subject::All);
        }
        let before = self.len.swap(queue.numbers.len(), Relaxed);
        drop(queue);
        self.pushed.notify_one();
        match before {
            _ if overflows => Pushed::Overflowed,
            0 => Pushed::First,
            _ => Pushed::Another,
        }
    }

    /// Checks whether L2 may contain an invalidated value for this key. It may while an invalidation of more than one
    /// key is pending, because the keys that such an invalidation covers are not known.
    pub(crate) fn covers(&self, key: &[u8]) -> bool {
        if self.len() == 0 {
            return false;
        }
        let queue = self.queue.lock();
        queue.broad > 0 || queue.numbers.contains_key(&Subject::Key(key.into()))
    }

    /// Returns up to `limit` of the oldest invalidations, with their numbers. They stay queued until
    /// [`complete`](Self::complete) is called.
    pub(crate) fn oldest(&self, limit: usize) -> Vec<(u64, Subject)> {
        let queue = self.queue.lock();
        let oldest = queue.by_number.iter().take(limit);
        oldest
            .map(|(number, subject)| (*number, subject.clone()))
            .collect()
    }

    /// Moves an invalidation to the end of the queue.
    pub(crate) fn postpone(&self, number: u64) {
        let mut queue = self.queue.lock();
        if let Some(subject) = queue.by_number.get(&number).cloned() {
            queue.insert(subject);
        }
    }

    /// Removes an invalidation that L2 has received, unless its subject was queued again meanwhile. Returns `true` if
    /// that empties the queue.
    pub(crate) fn complete(&self, number: u64) -> bool {
        let mut queue = self.queue.lock();
        if let Some(subject) = queue.by_number.get(&number).cloned() {
            queue.remove(&subject);
        }
        let before = self.len.swap(queue.numbers.len(), Relaxed);
        let emptied = before > 0 && queue.numbers.is_empty();
        drop(queue);
        if emptied {
            self.emptied.notify_waiters();
        }
        emptied
    }

    /// Waits until the queue is empty.
    pub(crate) async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.len() == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// Waits until an invalidation is pushed.
    pub(crate) async fn pushed(&self) {
        self.pushed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Subject {
        Subject::Key([byte].into())
    }

    fn oldest(pending: &PendingInvalidations) -> (u64, Subject) {
        pending.oldest(1).remove(0)
    }

    #[test]
    fn key_is_covered_until_its_last_invalidation_is_complete() {
        let pending = PendingInvalidations::new(10);
        pending.push(key(1));
        let (number, subject) = oldest(&pending);
        assert_eq!(subject, key(1));
        pending.push(key(1));
        pending.complete(number);
        assert!(pending.covers(&[1]) && !pending.covers(&[2]));
        let (number, _) = oldest(&pending);
        pending.complete(number);
        assert!(!pending.covers(&[1]));
        assert_eq!((pending.len(), pending.oldest(1)), (0, vec![]));
    }

    #[test]
    fn invalidation_of_a_tag_covers_every_key_and_the_oldest_is_first() {
        let pending = PendingInvalidations::new(10);
        pending.push(key(1));
        pending.push(Subject::Tag("a".into()));
        assert!(pending.covers(&[2]));
        assert_eq!(oldest(&pending).1, key(1));
        pending.complete(oldest(&pending).0);
        pending.complete(oldest(&pending).0);
        assert!(!pending.covers(&[2]));
    }

    #[test]
    fn postponed_invalidation_is_last_and_still_covers_its_key() {
        let pending = PendingInvalidations::new(10);
        pending.push(key(1));
        pending.push(key(2));
        pending.postpone(oldest(&pending).0);
        let subjects = pending.oldest(9).into_iter().map(|(_, subject)| subject);
        assert_eq!(subjects.collect::<Vec<_>>(), [key(2), key(1)]);
        assert!(pending.covers(&[1]));
    }

    #[test]
    fn full_queue_becomes_one_invalidation_of_everything() {
        let pending = PendingInvalidations::new(3);
        let pushed = (0..4).map(|byte| pending.push(key(byte)));
        let (first, another) = (Pushed::First, Pushed::Another);
        let expected = [first, another, another, Pushed::Overflowed];
        assert_eq!(pushed.collect::<Vec<_>>(), expected);
        assert_eq!(pending.len(), 1);
        assert_eq!(pending.push(key(4)), Pushed::Another);
        assert_eq!(oldest(&pending).1, Subject::All);
        assert!(pending.covers(&[9]));
        let (number, _) = oldest(&pending);
        assert!(pending.complete(number) && !pending.complete(number));
        assert_eq!(pending.len(), 0);
    }
}
