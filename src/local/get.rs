//! Reads of single entries.

use crate::clock::NEVER;
use crate::local::LocalCache;
use equivalent::Equivalent;
use std::hash::{BuildHasher, Hash};
use std::time::Duration;

impl<K: Eq + Hash, V, S: BuildHasher> LocalCache<K, V, S> {
    /// Returns a clone of the value for `key`, or `None` if the key is absent or expired.
    ///
    /// The value is cloned under the shard's shared lock, so cloning should be cheap: wrap a value that is expensive to
    /// clone in an [`Arc`](std::sync::Arc).
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = hotset::LocalCache::new(100);
    /// cache.insert(1, "one");
    /// assert_eq!(cache.get(&1), Some("one"));
    /// assert_eq!(cache.get(&2), None);
    /// ```
    #[inline]
    #[doc(alias("getIfPresent", "get_if_present"))]
    pub fn get<Q>(&self, key: &Q) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ?Sized,
        V: Clone,
    {
        self.get_with(key, V::clone)
    }

    /// Returns the result of `read` on the value for `key`, or `None` if the key is absent or expired.
    ///
    /// `read` runs under the shard's shared lock, so writers of the shard wait for it.
    ///
    /// # Panics
    ///
    /// Panics if `read` writes to a cache or needs a load, for example by `get_or_load` for a missing key. Reads of
    /// caches are allowed.
    ///
    /// # Examples
    ///
    /// ```
    /// let pages = hotset::LocalCache::new(100);
    /// pages.insert("/", "<html></html>".to_string());
    /// assert_eq!(pages.get_with("/", |page| page.len()), Some(13));
    /// ```
    #[inline]
    pub fn get_with<Q, R>(&self, key: &Q, read: impl FnOnce(&V) -> R) -> Option<R>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        self.hit(key, read)
    }

    /// Returns a clone of the value for `key` like [`get`](Self::get), but counts neither as a lookup nor as a use of
    /// the entry.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = hotset::LocalCache::new(100);
    /// cache.insert(1, "one");
    /// assert_eq!(cache.peek(&1), Some("one"));
    /// assert_eq!(cache.stats().hits, 0);
    /// ```
    #[doc(alias("get_quietly", "getIfPresentQuietly"))]
    pub fn peek<Q>(&self, key: &Q) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ?Sized,
        V: Clone,
    {
        self.peek_at(&self.location(key), key, |value, _| value.clone())
    }

    /// Returns `true` if the cache contains a live value for `key`.
    ///
    /// The call counts neither as a lookup nor as a use of the entry.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = hotset::LocalCache::new(100);
    /// cache.insert("apple", 120);
    /// assert!(cache.contains_key("apple"));
    /// assert!(!cache.contains_key("pear"));
    /// ```
    #[doc(alias = "containsKey")]
    pub fn contains_key<Q>(&self, key: &Q) -> bool
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        self.peek_at(&self.location(key), key, |_, _| ()).is_some()
    }

    /// Returns the time until the entry for `key` expires, or `None` if the key is absent or expired.
    ///
    /// Returns `Duration::MAX` for an entry that never expires. The call counts neither as a lookup nor as a use of the
    /// entry.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let cache = hotset::LocalCache::new(100);
    /// cache.insert_with_ttl(1, "one", Duration::from_secs(60));
    /// cache.insert(2, "two");
    /// assert!(cache.remaining_ttl(&1).unwrap() <= Duration::from_secs(60));
    /// assert_eq!(cache.remaining_ttl(&2), Some(Duration::MAX));
    /// assert_eq!(cache.remaining_ttl(&3), None);
    /// ```
    #[doc(alias = "getExpiresAfter")]
    pub fn remaining_ttl<Q>(&self, key: &Q) -> Option<Duration>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let deadline = self.peek_at(&self.location(key), key, |_, deadline| deadline)?;
        if deadline == NEVER {
            return Some(Duration::MAX);
        }
        let left = deadline.checked_sub(self.inner.settings.clock.now())?;
        (left > 0).then(|| Duration::from_nanos(left))
    }
}
