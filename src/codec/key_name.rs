//! The names of keys in Redis.

use crate::codec::CodecError;
use crate::codec::message_pack::{skip_head, to_extend};
use serde::Serialize;

/// Encodes a key as its name in Redis.
///
/// The entries of maps are sorted, so that equal keys have equal names even if another version of the program declares
/// their fields in another order.
pub(crate) fn encode_key_name<K: Serialize + ?Sized>(key: &K) -> Result<Vec<u8>, CodecError> {
    let bytes = to_extend(key, Vec::new())?;
    let mut sorted = Vec::with_capacity(bytes.len());
    match write_sorted(&bytes, &mut sorted) {
        Some([]) => Ok(sorted),
        _ => Err(CodecError::new(
            "the key is not a single MessagePack object",
        )),
    }
}

/// Appends the first object in `bytes` to `out`, with the entries of its maps sorted by their keys. Returns the bytes
/// after it, or `None` if there is no object.
fn write_sorted<'a>(bytes: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
    let (contained, mut rest) = skip_head(bytes)?;
    out.extend_from_slice(&bytes[..bytes.len() - rest.len()]);
    if !matches!(bytes[0], 0x80..=0x8f | 0xde | 0xdf) {
        for _ in 0..contained {
            rest = write_sorted(rest, out)?;
        }
        return Some(rest);
    }
    let mut entries = Vec::new();
    for _ in 0..contained / 2 {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        rest = write_sorted(rest, &mut key)?;
        rest = write_sorted(rest, &mut value)?;
        entries.push((key, value));
    }
    entries.sort_unstable();
    for (key, value) in entries {
        out.extend(key);
        out.extend(value);
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::message_pack::from_bytes;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn names_of_keys_are_equal_in_any_order_of_their_fields() {
        #[derive(Serialize)]
        struct Inner<T> {
            z: T,
            a: T,
        }
        #[derive(Serialize)]
        struct Before {
            user: (u8, Inner<u16>),
            id: u64,
        }
        #[derive(Serialize)]
        struct After<'a> {
            id: u64,
            user: (u8, BTreeMap<&'a str, u16>),
        }
        let before = Before {
            user: (1, Inner { z: 300, a: 2 }),
            id: 7,
        };
        let after = After {
            id: 7,
            user: (1, BTreeMap::from([("a", 2), ("z", 300)])),
        };
        let encoded = encode_key_name(&before).unwrap();
        assert_eq!(encoded, encode_key_name(&after).unwrap());
        assert_ne!(encoded, to_extend(&before, Vec::new()).unwrap());
        // The order of a sequence is part of the key.
        assert_eq!(encode_key_name(&[2, 1]).unwrap(), [0x92, 2, 1]);
    }

    type Key = (BTreeMap<String, BTreeMap<i32, bool>>, Option<u64>);

    fn keys() -> impl Strategy<Value = Key> {
        let inner = prop::collection::btree_map(any::<i32>(), any::<bool>(), 0..20);
        let map = prop::collection::btree_map(".{0,9}", inner, 0..20);
        (map, any::<Option<u64>>())
    }

    proptest! {
        #[test]
        fn name_decodes_to_its_key(key in keys()) {
            let name = encode_key_name(&key).unwrap();
            prop_assert_eq!(from_bytes::<Key>(&name).unwrap(), key);
        }
    }
}
