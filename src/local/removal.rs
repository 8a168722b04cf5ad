//! Entries that were removed under a shard's lock, and are reported and dropped without it.

use std::any::Any;
use std::mem::take;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// The reason for the removal of an entry.
///
/// # Examples
///
/// ```
/// use hotset::{LocalCache, RemovalCause};
/// use std::sync::mpsc;
///
/// let (sender, causes) = mpsc::channel();
/// let cache = LocalCache::<u32, u32>::builder()
///     .capacity(1)
///     .on_removal(move |_, _, cause| drop(sender.send(cause)))
///     .build()?;
/// cache.insert(1, 10);
/// cache.insert(1, 11);
/// cache.insert(2, 20);
/// cache.invalidate(&2);
/// drop(cache);
/// let expected = [RemovalCause::Replaced, RemovalCause::Evicted, RemovalCause::Removed];
/// assert_eq!(causes.iter().collect::<Vec<_>>(), expected);
/// # Ok::<(), hotset::BuildError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RemovalCause {
    /// A new value replaced it.
    Replaced,
    /// A call of `invalidate`, `remove`, `retain`, `update` or `compute` removed it, or one of `set_ttl` with zero.
    #[doc(alias = "Explicit")]
    Removed,
    /// It was past its deadline when a call of any kind found it.
    Expired,
    /// The policy evicted it, because there was no room for another entry.
    #[doc(alias = "Size")]
    Evicted,
    /// A call of `clear` removed it.
    Cleared,
    /// One of its tags was invalidated, and a later call of any kind found it.
    Invalidated,
}

/// A listener that is called with each removed entry, with no lock held.
pub(crate) type Listener<K, V> = dyn Fn(K, V, RemovalCause) + Send + Sync;

/// A removed entry. It is dropped with no lock held, because that runs user code.
pub(crate) struct Removed<K, V> {
    pub(crate) key: K,
    pub(crate) value: V,
    pub(crate) cause: RemovalCause,
}

/// The number of removed entries in a chunk.
const ENTRIES_PER_CHUNK: usize = 1_024;

/// Entries that were removed by one call. The listener is called exactly once with each of them: by `finish`, or when
/// this is dropped because of an earlier panic.
///
/// It must outlive the guard of the shard's lock, so declare it before the lock is acquired.
pub(crate) struct Removals<'a, K, V>
where
    K: 'a,
    V: 'a,
{
    listener: Option<&'a Listener<K, V>>,
    /// The first removed entry. Most writes remove one at most, and then nothing is allocated.
    first: Option<Removed<K, V>>,
    /// The other entries, in chunks, so that no push under a lock moves all of them.
    rest: Vec<Vec<Removed<K, V>>>,
    /// Storage to be freed when this is dropped. One pointer, because most writes retire nothing.
    retired: Option<Box<RetiredList<'a>>>,
}

/// Storage that a shard no longer needs. It is dropped where no lock is held, because dropping it takes long.
pub(crate) trait Retired {}

impl<T> Retired for T {}

/// A linked list of retired storage.
struct RetiredList<'a> {
    _storage: Box<dyn Retired + 'a>,
    _rest: Option<Box<Self>>,
}

impl<'a, K, V> Removals<'a, K, V> {
    /// Creates an empty list whose entries are reported to this listener.
    pub(crate) const fn new(listener: Option<&'a Listener<K, V>>) -> Self {
        Self {
            listener,
            first: None,
            rest: Vec::new(),
            retired: None,
        }
    }

    /// Keeps storage without entries until no lock is held.
    #[cold]
    pub(crate) fn retire(&mut self, storage: Box<dyn Retired + 'a>) {
        self.retired = Some(Box::new(RetiredList {
            _storage: storage,
            _rest: self.retired.take(),
        }));
    }

    /// Adds an entry.
    #[inline]
    pub(crate) fn push(&mut self, removed: Removed<K, V>) {
        if self.first.is_none() {
            self.first = Some(removed);
        } else {
            self.push_another(removed);
        }
    }

    /// Adds an entry that is not the first.
    #[cold]
    fn push_another(&mut self, removed: Removed<K, V>) {
        match self.rest.last_mut() {
            Some(chunk) if chunk.len() < ENTRIES_PER_CHUNK => chunk.push(removed),
            Some(_) => {
                let mut chunk = Vec::with_capacity(ENTRIES_PER_CHUNK);
                chunk.push(removed);
                self.rest.push(chunk);
            }
            None => self.rest.push(vec![removed]),
        }
    }

    /// Returns the number of entries.
    pub(crate) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.iter().map(Vec::len).sum::<usize>()
    }

    /// Calls the listener with every entry, or drops the entries if there is no listener.
    ///
    /// # Panics
    ///
    /// Panics if the listener does, after it was called with all entries.
    #[inline]
    pub(crate) fn finish(&mut self) {
        if self.listener.is_some() {
            if let Some(panic) = self.notify() {
                resume_unwind(panic);
            }
            return;
        }
        if !self.rest.is_empty() {
            self.drop_rest();
        }
        self.first = None;
    }

    /// Returns the value of the first entry, and its cause. Calls the listener with every entry, or drops the others.
    ///
    /// # Panics
    ///
    /// Panics if the listener does, after it was called with all entries.
    pub(crate) fn finish_with_value(&mut self) -> Option<(V, RemovalCause)>
    where
        V: Clone,
    {
        if self.listener.is_some() {
            let first = self.first.as_ref();
            let value = first.map(|removed| (removed.value.clone(), removed.cause));
            if let Some(panic) = self.notify() {
                // Before the unwinding begins, in which a panic of a `drop` would end the process.
                drop(value);
                resume_unwind(panic);
            }
            return value;
        }
        let Removed { key, value, cause } = self.first.take()?;
        // Before the value is returned, because a panic of these `drop`s would then leak it.
        drop(key);
        self.drop_rest();
        Some((value, cause))
    }

    /// Drops all entries except the first.
    #[cold]
    fn drop_rest(&mut self) {
        self.rest.clear();
    }

    /// Calls the listener with every entry. Returns the first panic of the listener.
    #[cold]
    fn notify(&mut self) -> Option<Panic> {
        let (first, rest) = (self.first.take(), take(&mut self.rest));
        let listener = self.listener?;
        let mut panicked = None;
        for Removed { key, value, cause } in first.into_iter().chain(rest.into_iter().flatten()) {
            let result = catch_unwind(AssertUnwindSafe(|| listener(key, value, cause)));
            panicked = panicked.or(result.err());
        }
        panicked
    }
}

/// The payload of a panic.
type Panic = Box<dyn Any + Send>;

impl<K, V> Drop for Removals<'_, K, V> {
    fn drop(&mut self) {
        if self.listener.is_some() {
            // The thread may be panicking already, and a second panic would end the process.
            drop(self.notify());
        }
    }
}
