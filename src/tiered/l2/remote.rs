//! The interface of L2, which knows no backend.

use crate::tiered::health::Warning;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_64;

/// Distinguishes the state of a namespace from its state before it was lost, by a restart or by eviction.
pub(crate) type Incarnation = [u8; 8];

/// The id of a cache in one process.
pub(crate) type Peer = u64;

/// The sender of events from programs that receive no messages.
pub(crate) const NO_PEER: Peer = 0;

/// The id of a write: the [`Peer`] that writes, and a number of its own.
pub(crate) type Token = [u8; 16];

/// Returns the number by which L1 knows the write with this token. It is not 0.
pub(crate) fn write_number(token: &Token) -> u64 {
    xxh3_64(token).max(1)
}

/// A position in the order of a namespace's invalidations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Position {
    pub(crate) incarnation: Incarnation,
    pub(crate) version: u64,
}

/// The head of a value or a lease, which distinguishes it from all others under the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) incarnation: Incarnation,
    pub(crate) version: u64,
    pub(crate) token: Token,
}

impl Head {
    /// A head that no value and no lease has.
    pub(crate) const NONE: Self = Self {
        incarnation: [0; 8],
        version: 0,
        token: [0; 16],
    };
}

/// The reason why bytes under a key are not a value for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    Truncated,
    /// The bytes have another format version, or are not the envelope of a value.
    Format,
    Codec,
    Schema,
    Checksum,
    Body,
    /// The codec cannot decode the key and the value.
    Payload,
    /// The value belongs to another key.
    Key,
    TooLarge,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "it is truncated",
            Self::Format => "it has another format version",
            Self::Codec => "it was encoded by another codec",
            Self::Schema => "its key or its value has another schema",
            Self::Checksum => "its checksum is wrong",
            Self::Body => "it is malformed",
            Self::Payload => {
                "its key or its value cannot be decoded, although the schemas are the same"
            }
            Self::Key => "it belongs to another key",
            Self::TooLarge => "it is larger than max_value_size",
        })
    }
}

/// A request for the value of a key.
#[derive(Clone, Copy)]
pub(crate) struct LookupRequest<'a> {
    pub(crate) key: &'a [u8],
    /// The token of the lease that the caller requests if there is no value. `None` if the caller does not load.
    pub(crate) lease_token: Option<Token>,
    /// The token of a value that the caller cannot read. A value with this token counts as none.
    pub(crate) unreadable: Option<Token>,
    /// `true` if only the head of a value is needed.
    pub(crate) head_only: bool,
    /// `true` if the requests of the call have to be answered in their order.
    pub(crate) in_order: bool,
    /// `true` if the value may be of an earlier time, which the reply contains.
    pub(crate) may_be_old: bool,
}

impl<'a> LookupRequest<'a> {
    /// Creates a request of a caller that does not load.
    pub(crate) const fn without_load(key: &'a [u8]) -> Self {
        Self {
            key,
            lease_token: None,
            unreadable: None,
            head_only: false,
            in_order: false,
            may_be_old: false,
        }
    }
}

/// The reply to a [`LookupRequest`].
pub(crate) enum LookupReply {
    Value {
        envelope: Vec<u8>,
        /// The remaining time to live; `None` if the value does not expire.
        left: Option<Duration>,
        /// The version of the namespace when the value was read.
        version: u64,
        /// A time before the request at which the value was current. `None` if it was current after the request.
        current_at: Option<Instant>,
    },
    /// The caller has the lease of the load, and writes the value with this head.
    LeaseGranted {
        head: Head,
        /// `true` if there is a value that is larger than `max_value_size`.
        oversize: bool,
    },
    /// Another process has the lease of the load, for this time at most.
    LeasedElsewhere { left: Duration },
    /// There is no value, and the caller did not request the lease.
    None,
}

/// A value for L2 from the holder of a load lease or a refresh lease, or the release of a load lease without a value.
#[derive(Clone, Copy)]
pub(crate) struct Fill<'a> {
    pub(crate) key: &'a [u8],
    /// The token of the lease, or that of the value that is replaced.
    pub(crate) token: Token,
    /// The envelope of the value. It is empty if the lease is released without a value.
    pub(crate) envelope: &'a [u8],
    pub(crate) ttl: Option<Duration>,
}

