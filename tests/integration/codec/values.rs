//! One type for the values of all types.

use crate::Rate;
use crate::shapes::{
    Adjacent, Confusable, Defaulted, DefaultsToOne, Flattened, FlattenedBoth, FlattenedEnum,
    Nested, Newtype, Numbers, Other, Renamed, RenamedOneWay, SkippedOneWay, Skipping, Tagged,
    Transparent, Trees, Tuple, Unit, Untagged,
};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Declares [`Value`], with a conversion from each type.
macro_rules! values {
    ($($name:ident($type:ty),)*) => {
        /// A value of one of the types. The tests store all types in caches of this one, because a cache for each type
        /// would take minutes to compile.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        pub(crate) enum Value {
            $($name($type),)*
        }

        $(impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Self::$name(value)
            }
        })*
    };
}

hotset::schema!(Value, "value/1");

values! {
    Rate(Rate),
    Adjacent(Adjacent),
    Confusable(Confusable),
    Defaulted(Defaulted),
    DefaultsToOne(DefaultsToOne),
    Flattened(Flattened),
    FlattenedBoth(FlattenedBoth),
    FlattenedEnum(FlattenedEnum),
    Nested(Nested),
    Newtype(Newtype),
    Numbers(Numbers),
    Other(Other),
    Renamed(Renamed),
    RenamedOneWay(RenamedOneWay),
    Skipping(Skipping),
    SkippedOneWay(SkippedOneWay),
    Tagged(Tagged),
    Transparent(Transparent),
    Trees(Trees),
    Tuple(Tuple),
    OptionalTuple(Option<Tuple>),
    UnitStruct(Unit),
    Untagged(Untagged),
    Unsigned128(u128),
    Signed128(i128),
    Bytes(Vec<u8>),
    SharedBytes(Arc<[u8]>),
    BoxedText(Box<str>),
    Text(Cow<'static, str>),
    MapWithTuples(HashMap<(u8, bool), Vec<Option<i16>>>),
    MapWithOptions(BTreeMap<Option<String>, f64>),
    MapToSets(BTreeMap<i64, BTreeSet<char>>),
    Set(HashSet<u64>),
    Deque(VecDeque<usize>),
    Arrays([[isize; 2]; 2]),
    Duration(Duration),
    Time(SystemTime),
    Address(IpAddr),
    SocketAddress(SocketAddr),
    Outcome(Result<u8, String>),
    NonZero(NonZeroU32),
    Path(PathBuf),
    Integers((u8, u16, u32, u64, i8, i16, i32, char)),
    Units(((), Option<()>)),
    NestedOption(Option<Option<u8>>),
    OptionalUnit(Option<()>),
}
