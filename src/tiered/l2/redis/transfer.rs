//! Transfer of values of all sizes, such that large ones neither delay small ones nor use up their deadlines.
//!
//! The reply to a question contains a small value. For a large one it contains the size, and the value is fetched over
//! the connection for large values, when that has room for its bytes. The size of a value that is written is known from
//! the beginning. A failure of that connection concerns large values only: it does not count as an outage.

use crate::tiered::l2::redis::connection::Connection;
use crate::tiered::l2::redis::round_trip::{Confirm, Lane, Replies, RoundTrip};
use crate::tiered::l2::redis::{CALL, CHUNK, Redis, nonsense, parse, position};
use crate::tiered::l2::remote::{
    Answer, Ask, Fill, Head, Invalidated, NewValue, RemoteError, Subject,
};
use futures_util::future::{join_all, try_join_all};
use redis::Value;
use std::time::Duration;

/// Largest size of a value that shares a connection with heartbeats and other small values, in bytes. At
/// 1 Gbit/s it takes an eighth of a millisecond.
pub(crate) const SMALL_VALUE: usize = 16 << 10;

/// Smallest share of a trip that each of many values has, in bytes.
const LEAST_SHARE: usize = 1 << 10;

/// Largest number of bytes that a trip of several values carries.
const TRIP: usize = 256 << 10;

/// Largest number of bytes in flight on the connection for small values. It is one full trip, which takes 2 ms at
/// 1 Gbit/s.
pub(crate) const SMALL_WINDOW: usize = TRIP;

/// Largest number of bytes in flight on the connection for large values, which take 8 ms at 1 Gbit/s.
pub(crate) const BULK_WINDOW: usize = 1 << 20;

/// The reply to a question for a value.
enum Found {
    Here(Answer),
    /// A value of this many bytes, which is not part of the reply.
    Large(usize),
}

/// A question or a value to be transferred, its place in the caller's list, and its number of bytes.
struct Item<T> {
    place: usize,
    what: T,
    bytes: usize,
}

/// Splits items into trips of up to [`CHUNK`] items and [`TRIP`] bytes. An item that is larger than that has a trip of
/// its own.
fn trips<T>(items: Vec<Item<T>>) -> Vec<Vec<Item<T>>> {
    let mut trips: Vec<Vec<Item<T>>> = Vec::new();
    let mut carried = 0;
    for item in items {
        let bytes = CALL + item.bytes;
        match trips.last_mut() {
            Some(trip) if trip.len() < CHUNK && carried + bytes <= TRIP => {
                carried += bytes;
                trip.push(item);
            }
            _ => {
                carried = bytes;
                trips.push(vec![item]);
            }
        }
    }
    trips
}

/// Returns the number of bytes of all items of a trip.
fn bytes_of<T>(items: &[Item<T>]) -> usize {
    items.iter().map(|item| CALL + item.bytes).sum()
}

/// Returns the results, or the first error if all have failed.
fn unless_all_failed<T>(
    mut results: Vec<Result<T, RemoteError>>,
) -> Result<Vec<Result<T, RemoteError>>, RemoteError> {
    if results.is_empty() || results.iter().any(Result::is_ok) {
        return Ok(results);
    }
    // The first of them is an error.
    results.swap_remove(0).map(|_| Vec::new())
}

/// Converts an error on the connection for large values into one that is no outage.
fn of_bulk(error: RemoteError) -> RemoteError {
    match error {
        RemoteError::Timeout | RemoteError::Disconnected(_) => {
            RemoteError::Transfer(error.to_string())
        }
        error => error,
    }
}

