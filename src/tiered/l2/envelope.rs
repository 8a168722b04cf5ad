//! The bytes under a key in L2: the envelope of a value, or a lease.
//!
//! ```text
//! 0   "hsV" for a value, "hsL" for a lease
//! 3   format version: 4 for a value, 2 for a lease
//! 4   incarnation of the namespace, 8 bytes     together the head: the writer, and the position in
//! 12  version at which its load began, 8 bytes  the order of the namespace's invalidations
//! 20  token of the writer, 16 bytes
//! 36  in a lease: 1 if a process waits for it, else 0; then its duration in milliseconds, 8 bytes. In a value:
//! 36  number of tags, then 8 bytes for each: xxh3 of its name
//!     body, by postcard: name of the codec, schema of the key, schema of the value, time of storing, time to live,
//!     duration of the load, size, flags, names of the tags, payload
//! -8  xxh3 of all bytes before
//! ```
//!
//! The script that stores an envelope appends the [deadline](split_deadline) of the value.
//!
//! Numbers of the head and the hashes of the tags are big-endian, because scripts read them. The payload is the key and
//! the value, encoded by the cache's [`Codec`] and then compressed if a flag says so. The codec is
//! [`MessagePack`](crate::MessagePack) unless the cache is given another one.
//!
//! An envelope of another format, codec or schema, of another key, or with a wrong checksum is unreadable: a miss.

use crate::clock::{Nanos, saturating_millis, saturating_nanos, unix_millis};
use crate::codec::{Codec, RoundTripCheck};
use crate::entry::Loaded;
use crate::schema::{RemoteKey, RemoteValue, Schemas};
use crate::tiered::l2::remote::{Head, Unreadable, write_number};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

/// First bytes of a value: the mark and the format version.
const VALUE: &[u8; 4] = b"hsV\x04";

/// First bytes of a lease.
const LEASE: &[u8; 3] = b"hsL";

/// Length of the head, in bytes.
const HEAD_LEN: usize = 36;

/// Length of the checksum, in bytes.
const CHECKSUM_LEN: usize = 8;

/// Largest number of tags of a value that is stored in L2.
pub(crate) const MAX_TAGS: usize = 64;

/// Number of nanoseconds in a microsecond.
const NANOS_PER_MICRO: Nanos = 1_000;

/// Flag of a body whose payload is compressed.
const COMPRESSED: u8 = 1;

/// The part of an envelope between the tags' hashes and the checksum.
#[derive(Serialize, Deserialize)]
struct Body<'a> {
    codec: &'a str,
    key_schema: &'a str,
    value_schema: &'a str,
    /// The time of storing, in milliseconds since 1970, by the clock of the writer.
    stored_at: u64,
    /// The time to live, in milliseconds; 0 for a value that does not expire.
    ttl: u64,
    /// The duration of the load, in microseconds; 0 if it is not known.
    load_time: u64,
    /// The size of the payload before compression, in bytes.
    size: u32,
    flags: u8,
    tags: Vec<&'a str>,
    payload: &'a [u8],
}

/// Encodes and decodes envelopes.
pub(crate) struct EnvelopeCodec<K, V> {
    codec: Box<dyn Codec<K, V>>,
    /// The codec's name.
    pub(crate) name: Box<str>,
    pub(crate) schemas: Schemas,
    /// Largest size of an envelope, and of a payload, in bytes.
    pub(crate) max_size: usize,
    /// Largest size of a payload that is not compressed, in bytes. `None` turns compression off.
    pub(crate) compress_above: Option<usize>,
    check: RoundTripCheck,
}

/// The reason why a value is not stored in L2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unstorable {
    TooLarge,
    TooManyTags,
    Serialize,
    /// The encoding decodes to another value, or not at all.
    Altered,
}

/// The contents of an envelope: a value with its key, its tags, its time to live and the duration of its load.
pub(crate) struct EnvelopeContents<'a, K, V> {
    pub(crate) key: &'a K,
    pub(crate) value: &'a V,
    pub(crate) tags: &'a [Arc<str>],
    pub(crate) ttl: Option<Duration>,
    /// The duration of the load, in nanoseconds; 0 if it is not known.
    pub(crate) load_time: Nanos,
}

