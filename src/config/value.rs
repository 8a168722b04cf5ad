//! Types of setting values, and their text formats.

use crate::consistency::Consistency;
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// The place where a cache stores its values.
///
/// # Examples
///
/// ```
/// use hotset::{Backend, CacheConfig};
///
/// let config = CacheConfig::from_toml("backend = 'tiered'")?;
/// assert_eq!(config.backend, Some(Backend::Tiered));
/// # Ok::<(), hotset::ConfigError>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Backend {
    /// `"local"`: in this process, a [`LocalCache`](crate::LocalCache).
    #[default]
    Local,
    /// `"redis"`: only in Redis, a [`TieredCache`](crate::TieredCache) with [`Consistency::L2Only`].
    Redis,
    /// `"tiered"`: in this process and in Redis, a [`TieredCache`](crate::TieredCache).
    Tiered,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Redis => "redis",
            Self::Tiered => "tiered",
        })
    }
}

/// The maximum number of entries of a cache in this process, or `"unbounded"`.
///
/// # Examples
///
/// ```
/// use hotset::{CacheConfig, Capacity};
///
/// assert_eq!(CacheConfig::from_toml("capacity = 'unbounded'")?.capacity, Some(Capacity::Unbounded));
/// assert_eq!(CacheConfig::from_toml("capacity = 1000")?.capacity, Some(1_000.into()));
/// # Ok::<(), hotset::ConfigError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Capacity {
    /// A number of entries: see [`LocalCacheBuilder::capacity`](crate::LocalCacheBuilder::capacity).
    Entries(usize),
    /// No bound: see [`LocalCacheBuilder::unbounded`](crate::LocalCacheBuilder::unbounded).
    Unbounded,
}

const UNBOUNDED: &str = "unbounded";

impl From<usize> for Capacity {
    fn from(entries: usize) -> Self {
        Self::Entries(entries)
    }
}

impl Serialize for Capacity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Entries(entries) => entries.serialize(serializer),
            Self::Unbounded => serializer.serialize_str(UNBOUNDED),
        }
    }
}

impl<'de> Deserialize<'de> for Capacity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CapacityVisitor)
    }
}

struct CapacityVisitor;

impl Visitor<'_> for CapacityVisitor {
    type Value = Capacity;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a number of entries, or {UNBOUNDED:?}")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Capacity, E> {
        let entries = usize::try_from(number);
        let entries = entries.map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))?;
        Ok(Capacity::Entries(entries))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Capacity, E> {
        let entries = usize::try_from(number);
        let entries = entries.map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))?;
        Ok(Capacity::Entries(entries))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Capacity, E> {
        if text == UNBOUNDED {
            return Ok(Capacity::Unbounded);
        }
        let entries = text.parse();
        let entries = entries.map_err(|_| E::invalid_value(Unexpected::Str(text), &self))?;
        Ok(Capacity::Entries(entries))
    }
}

/// The URL of a Redis server, of sentinels or of a cluster. The `Debug` output contains no password.
///
/// # Examples
///
/// ```
/// use hotset::RedisUrl;
///
/// let url = RedisUrl::from("redis://user:secret@localhost/");
/// assert!(!format!("{url:?}").contains("secret"));
/// assert!(url.as_str().contains("secret"));
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RedisUrl(String);

impl RedisUrl {
    /// Returns the URL, with its password.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<T: Into<String>> From<T> for RedisUrl {
    fn from(url: T) -> Self {
        Self(url.into())
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = self.0.split_once("://").unwrap_or(("", &self.0));
        let (user, rest) = match rest.rsplit_once('@') {
            Some((_, rest)) => ("***@", rest),
            None => ("", rest),
        };
        let (rest, query) = match rest.split_once('?') {
            Some((rest, _)) => (rest, "?***"),
            None => (rest, ""),
        };
        let hosts = rest.split('/').next().unwrap_or_default();
        // If the `@` after a password is missing, the password is parsed as the host and must not be shown.
        if hosts.split(',').all(is_host) {
            write!(f, "\"{scheme}://{user}{rest}{query}\"")
        } else {
            write!(f, "\"{scheme}://***\"")
        }
    }
}

/// Checks whether a text consists of a host and optionally a port.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (text, ""),
    };
    let is_of_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_[]:".contains(&byte);
    host.bytes().all(is_of_host) && port.bytes().all(|byte| byte.is_ascii_digit())
}

/// A visitor that accepts a string and parses it with a function.
struct Text<T> {
    expected: &'static str,
    parse: fn(&str) -> Option<T>,
}

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

impl Serialize for Consistency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Realtime => serializer.serialize_str("realtime"),
            Self::Bounded(bound) => {
                serializer.collect_str(&format_args!("bounded {}", duration::text(*bound)))
            }
            Self::L2Only => serializer.serialize_str("l2-only"),
            Self::L1Only => serializer.serialize_str("l1-only"),
        }
    }
}

impl<'de> Deserialize<'de> for Consistency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text {
            expected: "\"realtime\", \"bounded 5s\" or another duration, \"l1-only\" or \"l2-only\"",
            parse: consistency,
        })
    }
}

fn consistency(text: &str) -> Option<Consistency> {
    match text {
        "realtime" => Some(Consistency::Realtime),
        "l1-only" => Some(Consistency::L1Only),
        "l2-only" => Some(Consistency::L2Only),
        _ => {
            let bound = text.strip_prefix("bounded")?;
            let in_brackets = bound
                .strip_prefix('(')
                .and_then(|bound| bound.strip_suffix(')'));
            let bound = in_brackets.or_else(|| bound.strip_prefix(' '))?;
            duration::parse(bound).map(Consistency::Bounded)
        }
    }
}

/// Durations as text, such as `"5m"`.
pub(super) mod duration {
    use crate::config::value::Text;
    use serde::{Deserialize, Deserializer, Serializer};
    use std::fmt::Display;
    use std::time::Duration;

    /// A duration that is deserialized from a text.
    #[derive(Deserialize)]
    struct DurationText(#[serde(deserialize_with = "from_text")] Duration);

    pub(super) fn text(duration: Duration) -> impl Display {
        humantime::format_duration(duration)
    }

    pub(super) fn parse(text: &str) -> Option<Duration> {
        humantime::parse_duration(text).ok()
    }

    fn from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        deserializer.deserialize_str(Text {
            expected: "a duration with its unit, such as \"250ms\", \"5m\" or \"1h 30m\"",
            parse,
        })
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let duration = Option::<DurationText>::deserialize(deserializer)?;
        Ok(duration.map(|DurationText(duration)| duration))
    }

    // Serde requires this signature for `#[serde(with = ..)]`.
    #[allow(clippy::ref_option)]
    pub(in crate::config) fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => serializer.collect_str(&text(*duration)),
            None => serializer.serialize_none(),
        }
    }
}
