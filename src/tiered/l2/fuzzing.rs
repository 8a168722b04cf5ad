//! Access to the format of values in L2 for the fuzz targets, which are in another package.

use crate::codec::Codec;
use crate::entry::Loaded;
use crate::schema::{RemoteKey, RemoteValue, Schemas};
use crate::tiered::l2::envelope::{EnvelopeCodec, EnvelopeContents};
use crate::tiered::l2::remote::Head;
use std::sync::Arc;
use std::time::Duration;

/// An encoder and decoder of envelopes that all have the same head.
#[derive(Debug)]
pub struct Envelopes<K, V>(EnvelopeCodec<K, V>);

/// The contents of an envelope that its reader uses: the value, the tags and the time to live.
pub(crate) type Contents<V> = (V, Vec<Arc<str>>, Option<Duration>);

impl<K: RemoteKey, V: RemoteValue> Envelopes<K, V> {
    /// Creates an encoder and decoder. Payloads of more than `compress_above` bytes are compressed.
    pub fn new(
        codec: impl Codec<K, V>,
        schemas: Schemas,
        max_size: usize,
        compress_above: Option<usize>,
    ) -> Self {
        let mut envelopes = EnvelopeCodec::new(codec, schemas, max_size);
        envelopes.compress_above = compress_above;
        Self(envelopes)
    }

    /// Encodes a value.
    ///
    /// # Errors
    ///
    /// Returns the reason why the value cannot be stored.
    pub fn encode(&self, key: &K, (value, tags, ttl): &Contents<V>) -> Result<Vec<u8>, String> {
        let head = Head {
            incarnation: *b"incarnat",
            version: 7,
            token: *b"0123456789abcdef",
        };
        let contents = EnvelopeContents {
            key,
            value,
            tags,
            ttl: *ttl,
            load_time: 1_000_000,
        };
        let encoded = self.0.encode(head, &contents);
        encoded.map_err(|reason| format!("{reason:?}"))
    }

    /// Decodes the value of a key.
    ///
    /// # Errors
    ///
    /// Returns the reason why the bytes cannot be read.
    pub fn decode(&self, bytes: &[u8], key: &K) -> Result<Contents<V>, String> {
        let loaded: Loaded<V> = self.0.decode(bytes, key).map_err(|r| format!("{r:?}"))?;
        Ok((loaded.value, loaded.tags, loaded.ttl))
    }
}
