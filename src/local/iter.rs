//! A snapshot of what is held.

use crate::local::LocalCache;
use std::hash::{BuildHasher, Hash};
use std::iter::FusedIterator;
use std::vec;

/// Clones of all live entries, from [`LocalCache::iter`](crate::LocalCache::iter).
///
/// The hottest come first, as the eviction policy sees it within each shard; shards take turns.
#[derive(Debug)]
pub struct Iter<K, V> {
    entries: vec::IntoIter<(K, V)>,
}

impl<K, V> Iter<K, V> {
    pub(crate) fn new(entries: Vec<(K, V)>) -> Self {
        Self {
            entries: entries.into_iter(),
        }
    }
}

impl<K, V> Iterator for Iter<K, V> {
    type Item = (K, V);

    fn next(&mut self) -> Option<(K, V)> {
        self.entries.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.entries.size_hint()
    }
}

impl<K, V> ExactSizeIterator for Iter<K, V> {}
impl<K, V> FusedIterator for Iter<K, V> {}

impl<K, V, S> IntoIterator for &LocalCache<K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    type Item = (K, V);
    type IntoIter = Iter<K, V>;

    fn into_iter(self) -> Iter<K, V> {
        self.iter()
    }
}
