//! The bytes of a snapshot file.
//!
//! ```text
//! 0   "hotset\r\n"
//! 8   format version, 3, 4 bytes
//! 12  time of writing in milliseconds since 1970, 8 bytes
//! 20  frames: the name of the codec, the schema of keys, the schema of values, then the entries, hottest first;
//!     each preceded by its length in bytes, 4 bytes
//!     end mark, 4 bytes of ff
//! -16 number of entries, 8 bytes
//! -8  xxh3 of all bytes before
//! ```
//!
//! Numbers outside frames are little-endian. An entry is encoded by postcard; its key and its value, which are byte
//! strings there, are encoded by [`MessagePack`]. A file of any other form is refused.

use crate::codec::{MessagePack, message_pack};
use crate::schema::Schemas;
use crate::snapshot::SnapshotError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::ops::Range;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

/// The mark at the beginning of a file.
const MAGIC: &[u8; 8] = b"hotset\r\n";

/// The format version.
pub(super) const VERSION: u32 = 3;

/// Length of the mark and the format version, in bytes.
const BEGINNING_LEN: usize = 12;

/// Position of the first frame.
const FIRST_FRAME_POSITION: usize = 20;

/// Value in place of a frame's length that marks the end of the frames.
const END_MARK: u32 = u32::MAX;

/// The part of a file that applies to all its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head<'a> {
    /// Time of writing, in milliseconds since 1970.
    pub(crate) written_at: u64,
    /// Name of the codec of keys and values.
    pub(crate) codec: &'a str,
    pub(crate) key_schema: &'a str,
    pub(crate) value_schema: &'a str,
}

/// An entry, with its key and its value as the codec encodes them.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    /// Remaining time to live, in milliseconds; `None` if the entry does not expire.
    pub(crate) left: Option<u64>,
    /// Remaining time to idle, in milliseconds, if the cache has one.
    pub(crate) idle: Option<u64>,
    /// Time since the value was read from its source, in milliseconds, if the cache tracks ages.
    pub(crate) age: Option<u64>,
    /// Weight that was given with the value, if any.
    pub(crate) weight: Option<u64>,
    pub(crate) tags: Vec<&'a str>,
}

/// A writer of a snapshot file, from its first byte to its last.
pub(crate) struct Writer<W> {
    out: W,
    checksum: Xxh3Default,
    /// Number of bytes written.
    bytes: u64,
    /// Number of entries written.
    entries: u64,
    /// Buffer that all frames share.
    frame: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Writes the beginning of a file.
    pub(crate) fn begin(out: W, head: &Head<'_>) -> io::Result<Self> {
        let mut writer = Self {
            out,
            checksum: Xxh3Default::new(),
            bytes: 0,
            entries: 0,
            frame: Vec::new(),
        };
        writer.put(MAGIC)?;
        writer.put(&VERSION.to_le_bytes())?;
        writer.put(&head.written_at.to_le_bytes())?;
        writer.put_frame(head.codec.as_bytes())?;
        writer.put_frame(head.key_schema.as_bytes())?;
        writer.put_frame(head.value_schema.as_bytes())?;
        Ok(writer)
    }

    /// Writes an entry.
    pub(crate) fn entry(&mut self, entry: &Entry<'_>) -> Result<(), SnapshotError> {
        let mut frame = std::mem::take(&mut self.frame);
        frame.clear();
        let frame = postcard::to_extend(entry, frame).map_err(unserializable)?;
        self.put_frame(&frame)?;
        self.frame = frame;
        self.entries += 1;
        Ok(())
    }

    /// Returns the number of entries written.
    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }

    /// Writes the end of the file. Returns its length in bytes.
    pub(crate) fn finish(mut self) -> io::Result<u64> {
        self.put(&END_MARK.to_le_bytes())?;
        self.put(&self.entries.to_le_bytes())?;
        let checksum = self.checksum.digest();
        self.put(&checksum.to_le_bytes())?;
        Ok(self.bytes)
    }

    /// Writes a frame, preceded by its length.
    fn put_frame(&mut self, frame: &[u8]) -> io::Result<()> {
        let len = u32::try_from(frame.len())
            .ok()
            .filter(|&len| len != END_MARK);
        let len = len.ok_or_else(|| io::Error::other("the entry has 4 GiB or more"))?;
        self.put(&len.to_le_bytes())?;
        self.put(frame)
    }

    /// Writes bytes, and adds them to the checksum.
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.checksum.update(bytes);
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}

/// Appends the encoding of a key to `bytes`.
pub(crate) fn encode_key(key: &impl Serialize, bytes: Vec<u8>) -> Result<Vec<u8>, SnapshotError> {
    message_pack::to_extend(key, bytes).map_err(unserializable)
}

/// Appends the encoding of a value to `bytes`.
pub(crate) fn encode_value(
    value: &(impl Serialize + DeserializeOwned),
    bytes: Vec<u8>,
) -> Result<Vec<u8>, SnapshotError> {
    message_pack::value_to_extend(value, bytes).map_err(unserializable)
}

