//! A subscription and its messages.

use crate::tiered::l2::redis::topology::Primary;
use crate::tiered::l2::remote::{
    Message, Messages, Peer, Position, RemoteError, RemoteFuture, Subject,
};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, PushInfo, PushKind, Value};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Largest number of messages that wait to be read. Further ones are lost, which shows as a gap in their versions.
const MAX_BUFFERED_MESSAGES: usize = 10_000;

/// The subscription of a process: to all events, and to the messages for itself.
pub(super) struct Subscription {
    pushes: mpsc::Receiver<PushInfo>,
    has_ended: bool,
    /// The connection. Dropping it ends the subscription.
    _connection: MultiplexedConnection,
    /// The primary that publishes the messages.
    publisher: Primary,
    /// The current primary.
    primary: watch::Receiver<Option<Primary>>,
}

impl Subscription {
    /// Subscribes to channels on the server `publisher`, for as long as that is the primary. The client speaks RESP3,
    /// which has subscriptions within a shard.
    pub(super) async fn open(
        client: &Client,
        channels: &[String],
        is_sharded: bool,
        connect_timeout: Duration,
        publisher: Primary,
        primary: watch::Receiver<Option<Primary>>,
    ) -> Result<Self, RemoteError> {
        let (sender, pushes) = mpsc::channel(MAX_BUFFERED_MESSAGES);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(connect_timeout))
            .set_response_timeout(None)
            .set_push_sender(move |push| sender.try_send(push));
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        let mut connection = connection.await?;
        let subscribe = if is_sharded {
            "SSUBSCRIBE"
        } else {
            "SUBSCRIBE"
        };
        let mut subscribe = redis::cmd(subscribe);
        subscribe.arg(channels).exec_async(&mut connection).await?;
        Ok(Self {
            pushes,
            has_ended: false,
            _connection: connection,
            publisher,
            primary,
        })
    }

    /// Returns the message in a push, or `None` if the push concerns the subscription itself.
    fn message(&mut self, push: PushInfo) -> Option<Message> {
        match (push.kind, push.data.into_iter().nth(1)) {
            (PushKind::Message | PushKind::SMessage, Some(Value::BulkString(bytes))) => {
                Some(parse_message(&bytes).unwrap_or(Message::Malformed))
            }
            // The slot has moved, or the connection is closed.
            (PushKind::Unsubscribe | PushKind::SUnsubscribe | PushKind::Disconnection, _) => {
                self.has_ended = true;
                None
            }
            _ => None,
        }
    }
}

impl Messages for Subscription {
    fn next(&mut self) -> RemoteFuture<'_, Message> {
        Box::pin(async move {
            while !self.has_ended {
                let publisher = &self.publisher;
                let is_other = |primary: &Option<Primary>| primary.as_ref() != Some(publisher);
                let push = tokio::select! {
                    biased;
                    push = self.pushes.recv() => push,
                    _ = self.primary.wait_for(is_other) => None,
                };
                let Some(push) = push else { break };
                if let Some(message) = self.message(push) {
                    return Ok(message);
                }
            }
            self.has_ended = true;
            Err(RemoteError::Disconnected("the subscription ended".into()))
        })
    }

    fn try_next(&mut self) -> Option<Message> {
        while !self.has_ended {
            let push = self.pushes.try_recv().ok()?;
            if let Some(message) = self.message(push) {
                return Some(message);
            }
        }
        None
    }
}

/// Encodes the part of an event that follows its position: the sender, and the subjects with their lengths.
pub(super) fn event_payload<'a>(
    sender: Peer,
    subjects: impl Iterator<Item = &'a Subject>,
) -> Vec<u8> {
    let mut bytes = sender.to_be_bytes().to_vec();
    for subject in subjects {
        let (kind, name) = match subject {
            Subject::Key(key) => (b'k', &**key),
            Subject::Tag(tag) => (b't', tag.as_bytes()),
            Subject::All => (b'a', &[][..]),
        };
        bytes.push(kind);
        bytes.extend_from_slice(&(name.len() as u64).to_be_bytes());
        bytes.extend_from_slice(name);
    }
    bytes
}

/// Parses the subjects of an event, or returns `None` if they are malformed.
fn parse_subjects(mut bytes: &[u8]) -> Option<Vec<Subject>> {
    let mut subjects = Vec::new();
    while let Some((kind, rest)) = bytes.split_first() {
        let (length, rest) = rest.split_first_chunk::<8>()?;
        let length = usize::try_from(u64::from_be_bytes(*length)).ok()?;
        let (name, rest) = rest.split_at_checked(length)?;
        subjects.push(match kind {
            b'k' => Subject::Key(name.into()),
            b't' => Subject::Tag(std::str::from_utf8(name).ok()?.into()),
            b'a' if name.is_empty() => Subject::All,
            _ => return None,
        });
        bytes = rest;
    }
    Some(subjects)
}

/// Parses a message, or returns `None` if it is malformed.
fn parse_message(bytes: &[u8]) -> Option<Message> {
    let (kind, rest) = bytes.split_first()?;
    if *kind == b'F' {
        return Some(Message::LoadEnded(rest.into()));
    }
    let (incarnation, rest) = rest.split_first_chunk::<8>()?;
    let (version, rest) = rest.split_first_chunk::<8>()?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let at = Position {
        incarnation: *incarnation,
        version: u64::from_be_bytes(*version),
    };
    let number = u64::from_be_bytes(*number);
    match kind {
        b'B' if rest.is_empty() => Some(Message::Heartbeat { at, nonce: number }),
        b'A' if rest.is_empty() => Some(Message::Acknowledgement { by: number, at }),
        b'E' => Some(Message::Event {
            at,
            sender: number,
            subjects: parse_subjects(rest)?,
        }),
        _ => None,
    }
}
