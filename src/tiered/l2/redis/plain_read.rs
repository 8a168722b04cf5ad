//! Reads of values by plain commands, which cost the server less than a script.
//!
//! A read is one `MGET` of entries and of the [state](State) of the namespace. By the state this process decides what a
//! script would: whether a value belongs to the current incarnation and replication history, and was not invalidated.
//! `MGET` is atomic, so a value that is valid by the state was valid at that time. The remaining time to live is the
//! deadline that the script has stored with the value, minus the latest time that the
//! [server's clock](crate::tiered::l2::redis::server_clock) may show.
//!
//! The state contains the size of the largest value. If that is more than a reply should contain, the read is
//! `GETRANGE` of each entry, and then `GET` of the state, which is newer than the values.
//!
//! What a plain read cannot decide is left to the script: a value with a tag that is older than the last invalidation
//! of any tag, a large value, and a miss of a caller that loads, which needs the load lease.

use crate::tiered::l2::envelope::{DEADLINE_LEN, Envelope, is_lease, split_deadline};
use crate::tiered::l2::redis::Redis;
use crate::tiered::l2::redis::connection::Connection;
use crate::tiered::l2::redis::round_trip::Replies;
use crate::tiered::l2::remote::{
    Head, Incarnation, LookupReply, LookupRequest, Position, RemoteError,
};
use parking_lot::Mutex;
use redis::{Pipeline, Value};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Time by which a value may be overdue, in milliseconds, because the time of the server is not known exactly.
const MAX_OVERDUE: u64 = 1_000;

/// Number of bytes of an entry that the decision needs: the head of a value, and the number of its tags.
const DECISIVE_LEN: usize = 37;

/// Time for which scripts are used after a user lacked the right for a plain read.
const REFUSAL_RETENTION: Duration = Duration::from_secs(60);

/// The state of a namespace, as `state.lua` describes it.
pub(super) struct State<'a> {
    incarnation: Incarnation,
    version: u64,
    /// Version of the last invalidation of all keys.
    clear: u64,
    /// Version of the last invalidation of a tag.
    tagged: u64,
    /// Size of the largest value so far, in bytes.
    largest: u64,
    /// The history in which the incarnation began, with the generation of its layout.
    pub(super) history: &'a [u8],
}

impl<'a> State<'a> {
    /// Parses a state. Returns `None` if there is none.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (incarnation, rest) = bytes.split_first_chunk::<8>()?;
        let (version, rest) = rest.split_first_chunk::<8>()?;
        let (clear, rest) = rest.split_first_chunk::<8>()?;
        let (tagged, rest) = rest.split_first_chunk::<8>()?;
        // In between are the longest read lease and the number of tags.
        let (largest, history) = rest.get(16..)?.split_first_chunk::<8>()?;
        Some(Self {
            incarnation: *incarnation,
            version: u64::from_be_bytes(*version),
            clear: u64::from_be_bytes(*clear),
            tagged: u64::from_be_bytes(*tagged),
            largest: u64::from_be_bytes(*largest),
            history,
        })
    }

    /// Returns the position of the namespace.
    pub(super) fn position(&self) -> Position {
        Position {
            incarnation: self.incarnation,
            version: self.version,
        }
    }

    /// Decides what a script would reply to a request at the time `now` of the server. `bytes` are the entry, or its
    /// beginning if `is_cut`. Returns `None` if a script has to decide.
    pub(super) fn decide(
        &self,
        request: &LookupRequest<'_>,
        mut bytes: Vec<u8>,
        is_cut: bool,
        now: u64,
    ) -> Option<LookupReply> {
        let without_value = || request.lease_token.is_none().then_some(LookupReply::None);
        let is_truncated = bytes.len() < DECISIVE_LEN + DEADLINE_LEN && !is_cut;
        if is_truncated || is_lease(&bytes) {
            return without_value();
        }
        let envelope = Envelope::new(&bytes)?;
        let Head {
            incarnation,
            version,
            ..
        } = envelope.head;
        if incarnation != self.incarnation || version < self.clear {
            return without_value();
        }
        if envelope.tags > 0 && version < self.tagged {
            return None;
        }
        let left = match (is_cut, request.head_only) {
            // The caller needs no more.
            (true, true) => None,
            (true, false) => return None,
            (false, _) => match split_deadline(&mut bytes) {
                // The clock of the server was set back, or is not known well.
                Some(deadline) if deadline.saturating_add(MAX_OVERDUE) < now => return None,
                Some(deadline) => Some(Duration::from_millis(deadline.saturating_sub(now))),
                None => None,
            },
        };
        Some(LookupReply::Value {
            envelope: bytes,
            left,
            version: self.version,
            current_at: None,
        })
    }
}

