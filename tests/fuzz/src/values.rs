//! Types of values that targets encode and decode.

use arbitrary::Arbitrary;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A value with each kind of shape that serde has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Arbitrary)]
pub(crate) enum Value {
    Unit,
    Text(String),
    Bytes(Vec<u8>),
    Numbers {
        small: i8,
        large: u64,
        wide: i128,
    },
    /// `Some(None)` is a value that `MessagePack` encodes like `None`.
    #[allow(clippy::option_option)]
    Optional(Option<Option<bool>>),
    Pair(char, Box<Value>),
    Sequence(Vec<Value>),
    Map(BTreeMap<String, u32>),
}

hotset::schema!(Value, "value/1");
