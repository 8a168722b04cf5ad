//! The format of values in Redis: encoding and decoding of envelopes.

use crate::values::Value;
use arbitrary::{Arbitrary, Unstructured};
use hotset::__private::Envelopes;
use hotset::{MessagePack, Postcard, RemoteValue, Schema, Schemas};
use serde::Serialize;
use std::fmt::Debug;
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

/// Maximum size of a value, in bytes.
const MAX_SIZE: usize = 4 << 10;

/// Length of the checksum at the end, in bytes.
const CHECKSUM_LEN: usize = 8;

/// An input of the target.
#[derive(Debug, Arbitrary)]
enum Input<'a> {
    /// Bytes that are decoded as they are.
    Raw(&'a [u8]),
    /// Bytes after the mark and before a correct checksum.
    Sealed(&'a [u8]),
    /// A body in a correct frame.
    Framed {
        key: u64,
        tags: u8,
        body: Body<'a>,
        rest: &'a [u8],
    },
    /// A value that is encoded and decoded, and then damaged. The checksum is corrected.
    Encoded {
        key: u64,
        value: Value,
        tags: Vec<&'a str>,
        ttl: Option<u32>,
        compress_above: Option<u8>,
        damage: Vec<(u16, u8)>,
        truncated: u8,
    },
}

/// The fields of a body, in the order of the format. This is not the type of the library, so that the names may be wrong,
/// and so that a change of the format by mistake is noticed.
#[derive(Debug, Arbitrary, Serialize)]
struct Body<'a> {
    codec: Name,
    key_schema: Name,
    value_schema: Name,
    stored_at: u64,
    ttl: u64,
    load_time: u64,
    size: u32,
    flags: u8,
    tags: Vec<&'a str>,
    payload: &'a [u8],
}

/// A name in a body that one of the readers expects.
#[derive(Debug, Arbitrary, Serialize)]
#[serde(into = "&'static str")]
#[derive(Clone, Copy)]
enum Name {
    Codec,
    Postcard,
    Key,
    Value,
    Texts,
}

impl From<Name> for &'static str {
    fn from(name: Name) -> Self {
        match name {
            Name::Codec => "msgpack/1",
            Name::Postcard => "postcard/1",
            Name::Key => "u64",
            Name::Value => "value/1",
            Name::Texts => "vec(String)",
        }
    }
}

/// Checks that bytes are decoded without a panic, and that a decoded value survives another round trip.
///
/// # Panics
///
/// Panics if the input shows a fault.
pub fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    match input {
        Input::Raw(bytes) => decode_all(bytes, 7),
        Input::Sealed(bytes) => decode_all(&sealed([b"hsV\x04", bytes].concat()), 7),
        Input::Framed {
            key,
            tags,
            body,
            rest,
        } => {
            let mut bytes = b"hsV\x04incarnation, version, token, 36B".to_vec();
            bytes.truncate(36);
            bytes.push(tags);
            bytes.resize(bytes.len() + 8 * usize::from(tags), 0);
            let mut bytes = postcard::to_extend(&body, bytes).unwrap();
            bytes.extend(rest);
            decode_all(&sealed(bytes), key);
        }
        Input::Encoded {
            key,
            value,
            tags,
            ttl,
            compress_above,
            damage,
            truncated,
        } => {
            let ttl = ttl.map(|ttl| Duration::from_millis(u64::from(ttl) + 1));
            let tags: Vec<_> = tags.into_iter().map(Into::into).collect();
            let contents = (value, tags, ttl);
            for envelopes in all::<Value>(compress_above.map(usize::from)) {
                let bytes = match envelopes.encode(&key, &contents) {
                    Ok(bytes) => bytes,
                    // A value that cannot be stored is refused for one of these reasons, and no other.
                    Err(reason) => {
                        let is_too_large = contents.1.len() > 64 || data.len() > MAX_SIZE / 4;
                        let is_altered = reason == "Altered" && may_be_altered(&contents.0);
                        assert!(is_too_large || is_altered, "{reason}");
                        continue;
                    }
                };
                assert_eq!(envelopes.decode(&bytes, &key), Ok(contents.clone()));
                let mut damaged = bytes;
                for &(at, byte) in &damage {
                    let at = usize::from(at) % damaged.len();
                    damaged[at] = byte;
                }
                damaged.truncate(damaged.len() - usize::from(truncated) % damaged.len());
                decode_all(&damaged, key);
                damaged.truncate(damaged.len().saturating_sub(CHECKSUM_LEN));
                decode_all(&sealed(damaged), key);
            }
        }
    }
}

/// Returns `true` if the value contains a `Some(None)`, which `MessagePack` encodes like a `None`.
fn may_be_altered(value: &Value) -> bool {
    match value {
        Value::Optional(value) => *value == Some(None),
        Value::Pair(_, value) => may_be_altered(value),
        Value::Sequence(values) => values.iter().any(may_be_altered),
        _ => false,
    }
}

/// Returns encoders and decoders with each codec.
fn all<V: RemoteValue + Schema>(compress_above: Option<usize>) -> [Envelopes<u64, V>; 2] {
    let schemas = Schemas::of::<u64, V>();
    [
        Envelopes::new(MessagePack, schemas.clone(), MAX_SIZE, compress_above),
        Envelopes::new(Postcard, schemas, MAX_SIZE, compress_above),
    ]
}

/// Decodes bytes as values of several types.
fn decode_all(bytes: &[u8], key: u64) {
    decode::<Value>(bytes, key);
    decode::<Vec<String>>(bytes, key);
}

fn decode<V: RemoteValue + Schema + PartialEq + Debug>(bytes: &[u8], key: u64) {
    for envelopes in all::<V>(None) {
        let Ok(contents) = envelopes.decode(bytes, &key) else {
            continue;
        };
        // The decoded value may be larger than its encoding, if that was compressed or not the shortest one.
        match envelopes.encode(&key, &contents) {
            Ok(bytes) => assert_eq!(envelopes.decode(&bytes, &key), Ok(contents)),
            Err(reason) => assert!(reason == "TooLarge" || reason == "TooManyTags", "{reason}"),
        }
    }
}

/// Appends a correct checksum.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend(xxh3_64(&bytes).to_be_bytes());
    bytes
}