/// The subject of an invalidation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    Key(Box<[u8]>),
    Tag(Box<str>),
    All,
}

/// The new value of a key that is invalidated.
#[derive(Clone)]
pub(crate) struct NewValue {
    /// The token that must still be under the key, so that the value is stored. `None` if it replaces whatever is there.
    pub(crate) expected: Option<Token>,
    /// The envelope of the value. If it is empty, nothing is stored, and the reply only says whether the token was
    /// still under the key.
    pub(crate) envelope: Vec<u8>,
    pub(crate) ttl: Option<Duration>,
}

impl NewValue {
    /// Returns the same with an empty envelope, so that it is not stored.
    pub(crate) fn without_envelope(&self) -> Self {
        Self {
            envelope: Vec::new(),
            ..*self
        }
    }
}

/// The result of an invalidation.
pub(crate) struct Invalidated {
    pub(crate) position: Position,
    /// `true` if the expected token was still under the key: no other process has written it.
    pub(crate) untouched: bool,
    /// `true` if the new value was stored.
    pub(crate) stored: bool,
    /// `true` if the new value could not be stored, because it was refused or could not be transferred.
    pub(crate) is_refused: bool,
    /// The peers that may serve from their L1 until they receive this invalidation, each with the longest time for
    /// which it may do so. `None` stands for unknown peers.
    pub(crate) readers: Vec<(Option<Peer>, Duration)>,
}

/// A message to all peers of a namespace, or to one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Message {
    /// The notice of invalidations.
    Event {
        at: Position,
        sender: Peer,
        subjects: Vec<Subject>,
    },
    /// The message that this process sent to itself with [`Remote::renew`]. It follows all events up to `at`.
    Heartbeat { at: Position, nonce: u64 },
    /// The notice that a peer has received all events up to `at`.
    Acknowledgement { by: Peer, at: Position },
    /// The notice that a key for which a process waits has a value, or that its load has failed.
    LoadEnded(Box<[u8]>),
    /// A message that cannot be parsed.
    Malformed,
}

/// The messages of a subscription, in the order of their arrival.
pub(crate) trait Messages: Send {
    /// Waits for the next message.
    ///
    /// # Errors
    ///
    /// Returns an error once the subscription has ended.
    fn next(&mut self) -> RemoteFuture<'_, Message>;

    /// Returns the next message if it has arrived already.
    fn try_next(&mut self) -> Option<Message>;

    /// Closes the connection of the subscription, which other caches may share, if nothing arrives on it for any of them.
    fn close_if_silent(&mut self);
}

/// The future of a call to L2.
pub(crate) type RemoteFuture<'a, T> =
    Pin<Box<dyn Future<Output = Result<T, RemoteError>> + Send + 'a>>;

