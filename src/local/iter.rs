//! Iteration over clones of all live entries.

use crate::local::LocalCache;
use crate::local::shard::Shard;
use crate::local::walk::Span;
use std::hash::{BuildHasher, Hash};
use std::iter::FusedIterator;
use std::vec;

/// An iterator over clones of all live entries of a cache, from [`LocalCache::iter`](crate::LocalCache::iter).
///
/// The shards alternate. The entries of a shard are ordered from the hottest to the coldest according to the eviction
/// policy.
#[derive(Debug)]
pub struct Iter<K, V> {
    entries: vec::IntoIter<(K, V)>,
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

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash,
    S: BuildHasher,
{
    /// Returns an iterator over clones of all live entries, the hottest of each shard first.
    ///
    /// This method clones all entries before it returns. It holds a shard's shared lock for a few hundred slots at a
    /// time. An entry that is neither stored nor removed during the call is listed once. An entry that is stored or
    /// removed during the call may or may not be listed. No key is listed twice.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = hotset::LocalCache::new(100);
    /// cache.insert(1, "one");
    /// cache.insert(2, "two");
    /// let mut entries: Vec<_> = cache.iter().collect();
    /// entries.sort();
    /// assert_eq!(entries, [(1, "one"), (2, "two")]);
    /// ```
    #[must_use]
    #[doc(alias("asMap", "entries", "keys"))]
    pub fn iter(&self) -> Iter<K, V>
    where
        K: Clone,
        V: Clone,
    {
        let now = self.inner.settings.clock.now();
        let clone = |shard: &Shard<K, V>, span: &Span, clones: &mut Vec<_>| {
            clones.extend(shard.clones_in(span, now));
        };
        let entries = self.list(clone, |(key, _)| key).into_iter();
        Iter { entries }
    }
}

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

impl<K, V, S> Extend<(K, V)> for LocalCache<K, V, S>
where
    K: Eq + Hash,
    S: BuildHasher,
{
    /// Inserts all pairs with the time to live of the cache.
    fn extend<T: IntoIterator<Item = (K, V)>>(&mut self, pairs: T) {
        (&*self).extend(pairs);
    }
}

impl<K, V, S> Extend<(K, V)> for &LocalCache<K, V, S>
where
    K: Eq + Hash,
    S: BuildHasher,
{
    /// Inserts all pairs with the time to live of the cache.
    fn extend<T: IntoIterator<Item = (K, V)>>(&mut self, pairs: T) {
        for (key, value) in pairs {
            self.insert(key, value);
        }
    }
}

/// Creates an unbounded cache from pairs. For a cache with a bound, use a [builder](LocalCache::builder) and
/// [`Extend`].
impl<K: Eq + Hash, V> FromIterator<(K, V)> for LocalCache<K, V> {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(pairs: T) -> Self {
        let mut cache = Self::from_builder(Self::builder().unbounded());
        cache.extend(pairs);
        cache
    }
}
