//! Transfer of values of all sizes, such that large ones neither delay small ones nor use up their deadlines.
//!
//! The reply to a request contains a small value. For a large one it contains the size, and the value is requested
//! again over the connection for large values, when that has room for its bytes. The size of a value that is written is
//! known from the beginning. A failure of that connection concerns large values only: it does not count as an outage.

use crate::tiered::l2::envelope::split_deadline;
use crate::tiered::l2::redis::batching::only;
use crate::tiered::l2::redis::connection::Connection;
use crate::tiered::l2::redis::plain_read::PlainReplies;
use crate::tiered::l2::redis::round_trip::{PriorityClass, Replies, RoundTrip};
use crate::tiered::l2::redis::{
    CALL_OVERHEAD, MAX_CALLS, MAX_SCRIPT_LEN, Redis, malformed_reply, parse, position,
};
use crate::tiered::l2::remote::{Fill, Head, LookupReply, LookupRequest, RemoteError};
use futures_util::future::{join_all, try_join_all};
use redis::{Cmd, Value};
use std::sync::Arc;
use std::time::Duration;

/// Largest size of a value that shares a connection with heartbeats and other small values, in bytes. At
/// 1 Gbit/s it takes an eighth of a millisecond.
pub(super) const MAX_SMALL_VALUE_SIZE: usize = 16 << 10;

/// Smallest share of a round trip for each of many values, in bytes.
const MIN_SHARE: usize = 1 << 10;

/// Largest number of bytes in a round trip with several values.
const MAX_BATCH_SIZE: usize = 256 << 10;

/// Largest number of bytes in flight on the connection for small values. It is one full round trip, which takes 2 ms at
/// 1 Gbit/s.
pub(super) const SMALL_WINDOW: usize = MAX_BATCH_SIZE;

/// Largest number of bytes in flight on the connection for large values, which take 8 ms at 1 Gbit/s.
pub(super) const BULK_WINDOW: usize = 1 << 20;

/// The parsed reply to a request for a value.
pub(super) enum ParsedReply {
    Complete(LookupReply),
    /// There is a value of this many bytes, which is not part of the reply.
    Large(usize),
}

/// A request or a value to be transferred.
struct Item<T> {
    /// Index in the caller's list.
    index: usize,
    request: T,
    /// Number of bytes of the value.
    bytes: usize,
}

/// Splits items into batches of up to [`MAX_CALLS`] items and [`MAX_BATCH_SIZE`] bytes, one for each round trip. A
/// larger item has a batch of its own.
fn batches<T>(items: Vec<Item<T>>) -> Vec<Vec<Item<T>>> {
    let mut batches: Vec<Vec<Item<T>>> = Vec::new();
    let mut batch_bytes = 0;
    for item in items {
        let bytes = CALL_OVERHEAD + item.bytes;
        match batches.last_mut() {
            Some(batch) if batch.len() < MAX_CALLS && batch_bytes + bytes <= MAX_BATCH_SIZE => {
                batch_bytes += bytes;
                batch.push(item);
            }
            _ => {
                batch_bytes = bytes;
                batches.push(vec![item]);
            }
        }
    }
    batches
}

/// Returns the number of bytes of a round trip with these items.
fn total_bytes<T>(items: &[Item<T>]) -> usize {
    items.iter().map(|item| CALL_OVERHEAD + item.bytes).sum()
}

/// Returns the results, or the first error if all have failed.
pub(super) fn unless_all_failed<T>(
    mut results: Vec<Result<T, RemoteError>>,
) -> Result<Vec<Result<T, RemoteError>>, RemoteError> {
    if results.is_empty() || results.iter().any(Result::is_ok) {
        return Ok(results);
    }
    // The first result is an error.
    results.swap_remove(0).map(|_| Vec::new())
}

/// Converts an error on the connection for large values into one that is not an outage.
pub(super) fn into_transfer_error(error: RemoteError) -> RemoteError {
    match error {
        RemoteError::Timeout | RemoteError::Disconnected(_) => {
            RemoteError::Transfer(error.to_string())
        }
        error => error,
    }
}