/// A store that orders the invalidations of a namespace and publishes them: L2.
///
/// Every call ends, with an error if need be, within the deadline that the store was given and the time that large
/// values may take. The exception is [`subscribe`](Self::subscribe), for which no caller waits.
pub(crate) trait Remote: Send + Sync + 'static {
    /// Looks up several keys in one round trip.
    ///
    /// # Errors
    ///
    /// Returns an error if all of them have failed.
    fn lookup<'a>(
        &'a self,
        requests: &'a [LookupRequest<'a>],
    ) -> RemoteFuture<'a, Vec<Result<LookupReply, RemoteError>>>;

    /// Looks up those of several keys whose values may be of an earlier time, without the server that the other calls
    /// need. Returns `None` for each request that [`lookup`](Self::lookup) has to serve. It does not fail.
    fn look_up_on_replicas<'a>(
        &'a self,
        requests: &'a [LookupRequest<'a>],
    ) -> RemoteFuture<'a, Vec<Option<LookupReply>>>;

    /// Stores loaded values. Each is stored only if its lease, or the value that it replaces, is still under the key,
    /// and if neither the key nor a tag of the value was invalidated since the lease was granted. Returns for each
    /// whether it was stored.
    ///
    /// # Errors
    ///
    /// Returns an error if all of them have failed.
    fn fill<'a>(
        &'a self,
        fills: &'a [Fill<'a>],
    ) -> RemoteFuture<'a, Vec<Result<bool, RemoteError>>>;

    /// Increments the version and publishes an event. After this, no [`LookupReply`] contains a value from before.
    fn invalidate<'a>(
        &'a self,
        subject: &'a Subject,
        value: Option<&'a NewValue>,
    ) -> RemoteFuture<'a, Invalidated>;

    /// Returns the largest size of an envelope, in bytes, as far as it is known.
    fn max_value_size(&self) -> usize;

    /// Registers this process as a reader, which serves from its L1 until it receives an invalidation, for `lease` from
    /// now, and sends it a [heartbeat](Message::Heartbeat). With a lease of zero, it is not registered.
    fn renew(&self, nonce: u64, lease: Duration) -> RemoteFuture<'_, ()>;

    /// Returns a position that the namespace has had, as recent as this process knows.
    fn position(&self) -> Option<Position>;

    /// Sends an [acknowledgement](Message::Acknowledgement) of all events up to `at` to peers.
    fn acknowledge<'a>(&'a self, peers: &'a [Peer], at: Position) -> RemoteFuture<'a, ()>;

    /// Returns the address of the server that serves the keys, if there may be several and it is known.
    fn server(&self) -> Option<String>;

    /// Returns `true` while calls are refused, because other processes use the namespace with another number of
    /// partitions.
    fn is_refused(&self) -> bool;

    /// Returns warnings about the configuration of the store, as far as they are known.
    fn warnings(&self) -> Vec<Warning>;

    /// Subscribes to messages. No message is missed between the return of this call and the end of the [`Messages`].
    fn subscribe(&self) -> RemoteFuture<'_, Box<dyn Messages>>;
}

/// The reason why a call to L2 failed. It contains no key, no value and no password.
///
/// # Examples
///
/// ```
/// # use hotset::TieredCache;
/// # async fn example(prices: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
/// use hotset::RemoteError;
///
/// match prices.health().last_error {
///     None => println!("Redis answers"),
///     Some(RemoteError::Timeout) => println!("Redis is slow"),
///     Some(error) => println!("Redis fails: {error}"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum RemoteError {
    /// There was no reply in time.
    Timeout,
    /// The circuit breaker is open, so the call was not made.
    Open,
    /// There is no connection, with the reason.
    Disconnected(String),
    /// It is not certain that the server that replied is the primary, or that enough replicas have the write, with the
    /// reason. The reply does not count.
    Undecided(String),
    /// A large value was not transferred, with the reason. This does not concern small values.
    Transfer(String),
    /// The user lacks a right that a cache needs, with the error of the server.
    Forbidden(String),
    /// The server refused the call or sent a malformed reply, with the reason.
    Refused(String),
}

impl RemoteError {
    /// Returns `true` if the server does not reply to any call. A server that refuses a call replies in time, and a
    /// large value that takes too long does not concern small ones.
    pub(crate) fn is_outage(&self) -> bool {
        match self {
            Self::Timeout | Self::Open | Self::Disconnected(_) | Self::Undecided(_) => true,
            Self::Transfer(_) | Self::Forbidden(_) | Self::Refused(_) => false,
        }
    }
}

/// Serializes the text of the error.
#[cfg(feature = "serde")]
impl serde::Serialize for RemoteError {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("L2 did not reply in time"),
            Self::Open => f.write_str("L2 has failed and is not called until it recovers"),
            Self::Disconnected(why) => write!(f, "there is no connection to L2: {why}"),
            Self::Undecided(why) => write!(f, "the primary of L2 is not certain: {why}"),
            Self::Transfer(why) => write!(f, "a large value was not transferred: {why}"),
            Self::Forbidden(why) => write!(f, "the user of L2 lacks a right: {why}"),
            Self::Refused(why) => write!(f, "L2 refused the call: {why}"),
        }
    }
}

impl std::error::Error for RemoteError {}
