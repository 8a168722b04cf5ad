//! Invalidations: those of concurrent callers share one script, one event and one acknowledgement of each process.
//!
//! All invalidations of a batch have the same version. They are applied in their order, in the script and by the
//! processes that receive the event.

use crate::tiered::l2::envelope::tag_hash;
use crate::tiered::l2::redis::batching::{Batched, Batches, only};
use crate::tiered::l2::redis::connection::Connection;
use crate::tiered::l2::redis::messages::event_payload;
use crate::tiered::l2::redis::round_trip::{PrimaryCheck, PriorityClass, RoundTrip};
use crate::tiered::l2::redis::transfer::{MAX_SMALL_VALUE_SIZE, into_transfer_error};
use crate::tiered::l2::redis::{
    CALL_OVERHEAD, INVALIDATE, MAX_SCRIPT_LEN, Redis, parse, position, ttl_millis,
};
use crate::tiered::l2::remote::{Invalidated, NewValue, RemoteError, Subject};
use redis::Cmd;
use std::sync::Arc;
use std::time::Duration;

/// An invalidation, with the new value of its key.
pub(super) struct Invalidation<'a> {
    subject: &'a Subject,
    value: Option<&'a NewValue>,
}

impl Invalidation<'_> {
    /// Returns the size of the new value, in bytes.
    fn value_len(&self) -> usize {
        self.value.map_or(0, |value| value.envelope.len())
    }

    /// Returns the number of bytes of the call and its event.
    fn bytes(&self) -> usize {
        let name = match self.subject {
            Subject::Key(name) => name.len(),
            Subject::Tag(name) => name.len(),
            Subject::All => 0,
        };
        CALL_OVERHEAD + 2 * name + self.value_len()
    }
}

/// An invalidation that is sent together with those of other callers.
pub(super) struct BatchedInvalidation {
    subject: Subject,
    value: Option<NewValue>,
}

impl BatchedInvalidation {
    fn borrow(&self) -> Invalidation<'_> {
        Invalidation {
            subject: &self.subject,
            value: self.value.as_ref(),
        }
    }
}

impl Batched for BatchedInvalidation {
    type Owner = Redis;
    type Reply = Invalidated;

    fn batches(redis: &Redis) -> &Batches<Self> {
        &redis.invalidations
    }

    fn max_len(_: &Redis) -> usize {
        MAX_SCRIPT_LEN
    }

    async fn send(redis: &Arc<Redis>, calls: &[Self]) -> Result<Vec<Invalidated>, RemoteError> {
        let invalidations: Vec<_> = calls.iter().map(Self::borrow).collect();
        redis
            .invalidate_in(PriorityClass::Control, &invalidations)
            .await
    }
}

impl Redis {
    /// Invalidates and stores the new value. If the value cannot be transferred or is refused, invalidates without it.
    pub(super) async fn invalidate_with(
        self: &Arc<Self>,
        subject: &Subject,
        value: Option<&NewValue>,
    ) -> Result<Invalidated, RemoteError> {
        let size = value.map_or(0, |value| value.envelope.len());
        let result = if size <= MAX_SMALL_VALUE_SIZE {
            self.invalidate_small(subject, value).await
        } else {
            let result = self
                .invalidate_one(PriorityClass::Bulk, subject, value)
                .await;
            result.map_err(into_transfer_error)
        };
        match (value, result) {
            (Some(value), Err(RemoteError::Transfer(_) | RemoteError::Refused(_))) if size > 0 => {
                let value = value.without_envelope();
                let invalidated = self.invalidate_small(subject, Some(&value)).await?;
                Ok(Invalidated {
                    is_refused: true,
                    ..invalidated
                })
            }
            (_, result) => result,
        }
    }

    /// Invalidates, alone or together with other callers.
    async fn invalidate_small(
        self: &Arc<Self>,
        subject: &Subject,
        value: Option<&NewValue>,
    ) -> Result<Invalidated, RemoteError> {
        if let Some(_in_flight) = self.invalidations.begin_single() {
            return self
                .invalidate_one(PriorityClass::Control, subject, value)
                .await;
        }
        let invalidation = BatchedInvalidation {
            subject: subject.clone(),
            value: value.cloned(),
        };
        Batches::send(self, invalidation).await
    }

    async fn invalidate_one(
        &self,
        class: PriorityClass,
        subject: &Subject,
        value: Option<&NewValue>,
    ) -> Result<Invalidated, RemoteError> {
        let invalidation = Invalidation { subject, value };
        only(self.invalidate_in(class, &[invalidation]).await?)
    }

    /// Invalidates with one call of a priority class. Returns a result for each invalidation.
    async fn invalidate_in(
        &self,
        class: PriorityClass,
        invalidations: &[Invalidation<'_>],
    ) -> Result<Vec<Invalidated>, RemoteError> {
        let call = |connection: &Connection| self.invalidate_call(invalidations, connection);
        let bytes = invalidations.iter().map(Invalidation::bytes).sum();
        let round_trip = RoundTrip::new(class, bytes).with_check(PrimaryCheck::After);
        let reply = self.call_once(round_trip, call).await?;
        let (id, version, untouched, readers) = parse(reply)?;
        let (untouched, readers): (Vec<bool>, Vec<(String, u64)>) = (untouched, readers);
        let reader = |(peer, left): (String, u64)| {
            let peer = u64::from_str_radix(&peer, 16).ok();
            (peer, Duration::from_millis(left))
        };
        let readers: Vec<_> = readers.into_iter().map(reader).collect();
        let at = position(id, version)?;
        self.note_position(at);
        let result = |(invalidation, untouched): (&Invalidation<'_>, bool)| Invalidated {
            position: at,
            untouched,
            stored: untouched && invalidation.value_len() > 0,
            is_refused: false,
            readers: readers.clone(),
        };
        Ok(invalidations.iter().zip(untouched).map(result).collect())
    }

    /// Returns the call that invalidates, and stores the new values of keys.
    fn invalidate_call(&self, invalidations: &[Invalidation<'_>], connection: &Connection) -> Cmd {
        let keys = invalidations
            .iter()
            .filter_map(|invalidation| match invalidation.subject {
                Subject::Key(key) => Some(self.names.entry(key)),
                Subject::Tag(_) | Subject::All => None,
            });
        let keys: Vec<_> = keys.collect();
        let mut call = self.call(&INVALIDATE, connection, &keys);
        let subjects = invalidations
            .iter()
            .map(|invalidation| invalidation.subject);
        call.arg(&self.names.events)
            .arg(event_payload(self.own_id, subjects));
        for Invalidation { subject, value } in invalidations {
            match subject {
                Subject::Key(_) => call.arg("k").arg(""),
                Subject::Tag(tag) => call.arg("t").arg(&tag_hash(tag)),
                Subject::All => call.arg("a").arg(""),
            };
            if let Some(value) = value {
                call.arg(value.expected.as_ref().map_or(&b"*"[..], |token| token))
                    .arg(&value.envelope)
                    .arg(ttl_millis(value.ttl));
            } else {
                call.arg("").arg("").arg(0);
            }
        }
        call
    }
}