/// The statistics of plain reads of a namespace, which say whether one is worthwhile: the share of requests that they
/// decide, the size of the largest value, and whether the user has the right for them.
pub(super) struct PlainReads {
    /// The recent share of requests that a plain read decides or would decide, in units of 1 / [`Self::ALL`].
    decided: AtomicU32,
    /// Size of the largest value in the namespace, in bytes, as far as it is known.
    largest: AtomicU64,
    /// The time of the last plain read for which the user lacked the right, with the error of the server.
    refusal: Mutex<Option<(Instant, String)>>,
}

impl PlainReads {
    /// The share of all requests.
    const ALL: u32 = 1 << 16;

    pub(super) fn new() -> Self {
        Self {
            decided: AtomicU32::new(Self::ALL),
            largest: AtomicU64::new(u64::MAX),
            refusal: Mutex::default(),
        }
    }

    /// Checks whether plain reads are worth their cost. What they do not decide costs a script on top of them, so they
    /// are not if that is true of most requests.
    pub(super) fn are_worthwhile(&self, requests: &[LookupRequest<'_>]) -> bool {
        !requests.iter().any(|request| request.in_order)
            && self.decided.load(Relaxed) > Self::ALL / 4
            && self.refusal().is_none()
    }

    /// Notes whether a plain read has decided a request, or would have. Writes do not count, because they look up keys
    /// of which many have no value.
    pub(super) fn note(&self, request: &LookupRequest<'_>, decided: bool) {
        if !request.head_only {
            let share = self.decided.load(Relaxed);
            let target = if decided { Self::ALL } else { 0 };
            // A moving average: each request counts for a sixteenth.
            let next = share - share / 16 + target / 16;
            if next != share {
                self.decided.store(next, Relaxed);
            }
        }
    }

    /// Checks whether each value fits into this many bytes, as far as it is known.
    pub(super) fn are_whole(&self, max_bytes: usize) -> bool {
        let largest = self.largest.load(Relaxed);
        largest.saturating_add(DEADLINE_LEN as u64) <= max_bytes as u64
    }

    /// Notes the size of the largest value.
    pub(super) fn note_largest(&self, state: &State<'_>) {
        self.largest.store(state.largest, Relaxed);
    }

    /// Forgets the size of the largest value, so that the next read does not ask for whole values.
    fn forget_largest(&self) {
        self.largest.store(u64::MAX, Relaxed);
    }

    /// Returns the error of the server if the user lacks the right for plain reads.
    pub(super) fn refusal(&self) -> Option<String> {
        let mut refusal = self.refusal.lock();
        refusal.take_if(|(since, _)| since.elapsed() >= REFUSAL_RETENTION);
        refusal.as_ref().map(|(_, why)| why.clone())
    }

    /// Notes that the user lacks the right for plain reads, but not for scripts.
    pub(super) fn note_refusal(&self, why: String) {
        *self.refusal.lock() = Some((Instant::now(), why));
    }
}

/// The result of plain reads.
pub(super) struct PlainReplies {
    /// The reply to each request, or `None` if a script has to decide.
    pub(super) replies: Vec<Option<LookupReply>>,
    /// The error of the server if the user lacks the right for plain reads.
    pub(super) refusal: Option<String>,
}

impl PlainReplies {
    /// Creates the result if nothing was read.
    pub(super) fn undecided(requests: usize) -> Self {
        Self {
            replies: std::iter::repeat_with(|| None).take(requests).collect(),
            refusal: None,
        }
    }
}

/// Returns the error of the server if it says that the user may not run a command. An error about the name of one key
/// does not.
fn refusal(error: &RemoteError) -> Option<&String> {
    match error {
        RemoteError::Forbidden(why) if why.contains("command") => Some(why),
        _ => None,
    }
}

impl Redis {
    /// Reads values in one round trip. Values that do not fit into an equal share of it are left to scripts.
    pub(super) async fn read_plain(
        &self,
        requests: &[LookupRequest<'_>],
    ) -> Result<PlainReplies, RemoteError> {
        let (round_trip, max_bytes) = self.small_round_trip(requests.len());
        let is_whole = self.plain_reads.are_whole(max_bytes);
        let calls = |_: &Connection| {
            let names = requests.iter().map(|request| self.names.entry(request.key));
            if is_whole {
                self.whole_calls(names)
            } else {
                self.ranged_calls(requests.iter().zip(names), max_bytes)
            }
        };
        let replies = self.call_all(round_trip, calls).await;
        // Larger values may have been stored meanwhile, which take too long.
        let (replies, server) = replies.inspect_err(|_| self.plain_reads.forget_largest())?;
        let mut errors = replies.iter().filter_map(|reply| reply.as_ref().err());
        let refusal = errors.find_map(refusal).cloned();
        let (entries, state) = parse_entries(replies, is_whole);
        let state = state.as_deref().and_then(State::parse);
        let state = state.filter(|state| self.is_valid(state, &server));
        if let Some(state) = &state {
            self.plain_reads.note_largest(state);
            self.note_position(state.position());
        }
        let now = server.clock.latest_time(2 * self.settings.read_lease);
        let decide = |(request, entry): (&LookupRequest<'_>, Option<Vec<u8>>)| {
            let (state, now, bytes) = (state.as_ref()?, now?, entry?);
            let range = range(request, max_bytes);
            let is_cut = !is_whole && bytes.len() > range;
            // The script replaces a value that the caller cannot read, or that is too large.
            let is_readable = request.unreadable.is_none() && self.is_readable(&bytes);
            is_readable.then(|| state.decide(request, bytes, is_cut, now))?
        };
        let mut entries = entries.into_iter();
        let replies = requests
            .iter()
            .map(|request| decide((request, entries.next().flatten())));
        Ok(PlainReplies {
            replies: replies.collect(),
            refusal,
        })
    }

    /// Checks whether a value is not too large for this cache.
    pub(super) fn is_readable(&self, entry: &[u8]) -> bool {
        entry.len() <= self.settings.max_size.saturating_add(DEADLINE_LEN)
    }

    /// Returns the calls of a plain read that replies with whole values.
    fn whole_calls(&self, names: impl Iterator<Item = Vec<u8>>) -> Pipeline {
        let mut calls = Pipeline::with_capacity(1);
        let values = calls.cmd("MGET");
        for name in names {
            values.arg(name);
        }
        values.arg(&self.names.state);
        calls
    }

    /// Returns the calls of a plain read that replies with a range of each value.
    fn ranged_calls<'a>(
        &self,
        requests: impl ExactSizeIterator<Item = (&'a LookupRequest<'a>, Vec<u8>)>,
        max_bytes: usize,
    ) -> Pipeline {
        let mut calls = Pipeline::with_capacity(requests.len() + 1);
        for (request, name) in requests {
            let last = range(request, max_bytes);
            calls.cmd("GETRANGE").arg(name).arg(0).arg(last);
        }
        calls.cmd("GET").arg(&self.names.state);
        calls
    }
}

/// Returns the number of bytes of a value up to which a plain read returns it. One byte more shows that a value is
/// larger.
fn range(request: &LookupRequest<'_>, max_bytes: usize) -> usize {
    if request.head_only {
        DECISIVE_LEN
    } else {
        max_bytes
    }
}

/// Parses the replies to a plain read: the bytes of each entry, and the state.
fn parse_entries(replies: Replies, is_whole: bool) -> (Vec<Option<Vec<u8>>>, Option<Vec<u8>>) {
    let mut replies = replies.into_iter().map(Result::ok);
    let mut entries: Vec<_> = if is_whole {
        let values = replies.next().flatten();
        let values = values.and_then(|values| values.into_sequence().ok());
        values.into_iter().flatten().map(bytes).collect()
    } else {
        replies.map(|reply| bytes(reply?)).collect()
    };
    let state = entries.pop().flatten();
    (entries, state)
}

/// Returns the bytes of a string. A key that does not exist counts as an empty one.
pub(super) fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::Nil => Some(Vec::new()),
        _ => None,
    }
}
