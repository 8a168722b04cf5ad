//! What lies under a key in L2: the envelope of a value, or a lease.
//!
//! ```text
//! 0   "hsV" for a value, "hsL" for a lease
//! 3   format version, 1
//! 4   incarnation of the namespace, 8 bytes     together the head: who wrote it, and when in the
//! 12  version at which its load began, 8 bytes  order of the namespace's invalidations
//! 20  token of who wrote it, 16 bytes
//! 36  a lease: 1 if somebody waits for it, else 0. A value:
//! 36  number of tags, then 8 bytes for each: xxh3 of its name
//!     body, by postcard: schema, time of storing, time to live, size, flags, tags' names, payload
//! -8  xxh3 of all before
//! ```
//!
//! Numbers of the head and the tags' hashes are big-endian, as scripts read them. A value that was
//! made in any other way is unreadable: a miss.

use super::remote::{Head, Unreadable};
use crate::clock::saturating_nanos;
use crate::entry::Loaded;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use xxhash_rust::xxh3::xxh3_64;

const VALUE: &[u8; 4] = b"hsV\x01";
const HEAD: usize = 36;
const CHECKSUM: usize = 8;

/// More tags than this and a value stays out of L2.
pub(crate) const MAX_TAGS: usize = 64;

const COMPRESSED: u8 = 1;

#[derive(Serialize, Deserialize)]
struct Body<'a> {
    schema: &'a str,
    /// Milliseconds since 1970, by the clock of who stored it: to look at, not to decide by.
    stored_at: u64,
    /// Milliseconds; 0 for ever.
    ttl: u64,
    /// Bytes of the payload before compression.
    size: u32,
    flags: u8,
    tags: Vec<&'a str>,
    payload: &'a [u8],
}

/// How values are written and read.
#[derive(Debug, Clone)]
pub(crate) struct Codec {
    /// What the values' type calls its shape.
    pub(crate) schema: String,
    /// Bytes of a whole envelope, and of a payload.
    pub(crate) max_size: usize,
    /// Payloads of more bytes are compressed.
    pub(crate) compress_above: Option<usize>,
}

/// Why a value does not go to L2.
#[derive(Debug, PartialEq)]
pub(crate) enum Unstorable {
    TooLarge,
    TooManyTags,
    Serialize,
}

impl Head {
    fn to_bytes(self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[..4].copy_from_slice(VALUE);
        bytes[4..12].copy_from_slice(&self.incarnation);
        bytes[12..20].copy_from_slice(&self.version.to_be_bytes());
        bytes[20..].copy_from_slice(&self.token);
        bytes
    }

