//! What keys and values that are written down are, and what they call their shape.

use serde::{Serialize, de::DeserializeOwned};
use std::borrow::Cow;
use std::hash::Hash;
use std::sync::Arc;

/// What a key of a [`TieredCache`](crate::TieredCache) is: its bytes by `postcard` are its name in Redis. So keys that are
/// equal must be serialized alike, in all processes. One that cannot be serialized is kept in L1 alone,
/// and to invalidate it is to invalidate everything.
pub trait TierKey:
    Eq + Hash + Clone + Serialize + DeserializeOwned + Send + Sync + 'static
{
}

impl<K: Eq + Hash + Clone + Serialize + DeserializeOwned + Send + Sync + 'static> TierKey for K {}

/// What a value of a [`TieredCache`](crate::TieredCache) is.
pub trait TierValue: Schema + Clone + Send + Sync + 'static {}

impl<V: Schema + Clone + Send + Sync + 'static> TierValue for V {}

/// What can be kept in Redis or in a snapshot, and the name of its shape there.
///
/// A value in Redis that was written under another name is a miss, and a snapshot is refused: so change
/// the name whenever a field is added, removed, reordered or given another type, and processes of the
/// old and the new version can run side by side.
///
/// ```
/// use hotset::Schema;
/// use serde::{Deserialize, Serialize};
/// use std::borrow::Cow;
///
/// #[derive(Clone, Serialize, Deserialize)]
/// struct Price {
///     cents: u64,
///     currency: String,
/// }
///
/// impl Schema for Price {
///     fn schema() -> Cow<'static, str> {
///         "price/2".into() // 2: since there is a currency
///     }
/// }
/// assert_eq!(<Option<Vec<Price>>>::schema(), "option(vec(price/2))");
/// ```
pub trait Schema: Serialize + DeserializeOwned {
    /// The name and version of the shape that serde gives this type.
    fn schema() -> Cow<'static, str>;
}

macro_rules! plain {
    ($($type:ty),*) => {$(
        impl Schema for $type {
            fn schema() -> Cow<'static, str> {
                Cow::Borrowed(stringify!($type))
            }
        }
    )*};
}

plain!(
    (),
    bool,
    char,
    u8,
    u16,
    u32,
    u64,
    u128,
    i8,
    i16,
    i32,
    i64,
    i128,
    f32,
    f64,
    String
);

macro_rules! around {
    ($($type:ty => $name:literal),*) => {$(
        impl<T: Schema> Schema for $type {
            fn schema() -> Cow<'static, str> {
                Cow::Owned(format!(concat!($name, "({})"), T::schema()))
            }
        }
    )*};
}

around!(Option<T> => "option", Vec<T> => "vec");

impl<T: Schema> Schema for Box<T> {
    fn schema() -> Cow<'static, str> {
        T::schema()
    }
}

impl<T: Schema> Schema for Arc<T> {
    fn schema() -> Cow<'static, str> {
        T::schema()
    }
}

impl Schema for Arc<str> {
    fn schema() -> Cow<'static, str> {
        String::schema()
    }
}

impl<A: Schema, B: Schema> Schema for (A, B) {
    fn schema() -> Cow<'static, str> {
        Cow::Owned(format!("({},{})", A::schema(), B::schema()))
    }
}
