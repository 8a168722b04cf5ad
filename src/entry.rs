//! A loaded value and the settings of its entry.

use crate::clock::Nanos;
use std::sync::Arc;
use std::time::Duration;

/// A value with its own time to live, weight and tags, for loaders, [`LocalCache::insert_loaded`] and
/// [`LocalCache::update_loaded`].
///
/// [`LocalCache::get_or_load_entry`] takes a loader that returns a `Loaded<V>`. A plain `V` gets the settings of the
/// cache.
///
/// # Examples
///
/// ```
/// use hotset::{Loaded, LocalCache};
/// use std::time::Duration;
///
/// let logins: LocalCache<u64, String> = LocalCache::new(1_000);
/// let login = logins.get_or_load_entry(&7, |_| {
///     Ok::<_, std::io::Error>(Loaded::new("alice".to_string()).ttl(Duration::from_secs(30)))
/// })?;
/// assert_eq!(login, "alice");
/// assert!(logins.remaining_ttl(&7).unwrap() <= Duration::from_secs(30));
/// # Ok::<(), hotset::LoadError<std::io::Error>>(())
/// ```
///
/// [`LocalCache::get_or_load_entry`]: crate::LocalCache::get_or_load_entry
/// [`LocalCache::insert_loaded`]: crate::LocalCache::insert_loaded
/// [`LocalCache::update_loaded`]: crate::LocalCache::update_loaded
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded<V> {
    pub(crate) value: V,
    pub(crate) ttl: Option<Duration>,
    pub(crate) weight: Option<u64>,
    pub(crate) tags: Vec<Arc<str>>,
    /// `false` if no cache stores the value: see [`uncached`](Self::uncached). `ttl` is then zero.
    pub(crate) is_cacheable: bool,
    /// Age of the value in nanoseconds, if it comes from another cache; otherwise 0.
    pub(crate) age: Nanos,
    /// Duration of its load in nanoseconds, if a tiered cache knows it; otherwise 0.
    pub(crate) load_time: Nanos,
    /// Number of the write that has stored the value in Redis; 0 if it is not known.
    pub(crate) write: u64,
}

impl<V> Loaded<V> {
    /// Creates a `Loaded` from a value, with the settings of the cache.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{Loaded, LocalCache};
    ///
    /// let prices = LocalCache::new(100);
    /// prices.insert_loaded("apple", Loaded::new(120).tags(["fruit"]));
    /// assert_eq!(prices.get("apple"), Some(120));
    /// ```
    pub const fn new(value: V) -> Self {
        Self {
            value,
            ttl: None,
            weight: None,
            tags: Vec::new(),
            is_cacheable: true,
            age: 0,
            load_time: 0,
            write: 0,
        }
    }

    /// Creates a `Loaded` from a value that no cache stores.
    ///
    /// All callers of the load get the value. An older value of the key is removed. Unlike a value with a time to live
    /// of zero, it is not counted as [refused](crate::Stats::refused). The other settings have no effect.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{Loaded, LocalCache};
    ///
    /// # fn fetch(id: u64) -> std::io::Result<Option<String>> { Ok(None) }
    /// let names: LocalCache<u64, Option<String>> = LocalCache::new(1_000);
    /// let load = |&id: &u64| {
    ///     let name = fetch(id)?;
    ///     Ok::<_, std::io::Error>(if name.is_some() { Loaded::new(name) } else { Loaded::uncached(name) })
    /// };
    /// assert_eq!(names.get_or_load_entry(&7, load)?, None);
    /// assert!(!names.contains_key(&7));
    /// # Ok::<(), hotset::LoadError<std::io::Error>>(())
    /// ```
    #[doc(alias("optionally_get_with", "or_optionally_insert_with"))]
    pub const fn uncached(value: V) -> Self {
        Self {
            value,
            ttl: Some(Duration::ZERO),
            weight: None,
            tags: Vec::new(),
            is_cacheable: false,
            age: 0,
            load_time: 0,
            write: 0,
        }
    }

