//! Values that cannot be shared or read, as `health()` and the log report them.

use crate::tiered::health::{Warning, count};
use crate::tiered::l2::envelope::{EnvelopeCodec, Unstorable};
use crate::tiered::l2::remote::Unreadable;
use crate::tiered::{Inner, RemoteKey, RemoteValue, name_of};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The time for which a warning about unreadable values lasts after the last one was found. In a deployment that
/// changes a schema, such values are found until all processes have been replaced.
const UNREADABLE_WARNING_DURATION: Duration = Duration::from_secs(600);

/// The defects that were found in a cache's keys and values.
#[derive(Debug, Default)]
pub(crate) struct CodecHealth {
    /// `true` once the encoding of a value decoded to another value.
    altered: AtomicBool,
    /// `true` once a key had no name in L2.
    unencodable: AtomicBool,
    /// The reason for the last unreadable value, and the time at which it was found.
    unreadable: Mutex<Option<(Unreadable, Instant)>>,
}

impl CodecHealth {
    /// Records an unreadable value.
    fn note_unreadable(&self, why: Unreadable, now: Instant) {
        *self.unreadable.lock() = Some((why, now));
    }

    /// Returns the reason for the last unreadable value, if the warning about it still lasts.
    fn unreadable(&self, now: Instant) -> Option<Unreadable> {
        let (why, found) = (*self.unreadable.lock())?;
        let age = now.saturating_duration_since(found);
        (age < UNREADABLE_WARNING_DURATION).then_some(why)
    }
}

fn altered_warning<K, V>(codec: &EnvelopeCodec<K, V>) -> Warning {
    Warning::AlteredValues {
        codec: codec.name.to_string(),
        schema: codec.schemas.value().to_owned(),
    }
}

fn unencodable_warning<K, V>(codec: &EnvelopeCodec<K, V>) -> Warning {
    Warning::UnencodableKeys {
        schema: codec.schemas.key().to_owned(),
    }
}

impl<K, V> Inner<K, V> {
    /// Returns warnings about keys and values. The [background tasks](crate::tiered::coherence::background) log their
    /// changes at the next heartbeat.
    pub(crate) fn codec_warnings(&self) -> Vec<Warning> {
        let health = &self.codec_health;
        let is_altered = health.altered.load(Relaxed);
        let is_unencodable = health.unencodable.load(Relaxed);
        let unreadable = health.unreadable(Instant::now());
        let all = [
            is_altered.then(|| altered_warning(&self.codec)),
            is_unencodable.then(|| unencodable_warning(&self.codec)),
            unreadable.map(|why| Warning::UnreadableValues(why.to_string())),
        ];
        all.into_iter().flatten().collect()
    }

    /// Counts a value in L2 that cannot be read.
    pub(crate) fn note_unreadable(&self, why: Unreadable) {
        count(&self.counters.unreadable);
        self.codec_health.note_unreadable(why, Instant::now());
    }

    /// Counts a value that is not stored in L2.
    pub(crate) fn note_unstorable(&self, why: Unstorable) {
        if why != Unstorable::Altered {
            return count(&self.counters.unstorable);
        }
        count(&self.counters.altered);
        self.codec_health.altered.store(true, Relaxed);
    }
}

impl<K: RemoteKey, V: RemoteValue> Inner<K, V> {
    /// Returns the name of a key in L2, like [`name_of`]. Counts keys without a name.
    pub(crate) fn key_name(&self, key: &K) -> Option<Box<[u8]>> {
        let name = name_of(key);
        if name.is_none() {
            count(&self.counters.unencodable);
            self.codec_health.unencodable.store(true, Relaxed);
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warning_about_unreadable_values_ends_a_time_after_the_last_one() {
        let health = CodecHealth::default();
        let start = Instant::now();
        assert_eq!(health.unreadable(start), None);
        health.note_unreadable(Unreadable::Schema, start);
        let later = start + UNREADABLE_WARNING_DURATION / 2;
        health.note_unreadable(Unreadable::Checksum, later);
        let end = later + UNREADABLE_WARNING_DURATION;
        let just_before = end.checked_sub(Duration::from_millis(1)).unwrap();
        assert_eq!(health.unreadable(just_before), Some(Unreadable::Checksum));
        assert_eq!(health.unreadable(end), None);
        health.note_unreadable(Unreadable::Schema, end);
        assert_eq!(health.unreadable(end), Some(Unreadable::Schema));
    }
}