impl Head {
    /// Encodes the head of a value.
    fn to_bytes(self) -> [u8; HEAD_LEN] {
        let mut bytes = [0; HEAD_LEN];
        bytes[..4].copy_from_slice(VALUE);
        bytes[4..12].copy_from_slice(&self.incarnation);
        bytes[12..20].copy_from_slice(&self.version.to_be_bytes());
        bytes[20..].copy_from_slice(&self.token);
        bytes
    }

    /// Decodes the head of a value.
    pub(crate) fn of(envelope: &[u8]) -> Result<Self, Unreadable> {
        let head = envelope.get(..HEAD_LEN).ok_or(Unreadable::Truncated)?;
        if head[..4] != VALUE[..] {
            return Err(Unreadable::Format);
        }
        let fixed = |range: std::ops::Range<usize>| head[range].try_into();
        Ok(Self {
            incarnation: fixed(4..12).map_err(|_| Unreadable::Truncated)?,
            version: u64::from_be_bytes(fixed(12..20).map_err(|_| Unreadable::Truncated)?),
            token: head[20..].try_into().map_err(|_| Unreadable::Truncated)?,
        })
    }
}

/// The part of an envelope by which it is decided whether the value is valid.
pub(crate) struct Envelope {
    pub(crate) head: Head,
    /// Number of tags.
    pub(crate) tags: u8,
}

impl Envelope {
    /// Parses the beginning of an envelope. Returns `None` if the bytes are not the envelope of a value.
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            head: Head::of(bytes).ok()?,
            tags: *bytes.get(HEAD_LEN)?,
        })
    }
}

/// Removes the deadline from the bytes under a key, so that the envelope remains. Returns the deadline: the time at which
/// the value expires, in milliseconds since 1970 by the server's clock, or `None` if it does not expire.
pub(crate) fn split_deadline(stored: &mut Vec<u8>) -> Option<u64> {
    let (envelope, deadline) = stored.split_last_chunk()?;
    let deadline = u64::from_be_bytes(*deadline);
    stored.truncate(envelope.len());
    Some(deadline).filter(|deadline| *deadline > 0)
}

/// Length of the deadline after an envelope, in bytes.
pub(crate) const DEADLINE_LEN: usize = 8;

/// Checks whether bytes are a lease in place of a value.
pub(crate) fn is_lease(bytes: &[u8]) -> bool {
    bytes.starts_with(LEASE)
}

/// Returns the hash that scripts compare in place of a tag's name.
pub(crate) fn tag_hash(name: &str) -> [u8; 8] {
    xxh3_64(name.as_bytes()).to_be_bytes()
}

impl<K: RemoteKey, V: RemoteValue> EnvelopeCodec<K, V> {
    /// Creates a codec for envelopes without compression.
    pub(crate) fn new(codec: impl Codec<K, V>, schemas: Schemas, max_size: usize) -> Self {
        Self {
            name: codec.name().into(),
            codec: Box::new(codec),
            schemas,
            max_size,
            compress_above: None,
            check: RoundTripCheck::default(),
        }
    }

    /// Replaces the codec of keys and values.
    pub(crate) fn with_codec(self, codec: impl Codec<K, V>) -> Self {
        Self {
            name: codec.name().into(),
            codec: Box::new(codec),
            ..self
        }
    }

    /// Encodes the envelope of a value with this head.
    ///
    /// # Errors
    ///
    /// Returns the reason why the value cannot be stored in L2.
    pub(crate) fn encode(
        &self,
        head: Head,
        contents: &EnvelopeContents<'_, K, V>,
    ) -> Result<Vec<u8>, Unstorable> {
        self.encode_at(unix_millis(), head, contents)
    }

