//! `MessagePack` with field names, the default format.

use crate::codec::byte_sequence::byte_sequence;
use crate::codec::{Codec, CodecError};
use serde::{Serialize, Serializer, de::DeserializeOwned};

/// The default [`Codec`]: [MessagePack](https://msgpack.org) with field names, by `rmp-serde`. A key and its value are
/// an array of two elements.
///
/// A struct is a map from the names of its fields to their values. A unit variant is its name, and any other variant is
/// a map with one entry, from its name to its content. So serde's attributes (`default`, `skip_serializing_if`,
/// `flatten`, `tag` and so on) work as in JSON, and a reader in another language needs no other description. `i128` and
/// `u128` are 16 bytes, big-endian.
///
/// A value that is a sequence of bytes as a whole, such as a `Vec<u8>` or an `Option<Arc<[u8]>>`, is a byte string.
/// Within another type such a sequence is an array of numbers, which takes ten times as long; the types of the crate
/// `serde_bytes` are byte strings there too.
///
/// A `Some` whose content is encoded as nil, such as `Some(None)` or `Some(())`, has the same encoding as `None`. The
/// [round-trip check](Codec#round-trip-check) keeps such values out of Redis and of snapshots.
///
/// # Examples
///
/// ```
/// use hotset::{Codec, CodecError, MessagePack};
///
/// let bytes = MessagePack.encode(&7_u64, &"pear".to_string())?;
/// assert_eq!(bytes, b"\x92\x07\xa4pear");
/// let (key, value): (u64, String) = MessagePack.decode(&bytes)?;
/// assert_eq!((key, &*value), (7, "pear"));
/// # Ok::<(), CodecError>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct MessagePack;

/// The first byte of an array with two elements.
const ARRAY_OF_TWO: u8 = 0x92;

impl MessagePack {
    /// The name of this format in Redis and in snapshots.
    pub(crate) const NAME: &'static str = "msgpack/1";
}

impl<K, V> Codec<K, V> for MessagePack
where
    K: Serialize + DeserializeOwned,
    V: Serialize + DeserializeOwned,
{
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn encode(&self, key: &K, value: &V) -> Result<Vec<u8>, CodecError> {
        let bytes = to_extend(key, vec![ARRAY_OF_TWO])?;
        value_to_extend(value, bytes)
    }

    fn decode(&self, bytes: &[u8]) -> Result<(K, V), CodecError> {
        from_bytes(bytes)
    }
}

/// Appends the encoding of `value` to `bytes`.
pub(crate) fn to_extend<T: Serialize + ?Sized>(
    value: &T,
    mut bytes: Vec<u8>,
) -> Result<Vec<u8>, CodecError> {
    let mut serializer = rmp_serde::Serializer::new(&mut bytes).with_struct_map();
    value.serialize(&mut serializer).map_err(CodecError::new)?;
    Ok(bytes)
}

/// Like [`to_extend`], but encodes a sequence of bytes as a byte string, if that decodes to the same sequence.
pub(crate) fn value_to_extend<V: Serialize + DeserializeOwned>(
    value: &V,
    mut bytes: Vec<u8>,
) -> Result<Vec<u8>, CodecError> {
    let Some(sequence) = byte_sequence(value) else {
        return to_extend(value, bytes);
    };
    let start = bytes.len();
    let mut serializer = rmp_serde::Serializer::new(&mut bytes);
    let written = serializer.serialize_bytes(&sequence);
    written.map_err(CodecError::new)?;
    // An untagged enum refuses a byte string in place of a sequence, or takes it for a text if it is valid UTF-8.
    let decoded = from_bytes::<V>(&bytes[start..]);
    if decoded.is_ok_and(|decoded| byte_sequence(&decoded).as_ref() == Some(&sequence)) {
        return Ok(bytes);
    }
    bytes.truncate(start);
    to_extend(value, bytes)
}

/// Decodes a value whose encoding takes all of the bytes.
///
/// Apart from the value itself, it allocates in proportion to the length of `bytes`, whatever they contain.
pub(crate) fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    if !is_one_object(bytes) {
        return Err(CodecError::new(
            "the bytes are not a single MessagePack object",
        ));
    }
    rmp_serde::from_slice(bytes).map_err(CodecError::new)
}

/// Checks whether the bytes are exactly one object.
///
/// Then no array or map claims more elements than there are bytes. `rmp-serde` would reserve memory for the claimed
/// elements, and ignore bytes after the object.
fn is_one_object(mut bytes: &[u8]) -> bool {
    // The number of objects that must still follow.
    let mut left = 1_u64;
    while left > 0 {
        let Some((contained, rest)) = skip_head(bytes) else {
            return false;
        };
        bytes = rest;
        left = left - 1 + contained;
        if left > bytes.len() as u64 {
            return false;
        }
    }
    bytes.is_empty()
}

