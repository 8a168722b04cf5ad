//! A snapshot of what is held.

use super::LocalCache;
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
    pub(crate) fn merge(shards: Vec<Vec<(K, V)>>) -> Self {
        Self {
            entries: interleave(shards).into_iter(),
        }
    }
}

/// Merges what each shard lists, hottest first, so that equal shares of each come together.
pub(crate) fn interleave<T>(shards: Vec<Vec<T>>) -> Vec<T> {
    let total = shards.iter().map(Vec::len).sum();
    let mut entries = Vec::with_capacity(total);
    let mut shards: Vec<_> = shards.into_iter().map(Vec::into_iter).collect();
    while entries.len() < total {
        entries.extend(shards.iter_mut().filter_map(Iterator::next));
    }
    entries
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
