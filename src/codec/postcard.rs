//! The postcard format, which is compact because it writes no field names.

use crate::codec::{Codec, CodecError};
use serde::{Serialize, de::DeserializeOwned};

/// A [`Codec`] for [postcard](https://docs.rs/postcard), which writes no field names. Its output is about half as long
/// as that of [`MessagePack`](crate::codec::MessagePack).
///
/// Use it for types without serde attributes. The bytes are not self-describing, so a value that was encoded without
/// some of its fields is decoded to a different value. The [round-trip check](Codec#round-trip-check) keeps such values
/// out of Redis. Change the [`Schema`](crate::Schema) of a type whenever fields are added, removed or reordered.
///
/// # Examples
///
/// ```
/// use hotset::{Codec, CodecError, Postcard};
///
/// let bytes = Postcard.encode(&7_u64, &"pear".to_string())?;
/// assert_eq!(bytes, b"\x07\x04pear");
/// let (key, value): (u64, String) = Postcard.decode(&bytes)?;
/// assert_eq!((key, &*value), (7, "pear"));
/// # Ok::<(), CodecError>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Postcard;

impl<K, V> Codec<K, V> for Postcard
where
    K: Serialize + DeserializeOwned,
    V: Serialize + DeserializeOwned,
{
    fn name(&self) -> &'static str {
        "postcard/1"
    }

    fn encode(&self, key: &K, value: &V) -> Result<Vec<u8>, CodecError> {
        postcard::to_stdvec(&(key, value)).map_err(CodecError::new)
    }

    fn decode(&self, bytes: &[u8]) -> Result<(K, V), CodecError> {
        match postcard::take_from_bytes(bytes).map_err(CodecError::new)? {
            (pair, []) => Ok(pair),
            _ => Err(CodecError::new("there are bytes after the value")),
        }
    }
}
