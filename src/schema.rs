//! The traits of keys and values that are stored outside the process, and the names of their shapes.

use serde::{Serialize, de::DeserializeOwned};
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, LinkedList, VecDeque};
use std::ffi::CString;
#[cfg(any(unix, windows))]
use std::ffi::OsString;
use std::hash::{BuildHasher, Hash};
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::num::{
    NonZeroI8, NonZeroI16, NonZeroI32, NonZeroI64, NonZeroI128, NonZeroIsize, NonZeroU8,
    NonZeroU16, NonZeroU32, NonZeroU64, NonZeroU128, NonZeroUsize, Wrapping,
};
use std::ops::{Bound, Range, RangeFrom, RangeInclusive, RangeTo};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A key of a [`TieredCache`](crate::TieredCache).
///
/// Its encoding in `MessagePack`, with field names in a fixed order, is its name in Redis. So equal keys must be
/// serialized alike, in all processes: a key must not contain a set whose order of iteration is arbitrary.
///
/// A key that cannot be serialized, or whose name decodes to another key (for example because a field is skipped, or
/// for `Some(None)`), has no name in Redis. Its value is cached in L1 alone.
///
/// # Examples
///
/// ```
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
/// struct ProductId {
///     shop: u32,
///     number: u64,
/// }
///
/// fn assert_is_key<K: hotset::RemoteKey>() {}
/// assert_is_key::<ProductId>();
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a key in Redis",
    note = "derive `Clone`, `PartialEq`, `Eq`, `Hash`, `serde::Serialize` and `serde::Deserialize` for it"
)]
pub trait RemoteKey:
    Eq + Hash + Clone + Serialize + DeserializeOwned + Send + Sync + 'static
{
}

impl<K: Eq + Hash + Clone + Serialize + DeserializeOwned + Send + Sync + 'static> RemoteKey for K {}

/// A value of a [`TieredCache`](crate::TieredCache).
///
/// # Examples
///
/// ```
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Serialize, Deserialize)]
/// struct Price {
///     cents: u64,
/// }
///
/// fn assert_is_value<V: hotset::RemoteValue>() {}
/// assert_is_value::<Price>();
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a value in Redis",
    note = "derive `Clone`, `serde::Serialize` and `serde::Deserialize` for it"
)]
pub trait RemoteValue: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {}

impl<V: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> RemoteValue for V {}

/// A type of keys or values that are stored in Redis or in snapshots, with the name of its serialized shape.
///
/// A value in Redis whose shape has another name is a miss, and a snapshot with values of another shape is refused. So
/// change the name whenever the meaning or the type of a field changes; then processes of the old and the new version
/// can run side by side. The same holds for keys: the name of their shape is stored with each value.
///
/// The macro [`schema!`](crate::schema!) implements it in one line. For types of other crates, which cannot implement
/// it, there is [`Schemas`].
///
/// # Examples
///
/// ```
/// use hotset::Schema;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Serialize, Deserialize)]
/// struct Price {
///     cents: u64,
///     currency: String,
/// }
///
/// hotset::schema!(Price, "price/2"); // Version 2 added the currency.
///
/// assert_eq!(<Option<Vec<Price>>>::schema(), "option(vec(price/2))");
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not implement `Schema`, which names its serialized shape",
    note = "derive `serde::Serialize` and `serde::Deserialize` for it, and add `hotset::schema!({Self}, \"name/1\");`",
    note = "for a type of another crate, pass `Schemas` to the method whose name ends in `_with_schemas`"
)]
pub trait Schema: Serialize + DeserializeOwned {
    /// Returns the name and version of the shape that serde gives this type.
    fn schema() -> Cow<'static, str>;
}

/// Implements [`Schema`] for a type, with the name and version of its shape.
///
/// A generic type is preceded by its parameters, which become part of the name.
///
/// # Examples
///
/// ```
/// use hotset::Schema;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Product {
///     name: String,
/// }
///
/// #[derive(Serialize, Deserialize)]
/// struct Page<T> {
///     items: Vec<T>,
///     next: Option<u64>,
/// }
///
/// hotset::schema!(Product, "product/1");
/// hotset::schema!(for<T> Page<T>, "page/3");
///
/// assert_eq!(Product::schema(), "product/1");
/// assert_eq!(Page::<Product>::schema(), "page/3(product/1)");
/// ```
#[macro_export]
macro_rules! schema {
    (for<$($parameter:ident),+ $(,)?> $type:ty, $name:expr $(,)?) => {
        impl<$($parameter: $crate::Schema),+> $crate::Schema for $type {
            fn schema() -> ::std::borrow::Cow<'static, str> {
                let parameters = [$(<$parameter as $crate::Schema>::schema()),+];
                ::std::borrow::Cow::Owned(::std::format!("{}({})", $name, parameters.join(",")))
            }
        }
    };
    ($type:ty, $name:expr $(,)?) => {
        impl $crate::Schema for $type {
            fn schema() -> ::std::borrow::Cow<'static, str> {
                ::std::borrow::Cow::Borrowed($name)
            }
        }
    };
}

