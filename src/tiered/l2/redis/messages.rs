//! The encoding of messages on channels.

use crate::tiered::l2::remote::{Message, Peer, Position, Subject};

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
pub(super) fn parse_message(bytes: &[u8]) -> Option<Message> {
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
