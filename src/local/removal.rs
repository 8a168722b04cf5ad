//! What leaves a shard, carried out of its lock.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Why an entry is no longer held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RemovalCause {
    /// A new value took its place.
    Replaced,
    /// `remove`, `retain` or `update` took it out.
    Removed,
    /// It was found past its deadline, whatever the call that found it.
    Expired,
    /// It gave way to others for want of room.
    Evicted,
    /// `clear` took it out.
    Cleared,
}

/// What is told of each entry that leaves, outside every lock.
pub(crate) type Listener<K, V> = dyn Fn(&K, &V, RemovalCause) + Send + Sync;

/// An entry that has left. Dropping it runs user code, so that happens outside every lock.
pub(crate) struct Removed<K, V> {
    pub(crate) key: K,
    pub(crate) value: V,
    pub(crate) cause: RemovalCause,
}

/// Entries that have left: most writes remove none or one, which takes no allocation.
pub(crate) struct Removals<K, V> {
    first: Option<Removed<K, V>>,
    rest: Vec<Removed<K, V>>,
}

impl<K, V> Removals<K, V> {
    pub(crate) const fn new() -> Self {
        Self {
            first: None,
            rest: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, removed: Removed<K, V>) {
        if self.first.is_none() {
            self.first = Some(removed);
        } else {
            self.rest.push(removed);
        }
    }

    pub(crate) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    /// Tells the listener of every entry, then drops all but the first, which is returned.
    ///
    /// # Panics
    ///
    /// If the listener does, after it was told of all.
    pub(crate) fn finish(self, listener: Option<&Listener<K, V>>) -> Option<Removed<K, V>> {
        let Some(listener) = listener else {
            return self.first;
        };
        let mut panicked = None;
        for Removed { key, value, cause } in self.first.iter().chain(&self.rest) {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| listener(key, value, *cause))) {
                panicked.get_or_insert(panic);
            }
        }
        match panicked {
            Some(panic) => resume_unwind(panic),
            None => self.first,
        }
    }
}