/// The names of the shapes of a cache's keys and values, as they are stored in Redis and in snapshots.
///
/// Usually a cache takes the names from [`Schema`]. Explicit names allow keys and values of types that another crate
/// defines. Change a name whenever the type's serialized shape changes, for example in a new version of that crate.
///
/// # Examples
///
/// ```
/// # #[cfg(feature = "snapshot")]
/// # {
/// use hotset::{LocalCache, Schema, Schemas};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("documents");
/// // `serde_json::Value` does not implement `Schema`.
/// let documents: LocalCache<u64, serde_json::Value> = LocalCache::new(1_000);
/// let schemas = Schemas::new(u64::schema(), "document/1");
/// documents.insert(1, serde_json::json!({"title": "One"}));
/// documents.snapshot_with_schemas(&path, &schemas)?;
///
/// let documents: LocalCache<u64, serde_json::Value> = LocalCache::new(1_000);
/// documents.restore_with_schemas(&path, &schemas)?;
/// assert_eq!(documents.len(), 1);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schemas {
    key: Cow<'static, str>,
    value: Cow<'static, str>,
}

impl Schemas {
    /// Creates `Schemas` from the names of the shapes of keys and of values.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::Schemas;
    ///
    /// let schemas = Schemas::new("u64", "document/1");
    /// assert_eq!((schemas.key(), schemas.value()), ("u64", "document/1"));
    /// ```
    #[must_use]
    pub fn new(key: impl Into<Cow<'static, str>>, value: impl Into<Cow<'static, str>>) -> Self {
        Self {
            key: key.into(),
            value: value.into(),
        }
    }

    /// Creates `Schemas` from the implementations of [`Schema`] for `K` and `V`.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::Schemas;
    ///
    /// assert_eq!(Schemas::of::<u64, Vec<String>>(), Schemas::new("u64", "vec(String)"));
    /// ```
    #[must_use]
    pub fn of<K: Schema, V: Schema>() -> Self {
        Self::new(K::schema(), V::schema())
    }

    /// Returns the name of the keys' shape.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns the name of the values' shape.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }
}

/// Implements [`Schema`] for types whose name in Rust is the name of their shape.
macro_rules! named {
    ($($type:ty),* $(,)?) => {$(
        impl Schema for $type {
            fn schema() -> Cow<'static, str> {
                Cow::Borrowed(stringify!($type))
            }
        }
    )*};
}

named!(
    (),
    bool,
    char,
    u8,
    u16,
    u32,
    u64,
    u128,
    usize,
    i8,
    i16,
    i32,
    i64,
    i128,
    isize,
    f32,
    f64,
    String,
    CString,
    PathBuf,
    Duration,
    SystemTime,
    IpAddr,
    Ipv4Addr,
    Ipv6Addr,
    SocketAddr,
    SocketAddrV4,
    SocketAddrV6,
);

// serde encodes it on these platforms only.
#[cfg(any(unix, windows))]
named!(OsString);

/// Implements [`Schema`] for types that are serialized like another type.
macro_rules! like {
    ($($type:ty => $like:ty),* $(,)?) => {$(
        impl Schema for $type {
            fn schema() -> Cow<'static, str> {
                <$like>::schema()
            }
        }
    )*};
}

like!(
    NonZeroU8 => u8,
    NonZeroU16 => u16,
    NonZeroU32 => u32,
    NonZeroU64 => u64,
    NonZeroU128 => u128,
    NonZeroUsize => usize,
    NonZeroI8 => i8,
    NonZeroI16 => i16,
    NonZeroI32 => i32,
    NonZeroI64 => i64,
    NonZeroI128 => i128,
    NonZeroIsize => isize,
    Box<str> => String,
    Arc<str> => String,
    Rc<str> => String,
    Box<Path> => PathBuf,
    Arc<Path> => PathBuf,
    Rc<Path> => PathBuf,
);

/// Implements [`Schema`] for pointers and wrappers that are serialized like their content.
macro_rules! transparent {
    ($($type:ty),* $(,)?) => {$(
        impl<T: Schema> Schema for $type {
            fn schema() -> Cow<'static, str> {
                T::schema()
            }
        }
    )*};
}

transparent!(Box<T>, Arc<T>, Rc<T>, Wrapping<T>, Reverse<T>);

