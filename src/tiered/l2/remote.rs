//! What a tier needs of L2. All that speaks Redis is behind this.

use crate::tiered::health::Warning;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// Tells the state of a namespace from what it was before it was lost, by a restart or by eviction.
pub(crate) type Incarnation = [u8; 8];

/// A process: a cache of a process, rather.
pub(crate) type Peer = u64;

/// Who wrote what lies under a key: a [`Peer`] and a number of its own.
pub(crate) type Token = [u8; 16];

/// A point in the order of a namespace's invalidations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) incarnation: Incarnation,
    pub(crate) version: u64,
}

/// What tells one thing under a key from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) incarnation: Incarnation,
    pub(crate) version: u64,
    pub(crate) token: Token,
}

impl Head {
    /// Of nothing that lies anywhere.
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
    /// Of another format version, or no envelope of a value.
    Format,
    Codec,
    Schema,
    Checksum,
    Body,
    /// The codec cannot decode it.
    Payload,
    /// It is the value of another key.
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

/// A question for the value of a key.
pub(crate) struct Ask<'a> {
    pub(crate) key: &'a [u8],
    /// To lead the load if there is no value: the token to lead under.
    pub(crate) lead: Option<Token>,
    /// A value that this wrote is as good as none: it could not be read.
    pub(crate) refused: Option<Token>,
    /// Of a value, only the head is wanted.
    pub(crate) head_only: bool,
}

/// The answer.
pub(crate) enum Answer {
    Value {
        envelope: Vec<u8>,
        /// What is left of its time to live; `None`: for ever.
        left: Option<Duration>,
    },
    /// The one who asked is to load, and to write under this head.
    Lead {
        head: Head,
        /// There is a value, but of more bytes than it may have.
        oversize: bool,
    },
    /// Another one loads; its lease lasts for as long as this.
    Led { left: Duration },
    /// There is none, and the one who asked did not want to lead.
    None,
}

/// A value for L2, or the word that there is none, from one who leads.
pub(crate) struct Fill<'a> {
    pub(crate) key: &'a [u8],
    /// Of the lease.
    pub(crate) token: Token,
    /// Empty: the lease is given back.
    pub(crate) envelope: &'a [u8],
    pub(crate) ttl: Option<Duration>,
}

/// What an invalidation is of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    Key(Box<[u8]>),
    Tag(Box<str>),
    All,
}

/// The new value of a key that is invalidated.
pub(crate) struct NewValue {
    /// It is stored only if what lies under the key still is what this wrote.
    pub(crate) instead_of: Token,
    /// Empty: the value is not stored, and it is only found out whether it might be.
    pub(crate) envelope: Vec<u8>,
    pub(crate) ttl: Option<Duration>,
}

impl NewValue {
    /// The same, but not to be stored.
    pub(crate) fn without_envelope(&self) -> Self {
        Self {
            envelope: Vec::new(),
            ..*self
        }
    }
}

/// What an invalidation came to.
pub(crate) struct Invalidated {
    pub(crate) position: Position,
    /// Nobody else has written the key since what the new value was to replace.
    pub(crate) untouched: bool,
    /// The new value was stored.
    pub(crate) stored: bool,
    /// It could not be: it was refused, or not transferred.
    pub(crate) is_refused: bool,
    /// Who may serve from its L1 until it has heard of this, and for how long at most. `None` stands
    /// for those who were forgotten.
    pub(crate) readers: Vec<(Option<Peer>, Duration)>,
}

/// A message to all, or to one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Message {
    /// Something was invalidated.
    Event {
        at: Position,
        sender: Peer,
        subject: Subject,
    },
    /// What this process sent itself with [`Remote::renew`], behind all events up to `at`.
    Beat { at: Position, nonce: u64 },
    /// A peer has heard of all up to `at`.
    Heard { by: Peer, at: Position },
    /// A key that somebody waits for has a value, or its load has failed.
    Filled(Box<[u8]>),
    /// None of those.
    Foreign,
}