    /// Sets the time to live of the entry, in place of the `time_to_live` and the `expire_after` rule of the cache.
    ///
    /// With `Duration::MAX` the entry never expires, unless the cache has a time to idle. With zero the value is not
    /// stored, but all callers of the load still get it.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{Loaded, LocalCache};
    /// use std::time::Duration;
    ///
    /// let codes = LocalCache::new(100);
    /// codes.insert_loaded("alice", Loaded::new(123_456).ttl(Duration::from_secs(60)));
    /// assert!(codes.remaining_ttl("alice").unwrap() <= Duration::from_secs(60));
    /// ```
    #[must_use]
    #[doc(alias = "expire_after_create")]
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        if self.is_cacheable {
            self.ttl = Some(ttl);
        }
        self
    }

    /// Sets the weight of the entry, in place of the result of the cache's `weigher`. A weight of 0 counts as 1.
    ///
    /// A cache that is not bounded by weight ignores it.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{Loaded, LocalCache};
    ///
    /// let pages = LocalCache::<&str, &str>::builder().max_weight(1_000).weigher(|_, page| page.len() as u64).build()?;
    /// pages.insert_loaded("/", Loaded::new("hello").weight(100));
    /// assert_eq!(pages.weight(), 100);
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    #[must_use]
    pub const fn weight(mut self, weight: u64) -> Self {
        self.weight = Some(weight);
        self
    }

    /// Adds tags. [`invalidate_tag`](crate::LocalCache::invalidate_tag) invalidates all entries that have a tag.
    ///
    /// Tags from earlier calls are kept.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{Loaded, LocalCache};
    ///
    /// let pages: LocalCache<&str, String> = LocalCache::new(100);
    /// let render = |path: &&str| {
    ///     let page = Loaded::new(format!("<h1>{path}</h1>"));
    ///     Ok::<_, std::io::Error>(page.tags(["layout", "product:7"]))
    /// };
    /// pages.get_or_load_entry(&"/shop", render)?;
    /// assert!(pages.contains_key("/shop"));
    /// pages.invalidate_tag("product:7");
    /// assert!(!pages.contains_key("/shop"));
    /// # Ok::<(), hotset::LoadError<std::io::Error>>(())
    /// ```
    #[must_use]
    pub fn tags<T: Into<Arc<str>>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.tags.extend(tags.into_iter().map(Into::into));
        self
    }

    /// Returns the value without the settings.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::Loaded;
    ///
    /// let loaded = Loaded::new("hello").weight(5);
    /// assert_eq!(loaded.into_value(), "hello");
    /// ```
    pub fn into_value(self) -> V {
        self.value
    }
}

/// The decision about an entry that a function passed to [`LocalCache::compute`](crate::LocalCache::compute) returns.
///
/// # Examples
///
/// ```
/// use hotset::{Compute, LocalCache};
///
/// let stock: LocalCache<String, u32> = LocalCache::new(100);
/// let deliver = |left: Option<&u32>| Compute::Put(left.unwrap_or(&0) + 10);
/// assert_eq!(stock.compute("apple", deliver), Some(10));
/// assert_eq!(stock.compute("pear", |_| Compute::Keep), None);
/// assert_eq!(stock.compute("apple", |_| Compute::Remove), None);
/// assert!(stock.is_empty());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[doc(alias = "Op")]
#[non_exhaustive]
pub enum Compute<V> {
    /// Stores this value. The entry keeps its remaining time to live, its weight and its tags.
    Put(V),
    /// Leaves the entry unchanged. If there is none, none is stored.
    #[doc(alias = "Nop")]
    Keep,
    /// Removes the entry, if there is one.
    Remove,
}

impl<V> From<V> for Loaded<V> {
    fn from(value: V) -> Self {
        Self::new(value)
    }
}