    fn encode_at(
        &self,
        stored_at: u64,
        head: Head,
        contents: &EnvelopeContents<'_, K, V>,
    ) -> Result<Vec<u8>, Unstorable> {
        let tags = contents.tags;
        if tags.len() > MAX_TAGS {
            return Err(Unstorable::TooManyTags);
        }
        let payload = self.payload(contents.key, contents.value)?;
        let size = u32::try_from(payload.len()).map_err(|_| Unstorable::TooLarge)?;
        let compress = self
            .compress_above
            .is_some_and(|above| payload.len() > above);
        let compressed = compress.then(|| lz4_flex::block::compress(&payload));
        // A payload that does not become smaller is not compressed.
        let compressed = compressed.filter(|smaller| smaller.len() < payload.len());
        let body = Body {
            codec: &self.name,
            key_schema: self.schemas.key(),
            value_schema: self.schemas.value(),
            stored_at,
            ttl: contents.ttl.map_or(0, millis),
            load_time: contents.load_time / NANOS_PER_MICRO,
            size,
            flags: if compressed.is_some() { COMPRESSED } else { 0 },
            tags: tags.iter().map(|tag| &**tag).collect(),
            payload: compressed.as_ref().unwrap_or(&payload),
        };
        let mut bytes = Vec::with_capacity(HEAD_LEN + body.payload.len() + 128);
        bytes.extend_from_slice(&head.to_bytes());
        bytes.extend(u8::try_from(tags.len()));
        for tag in tags {
            bytes.extend_from_slice(&tag_hash(tag));
        }
        bytes = postcard::to_extend(&body, bytes).map_err(|_| Unstorable::Serialize)?;
        bytes.extend_from_slice(&xxh3_64(&bytes).to_be_bytes());
        if bytes.len() > self.max_size {
            return Err(Unstorable::TooLarge);
        }
        Ok(bytes)
    }

    /// Encodes a key and its value, and checks that decoding returns the same.
    fn payload(&self, key: &K, value: &V) -> Result<Vec<u8>, Unstorable> {
        let payload = self.codec.encode(key, value);
        let payload = payload.map_err(|_| Unstorable::Serialize)?;
        if payload.len() > self.max_size {
            return Err(Unstorable::TooLarge);
        }
        let decode = || self.codec.decode(&payload).ok();
        if self.check.passes((key, value), payload.len(), decode) {
            Ok(payload)
        } else {
            Err(Unstorable::Altered)
        }
    }

    /// Decodes the value of `key` from an envelope, with its tags, its time to live and its age, which is measured by
    /// the clocks of the writer and of this process.
    ///
    /// # Errors
    ///
    /// Returns an error if these are not the bytes that [`encode`](Self::encode) returns for this key, these schemas
    /// and this codec. Apart from the value itself, it allocates in proportion to `max_size` at most.
    pub(crate) fn decode(&self, bytes: &[u8], key: &K) -> Result<Loaded<V>, Unreadable> {
        if bytes.len() > self.max_size {
            return Err(Unreadable::TooLarge);
        }
        let head = Head::of(bytes)?;
        let body = decode_body(bytes)?;
        if *body.codec != *self.name {
            return Err(Unreadable::Codec);
        }
        if body.key_schema != self.schemas.key() || body.value_schema != self.schemas.value() {
            return Err(Unreadable::Schema);
        }
        let decoded = if body.flags & COMPRESSED == 0 {
            self.codec.decode(body.payload)
        } else {
            let payload = self.decompress(body.payload, body.size)?;
            self.codec.decode(&payload)
        };
        let (found, value) = decoded.map_err(|_| Unreadable::Payload)?;
        if found != *key {
            return Err(Unreadable::Key);
        }
        let mut loaded = Loaded::new(value).tags(body.tags);
        loaded.ttl = (body.ttl > 0).then(|| Duration::from_millis(body.ttl));
        let age = unix_millis().saturating_sub(body.stored_at);
        loaded.age = saturating_nanos(Duration::from_millis(age));
        loaded.load_time = body.load_time.saturating_mul(NANOS_PER_MICRO);
        loaded.write = write_number(&head.token);
        Ok(loaded)
    }

    fn decompress(&self, payload: &[u8], size: u32) -> Result<Vec<u8>, Unreadable> {
        let size = usize::try_from(size).map_err(|_| Unreadable::TooLarge)?;
        if size > self.max_size {
            return Err(Unreadable::TooLarge);
        }
        let mut plain = vec![0; size];
        match lz4_flex::block::decompress_into(payload, &mut plain) {
            Ok(written) if written == size => Ok(plain),
            _ => Err(Unreadable::Body),
        }
    }
}

impl<K, V> fmt::Debug for EnvelopeCodec<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvelopeCodec")
            .field("codec", &self.name)
            .field("schemas", &self.schemas)
            .finish_non_exhaustive()
    }
}