#[allow(clippy::needless_pass_by_value)] // So that it can be passed to `map_err`.
fn unserializable(error: impl ToString) -> SnapshotError {
    SnapshotError::Unserializable(error.to_string())
}

/// Decodes a key or a value whose encoding takes all of the bytes.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    message_pack::from_bytes(bytes).ok()
}

/// The bytes of a snapshot file whose form and checksum are correct.
#[derive(Debug)]
pub(crate) struct Contents {
    bytes: Vec<u8>,
    written_at: u64,
    entries: u64,
    codec: Range<usize>,
    key_schema: Range<usize>,
    value_schema: Range<usize>,
}

impl Contents {
    /// Reads and checks a snapshot file.
    ///
    /// It allocates in proportion to the length of the file, and next to nothing if the file does not begin like a
    /// snapshot.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read, or if it does not have the form that [`Writer`] writes.
    pub(crate) fn read(mut from: impl Read) -> Result<Self, SnapshotError> {
        let mut bytes = Vec::new();
        let beginning = BEGINNING_LEN as u64;
        from.by_ref().take(beginning).read_to_end(&mut bytes)?;
        check_beginning(&bytes)?;
        from.read_to_end(&mut bytes)?;
        let mut frames = Frames::of(&bytes);
        let codec = frames.next_range()?.ok_or(SnapshotError::Damaged)?;
        let key_schema = frames.next_range()?.ok_or(SnapshotError::Damaged)?;
        let value_schema = frames.next_range()?.ok_or(SnapshotError::Damaged)?;
        let mut entries = 0;
        while frames.next_range()?.is_some() {
            entries += 1;
        }
        // The number of entries, 8 bytes, comes before the checksum.
        let (count_at, checksum_at) = (frames.at, frames.at + 8);
        let checksum = number(&bytes, checksum_at).ok_or(SnapshotError::Truncated)?;
        if bytes.len() > checksum_at + 8 {
            return Err(SnapshotError::TrailingBytes);
        }
        if xxh3_64(&bytes[..checksum_at]) != checksum || number(&bytes, count_at) != Some(entries) {
            return Err(SnapshotError::Damaged);
        }
        Ok(Self {
            written_at: number(&bytes, BEGINNING_LEN).ok_or(SnapshotError::Truncated)?,
            entries,
            codec,
            key_schema,
            value_schema,
            bytes,
        })
    }

    /// Returns the part of the file that applies to all its entries.
    pub(crate) fn head(&self) -> Result<Head<'_>, SnapshotError> {
        let text = |range: &Range<usize>| {
            let text = std::str::from_utf8(&self.bytes[range.clone()]);
            text.map_err(|_| SnapshotError::Damaged)
        };
        Ok(Head {
            written_at: self.written_at,
            codec: text(&self.codec)?,
            key_schema: text(&self.key_schema)?,
            value_schema: text(&self.value_schema)?,
        })
    }

    /// Checks that keys and values have these schemas, and that this version can decode them.
    pub(crate) fn check(&self, schemas: &Schemas) -> Result<(), SnapshotError> {
        self.check_keys(schemas.key())?;
        let (found, wanted) = (self.head()?.value_schema, schemas.value());
        if found == wanted {
            return Ok(());
        }
        Err(SnapshotError::ValueSchema {
            found: found.into(),
            wanted: wanted.into(),
        })
    }

    /// Checks that keys have the schema `wanted`, and that this version can decode them.
    pub(crate) fn check_keys(&self, wanted: &str) -> Result<(), SnapshotError> {
        let head = self.head()?;
        if head.codec != MessagePack::NAME {
            return Err(SnapshotError::Codec {
                found: head.codec.into(),
                wanted: MessagePack::NAME.into(),
            });
        }
        if head.key_schema == wanted {
            return Ok(());
        }
        Err(SnapshotError::KeySchema {
            found: head.key_schema.into(),
            wanted: wanted.into(),
        })
    }

    /// Returns the length of the file in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Returns the entries, hottest first.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Result<Entry<'_>, SnapshotError>> {
        let mut frames = Frames {
            bytes: &self.bytes,
            at: self.value_schema.end,
        };
        (0..self.entries).map(move |entry| {
            let frame = frames.next_range()?.ok_or(SnapshotError::Truncated)?;
            match postcard::take_from_bytes(&self.bytes[frame]) {
                Ok((entry, [])) => Ok(entry),
                _ => Err(SnapshotError::Unreadable(entry)),
            }
        })
    }
}

/// Checks the mark and the format version.
fn check_beginning(bytes: &[u8]) -> Result<(), SnapshotError> {
    let magic = &bytes[..bytes.len().min(MAGIC.len())];
    if !MAGIC.starts_with(magic) {
        return Err(SnapshotError::NotASnapshot);
    }
    let version = bytes.get(8..).and_then(<[u8]>::first_chunk);
    match version.map(|version| u32::from_le_bytes(*version)) {
        None => Err(SnapshotError::Truncated),
        Some(VERSION) => Ok(()),
        Some(other) => Err(SnapshotError::Version(other)),
    }
}

