//! Invalidations that L2 could not be told of yet.
//!
//! While one is here, L2 may hold what it is of, so this process does not ask L2 for that.

use crate::tiered::l2::remote::Subject;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::sync::Notify;

pub(crate) struct PendingInvalidations {
    queue: Mutex<Queue>,
    /// The queue's length, so that readers see without a lock that there is nothing.
    len: AtomicUsize,
    limit: usize,
    pushed: Notify,
    emptied: Notify,
}

#[derive(Default)]
struct Queue {
    by_number: BTreeMap<u64, Subject>,
    numbers: HashMap<Subject, u64>,
    next: u64,
    /// How many are of more than one key.
    broad: usize,
}

impl Queue {
    fn insert(&mut self, subject: Subject) {
        self.remove(&subject);
        self.next += 1;
        self.broad += usize::from(!matches!(subject, Subject::Key(_)));
        self.by_number.insert(self.next, subject.clone());
        self.numbers.insert(subject, self.next);
    }

    fn remove(&mut self, subject: &Subject) {
        if let Some(number) = self.numbers.remove(subject) {
            self.by_number.remove(&number);
            self.broad -= usize::from(!matches!(subject, Subject::Key(_)));
        }
    }

    fn clear(&mut self) {
        *self = Self {
            next: self.next,
            ..Self::default()
        };
    }
}

/// What came of keeping an invalidation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pushed {
    /// There was none before.
    First,
    Another,
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

    /// Keeps an invalidation. If there are too many, all become one that forgets everything.
    pub(crate) fn push(&self, subject: Subject) -> Pushed {
        let mut queue = self.queue.lock();
        queue.insert(subject);
        let holds_all = queue.numbers.contains_key(&Subject::All);
        let overflows = queue.numbers.len() > self.limit && !holds_all;
        if overflows || holds_all {
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

    /// May L2 hold a value of this key that is invalid? Also if it is not known of which keys an
    /// invalidation is.
    pub(crate) fn blocks(&self, key: &[u8]) -> bool {
        if self.len() == 0 {
            return false;
        }
        let queue = self.queue.lock();
        queue.broad > 0 || queue.numbers.contains_key(&Subject::Key(key.into()))
    }

    /// The oldest, with their numbers. They stay until they are [`done`](Self::done).
    pub(crate) fn first(&self, most: usize) -> Vec<(u64, Subject)> {
        let queue = self.queue.lock();
        let first = queue.by_number.iter().take(most);
        first
            .map(|(number, subject)| (*number, subject.clone()))
            .collect()
    }

    /// To be told after the others.
    pub(crate) fn postpone(&self, number: u64) {
        let mut queue = self.queue.lock();
        if let Some(subject) = queue.by_number.get(&number).cloned() {
            queue.insert(subject);
        }
    }

    /// L2 was told; if the same came again meanwhile, that one stays. Is none left?
    pub(crate) fn done(&self, number: u64) -> bool {
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

    /// Waits until there is none.
    pub(crate) async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.len() == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// Waits until something was pushed.
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

    fn first(pending_invalidations: &PendingInvalidations) -> (u64, Subject) {
        pending_invalidations.first(1).remove(0)
    }

    #[test]
    fn a_key_is_blocked_until_the_last_invalidation_of_it_is_done() {
        let pending_invalidations = PendingInvalidations::new(10);
        pending_invalidations.push(key(1));
        let (number, subject) = first(&pending_invalidations);
        assert_eq!(subject, key(1));
        pending_invalidations.push(key(1));
        pending_invalidations.done(number);
        assert!(pending_invalidations.blocks(&[1]) && !pending_invalidations.blocks(&[2]));
        let (number, _) = first(&pending_invalidations);
        pending_invalidations.done(number);
        assert!(!pending_invalidations.blocks(&[1]));
        assert_eq!(
            (pending_invalidations.len(), pending_invalidations.first(1)),
            (0, vec![])
        );
    }

    #[test]
    fn a_tag_blocks_everything_and_the_oldest_is_first() {
        let pending_invalidations = PendingInvalidations::new(10);
        pending_invalidations.push(key(1));
        pending_invalidations.push(Subject::Tag("a".into()));
        assert!(pending_invalidations.blocks(&[2]));
        assert_eq!(first(&pending_invalidations).1, key(1));
        pending_invalidations.done(first(&pending_invalidations).0);
        pending_invalidations.done(first(&pending_invalidations).0);
        assert!(!pending_invalidations.blocks(&[2]));
    }

    #[test]
    fn what_is_postponed_is_last_and_blocks_still() {
        let pending_invalidations = PendingInvalidations::new(10);
        pending_invalidations.push(key(1));
        pending_invalidations.push(key(2));
        pending_invalidations.postpone(first(&pending_invalidations).0);
        let subjects = pending_invalidations
            .first(9)
            .into_iter()
            .map(|(_, subject)| subject);
        assert_eq!(subjects.collect::<Vec<_>>(), [key(2), key(1)]);
        assert!(pending_invalidations.blocks(&[1]));
    }

    #[test]
    fn too_many_become_one_of_everything() {
        let pending_invalidations = PendingInvalidations::new(3);
        let pushed = (0..4).map(|byte| pending_invalidations.push(key(byte)));
        let (first_one, another) = (Pushed::First, Pushed::Another);
        let expected = [first_one, another, another, Pushed::Overflowed];
        assert_eq!(pushed.collect::<Vec<_>>(), expected);
        assert_eq!(pending_invalidations.len(), 1);
        assert_eq!(pending_invalidations.push(key(4)), Pushed::Another);
        assert_eq!(first(&pending_invalidations).1, Subject::All);
        assert!(pending_invalidations.blocks(&[9]));
        let (number, _) = first(&pending_invalidations);
        assert!(pending_invalidations.done(number) && !pending_invalidations.done(number));
        assert_eq!(pending_invalidations.len(), 0);
    }
}