/// Checks an envelope and decodes its body.
fn decode_body(bytes: &[u8]) -> Result<Body<'_>, Unreadable> {
    Head::of(bytes)?;
    let end = bytes
        .len()
        .checked_sub(CHECKSUM_LEN)
        .ok_or(Unreadable::Truncated)?;
    let (checked, checksum) = bytes.split_at(end);
    if xxh3_64(checked).to_be_bytes()[..] != *checksum {
        return Err(Unreadable::Checksum);
    }
    let tags = usize::from(*checked.get(HEAD_LEN).ok_or(Unreadable::Truncated)?);
    let body = checked.get(HEAD_LEN + 1 + 8 * tags..);
    let body = body.ok_or(Unreadable::Truncated)?;
    match postcard::take_from_bytes::<Body<'_>>(body) {
        Ok((body, [])) if body.flags & !COMPRESSED == 0 => Ok(body),
        _ => Err(Unreadable::Body),
    }
}

/// Returns a duration in milliseconds, at least 1, because 0 stands for an unlimited duration.
pub(crate) fn millis(duration: Duration) -> u64 {
    saturating_millis(duration).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{MessagePack, Postcard};
    use proptest::prelude::*;

    const HEAD_OF_TEST: Head = Head {
        incarnation: *b"incarnat",
        version: 0x0102_0304_0506_0708,
        token: *b"0123456789abcdef",
    };

    type Texts = EnvelopeCodec<u64, String>;

    fn codec_of<V: RemoteValue>() -> EnvelopeCodec<u64, V> {
        EnvelopeCodec::new(MessagePack, Schemas::new("u64", "price/2"), 1 << 16)
    }

    fn codec() -> Texts {
        codec_of()
    }

    fn tags() -> [Arc<str>; 2] {
        ["a".into(), "shop".into()]
    }

    fn contents<'a, V>(value: &'a V, tags: &'a [Arc<str>]) -> EnvelopeContents<'a, u64, V> {
        EnvelopeContents {
            key: &7,
            value,
            tags,
            ttl: Some(Duration::from_secs(300)),
            load_time: 20_000_500,
        }
    }

    fn encoded(codec: &Texts, value: &str) -> Vec<u8> {
        let value = value.to_string();
        let tags = tags();
        let bytes = codec.encode_at(1_700_000_000_000, HEAD_OF_TEST, &contents(&value, &tags));
        bytes.unwrap()
    }

    /// Other versions and clients in other languages read this format, so a change needs a new format version.
    #[test]
    fn format_is_stable() {
        let bytes = encoded(&codec(), "12.50");
        let hex = bytes
            .iter()
            .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        let parts = [
            "68735604",
            "696e6361726e6174",
            "0102030405060708",
            "30313233343536373839616263646566",
            "02e6c632b61e964e1ff3fbbc384d518cd9",
            // Codec, schemas, time of storing, time to live, duration of the load, size, flags.
            "096d73677061636b2f31",
            "03753634",
            "0770726963652f32",
            "80d095ffbc31",
            "e0a712",
            "a09c01",
            "08",
            "00",
            // Tags, payload, checksum.
            "02016104",
            "73686f70",
            "08",
            "9207a531322e3530",
        ];
        assert_eq!(hex[..hex.len() - 16], parts.concat());
        let loaded = codec().decode(&bytes, &7).unwrap();
        assert_eq!((&*loaded.value, loaded.tags), ("12.50", tags().into()));
        assert_eq!(loaded.ttl, Some(Duration::from_secs(300)));
        assert_eq!(loaded.load_time, 20_000_000);
        assert_eq!(loaded.write, write_number(&HEAD_OF_TEST.token));
        let years = loaded.age / (365 * 24 * 3_600 * 1_000_000_000);
        assert!(
            (1..100).contains(&years),
            "stored in November 2023: {years}"
        );
        assert_eq!(Head::of(&bytes), Ok(HEAD_OF_TEST));
    }

    #[test]
    fn envelope_of_another_format_schema_codec_or_key_is_unreadable() {
        let bytes = encoded(&codec(), "12.50");
        for schemas in [
            Schemas::new("u64", "price/3"),
            Schemas::new("i64", "price/2"),
        ] {
            let other = Texts { schemas, ..codec() };
            assert_eq!(other.decode(&bytes, &7), Err(Unreadable::Schema));
        }
        let other = codec().with_codec(Postcard);
        assert_eq!(other.decode(&bytes, &7), Err(Unreadable::Codec));
        let numbers = codec_of::<u8>();
        assert_eq!(numbers.decode(&bytes, &7), Err(Unreadable::Payload));
        assert_eq!(codec().decode(&bytes, &8), Err(Unreadable::Key));
        assert_eq!(codec().decode(b"", &7), Err(Unreadable::Truncated));
        for version in [3, 5] {
            let mut other = bytes.clone();
            other[3] = version;
            assert_eq!(codec().decode(&other, &7), Err(Unreadable::Format));
        }
        for at in 4..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            let damaged = codec().decode(&damaged, &7);
            assert_eq!(damaged, Err(Unreadable::Checksum), "byte {at}");
        }
    }

    #[test]
    fn too_large_values_are_neither_encoded_nor_decoded() {
        let text = "abc".repeat(10_000);
        let small = Texts {
            max_size: 1_000,
            ..codec()
        };
        let stored = small.encode(HEAD_OF_TEST, &contents(&text, &[]));
        assert_eq!(stored, Err(Unstorable::TooLarge));
        let plain = encoded(&codec(), &text);
        assert_eq!(small.decode(&plain, &7), Err(Unreadable::TooLarge));
        let compressing = Texts {
            compress_above: Some(100),
            ..codec()
        };
        let compressed = encoded(&compressing, &text);
        assert!(compressed.len() < plain.len() / 50);
        for codec in [codec(), compressing] {
            assert_eq!(codec.decode(&compressed, &7).unwrap().value, text);
        }
        // The envelope is small, and its decompressed payload is not.
        assert_eq!(small.decode(&compressed, &7), Err(Unreadable::TooLarge));
        let tags: Vec<Arc<str>> = (0..=MAX_TAGS).map(|tag| tag.to_string().into()).collect();
        let stored = codec().encode(HEAD_OF_TEST, &contents(&text, &tags));
        assert_eq!(stored, Err(Unstorable::TooManyTags));
    }

    #[test]
    fn value_that_decodes_to_another_one_is_not_encoded() {
        let codec = codec_of::<Option<Option<u8>>>();
        let stored = codec.encode(HEAD_OF_TEST, &contents(&Some(None), &[]));
        assert_eq!(stored, Err(Unstorable::Altered));
        for value in [None, Some(Some(7))] {
            let bytes = codec.encode(HEAD_OF_TEST, &contents(&value, &[])).unwrap();
            assert_eq!(codec.decode(&bytes, &7).unwrap().value, value);
        }
    }

    /// Returns the bytes with a correct checksum, so that the checks behind it are reached.
    fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.truncate(bytes.len().saturating_sub(CHECKSUM_LEN));
        let checksum = xxh3_64(&bytes).to_be_bytes();
        bytes.extend_from_slice(&checksum);
        bytes
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_decoded_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut headed = VALUE.to_vec();
            headed.extend_from_slice(&bytes);
            for bytes in [bytes, sealed(headed)] {
                let _ = codec().decode(&bytes, &7);
                let _ = codec_of::<Vec<(u64, Vec<String>)>>().decode(&bytes, &7);
            }
        }

        #[test]
        fn damaged_envelope_is_decoded_without_a_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            compressed in any::<bool>(),
        ) {
            let codec = Texts { compress_above: compressed.then_some(10), ..codec() };
            let mut bytes = encoded(&codec, &"abc".repeat(100));
            for (at, byte) in changes {
                let at = at.index(bytes.len() - 4) + 4;
                bytes[at] = byte;
            }
            let _ = codec.decode(&sealed(bytes.clone()), &7);
            let _ = codec_of::<Vec<Vec<u64>>>().decode(&sealed(bytes), &7);
        }

        #[test]
        fn decoded_value_equals_the_encoded_one(value: Vec<(u64, String)>, above in 0..500_usize) {
            let codec = EnvelopeCodec { compress_above: Some(above), ..codec_of() };
            let bytes = codec.encode(HEAD_OF_TEST, &contents(&value, &[])).unwrap();
            prop_assert_eq!(codec.decode(&bytes, &7).unwrap().value, value);
        }
    }
}
