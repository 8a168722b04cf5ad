//! Types with all of serde's attributes, and all types that have a `Schema`.

use crate::servers::Server;
use crate::{MINUTE, Rate, Stored, cache, store};
use hotset::{LocalCache, Propagation, TieredCache};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use support::caches::wait_until_proven;

/// Declares types, each with a `Schema`.
macro_rules! shapes {
    ($($(#[$attribute:meta])* $kind:ident $name:ident $body:tt $(; $end:tt)?)*) => {$(
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        $(#[$attribute])*
        pub(crate) $kind $name $body

        hotset::schema!($name, concat!(stringify!($name), "/1"));
    )*};
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde requires a reference.
fn is_zero(number: &u8) -> bool {
    *number == 0
}

fn one() -> u8 {
    1
}

shapes! {
    enum Skipping {
        First { value: u8 },
        #[serde(skip_deserializing)]
        Written { value: u8 },
        #[serde(skip)]
        Neither,
        Last { value: u8 },
    }

    enum Other {
        Known,
        Renamed,
        #[serde(other)]
        Unknown,
    }

    #[serde(tag = "kind")]
    enum Tagged {
        Circle { radius: f64 },
        Square { side: u32 },
        Point,
        Inner(Rate),
    }

    #[serde(tag = "kind", content = "of")]
    enum Adjacent {
        Number(i64),
        Pair(u8, String),
        Named { text: String, bytes: Vec<u8> },
        Nothing,
    }

    #[serde(untagged)]
    enum Untagged {
        Number(i64),
        Text(String),
        List(Vec<u8>),
        Named { a: u8, b: Option<u8> },
    }

    #[serde(untagged)]
    enum Confusable {
        Unsigned(u64),
        Signed(i64),
    }

    struct Flattened {
        id: u32,
        #[serde(flatten)]
        rate: Rate,
        #[serde(flatten)]
        rest: BTreeMap<String, u64>,
    }

    struct FlattenedEnum {
        id: u32,
        #[serde(flatten)]
        rate: Rate,
        #[serde(flatten)]
        kind: Tagged,
    }

    struct FlattenedBoth {
        #[serde(flatten)]
        kind: Tagged,
        #[serde(flatten)]
        rest: BTreeMap<String, u64>,
    }

    #[serde(rename_all = "kebab-case", deny_unknown_fields)]
    struct Renamed {
        #[serde(rename = "the first", alias = "one")]
        first_field: u8,
        #[serde(alias = "two")]
        second_field: String,
    }

    #[derive(Default)]
    #[serde(default)]
    struct Defaulted {
        #[serde(skip_serializing_if = "is_zero")]
        a: u8,
        #[serde(skip_serializing_if = "String::is_empty")]
        b: String,
    }

    struct DefaultsToOne {
        #[serde(default = "one", skip_serializing_if = "is_zero")]
        number: u8,
    }

    struct RenamedOneWay {
        #[serde(rename(serialize = "a", deserialize = "b"))]
        number: u8,
    }

    struct SkippedOneWay {
        #[serde(skip_deserializing)]
        number: u8,
        other: u8,
    }

    struct Trees {
        name: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        left: Option<Box<Trees>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        right: Option<Box<Trees>>,
    }

    enum Nested {
        Unit,
        Newtype(Box<Nested>),
        Tuple(u8, Option<Box<Nested>>),
        Struct { inner: Vec<Nested>, tagged: Tagged },
    }

    #[serde(transparent)]
    struct Transparent {
        inner: Rate,
    }

    struct Numbers {
        unsigned: u128,
        signed: i128,
        single: f32,
        double: f64,
        letter: char,
        size: usize,
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Unit;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Newtype(Rate);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tuple(u8, Option<u8>, Unit);

hotset::schema!(Unit, "unit/1");
hotset::schema!(Newtype, "newtype/1");
hotset::schema!(Tuple, "tuple/1");

fn rates() -> Vec<Rate> {
    let options = [None, Some(0), Some(1)];
    let rates = options.into_iter().flat_map(|first| {
        options.into_iter().flat_map(move |last| {
            [0, 1].map(|amount| Rate {
                first,
                amount,
                last,
            })
        })
    });
    rates.collect()
}

fn tagged() -> Vec<Tagged> {
    vec![
        Tagged::Circle { radius: 1.5 },
        Tagged::Square { side: 7 },
        Tagged::Point,
        Tagged::Inner(rates().remove(3)),
    ]
}

macro_rules! assert_stored {
    ($server:ident, $expected:ident, $($values:expr),+ $(,)?) => {$(
        let stored = store(&$server, &$values).await;
        assert_eq!(stored, Stored::$expected, "{}", stringify!($values));
    )+};
}

#[tokio::test(flavor = "multi_thread")]
async fn values_with_serde_attributes_are_read_as_they_were_written() {
    let server = Server::start();
    assert_stored!(server, All, rates(), tagged());
    assert_stored!(
        server,
        All,
        [Skipping::First { value: 1 }, Skipping::Last { value: 2 }]
    );
    assert_stored!(server, All, [Other::Known, Other::Renamed, Other::Unknown]);
    assert_stored!(
        server,
        All,
        [
            Adjacent::Number(-1),
            Adjacent::Pair(7, "a".into()),
            Adjacent::Named {
                text: "a".into(),
                bytes: vec![0, 255]
            },
            Adjacent::Nothing,
        ]
    );
    assert_stored!(
        server,
        All,
        [
            Untagged::Number(-1),
            Untagged::Text("a".into()),
            Untagged::List(vec![0, 255]),
            // Bytes that are a valid text.
            Untagged::List(b"abc".to_vec()),
            Untagged::Named { a: 1, b: None },
        ]
    );
    let flattened = rates().into_iter().map(|rate| Flattened {
        id: 7,
        rate,
        rest: BTreeMap::from([("other".into(), 8)]),
    });
    assert_stored!(server, All, flattened.collect::<Vec<_>>());
    let kinds = [
        Tagged::Point,
        Tagged::Square { side: 1 },
        tagged().remove(0),
    ];
    let flattened = kinds.map(|kind| FlattenedEnum {
        id: 7,
        rate: rates().remove(5),
        kind,
    });
    assert_stored!(server, All, flattened);
    let renamed = Renamed {
        first_field: 1,
        second_field: "b".into(),
    };
    assert_stored!(server, All, [renamed]);
    assert_stored!(
        server,
        All,
        [
            Defaulted::default(),
            Defaulted {
                a: 7,
                b: String::new()
            },
            Defaulted {
                a: 0,
                b: "b".into()
            },
        ]
    );
    assert_stored!(server, All, [DefaultsToOne { number: 1 }]);
    let inner = rates().remove(4);
    assert_stored!(
        server,
        All,
        [Newtype(inner.clone())],
        [Transparent { inner }]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nested_values_and_plain_types_are_read_as_they_were_written() {
    let server = Server::start();
    let leaf = |name: &str| Trees {
        name: name.into(),
        left: None,
        right: None,
    };
    let tree = Trees {
        name: "root".into(),
        left: None,
        right: Some(Box::new(leaf("right"))),
    };
    assert_stored!(server, All, [leaf("leaf"), tree]);
    assert_stored!(
        server,
        All,
        [
            Nested::Unit,
            Nested::Newtype(Box::new(Nested::Tuple(1, None))),
            Nested::Struct {
                inner: vec![Nested::Unit, Nested::Tuple(2, Some(Box::new(Nested::Unit)))],
                tagged: Tagged::Point
            },
        ]
    );
    assert_stored!(
        server,
        All,
        [Unit],
        [Tuple(1, None, Unit)],
        [Some(Tuple(1, Some(2), Unit))]
    );
    let numbers = |unsigned, signed, single, double| Numbers {
        unsigned,
        signed,
        single,
        double,
        letter: 'ß',
        size: usize::MAX,
    };
    assert_stored!(
        server,
        All,
        [
            numbers(0, 0, 0.1, 0.1),
            numbers(u128::MAX, i128::MIN, f32::INFINITY, f64::MIN_POSITIVE),
            numbers(u128::from(u64::MAX) + 1, -1, -0.0, -0.0),
        ]
    );
    assert_stored!(server, All, [u128::MAX, 0, 1], [i128::MIN, -1, i128::MAX]);
    assert_stored!(server, All, [vec![0_u8, 127, 128, 255]], [Vec::<u8>::new()]);
    assert_stored!(
        server,
        All,
        [Arc::<[u8]>::from([1, 255])],
        [Box::<str>::from("a")]
    );
    let map: HashMap<(u8, bool), Vec<Option<i16>>> = (0..50)
        .map(|key| ((key, key % 2 == 0), vec![None, Some(i16::from(key))]))
        .collect();
    assert_stored!(server, All, [map]);
    assert_stored!(
        server,
        All,
        [BTreeMap::from([(Some(1.to_string()), 2.5)])],
        [BTreeMap::from([(-1_i64, BTreeSet::from(['a', 'b']))])],
        [(0..50).map(|n| n * 7).collect::<HashSet<u64>>()],
        [VecDeque::from([1_usize, 2])],
        [[[1_isize, -2], [3, 4]]],
        [Duration::new(7, 999_999_999)],
        [
            SystemTime::UNIX_EPOCH,
            UNIX_EPOCH + Duration::new(1_700_000_000, 1)
        ],
        [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            IpAddr::from(Ipv6Addr::LOCALHOST)
        ],
        [SocketAddr::from(([1, 2, 3, 4], 80))],
        [Ok::<u8, String>(1), Err("no".to_string())],
        [Cow::Borrowed("text"), Cow::Owned(String::new())],
        [NonZeroU32::MIN, NonZeroU32::MAX],
        [PathBuf::from("/tmp/a")],
        [(1_u8, 2_u16, 3_u32, 4_u64, 5_i8, 6_i16, 7_i32, 'h')],
        [((), None::<()>)],
        [Some(Some(1_u8)), None],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nan_is_read_as_nan() {
    let server = Server::start();
    let cache = cache::<u64, (f32, f64)>(&server, "nan");
    cache.insert(1, (f32::NAN, -f64::NAN)).await;
    let (single, double) = cache.get(&1).await.unwrap();
    assert!(single.is_nan() && double.is_nan());
    assert_eq!(cache.tier_stats().altered, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_decode_to_other_values_are_not_stored() {
    let server = Server::start();
    assert_stored!(server, None, [Some(None::<u8>)], [Some(())]);
    assert_stored!(server, None, [Skipping::Written { value: 7 }]);
    assert_stored!(server, None, [DefaultsToOne { number: 0 }]);
    assert_stored!(server, None, [RenamedOneWay { number: 7 }]);
    let one_way = SkippedOneWay {
        number: 7,
        other: 1,
    };
    assert_stored!(server, None, [one_way]);
    assert_stored!(server, None, [Confusable::Signed(5)]);
    // serde gives the field of the enum to the map as well.
    let overlapping = FlattenedBoth {
        kind: Tagged::Square { side: 1 },
        rest: BTreeMap::new(),
    };
    assert_stored!(server, None, [overlapping]);
}

#[tokio::test(flavor = "multi_thread")]
async fn value_that_cannot_be_serialized_is_not_stored() {
    let server = Server::start();
    let cache = cache::<u64, Skipping>(&server, "skipped");
    cache.insert(1, Skipping::Neither).await;
    assert_eq!(cache.get(&1).await, None);
    assert_eq!(cache.tier_stats().unstorable, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn altered_value_does_not_keep_other_values_from_being_shared() {
    let server = Server::start();
    let writer = cache::<u64, Option<Option<u8>>>(&server, "mixed");
    let reader = cache::<u64, Option<Option<u8>>>(&server, "mixed");
    for (key, value) in [(1, Some(None)), (2, Some(Some(7))), (3, None)] {
        writer.insert(key, value).await;
    }
    assert_eq!(reader.get(&1).await, None);
    assert_eq!(reader.get(&2).await, Some(Some(Some(7))));
    assert_eq!(reader.get(&3).await, Some(None));
    let load = |_| async { Ok::<_, ()>(Some(None)) };
    assert_eq!(
        writer.get_or_load_async(&4, load).await.unwrap(),
        Some(None)
    );
    assert_eq!(reader.get(&4).await, None);
    let batch = writer.get_many_or_load_async(&[5, 6], |keys| async move {
        Ok::<_, ()>(keys.into_iter().map(|key| (key, Some(None))))
    });
    assert_eq!(batch.await.unwrap(), vec![Some(Some(None)); 2]);
    assert_eq!(reader.get(&5).await, None);
    assert_eq!(writer.tier_stats().altered, 4);
    let warnings = writer.health().warnings;
    let texts: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert!(
        texts.iter().any(|text| text.contains("option(option(u8))")),
        "{texts:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn altered_value_stays_in_l1_of_the_process_that_wrote_it() {
    let server = Server::start();
    let build = async || -> TieredCache<u64, Option<Option<u8>>> {
        let builder = LocalCache::builder().capacity(100);
        let builder = builder.redis(server.url(), "local");
        let builder = builder.deadline(Duration::from_secs(30));
        let cache = builder.consistency(MINUTE).build().unwrap();
        wait_until_proven(&cache).await;
        cache
    };
    let (writer, reader) = (build().await, build().await);
    assert_eq!(writer.insert(1, Some(None)).await, Propagation::NotShared);
    let write = |_| async { Ok::<_, ()>(()) };
    let written = writer.write_through(2, Some(None), write).await;
    assert_eq!(written, Ok(Propagation::NotShared));
    let load = |_| async { Ok::<_, ()>(Some(None)) };
    let loaded = writer.get_or_load_async(&3, load).await;
    assert_eq!(loaded.unwrap(), Some(None));
    for key in [1, 2, 3] {
        assert_eq!(writer.get(&key).await, Some(Some(None)), "{key}");
        assert_eq!(reader.get(&key).await, None, "{key}");
    }
    assert_eq!(writer.tier_stats().altered, 3);
}

/// The type's values are altered only if the second field is set, so early values do not show it.
#[tokio::test(flavor = "multi_thread")]
async fn small_value_is_checked_after_many_other_values() {
    let server = Server::start();
    let writer = cache::<u64, (u64, Option<Option<u8>>)>(&server, "late");
    let reader = cache::<u64, (u64, Option<Option<u8>>)>(&server, "late");
    for key in 0..20 {
        writer.insert(key, (key, None)).await;
    }
    writer.insert(20, (20, Some(None))).await;
    assert_eq!(reader.get(&19).await, Some((19, None)));
    assert_eq!(reader.get(&20).await, None);
    assert_eq!(writer.tier_stats().altered, 1);
}