    /// Of a value.
    pub(crate) fn of(envelope: &[u8]) -> Result<Self, Unreadable> {
        let head = envelope.get(..HEAD).ok_or(Unreadable::Truncated)?;
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

/// What stands for a tag where its name is too long.
pub(crate) fn tag_hash(name: &str) -> [u8; 8] {
    xxh3_64(name.as_bytes()).to_be_bytes()
}

impl Codec {
    /// The envelope of a value, written under `head`.
    pub(crate) fn encode<V: Serialize>(
        &self,
        head: Head,
        value: &V,
        tags: &[Arc<str>],
        ttl: Option<Duration>,
    ) -> Result<Vec<u8>, Unstorable> {
        self.encode_at(unix_millis(), head, value, tags, ttl)
    }

    fn encode_at<V: Serialize>(
        &self,
        stored_at: u64,
        head: Head,
        value: &V,
        tags: &[Arc<str>],
        ttl: Option<Duration>,
    ) -> Result<Vec<u8>, Unstorable> {
        if tags.len() > MAX_TAGS {
            return Err(Unstorable::TooManyTags);
        }
        let payload = postcard::to_stdvec(value).map_err(|_| Unstorable::Serialize)?;
        if payload.len() > self.max_size {
            return Err(Unstorable::TooLarge);
        }
        let size = u32::try_from(payload.len()).map_err(|_| Unstorable::TooLarge)?;
        let compress = self
            .compress_above
            .is_some_and(|above| payload.len() > above);
        let compressed = compress.then(|| lz4_flex::block::compress(&payload));
        // Where it does not become smaller it stays as it is.
        let compressed = compressed.filter(|smaller| smaller.len() < payload.len());
        let body = Body {
            schema: &self.schema,
            stored_at,
            ttl: ttl.map_or(0, millis),
            size,
            flags: if compressed.is_some() { COMPRESSED } else { 0 },
            tags: tags.iter().map(|tag| &**tag).collect(),
            payload: compressed.as_ref().unwrap_or(&payload),
        };
        let mut bytes = Vec::with_capacity(HEAD + body.payload.len() + 64);
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

    /// The value in an envelope, with its tags, its time to live and, by the clock of who stored it, its
    /// age.
    ///
    /// # Errors
    ///
    /// If these are not the bytes that [`encode`](Self::encode) makes for this schema. It allocates
    /// no more than `max_size` and what the value itself takes.
    pub(crate) fn decode<V: DeserializeOwned>(
        &self,
        bytes: &[u8],
    ) -> Result<Loaded<V>, Unreadable> {
        if bytes.len() > self.max_size {
            return Err(Unreadable::TooLarge);
        }
        Head::of(bytes)?;
        let end = bytes
            .len()
            .checked_sub(CHECKSUM)
            .ok_or(Unreadable::Truncated)?;
        let (checked, checksum) = bytes.split_at(end);
        if xxh3_64(checked).to_be_bytes()[..] != *checksum {
            return Err(Unreadable::Checksum);
        }
        let tags = usize::from(*checked.get(HEAD).ok_or(Unreadable::Truncated)?);
        let body = checked.get(HEAD + 1 + 8 * tags..);
        let body = body.ok_or(Unreadable::Truncated)?;
        let (body, rest) =
            postcard::take_from_bytes::<Body<'_>>(body).map_err(|_| Unreadable::Body)?;
        if !rest.is_empty() || body.flags & !COMPRESSED != 0 {
            return Err(Unreadable::Body);
        }
        if body.schema != self.schema {
            return Err(Unreadable::Schema);
        }
        let value = if body.flags & COMPRESSED == 0 {
            exactly(body.payload)?
        } else {
            exactly(&self.decompress(body.payload, body.size)?)?
        };
        let mut loaded = Loaded::new(value).tags(body.tags);
        loaded.ttl = (body.ttl > 0).then(|| Duration::from_millis(body.ttl));
        let age = unix_millis().saturating_sub(body.stored_at);
        loaded.age = saturating_nanos(Duration::from_millis(age));
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

/// A value that takes all of the bytes.
fn exactly<V: DeserializeOwned>(bytes: &[u8]) -> Result<V, Unreadable> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(Unreadable::Body),
    }
}

/// At least 1, for 0 is for ever.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis())
        .unwrap_or(u64::MAX)
        .max(1)
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEAD_OF_TEST: Head = Head {
        incarnation: *b"incarnat",
        version: 0x0102_0304_0506_0708,
        token: *b"0123456789abcdef",
    };

    fn codec() -> Codec {
        Codec {
            schema: "price/2".into(),
            max_size: 1 << 16,
            compress_above: None,
        }
    }

    fn tags() -> [Arc<str>; 2] {
        ["a".into(), "shop".into()]
    }

    fn encoded(codec: &Codec, value: &str) -> Vec<u8> {
        let ttl = Some(Duration::from_secs(300));
        let bytes = codec.encode_at(1_700_000_000_000, HEAD_OF_TEST, &value, &tags(), ttl);
        bytes.unwrap()
    }

    /// Other versions and other languages' clients read this: a change needs a new format version.
    #[test]
    fn the_format_is_what_it_was() {
        let bytes = encoded(&codec(), "12.50");
        let hex = bytes
            .iter()
            .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        let parts = [
            "68735601",
            "696e6361726e6174",
            "0102030405060708",
            "30313233343536373839616263646566",
            "02e6c632b61e964e1ff3fbbc384d518cd9",
            // Schema, time of storing, time to live, size, flags.
            "0770726963652f32",
            "80d095ffbc31",
            "e0a712",
            "06",
            "00",
            // Tags, payload, checksum.
            "02016104",
            "73686f70",
            "060531322e3530",
            "7217bec0011963a2",
        ];
        assert_eq!(hex, parts.concat());
        let loaded = codec().decode::<String>(&bytes).unwrap();
        assert_eq!((&*loaded.value, loaded.tags), ("12.50", tags().into()));
        assert_eq!(loaded.ttl, Some(Duration::from_secs(300)));
        let years = loaded.age / (365 * 24 * 3_600 * 1_000_000_000);
        assert!(
            (1..100).contains(&years),
            "stored in November 2023: {years}"
        );
        assert_eq!(Head::of(&bytes), Ok(HEAD_OF_TEST));
    }

    #[test]
    fn what_is_not_of_this_schema_or_format_is_unreadable() {
        let bytes = encoded(&codec(), "12.50");
        let other = Codec {
            schema: "price/3".into(),
            ..codec()
        };
        assert_eq!(other.decode::<String>(&bytes), Err(Unreadable::Schema));
        assert_eq!(codec().decode::<u8>(&bytes), Err(Unreadable::Body));
        assert_eq!(codec().decode::<String>(b""), Err(Unreadable::Truncated));
        let mut newer = bytes.clone();
        newer[3] = 2;
        assert_eq!(codec().decode::<String>(&newer), Err(Unreadable::Format));
        for at in 4..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            let damaged = codec().decode::<String>(&damaged);
            assert_eq!(damaged, Err(Unreadable::Checksum), "byte {at}");
        }
    }

    #[test]
    fn sizes_are_limited_both_ways_and_compression_helps() {
        let text = "abc".repeat(10_000);
        let small = Codec {
            max_size: 1_000,
            ..codec()
        };
        let none = [];
        let stored = small.encode(HEAD_OF_TEST, &text, &none, None);
        assert_eq!(stored, Err(Unstorable::TooLarge));
        let plain = encoded(&codec(), &text);
        assert_eq!(small.decode::<String>(&plain), Err(Unreadable::TooLarge));
        let compressing = Codec {
            compress_above: Some(100),
            ..codec()
        };
        let compressed = encoded(&compressing, &text);
        assert!(compressed.len() < plain.len() / 50);
        for codec in [codec(), compressing] {
            assert_eq!(codec.decode::<String>(&compressed).unwrap().value, text);
        }
        // It is small itself, and what it would become is not.
        assert_eq!(
            small.decode::<String>(&compressed),
            Err(Unreadable::TooLarge)
        );
        let tags: Vec<Arc<str>> = (0..=MAX_TAGS).map(|tag| tag.to_string().into()).collect();
        let stored = codec().encode(HEAD_OF_TEST, &1, &tags, None);
        assert_eq!(stored, Err(Unstorable::TooManyTags));
    }

    /// With a checksum that is right, so that what is behind it is reached.
    fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.truncate(bytes.len().saturating_sub(CHECKSUM));
        let checksum = xxh3_64(&bytes).to_be_bytes();
        bytes.extend_from_slice(&checksum);
        bytes
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut headed = VALUE.to_vec();
            headed.extend_from_slice(&bytes);
            for bytes in [bytes, sealed(headed)] {
                let _ = codec().decode::<String>(&bytes);
                let _ = codec().decode::<Vec<(u64, Vec<String>)>>(&bytes);
            }
        }

        #[test]
        fn no_damage_makes_it_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            compressed in any::<bool>(),
        ) {
            let codec = Codec { compress_above: compressed.then_some(10), ..codec() };
            let mut bytes = encoded(&codec, &"abc".repeat(100));
            for (at, byte) in changes {
                let at = at.index(bytes.len() - 4) + 4;
                bytes[at] = byte;
            }
            let _ = codec.decode::<String>(&sealed(bytes.clone()));
            let _ = codec.decode::<Vec<Vec<u64>>>(&sealed(bytes));
        }

        #[test]
        fn what_is_written_is_read(value: Vec<(u64, String)>, above in 0..500_usize) {
            let codec = Codec { compress_above: Some(above), ..codec() };
            let bytes = codec.encode(HEAD_OF_TEST, &value, &[], None).unwrap();
            let read = codec.decode::<Vec<(u64, String)>>(&bytes).unwrap();
            prop_assert_eq!(read.value, value);
        }
    }
}
