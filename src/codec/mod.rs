//! Encoding of keys and values, for Redis and for snapshots.

mod byte_sequence;
mod check;
mod fingerprint;
#[cfg(feature = "redis")]
mod key_name;
pub(crate) mod message_pack;
#[cfg(feature = "redis")]
mod postcard;

pub(crate) use check::RoundTripCheck;
#[cfg(feature = "redis")]
pub(crate) use fingerprint::fingerprint;
#[cfg(feature = "redis")]
pub(crate) use key_name::encode_key_name;
pub use message_pack::MessagePack;
#[cfg(feature = "redis")]
pub use postcard::Postcard;

use std::error::Error;
use std::fmt;

/// A format for the keys and values of a [`TieredCache`](crate::TieredCache) in Redis. The default is
/// [`MessagePack`]; another one is set with [`TieredCacheBuilder::codec`](crate::TieredCacheBuilder::codec).
///
/// A codec encodes the key together with its value, so that a value is never served for another key.
///
/// # Round-trip check
///
/// `decode` must return the key and the value that were passed to `encode`. A cache checks this before it shares a
/// value: it decodes the encoded value and compares how serde serializes both, without regard to the order of the
/// elements of maps and sequences. It checks every value whose encoding has up to 4 KiB. It checks a larger value if it
/// is among the first eight values of the cache or is number 16, 32, 64 and so on, and every value once one has failed.
///
/// A value that fails is not stored in Redis. It is counted in
/// [`TierStats::altered`](crate::TierStats::altered), and [`Health::warnings`](crate::Health::warnings) contains a
/// warning until the process ends. Other values of the cache are shared as before.
///
/// The check sees only the output of `Serialize`. It cannot see a field with `#[serde(skip)]`, nor distinguish two
/// variants of an untagged enum that are serialized alike: give each such type its own `Serialize`, or do not cache it.
///
/// # Examples
///
/// A codec for JSON, which is readable in `redis-cli`:
///
/// ```
/// use hotset::{Codec, CodecError};
/// use serde::{Serialize, de::DeserializeOwned};
///
/// struct Json;
///
/// impl<K, V> Codec<K, V> for Json
/// where
///     K: Serialize + DeserializeOwned,
///     V: Serialize + DeserializeOwned,
/// {
///     fn name(&self) -> &str {
///         "json/1"
///     }
///
///     fn encode(&self, key: &K, value: &V) -> Result<Vec<u8>, CodecError> {
///         serde_json::to_vec(&(key, value)).map_err(CodecError::new)
///     }
///
///     fn decode(&self, bytes: &[u8]) -> Result<(K, V), CodecError> {
///         serde_json::from_slice(bytes).map_err(CodecError::new)
///     }
/// }
///
/// let bytes = Json.encode(&7_u64, &"12.50".to_string())?;
/// assert_eq!(bytes, br#"[7,"12.50"]"#);
/// assert_eq!(Json.decode(&bytes)?, (7_u64, "12.50".to_string()));
/// # Ok::<(), CodecError>(())
/// ```
///
/// A codec that changes the bytes of another one, for example to encrypt them, calls the methods of the other codec.
/// It may return different bytes for the same value each time.
///
/// ```
/// use hotset::{Codec, CodecError, MessagePack};
///
/// /// Stands for a cipher.
/// struct Masked {
///     key: u8,
/// }
///
/// impl<K, V> Codec<K, V> for Masked
/// where
///     MessagePack: Codec<K, V>,
/// {
///     fn name(&self) -> &str {
///         "masked/1"
///     }
///
///     fn encode(&self, key: &K, value: &V) -> Result<Vec<u8>, CodecError> {
///         let mut bytes = MessagePack.encode(key, value)?;
///         bytes.iter_mut().for_each(|byte| *byte ^= self.key);
///         Ok(bytes)
///     }
///
///     fn decode(&self, bytes: &[u8]) -> Result<(K, V), CodecError> {
///         let bytes: Vec<u8> = bytes.iter().map(|byte| byte ^ self.key).collect();
///         MessagePack.decode(&bytes)
///     }
/// }
///
/// let masked = Masked { key: 0x5a };
/// let bytes = masked.encode(&7_u64, &"12.50".to_string())?;
/// assert_eq!(masked.decode(&bytes)?, (7_u64, "12.50".to_string()));
/// # Ok::<(), CodecError>(())
/// ```
pub trait Codec<K, V>: Send + Sync + 'static {
    /// Returns the name and version of this format.
    ///
    /// It is stored with each value. A value that was stored under another name is a miss.
    fn name(&self) -> &str;

    /// Encodes a key and its value.
    ///
    /// # Errors
    ///
    /// Returns an error if they cannot be encoded. The value is then not stored in Redis.
    fn encode(&self, key: &K, value: &V) -> Result<Vec<u8>, CodecError>;

    /// Decodes a key and its value from the bytes that [`encode`](Self::encode) returned.
    ///
    /// The bytes come from Redis, so they can be arbitrary.
    ///
    /// # Errors
    ///
    /// Returns an error if the bytes are not the encoding of a key and a value. The value is then a miss.
    fn decode(&self, bytes: &[u8]) -> Result<(K, V), CodecError>;
}

/// The error of a [`Codec`] that cannot encode or decode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodecError(String);

impl CodecError {
    /// Creates an error from its reason.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::CodecError;
    ///
    /// let number: Result<u32, CodecError> = "seven".parse().map_err(CodecError::new);
    /// assert_eq!(number.unwrap_err().to_string(), "invalid digit found in string");
    /// ```
    #[must_use]
    #[allow(clippy::needless_pass_by_value)] // So that it can be passed to `map_err`.
    pub fn new(reason: impl fmt::Display) -> Self {
        Self(reason.to_string())
    }
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for CodecError {}