impl<T> Schema for Cow<'_, T>
where
    T: ToOwned + Serialize + ?Sized,
    T::Owned: Schema,
{
    fn schema() -> Cow<'static, str> {
        T::Owned::schema()
    }
}

/// Implements [`Schema`] for types that contain elements, as `name(element)`. Types of one name are serialized alike.
macro_rules! containers {
    ($($type:ty [$($bounds:tt)*] => $name:literal),* $(,)?) => {$(
        impl<T: Schema $($bounds)*> Schema for $type {
            fn schema() -> Cow<'static, str> {
                Cow::Owned(format!(concat!($name, "({})"), T::schema()))
            }
        }
    )*};
}

containers!(
    Option<T> [] => "option",
    Vec<T> [] => "vec",
    VecDeque<T> [] => "vec",
    LinkedList<T> [] => "vec",
    Box<[T]> [] => "vec",
    Arc<[T]> [] => "vec",
    Rc<[T]> [] => "vec",
    BinaryHeap<T> [+ Ord] => "heap",
    BTreeSet<T> [+ Ord] => "set",
    Range<T> [] => "range",
    RangeInclusive<T> [] => "range_inclusive",
    RangeFrom<T> [] => "range_from",
    RangeTo<T> [] => "range_to",
    Bound<T> [] => "bound",
);

impl<T: Schema + Eq + Hash, S: BuildHasher + Default> Schema for HashSet<T, S> {
    fn schema() -> Cow<'static, str> {
        Cow::Owned(format!("set({})", T::schema()))
    }
}

impl<K: Schema + Eq + Hash, V: Schema, S: BuildHasher + Default> Schema for HashMap<K, V, S> {
    fn schema() -> Cow<'static, str> {
        map_schema::<K, V>()
    }
}

impl<K: Schema + Ord, V: Schema> Schema for BTreeMap<K, V> {
    fn schema() -> Cow<'static, str> {
        map_schema::<K, V>()
    }
}

fn map_schema<K: Schema, V: Schema>() -> Cow<'static, str> {
    Cow::Owned(format!("map({},{})", K::schema(), V::schema()))
}

impl<T: Schema, E: Schema> Schema for Result<T, E> {
    fn schema() -> Cow<'static, str> {
        Cow::Owned(format!("result({},{})", T::schema(), E::schema()))
    }
}

/// Arrays of up to 32 elements, for which serde implements its traits.
impl<T: Schema, const N: usize> Schema for [T; N]
where
    Self: Serialize + DeserializeOwned,
{
    fn schema() -> Cow<'static, str> {
        Cow::Owned(format!("[{};{N}]", T::schema()))
    }
}

impl<T> Schema for PhantomData<T> {
    fn schema() -> Cow<'static, str> {
        Cow::Borrowed("()")
    }
}

/// Implements [`Schema`] for tuples, as `(first,second)`.
macro_rules! tuples {
    ($($first:ident $($rest:ident)*;)*) => {$(
        impl<$first: Schema, $($rest: Schema),*> Schema for ($first, $($rest,)*) {
            fn schema() -> Cow<'static, str> {
                let parts = [$first::schema(), $($rest::schema()),*];
                Cow::Owned(format!("({})", parts.join(",")))
            }
        }
    )*};
}

tuples! {
    A;
    A B;
    A B C;
    A B C D;
    A B C D E;
    A B C D E F;
    A B C D E F G;
    A B C D E F G H;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_name_all_parts_of_a_type() {
        type Nested = Arc<HashMap<Box<str>, Result<Vec<[u8; 4]>, (i8, Option<usize>)>>>;
        type Eight = (
            u8,
            i128,
            bool,
            char,
            Duration,
            IpAddr,
            Cow<'static, str>,
            Arc<[u8]>,
        );
        assert_eq!(
            Nested::schema(),
            "map(String,result(vec([u8;4]),(i8,option(usize))))"
        );
        assert_eq!(
            Eight::schema(),
            "(u8,i128,bool,char,Duration,IpAddr,String,vec(u8))"
        );
        assert_eq!(<(u8,)>::schema(), "(u8)");
        assert_eq!(Schemas::of::<u8, Box<u16>>(), Schemas::new("u8", "u16"));
    }

    #[test]
    fn schema_of_a_type_does_not_change_between_versions() {
        // Values in Redis and snapshots have these names.
        for (name, expected) in [
            (<Option<Vec<f64>>>::schema(), "option(vec(f64))"),
            (<BTreeSet<NonZeroU64>>::schema(), "set(u64)"),
            (<VecDeque<SystemTime>>::schema(), "vec(SystemTime)"),
            (<(u64, Rc<str>)>::schema(), "(u64,String)"),
            (<()>::schema(), "()"),
        ] {
            assert_eq!(name, expected);
        }
    }
}
