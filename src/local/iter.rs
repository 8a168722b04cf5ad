//! Iteration over clones of the live entries.

use crate::clock::Nanos;
use crate::local::shard::Shard;
use crate::local::walk::{Span, Walk};
use crate::local::{DefaultHasher, LocalCache};
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::iter::FusedIterator;
use std::mem::take;
use std::vec;

/// An iterator over clones of the live entries of a cache, from [`LocalCache::iter`].
///
/// # Examples
///
/// ```
/// let prices = hotset::LocalCache::new(100);
/// prices.insert("apple", 120);
/// prices.insert("pear", 140);
/// for (name, price) in &prices {
///     println!("{name}: {price}");
/// }
/// let total: u32 = prices.iter().map(|(_, price)| price).sum();
/// assert_eq!(total, 260);
/// ```
pub struct Iter<'a, K, V, S = DefaultHasher>(Clones<'a, K, V, S, (K, V)>);

/// An iterator over clones of the keys of the live entries of a cache, from [`LocalCache::keys`].
///
/// # Examples
///
/// ```
/// let prices = hotset::LocalCache::new(100);
/// prices.insert("apple", 120);
/// prices.insert("pear", 140);
/// let mut names: Vec<_> = prices.keys().collect();
/// names.sort();
/// assert_eq!(names, ["apple", "pear"]);
/// ```
pub struct Keys<'a, K, V, S = DefaultHasher>(Clones<'a, K, V, S, K>);

/// A function that lists the live entries in a span of a shard's slots.
type ListSpan<K, V, T> = fn(&Shard<K, V>, &Span, Nanos, &mut Vec<T>);

/// An iterator over all shards of a cache, which lists one span of slots at a time.
struct Clones<'a, K, V, S, T> {
    cache: &'a LocalCache<K, V, S>,
    list: ListSpan<K, V, T>,
    /// The index of the current shard.
    cell: usize,
    walk: Walk,
    /// The items of the last span.
    listed: vec::IntoIter<T>,
}

impl<'a, K, V, S, T> Clones<'a, K, V, S, T> {
    /// Creates an iterator that begins at the first shard.
    fn new(cache: &'a LocalCache<K, V, S>, list: ListSpan<K, V, T>) -> Self {
        Self {
            cache,
            list,
            cell: 0,
            walk: Walk::new(),
            listed: Vec::new().into_iter(),
        }
    }
}

impl<K, V, S, T> Iterator for Clones<'_, K, V, S, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        loop {
            if let Some(item) = self.listed.next() {
                return Some(item);
            }
            if self.walk.is_over() {
                self.cell += 1;
                self.walk = Walk::new();
            }
            let cell = self.cache.inner.cells.get(self.cell)?;
            let now = self.cache.inner.settings.clock.now();
            // Outside of the lock, so that it is dropped there if a `clone` panics.
            let mut listed = Vec::new();
            let list = |shard: &Shard<K, V>, span: &Span| {
                (self.list)(shard, span, now, &mut listed);
            };
            self.walk.step(&cell.shard, list);
            self.listed = take(&mut listed).into_iter();
        }
    }
}

impl<K, V, S> Iterator for Iter<'_, K, V, S> {
    type Item = (K, V);

    fn next(&mut self) -> Option<(K, V)> {
        self.0.next()
    }
}

impl<K, V, S> Iterator for Keys<'_, K, V, S> {
    type Item = K;

    fn next(&mut self) -> Option<K> {
        self.0.next()
    }
}

impl<K, V, S> FusedIterator for Iter<'_, K, V, S> {}
impl<K, V, S> FusedIterator for Keys<'_, K, V, S> {}

impl<K, V, S> fmt::Debug for Iter<'_, K, V, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").finish_non_exhaustive()
    }
}

impl<K, V, S> fmt::Debug for Keys<'_, K, V, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash,
    S: BuildHasher,
{
    /// Returns an iterator over clones of all live entries, in no particular order.
    ///
    /// The iterator clones a few hundred entries at a time, under a shard's shared lock, so it takes little memory
    /// whatever the size of the cache. It holds no lock between two calls of `next`, and the cache may be used
    /// meanwhile. An entry that is neither stored nor removed during the iteration is listed once. An entry that is
    /// stored or removed meanwhile may or may not be listed, and a key that is stored again may be listed twice. If
    /// [`shrink_to_fit`](Self::shrink_to_fit) runs meanwhile, other entries may be listed twice, too.
    ///
    /// A listing counts neither as a lookup nor as a use of the entries. [`hottest`](Self::hottest) lists them by heat.
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
    #[doc(alias("asMap", "as_map"))]
    #[must_use]
    pub fn iter(&self) -> Iter<'_, K, V, S>
    where
        K: Clone,
        V: Clone,
    {
        Iter(Clones::new(self, |shard, span, now, listed| {
            listed.extend(shard.clones_in(span, now).map(|listed| listed.item));
        }))
    }

    /// Returns an iterator over clones of the keys of all live entries. Like [`iter`](Self::iter) otherwise.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = hotset::LocalCache::new(100);
    /// cache.insert(1, "one");
    /// assert!(cache.keys().eq([1]));
    /// ```
    #[doc(alias("keySet", "key_set"))]
    #[must_use]
    pub fn keys(&self) -> Keys<'_, K, V, S>
    where
        K: Clone,
    {
        Keys(Clones::new(self, |shard, span, now, listed| {
            listed.extend(shard.live_keys_in(span, now).cloned());
        }))
    }

    /// Returns clones of the hottest live entries, at most `limit` of them, the hottest first.
    ///
    /// The heat of an entry is its place in the order of the eviction policy. The shards contribute equal shares, so
    /// the order across shards is an estimate. No key is listed twice. All entries are cloned before the method
    /// returns, whatever the `limit`.
    ///
    /// # Blocking
    ///
    /// Holds a shard's shared lock for a few hundred slots at a time. Writes to the shard wait meanwhile.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = hotset::LocalCache::new(100);
    /// cache.insert(1, "one");
    /// cache.insert(2, "two");
    /// assert_eq!(cache.hottest(1), [(2, "two")]);
    /// ```
    #[doc(alias("hottest_entries"))]
    #[must_use]
    pub fn hottest(&self, limit: usize) -> Vec<(K, V)>
    where
        K: Clone,
        V: Clone,
    {
        let now = self.inner.settings.clock.now();
        let clone = |shard: &Shard<K, V>, span: &Span, clones: &mut Vec<_>| {
            clones.extend(shard.clones_in(span, now));
        };
        let mut entries = self.list(clone, |(key, _)| key);
        entries.truncate(limit);
        entries
    }
}

impl<'a, K, V, S> IntoIterator for &'a LocalCache<K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    type Item = (K, V);
    type IntoIter = Iter<'a, K, V, S>;

    fn into_iter(self) -> Self::IntoIter {
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