/// Returns the number at a position, or `None` if there are not enough bytes.
fn number(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*bytes))
}

/// A reader of the positions of frames, one after the other.
struct Frames<'a> {
    bytes: &'a [u8],
    /// Position of the next frame, or of the first byte after the end mark.
    at: usize,
}

impl<'a> Frames<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: FIRST_FRAME_POSITION,
        }
    }

    /// Returns the position of the next frame, or `None` at the end mark.
    fn next_range(&mut self) -> Result<Option<Range<usize>>, SnapshotError> {
        let rest = self.bytes.get(self.at..);
        let len = rest.and_then(<[u8]>::first_chunk);
        let len = u32::from_le_bytes(*len.ok_or(SnapshotError::Truncated)?);
        let start = self.at + 4;
        if len == END_MARK {
            self.at = start;
            return Ok(None);
        }
        let end = usize::try_from(len)
            .ok()
            .and_then(|len| start.checked_add(len));
        let end = end.filter(|&end| end <= self.bytes.len());
        self.at = end.ok_or(SnapshotError::Truncated)?;
        Ok(Some(start..self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written() -> Vec<u8> {
        let head = Head {
            written_at: 1_700_000_000_000,
            codec: "msgpack/1",
            key_schema: "u64",
            value_schema: "price/2",
        };
        let plain = Entry {
            key: &[7],
            value: b"\xa512.50",
            left: None,
            idle: None,
            age: None,
            weight: None,
            tags: vec![],
        };
        let full = Entry {
            key: &[8],
            value: b"\x01",
            left: Some(300),
            idle: Some(1),
            age: Some(3),
            weight: Some(2),
            tags: vec!["a"],
        };
        let mut bytes = Vec::new();
        let mut writer = Writer::begin(&mut bytes, &head).unwrap();
        writer.entry(&plain).unwrap();
        writer.entry(&full).unwrap();
        let len = writer.finish().unwrap();
        assert_eq!(len, bytes.len() as u64);
        bytes
    }

    /// Other versions of hotset read this format, so a change needs a new format version.
    #[test]
    fn format_is_stable() {
        let bytes = written();
        let hex = bytes
            .iter()
            .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        let parts = [
            "686f747365740d0a",
            "03000000",
            "0068e5cf8b010000",
            "090000006d73677061636b2f31",
            "03000000753634",
            "0700000070726963652f32",
            // Key, value, remaining time to live and to idle, age, weight, tags.
            "0e000000010706a531322e35300000000000",
            "100000000108010101ac02010101030102010161",
            "ffffffff",
            "0200000000000000",
        ];
        assert_eq!(hex[..hex.len() - 16], parts.concat());
        let contents = Contents::read(&bytes[..]).unwrap();
        assert_eq!(contents.head().unwrap().value_schema, "price/2");
        let entries: Vec<_> = contents.entries().map(Result::unwrap).collect();
        assert_eq!(
            (entries[0].value, entries[1].left),
            (&b"\xa512.50"[..], Some(300))
        );
    }

    #[test]
    fn file_of_another_codec_or_key_schema_is_refused() {
        let schemas = Schemas::new("u64", "price/2");
        let contents = Contents::read(&written()[..]).unwrap();
        assert!(contents.check(&schemas).is_ok());
        let refused = contents.check(&Schemas::new("i64", "price/2"));
        assert!(matches!(refused, Err(SnapshotError::KeySchema { .. })));
        let refused = contents.check(&Schemas::new("u64", "price/3"));
        assert!(matches!(refused, Err(SnapshotError::ValueSchema { .. })));
        let mut other = written();
        let name = FIRST_FRAME_POSITION + 4..FIRST_FRAME_POSITION + 4 + MessagePack::NAME.len();
        other[name].copy_from_slice(b"msgpack/2");
        let contents = Contents::read(&sealed(other)[..]).unwrap();
        let refused = contents.check(&schemas).unwrap_err();
        assert!(matches!(&refused, SnapshotError::Codec { found, .. } if found == "msgpack/2"));
        assert!(refused.to_string().contains("msgpack/1"), "{refused}");
    }

    #[test]
    fn file_without_the_mark_or_of_another_version_is_refused_after_its_beginning() {
        let mut from = io::repeat(0);
        let refused = Contents::read(&mut from);
        assert!(matches!(refused, Err(SnapshotError::NotASnapshot)));
        let mut from = MAGIC.chain(io::repeat(7));
        let refused = Contents::read(&mut from);
        assert!(matches!(refused, Err(SnapshotError::Version(_))));
    }

    /// Returns the bytes with a correct checksum, so that the other checks are reached.
    fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.truncate(bytes.len() - 8);
        let checksum = xxh3_64(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    proptest! {
        #[test]
        fn damaged_snapshot_is_read_without_a_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut bytes = written();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(contents) = Contents::read(&sealed(bytes)[..]) {
                let _ = contents.head();
                for entry in contents.entries().flatten() {
                    let _ = decode::<Vec<String>>(entry.value);
                }
            }
        }
    }
}