/// Skips an object except for the objects that it contains. Returns the number of these, and the bytes that follow.
/// Returns `None` if there is no object.
pub(super) fn skip_head(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (&marker, rest) = bytes.split_first()?;
    // Reads a length that takes `size` bytes, big-endian.
    let length = |size: usize| {
        let (length, rest) = rest.split_at_checked(size)?;
        let length = length
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        Some((length, rest))
    };
    let low = u64::from(marker);
    let (contained, length, rest) = match marker {
        // Small integers, nil, booleans.
        0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => (0, 0, rest),
        0x80..=0x8f => (2 * (low & 0xf), 0, rest),
        0x90..=0x9f => (low & 0xf, 0, rest),
        0xa0..=0xbf => (0, low & 0x1f, rest),
        // Never used.
        0xc1 => return None,
        // Binary and text.
        0xc4..=0xc6 => {
            let (length, rest) = length(1 << (marker - 0xc4))?;
            (0, length, rest)
        }
        0xd9..=0xdb => {
            let (length, rest) = length(1 << (marker - 0xd9))?;
            (0, length, rest)
        }
        // Extensions: the type, one byte, follows the length.
        0xc7..=0xc9 => {
            let (length, rest) = length(1 << (marker - 0xc7))?;
            (0, length + 1, rest)
        }
        0xd4..=0xd8 => (0, 1 + (1 << (marker - 0xd4)), rest),
        // Numbers.
        0xca | 0xce | 0xd2 => (0, 4, rest),
        0xcb | 0xcf | 0xd3 => (0, 8, rest),
        0xcc | 0xd0 => (0, 1, rest),
        0xcd | 0xd1 => (0, 2, rest),
        // Arrays and maps.
        0xdc | 0xdd => {
            let (length, rest) = length(2 << (marker - 0xdc))?;
            (length, 0, rest)
        }
        0xde | 0xdf => {
            let (length, rest) = length(2 << (marker - 0xde))?;
            (2 * length, 0, rest)
        }
    };
    Some((contained, rest.get(usize::try_from(length).ok()?..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    /// A value that may contain most of `MessagePack`'s types, in all lengths.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    enum Tree {
        Nothing,
        Flag(bool),
        Signed(i64),
        Large(i128),
        Float(f32, f64),
        Text(String),
        List(Vec<Tree>),
        Map { entries: BTreeMap<String, Tree> },
    }

    fn trees() -> impl Strategy<Value = Tree> {
        let leaf = prop_oneof![
            Just(Tree::Nothing),
            any::<bool>().prop_map(Tree::Flag),
            any::<i64>().prop_map(Tree::Signed),
            (-200_i64..200).prop_map(Tree::Signed),
            any::<i128>().prop_map(Tree::Large),
            (-1e9_f32..1e9, -1e9..1e9).prop_map(|(small, large)| Tree::Float(small, large)),
            ".{0,40}".prop_map(Tree::Text),
            (0_usize..70_000).prop_map(|length| Tree::Text("x".repeat(length))),
        ];
        leaf.prop_recursive(4, 60, 20, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..20).prop_map(Tree::List),
                prop::collection::btree_map(".{0,4}", inner, 0..20)
                    .prop_map(|entries| Tree::Map { entries }),
            ]
        })
    }

    proptest! {
        #[test]
        fn encoded_value_is_one_object_and_decodes_to_the_same_value(tree in trees()) {
            let bytes = to_extend(&tree, Vec::new()).unwrap();
            prop_assert!(is_one_object(&bytes));
            prop_assert_eq!(from_bytes::<Tree>(&bytes).unwrap(), tree);
            prop_assert!(!is_one_object(&bytes[..bytes.len() - 1]));
            prop_assert!(!is_one_object(&[&bytes[..], &[0]].concat()));
        }

        #[test]
        fn arbitrary_bytes_are_decoded_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = from_bytes::<Tree>(&bytes);
            let _ = from_bytes::<Vec<Vec<u64>>>(&bytes);
        }
    }

    #[test]
    fn lengths_of_all_sizes_are_skipped() {
        for length in [0, 1, 15, 16, 31, 32, 255, 256, 65_535, 65_536] {
            let list = to_extend(&vec![7_u8; length], Vec::new()).unwrap();
            assert!(is_one_object(&list), "{length}");
            let map: BTreeMap<u32, bool> = (0..).map(|key| (key, true)).take(length).collect();
            let map = to_extend(&map, Vec::new()).unwrap();
            assert!(is_one_object(&map), "{length}");
        }
        // Extensions and binary data, which the types above do not have.
        for bytes in [
            &[0xd4, 1, 2][..],
            &[0xd8, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0xc7, 2, 1, 0, 0],
            &[0xc4, 2, 0, 0],
            &[0xc5, 0, 1, 0],
            &[0xc6, 0, 0, 0, 1, 0],
        ] {
            assert!(is_one_object(bytes), "{bytes:x?}");
            assert!(!is_one_object(&bytes[..bytes.len() - 1]), "{bytes:x?}");
        }
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        Text(String),
        List(Vec<u8>),
    }

    #[test]
    fn sequence_of_bytes_is_a_byte_string_if_that_decodes_to_the_same_sequence() {
        let bytes = vec![0_u8, 127, 255];
        let encoded = MessagePack.encode(&7_u8, &bytes).unwrap();
        assert_eq!(encoded, [0x92, 7, 0xc4, 3, 0, 127, 255]);
        assert_eq!(MessagePack.decode(&encoded), Ok((7_u8, bytes)));
        // Encoded as byte strings, the first list would not be decoded, and the second one would be a text.
        for (bytes, expected) in [
            (&[0, 127, 255], &[0x92, 7, 0x93, 0, 127, 0xcc, 255][..]),
            (b"abc", &[0x92, 7, 0x93, b'a', b'b', b'c'][..]),
        ] {
            let list = Untagged::List(bytes.to_vec());
            let encoded = MessagePack.encode(&7_u8, &list).unwrap();
            assert_eq!(encoded, expected);
            assert_eq!(MessagePack.decode(&encoded), Ok((7_u8, list)));
        }
    }

    #[test]
    fn array_that_claims_more_elements_than_there_are_bytes_is_refused() {
        assert!(from_bytes::<Vec<String>>(&[0xdd, 0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(from_bytes::<Vec<String>>(&[0x92, 0xa0]).is_err());
        assert!(from_bytes::<Vec<String>>(&[0x91, 0xdb, 0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(from_bytes::<Vec<String>>(&[]).is_err());
    }
}