impl Redis {
    /// Asks for values.
    pub(crate) async fn ask_all(
        &self,
        asks: &[Ask<'_>],
    ) -> Result<Vec<Result<Answer, RemoteError>>, RemoteError> {
        let expected = self.value_size.get();
        // Values of the expected size fill half of a trip, which leaves room for larger ones.
        let many = (TRIP / (2 * expected.max(1))).clamp(TRIP / SMALL_VALUE, CHUNK);
        let asking = asks.chunks(many).map(|asks| self.ask_small(asks, expected));
        let replies = try_join_all(asking).await?.into_iter().flatten();
        let (mut answers, mut large) = (Vec::with_capacity(asks.len()), Vec::new());
        for (place, (ask, reply)) in asks.iter().zip(replies).enumerate() {
            let found = reply.and_then(|reply| found(ask, reply));
            answers.push(found.map(|found| match found {
                Found::Here(answer) => {
                    if let (false, Answer::Value { envelope, .. }) = (ask.head_only, &answer) {
                        self.value_size.note(envelope.len());
                    }
                    answer
                }
                Found::Large(bytes) => {
                    large.push(Item {
                        place,
                        what: ask,
                        bytes,
                    });
                    Answer::None
                }
            }));
        }
        for (place, fetched) in self.fetch_large(large).await {
            answers[place] = fetched;
        }
        unless_all_failed(answers)
    }

    /// Asks for values. The reply contains those that fit into an equal share of the trip.
    async fn ask_small(&self, asks: &[Ask<'_>], expected: usize) -> Result<Replies, RemoteError> {
        let share = (TRIP / asks.len()).clamp(LEAST_SHARE, SMALL_VALUE);
        let trip = RoundTrip {
            lane: Lane::Small,
            bytes: asks.len() * (CALL + expected.min(share)),
            most: asks.len() * (CALL + share),
            confirm: Confirm::Never,
        };
        let call = |ask: &Ask<'_>, connection: &Connection| self.ask_call(ask, share, connection);
        self.trip(trip, asks, call).await
    }

    /// Fetches values whose sizes are known, and returns each with its place.
    async fn fetch_large(
        &self,
        large: Vec<Item<&Ask<'_>>>,
    ) -> Vec<(usize, Result<Answer, RemoteError>)> {
        let fetching = trips(large).into_iter().map(|items| async move {
            let call = |item: &Item<&Ask<'_>>, connection: &Connection| {
                self.ask_call(item.what, item.bytes, connection)
            };
            let trip = RoundTrip::on(Lane::Bulk, bytes_of(&items));
            let replies = each(self.trip(trip, &items, call).await, items.len());
            let answer = |(item, reply): (Item<&Ask<'_>>, Result<Value, RemoteError>)| {
                let answer = reply.map_err(of_bulk).and_then(|reply| {
                    match found(item.what, reply)? {
                        Found::Here(answer) => Ok(answer),
                        // A larger value was stored under the key meanwhile.
                        Found::Large(_) => {
                            let why = "it was replaced by a larger one".into();
                            Err(RemoteError::Transfer(why))
                        }
                    }
                });
                (item.place, answer)
            };
            items
                .into_iter()
                .zip(replies)
                .map(answer)
                .collect::<Vec<_>>()
        });
        join_all(fetching).await.into_iter().flatten().collect()
    }

    /// Stores values, or gives leases back.
    pub(crate) async fn fill_all(
        &self,
        fills: &[Fill<'_>],
    ) -> Result<Vec<Result<bool, RemoteError>>, RemoteError> {
        let items = fills.iter().enumerate().map(|(place, what)| Item {
            place,
            what,
            bytes: what.envelope.len(),
        });
        let (small, large): (Vec<_>, Vec<_>) = items.partition(|item| item.bytes <= SMALL_VALUE);
        let mut filled = Vec::new();
        for items in trips(small) {
            // Other processes wait for leases that are given back.
            let is_empty = items.iter().all(|item| item.bytes == 0);
            let lane = if is_empty { Lane::Control } else { Lane::Small };
            let replies = self.fill_trip(lane, &items).await?;
            filled.extend(items.iter().map(|item| item.place).zip(replies));
        }
        let storing = trips(large).into_iter().map(|items| async move {
            let replies = each(self.fill_trip(Lane::Bulk, &items).await, items.len());
            let places = items.into_iter().map(|item| item.place);
            places
                .zip(replies.into_iter().map(|reply| reply.map_err(of_bulk)))
                .collect::<Vec<_>>()
        });
        filled.extend(join_all(storing).await.into_iter().flatten());
        filled.sort_unstable_by_key(|(place, _)| *place);
        let filled = filled.into_iter();
        let filled = filled.map(|(_, reply)| reply.map(|reply| reply == Value::Int(1)));
        unless_all_failed(filled.collect())
    }

    /// Makes one trip that stores values or gives leases back.
    async fn fill_trip(
        &self,
        lane: Lane,
        items: &[Item<&Fill<'_>>],
    ) -> Result<Replies, RemoteError> {
        let call =
            |item: &Item<&Fill<'_>>, connection: &Connection| self.fill_call(item.what, connection);
        self.trip(RoundTrip::on(lane, bytes_of(items)), items, call)
            .await
    }

    /// Invalidates and stores the new value. If the value cannot be transferred or is refused, invalidates without it.
    pub(crate) async fn invalidate_with(
        &self,
        subject: &Subject,
        value: Option<&NewValue>,
    ) -> Result<Invalidated, RemoteError> {
        let size = value.map_or(0, |value| value.envelope.len());
        let lane = if size <= SMALL_VALUE {
            Lane::Control
        } else {
            Lane::Bulk
        };
        let mut result = self.invalidate_on(lane, subject, value).await;
        if lane == Lane::Bulk {
            result = result.map_err(of_bulk);
        }
        match (value, result) {
            (Some(value), Err(RemoteError::Transfer(_) | RemoteError::Refused(_))) if size > 0 => {
                let value = value.without_envelope();
                let invalidated = self
                    .invalidate_on(Lane::Control, subject, Some(&value))
                    .await?;
                Ok(Invalidated {
                    is_refused: true,
                    ..invalidated
                })
            }
            (_, result) => result,
        }
    }

    /// Invalidates with one call on the connection of a lane.
    async fn invalidate_on(
        &self,
        lane: Lane,
        subject: &Subject,
        value: Option<&NewValue>,
    ) -> Result<Invalidated, RemoteError> {
        let envelope = value.map_or(0, |value| value.envelope.len());
        let name = match subject {
            Subject::Key(name) => name.len(),
            Subject::Tag(name) => name.len(),
            Subject::All => 0,
        };
        let call = |connection: &Connection| self.invalidate_call(subject, value, connection);
        let trip = RoundTrip::on(lane, CALL + name + envelope).confirmed(Confirm::After);
        let (id, version, untouched, readers) = parse(self.one(trip, call).await?)?;
        let readers: Vec<(String, u64)> = readers;
        let reader = |(peer, left): (String, u64)| {
            let peer = u64::from_str_radix(&peer, 16).ok();
            (peer, Duration::from_millis(left))
        };
        Ok(Invalidated {
            position: position(id, version)?,
            untouched,
            stored: untouched && envelope > 0,
            is_refused: false,
            readers: readers.into_iter().map(reader).collect(),
        })
    }
}

/// Returns the replies of a trip. If the trip has failed, each of them is its error.
fn each(replies: Result<Replies, RemoteError>, many: usize) -> Replies {
    replies.unwrap_or_else(|error| vec![Err(error); many])
}

/// Parses the reply to a question.
fn found(ask: &Ask<'_>, reply: Value) -> Result<Found, RemoteError> {
    let mut parts = reply.into_sequence().map_err(|_| nonsense())?.into_iter();
    let mut part = || parts.next().ok_or_else(nonsense);
    Ok(Found::Here(match parse::<i64>(part()?)? {
        0 => Answer::None,
        1 => {
            let left = parse::<i64>(part()?)?;
            Answer::Value {
                // It is -1 for a value that does not expire.
                left: u64::try_from(left).ok().map(Duration::from_millis),
                envelope: parse(part()?)?,
            }
        }
        2 => Answer::Led {
            left: Duration::from_millis(parse::<i64>(part()?)?.try_into().unwrap_or(0)),
        },
        kind @ (3 | 4) => {
            let at = position(parse(part()?)?, parse(part()?)?)?;
            Answer::Lead {
                head: Head {
                    incarnation: at.incarnation,
                    version: at.version,
                    token: ask.lead.ok_or_else(nonsense)?,
                },
                oversize: kind == 4,
            }
        }
        5 => {
            let bytes = parse(part()?)?;
            if !ask.head_only {
                return Ok(Found::Large(bytes));
            }
            Answer::Value {
                left: None,
                envelope: parse(part()?)?,
            }
        }
        _ => return Err(nonsense()),
    }))
}
