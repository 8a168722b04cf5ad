//! What leaves a shard, carried out of its lock.

use super::extras::Retired;
use std::any::Any;
use std::mem::take;
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
    /// A tag of it was invalidated, and it was found since, whatever the call that found it.
    Invalidated,
}

/// What is told of each entry that leaves, outside every lock.
pub(crate) type Listener<K, V> = dyn Fn(&K, &V, RemovalCause) + Send + Sync;

/// An entry that has left. Dropping it runs user code, so that happens outside every lock.
pub(crate) struct Removed<K, V> {
    pub(crate) key: K,
    pub(crate) value: V,
    pub(crate) cause: RemovalCause,
}

/// How many removed entries there are in a chunk.
const CHUNK: usize = 1_024;

/// Entries that have left. The listener is told of them by `finish`, or when this is dropped because
/// of a panic on the way there: of each entry exactly once.
///
/// It must outlive the shard's lock, so declare it before the lock is taken.
pub(crate) struct Removals<'a, K, V>
where
    K: 'a,
    V: 'a,
{
    listener: Option<&'a Listener<K, V>>,
    /// Most writes remove none or one, which takes no allocation.
    first: Option<Removed<K, V>>,
    /// In chunks, so that no push under a lock moves all of them.
    rest: Vec<Vec<Removed<K, V>>>,
    /// Freed when this is dropped.
    retired: Option<Box<RetiredList<'a>>>,
}

/// Storage that a shard does not need any more.
struct RetiredList<'a> {
    _storage: Box<dyn Retired + 'a>,
    _rest: Option<Box<Self>>,
}

impl<'a, K, V> Removals<'a, K, V> {
    pub(crate) const fn new(listener: Option<&'a Listener<K, V>>) -> Self {
        Self {
            listener,
            first: None,
            rest: Vec::new(),
            retired: None,
        }
    }

    /// Keeps storage without entries until no lock is held, because it takes long to free.
    #[cold]
    pub(crate) fn retire(&mut self, storage: Box<dyn Retired + 'a>) {
        self.retired = Some(Box::new(RetiredList {
            _storage: storage,
            _rest: self.retired.take(),
        }));
    }

    #[inline]
    pub(crate) fn push(&mut self, removed: Removed<K, V>) {
        if self.first.is_none() {
            self.first = Some(removed);
        } else {
            self.push_another(removed);
        }
    }

    #[cold]
    fn push_another(&mut self, removed: Removed<K, V>) {
        match self.rest.last_mut() {
            Some(chunk) if chunk.len() < CHUNK => chunk.push(removed),
            Some(_) => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(removed);
                self.rest.push(chunk);
            }
            None => self.rest.push(vec![removed]),
        }
    }

    pub(crate) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.iter().map(Vec::len).sum::<usize>()
    }

    /// Tells the listener of every entry, then drops all but the first, which is returned.
    ///
    /// # Panics
    ///
    /// If the listener does, after it was told of all.
    #[inline]
    pub(crate) fn finish(&mut self) -> Option<Removed<K, V>> {
        if self.listener.is_none() {
            if !self.rest.is_empty() {
                // Before the first is on its way to the caller: see `tell`.
                self.drop_rest();
            }
            return self.first.take();
        }
        let (first, panicked) = self.tell();
        match panicked {
            Some(panic) => {
                // Not as it unwinds: a panic in a `drop` would end the process.
                drop(first);
                resume_unwind(panic)
            }
            None => first,
        }
    }

    #[cold]
    fn drop_rest(&mut self) {
        self.rest.clear();
    }

    /// Empties itself; returns the first entry, and the first panic of the listener.
    #[cold]
    fn tell(&mut self) -> (Option<Removed<K, V>>, Option<Panic>) {
        let (first, rest) = (self.first.take(), take(&mut self.rest));
        let mut panicked = None;
        if let Some(listener) = self.listener {
            for Removed { key, value, cause } in first.iter().chain(rest.iter().flatten()) {
                let told = catch_unwind(AssertUnwindSafe(|| listener(key, value, *cause)));
                panicked = panicked.or(told.err());
            }
        }
        // Before the first is on its way to the caller: a panic in a `drop` would leak it there.
        drop(rest);
        (first, panicked)
    }
}

type Panic = Box<dyn Any + Send>;

impl<K, V> Drop for Removals<'_, K, V> {
    fn drop(&mut self) {
        if self.listener.is_some() {
            // Something panics already; a second panic would end the process.
            drop(self.tell());
        }
    }
}