/// Messages as they come; `None` once there will be no more.
pub(crate) trait Messages: Send {
    fn next(&mut self) -> Reply<'_, Message>;
    /// One that is there already.
    fn ready(&mut self) -> Option<Message>;
}

/// Something that L2 is asked for.
pub(crate) type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, RemoteError>> + Send + 'a>>;

/// L2: a store that gives invalidations an order, and tells of them.
///
/// Every call ends, with an error if need be, within the deadline that the store was given, and the time that
/// large values may take; except [`listen`](Self::listen), for which nobody waits.
pub(crate) trait Remote: Send + Sync + 'static {
    /// Looks several keys up, in one round trip. If all have failed, the call has.
    fn ask<'a>(&'a self, asks: &'a [Ask<'a>]) -> Reply<'a, Vec<Result<Answer, RemoteError>>>;

    /// Stores what was loaded, where its lease still lies under the key and nothing that the value
    /// is of was invalidated since. Says for each whether it was stored. If all have failed, the call has.
    fn fill<'a>(&'a self, fills: &'a [Fill<'a>]) -> Reply<'a, Vec<Result<bool, RemoteError>>>;

    /// Raises the version and tells all. After this no value from before is an [`Answer`].
    fn invalidate<'a>(
        &'a self,
        subject: &'a Subject,
        value: Option<&'a NewValue>,
    ) -> Reply<'a, Invalidated>;

    /// The most bytes that an envelope may have, as far as is known.
    fn max_value_size(&self) -> usize;

    /// Says that this process serves from its L1 until it hears of invalidations, for `lease` from
    /// now, and sends it a [beat](Message::Beat). With a lease of zero it says that it does not.
    fn renew(&self, nonce: u64, lease: Duration) -> Reply<'_, ()>;

    /// Tells peers that this process has heard of all up to `at`.
    fn acknowledge<'a>(&'a self, peers: &'a [Peer], at: Position) -> Reply<'a, ()>;

    /// What is not as a cache needs it, as far as is known.
    fn warnings(&self) -> Vec<Warning>;

    /// Begins to listen: from the moment it has returned, no message is missed as long as the
    /// [`Messages`] last.
    fn listen(&self) -> Reply<'_, Box<dyn Messages>>;
}

/// Why L2 did not answer. It names no key, no value and no password.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum RemoteError {
    /// There was no answer in time.
    Timeout,
    /// The circuit breaker is open: it was not asked.
    Open,
    /// There is no connection.
    Disconnected(String),
    /// It is not certain that the server which answered is the primary, or that enough replicas have
    /// what it was told; why. So its answer does not count.
    Undecided(String),
    /// A large value was not transferred, which says nothing of small ones; why.
    Transfer(String),
    /// Its user may not do what a cache needs; what that is.
    Forbidden(String),
    /// It refused, or said something that makes no sense.
    Refused(String),
}

impl RemoteError {
    /// Returns `true` if the server does not answer, for whatever it is asked. One that refuses a call answers,
    /// and costs nobody a deadline; and a large value that takes too long says nothing of small ones.
    pub(crate) fn is_outage(&self) -> bool {
        match self {
            Self::Timeout | Self::Open | Self::Disconnected(_) | Self::Undecided(_) => true,
            Self::Transfer(_) | Self::Forbidden(_) | Self::Refused(_) => false,
        }
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("Redis did not answer in time"),
            Self::Open => f.write_str("Redis failed lately and is not asked for a while"),
            Self::Disconnected(why) => write!(f, "no connection to Redis: {why}"),
            Self::Undecided(why) => {
                write!(
                    f,
                    "it is not certain which server is the primary of Redis: {why}"
                )
            }
            Self::Transfer(why) => write!(f, "a large value was not transferred: {why}"),
            Self::Forbidden(why) => write!(f, "the user of Redis lacks a right: {why}"),
            Self::Refused(why) => write!(f, "Redis refused: {why}"),
        }
    }
}

impl std::error::Error for RemoteError {}