impl Redis {
    /// Requests values.
    pub(super) async fn lookup_all(
        self: &Arc<Self>,
        requests: &[LookupRequest<'_>],
    ) -> Result<Vec<Result<LookupReply, RemoteError>>, RemoteError> {
        let batch_len = self.batch_len();
        let replies = if requests.len() <= batch_len {
            self.lookup_small(requests).await?
        } else {
            let batches = requests.chunks(batch_len);
            let batches = batches.map(|requests| self.lookup_small(requests));
            try_join_all(batches).await?.into_iter().flatten().collect()
        };
        let (mut results, mut large) = (Vec::with_capacity(requests.len()), Vec::new());
        for (index, (request, reply)) in requests.iter().zip(replies).enumerate() {
            results.push(reply.map(|reply| match reply {
                ParsedReply::Complete(reply) => {
                    if let (false, LookupReply::Value { envelope, .. }) =
                        (request.head_only, &reply)
                    {
                        self.value_size.note(envelope.len());
                    }
                    reply
                }
                ParsedReply::Large(bytes) => {
                    large.push(Item {
                        index,
                        request,
                        bytes,
                    });
                    LookupReply::None
                }
            }));
        }
        for (index, reply) in self.lookup_large(large).await {
            results[index] = reply;
        }
        unless_all_failed(results)
    }

    /// Returns the number of values in a round trip. Values of the expected size fill half of it, which leaves room for
    /// larger ones.
    pub(super) fn batch_len(&self) -> usize {
        let len = MAX_BATCH_SIZE / (2 * self.value_size.get().max(1));
        len.clamp(MAX_BATCH_SIZE / MAX_SMALL_VALUE_SIZE, MAX_CALLS)
    }

    /// Returns a round trip for this many values, and the share of each, in bytes.
    pub(super) fn small_round_trip(&self, values: usize) -> (RoundTrip, usize) {
        let share = (MAX_BATCH_SIZE / values.max(1)).clamp(MIN_SHARE, MAX_SMALL_VALUE_SIZE);
        let expected = self.value_size.get().min(share);
        let bytes = values * (CALL_OVERHEAD + expected);
        let round_trip = RoundTrip {
            max_bytes: values * (CALL_OVERHEAD + share),
            ..RoundTrip::new(PriorityClass::Small, bytes)
        };
        (round_trip, share)
    }

    /// Requests values by [plain reads](crate::tiered::l2::redis::plain_read), and what these do not decide by scripts
    /// in another round trip. The replies contain the values that fit into an equal share of a round trip.
    async fn lookup_small(
        self: &Arc<Self>,
        requests: &[LookupRequest<'_>],
    ) -> Result<Vec<Result<ParsedReply, RemoteError>>, RemoteError> {
        let reads_plain = self.plain_reads.are_worthwhile(requests);
        let plain = match requests {
            _ if !reads_plain => Ok(PlainReplies::undecided(requests.len())),
            [request] => self.read_one(request).await,
            requests => self.read_plain(requests).await,
        };
        let PlainReplies {
            replies: decided,
            refusal,
        } = plain?;
        let undecided = requests.iter().zip(&decided);
        let undecided = undecided.filter(|(_, reply)| reply.is_none());
        let undecided: Vec<_> = undecided.map(|(request, _)| request).collect();
        let mut replies = Vec::new();
        match undecided[..] {
            [] => {}
            [request] => replies.push(self.look_up_one(request).await),
            _ => replies = self.look_up_by_script(&undecided).await?,
        }
        if let Some(refusal) = refusal.filter(|_| replies.iter().any(Result::is_ok)) {
            self.plain_reads.note_refusal(refusal);
        }
        let mut replies = replies.into_iter();
        let complete = |(request, decided): (_, Option<LookupReply>)| {
            if let Some(reply) = decided {
                self.plain_reads.note(request, true);
                return Ok(ParsedReply::Complete(reply));
            }
            let reply = replies.next().ok_or_else(malformed_reply)??;
            // If no plain read was tried, the reply shows whether one would have decided.
            let is_small_value = matches!(reply, ParsedReply::Complete(LookupReply::Value { .. }));
            self.plain_reads
                .note(request, !reads_plain && is_small_value);
            Ok(reply)
        };
        Ok(requests.iter().zip(decided).map(complete).collect())
    }

    /// Requests values by scripts in one round trip. The replies contain the values that fit into an equal share of it.
    pub(super) async fn look_up_by_script(
        &self,
        requests: &[&LookupRequest<'_>],
    ) -> Result<Vec<Result<ParsedReply, RemoteError>>, RemoteError> {
        let (round_trip, share) = self.small_round_trip(requests.len());
        let call = |requests: &[&LookupRequest<'_>], connection: &Connection| {
            self.lookup_call(requests.iter().map(|&request| (request, share)), connection)
        };
        let replies = self.call_scripts(round_trip, requests, call).await?;
        self.settings.layout.check_read(self.partition)?;
        let replies = requests.iter().zip(replies);
        let parsed = replies.map(|(request, reply)| parse_reply(request, reply?));
        Ok(parsed.collect())
    }

    /// Calls a script for items in one round trip, with up to [`MAX_SCRIPT_LEN`] items in each call. Returns a reply for
    /// each item.
    ///
    /// If the server refuses a call for several items, each of them is sent again in a call of its own, because the
    /// reason may concern one of them only.
    async fn call_scripts<T>(
        &self,
        round_trip: RoundTrip,
        items: &[T],
        call: impl Fn(&[T], &Connection) -> Cmd,
    ) -> Result<Replies, RemoteError> {
        let call = |items: &&[T], connection: &Connection| call(items, connection);
        let parts: Vec<&[T]> = items.chunks(MAX_SCRIPT_LEN).collect();
        let replies = self.call_each(round_trip, &parts, call).await?;
        let mut all = Vec::with_capacity(items.len());
        for (part, reply) in parts.into_iter().zip(replies) {
            let replies = match reply.and_then(|reply| item_replies(reply, part.len())) {
                Ok(replies) => replies.into_iter().map(Ok).collect(),
                Err(_) if part.len() > 1 => {
                    let singles: Vec<&[T]> = part.chunks(1).collect();
                    let replies = self.call_each(round_trip, &singles, call).await;
                    let replies = replies_or_errors(replies, part.len()).into_iter();
                    let single = |reply: Result<_, _>| only(item_replies(reply?, 1)?);
                    replies.map(single).collect()
                }
                Err(error) => vec![Err(error)],
            };
            all.extend(replies);
        }
        Ok(all)
    }

    /// Requests values whose sizes are known. Returns each with its index.
    async fn lookup_large(
        &self,
        large: Vec<Item<&LookupRequest<'_>>>,
    ) -> Vec<(usize, Result<LookupReply, RemoteError>)> {
        let requests = batches(large).into_iter().map(|items| async move {
            let call = |items: &[Item<&LookupRequest<'_>>], connection: &Connection| {
                let requests = items.iter().map(|item| (item.request, item.bytes));
                self.lookup_call(requests, connection)
            };
            let round_trip = RoundTrip::new(PriorityClass::Bulk, total_bytes(&items));
            let replies = self.call_scripts(round_trip, &items, call).await;
            let is_read = self.settings.layout.check_read(self.partition);
            let replies = is_read.and(replies);
            let replies = replies_or_errors(replies, items.len());
            let results = items.into_iter().zip(replies);
            results.map(parse_large_reply).collect::<Vec<_>>()
        });
        join_all(requests).await.into_iter().flatten().collect()
    }

    /// Stores values, or releases leases. Returns a result for each.
    pub(super) async fn fill_each(
        &self,
        fills: &[Fill<'_>],
    ) -> Result<Vec<Result<bool, RemoteError>>, RemoteError> {
        let items = fills.iter().enumerate().map(|(index, fill)| Item {
            index,
            request: fill,
            bytes: fill.envelope.len(),
        });
        let (small, large): (Vec<_>, Vec<_>) =
            items.partition(|item| item.bytes <= MAX_SMALL_VALUE_SIZE);
        let mut filled = Vec::new();
        for items in batches(small) {
            // Other processes wait for leases that are released.
            let only_leases = items.iter().all(|item| item.bytes == 0);
            let class = if only_leases {
                PriorityClass::Control
            } else {
                PriorityClass::Small
            };
            let replies = self.fill_batch(class, &items).await?;
            filled.extend(items.iter().map(|item| item.index).zip(replies));
        }
        let storing = batches(large).into_iter().map(|items| async move {
            let replies = self.fill_batch(PriorityClass::Bulk, &items).await;
            let replies = replies_or_errors(replies, items.len()).into_iter();
            let replies = replies.map(|reply| reply.map_err(into_transfer_error));
            let indices = items.into_iter().map(|item| item.index);
            indices.zip(replies).collect::<Vec<_>>()
        });
        filled.extend(join_all(storing).await.into_iter().flatten());
        filled.sort_unstable_by_key(|(index, _)| *index);
        let filled = filled.into_iter();
        let filled = filled.map(|(_, reply)| reply.map(|reply| reply == Value::Int(1)));
        Ok(filled.collect())
    }

    /// Stores values or releases leases, in one round trip.
    async fn fill_batch(
        &self,
        class: PriorityClass,
        items: &[Item<&Fill<'_>>],
    ) -> Result<Replies, RemoteError> {
        let call = |items: &[Item<&Fill<'_>>], connection: &Connection| {
            self.fill_call(items.iter().map(|item| item.request), connection)
        };
        let round_trip = RoundTrip::new(class, total_bytes(items));
        self.call_scripts(round_trip, items, call).await
    }
}

/// Returns the replies of a script to each of its items.
fn item_replies(reply: Value, items: usize) -> Result<Vec<Value>, RemoteError> {
    let replies = reply.into_sequence().map_err(|_| malformed_reply())?;
    if replies.len() != items {
        return Err(malformed_reply());
    }
    Ok(replies)
}

/// Returns the replies of a round trip. If the round trip has failed, each reply is its error.
fn replies_or_errors(replies: Result<Replies, RemoteError>, len: usize) -> Replies {
    replies.unwrap_or_else(|error| vec![Err(error); len])
}

/// Parses the reply to a request for a value whose size was known.
fn parse_large_reply(
    (item, reply): (Item<&LookupRequest<'_>>, Result<Value, RemoteError>),
) -> (usize, Result<LookupReply, RemoteError>) {
    let parsed = reply
        .map_err(into_transfer_error)
        .and_then(|reply| parse_reply(item.request, reply));
    let reply = match parsed {
        Ok(ParsedReply::Complete(reply)) => Ok(reply),
        // A larger value was stored under the key meanwhile.
        Ok(ParsedReply::Large(_)) => Err(RemoteError::Transfer(
            "it was replaced by a larger one".into(),
        )),
        Err(error) => Err(error),
    };
    (item.index, reply)
}

/// Parses the reply to a request for a value.
fn parse_reply(request: &LookupRequest<'_>, reply: Value) -> Result<ParsedReply, RemoteError> {
    let mut parts = reply
        .into_sequence()
        .map_err(|_| malformed_reply())?
        .into_iter();
    let mut part = || parts.next().ok_or_else(malformed_reply);
    Ok(ParsedReply::Complete(match parse::<i64>(part()?)? {
        0 => LookupReply::None,
        1 => {
            let left = parse::<i64>(part()?)?;
            let mut envelope = parse(part()?)?;
            split_deadline(&mut envelope);
            LookupReply::Value {
                // It is -1 for a value that does not expire.
                left: u64::try_from(left).ok().map(Duration::from_millis),
                envelope,
                version: parse(part()?)?,
                current_at: None,
            }
        }
        2 => LookupReply::LeasedElsewhere {
            left: Duration::from_millis(parse::<i64>(part()?)?.try_into().unwrap_or(0)),
        },
        kind @ (3 | 4) => {
            let at = position(parse(part()?)?, parse(part()?)?)?;
            LookupReply::LeaseGranted {
                head: Head {
                    incarnation: at.incarnation,
                    version: at.version,
                    token: request.lease_token.ok_or_else(malformed_reply)?,
                },
                oversize: kind == 4,
            }
        }
        5 => {
            let bytes = parse(part()?)?;
            if !request.head_only {
                return Ok(ParsedReply::Large(bytes));
            }
            LookupReply::Value {
                left: None,
                envelope: parse(part()?)?,
                version: parse(part()?)?,
                current_at: None,
            }
        }
        _ => return Err(malformed_reply()),
    }))
}
