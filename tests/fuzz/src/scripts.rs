//! Keys, values, tags and namespaces of any bytes in the scripts that run in Redis.
//!
//! A real server runs the scripts. One cache writes, and another one, which has no copies in memory, reads what Redis
//! has. Nothing may change the entries of another namespace, or other keys of the server.

use arbitrary::{Arbitrary, Unstructured};
use hotset::{
    BuildError, Consistency, Loaded, LocalCache, Propagation, TieredCache, TieredCacheBuilder,
};
use redis::Connection;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;
use support::servers::start_redis_until_exit;
use tokio::runtime::Runtime;

type Cache = TieredCache<Vec<u8>, Vec<u8>>;

/// The namespace that most inputs use, so that its caches are built once.
const NAMESPACE: &str = "fuzz";

/// The namespace whose entries nobody else may change.
const OTHER_NAMESPACE: &str = "fuzz:other";

/// Maximum number of tags of a value in Redis.
const MAX_TAGS: usize = 64;

/// Maximum size of a value in Redis with its key and its tags, in bytes.
const MAX_VALUE_SIZE: usize = 4 << 10;

/// Maximum length of the encoding of a key in Redis, in bytes.
const MAX_KEY_LEN: usize = 1 << 10;

/// Names of keys that belong to no cache. The last one is like that of an entry, in a namespace that does not exist.
const FOREIGN_KEYS: [&[u8]; 4] = [b"", b"hotset", b"hotset:{fuzz", b"hotset:{fuz}:e:\xa1a"];

/// An input of the target.
#[derive(Debug, Arbitrary)]
struct Input<'a> {
    namespace: Option<&'a str>,
    keys: Vec<&'a [u8]>,
    tags: Vec<&'a str>,
    calls: Vec<Call<'a>>,
}

/// A call. Keys and tags are positions in the lists of the input.
#[derive(Debug, Arbitrary)]
enum Call<'a> {
    Get(u8),
    GetMany(Vec<u8>),
    Insert(u8, Contents<'a>),
    WriteThrough(u8, Contents<'a>),
    Load(u8, Contents<'a>),
    Refresh(u8, &'a [u8]),
    Invalidate(u8),
    InvalidateTag(u8),
    Clear,
}

/// A value with its tags.
#[derive(Debug, Arbitrary)]
struct Contents<'a> {
    value: &'a [u8],
    /// A multiple of the length of the value, for long values.
    repeated: u8,
    /// A set of the first tags of the input, one in each bit.
    tags: u8,
    /// Further tags.
    more_tags: Vec<u8>,
    ttl: Option<u16>,
}

/// The server and what is connected to it.
struct Servers {
    url: String,
    runtime: Runtime,
    connection: Connection,
    caches: Caches,
    other: Cache,
}

/// Caches of one namespace.
struct Caches {
    writer: Cache,
    reader: Cache,
}

impl Servers {
    fn start() -> Self {
        let url = start_redis_until_exit();
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let client = redis::Client::open(&*url).unwrap();
        let connection = client.get_connection().unwrap();
        let guard = runtime.enter();
        let caches = Caches::new(&url, NAMESPACE).unwrap();
        let other = builder(&url, OTHER_NAMESPACE).build().unwrap();
        drop(guard);
        Self {
            url,
            runtime,
            connection,
            caches,
            other,
        }
    }
}

impl Caches {
    fn new(url: &str, namespace: &str) -> Result<Self, BuildError> {
        Ok(Self {
            writer: cache(url, namespace)?,
            reader: cache(url, namespace)?,
        })
    }
}

fn cache(url: &str, namespace: &str) -> Result<Cache, BuildError> {
    let builder = builder(url, namespace).max_value_size(MAX_VALUE_SIZE);
    builder.compress_above(200).build()
}

fn builder(url: &str, namespace: &str) -> TieredCacheBuilder<Vec<u8>, Vec<u8>> {
    LocalCache::builder()
        .capacity(100)
        .redis(url, namespace)
        .consistency(Consistency::L2Only)
        .deadline(Duration::from_secs(60))
}

/// Returns `true` if a value and its key are small enough to be stored in any encoding.
fn is_storable(key: &[u8], value: &[u8], tags: &[String]) -> bool {
    let tag_bytes: usize = tags.iter().map(|tag| tag.len() + 16).sum();
    let is_short = 2 * key.len() + 8 <= MAX_KEY_LEN;
    is_short
        && tags.len() <= MAX_TAGS
        && 2 * (key.len() + value.len()) + tag_bytes + 200 < MAX_VALUE_SIZE
}

/// Checks that caches return what was stored, and change nothing else.
///
/// # Panics
///
/// Panics if the input shows a fault, or if Redis cannot be started.
pub fn run(data: &[u8]) {
    static SERVERS: OnceLock<Mutex<Servers>> = OnceLock::new();
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    let servers = SERVERS.get_or_init(|| Mutex::new(Servers::start()));
    let servers = &mut *servers.lock().unwrap();
    let _guard = servers.runtime.enter();
    let own;
    let caches = match input.namespace {
        None | Some(NAMESPACE | OTHER_NAMESPACE) => &servers.caches,
        Some(namespace) => match Caches::new(&servers.url, namespace) {
            Ok(caches) => {
                assert!(is_namespace(namespace), "{namespace:?}");
                own = caches;
                &own
            }
            Err(error) => {
                assert_eq!(error, BuildError::Namespace);
                assert!(!is_namespace(namespace), "{namespace:?}");
                return;
            }
        },
    };
    let connection = &mut servers.connection;
    redis::cmd("FLUSHALL").exec(connection).unwrap();
    for key in FOREIGN_KEYS {
        let mut set = redis::cmd("SET");
        set.arg(key).arg(b"foreign").exec(connection).unwrap();
    }
    let namespace = input.namespace.unwrap_or(NAMESPACE).to_string();
    servers
        .runtime
        .block_on(Run::new(input, caches, &servers.other).run());
    for key in FOREIGN_KEYS {
        let found: Vec<u8> = redis::cmd("GET").arg(key).query(connection).unwrap();
        assert_eq!(found, b"foreign", "{key:?}");
    }
    let names: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query(connection).unwrap();
    let prefixes = [&*namespace, OTHER_NAMESPACE].map(|name| format!("hotset:{{{name}}}:"));
    for name in names {
        let is_of = |prefix: &String| name.starts_with(prefix.as_bytes());
        // The caches of earlier inputs are dropped, but a heartbeat of theirs may arrive later.
        let is_state =
            name.starts_with(b"hotset:{") && !name.windows(4).any(|part| part == b"}:e:");
        let is_known = prefixes.iter().any(is_of) || is_state || FOREIGN_KEYS.contains(&&*name);
        assert!(is_known, "{:?}", String::from_utf8_lossy(&name));
    }
}

/// Returns `true` if the documentation allows this name of a namespace.
fn is_namespace(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_graphic() && !b"{}".contains(&byte);
    (1..=128).contains(&name.len()) && name.bytes().all(is_allowed)
}

/// A run of the calls of an input.
struct Run<'a> {
    input: Input<'a>,
    caches: &'a Caches,
    other: &'a Cache,
    /// The entries that Redis has, with their tags.
    model: BTreeMap<Vec<u8>, (Vec<u8>, Vec<String>)>,
}

impl<'a> Run<'a> {
    fn new(mut input: Input<'a>, caches: &'a Caches, other: &'a Cache) -> Self {
        if input.keys.is_empty() {
            input.keys.push(b"key");
        }
        if input.tags.is_empty() {
            input.tags.push("tag");
        }
        Self {
            input,
            caches,
            other,
            model: BTreeMap::new(),
        }
    }

    async fn run(mut self) {
        for key in &self.input.keys {
            let inserted = self.other.insert(key.to_vec(), b"other".to_vec()).await;
            let is_shared = inserted == Propagation::Acknowledged;
            assert!(
                is_shared || !is_storable(key, b"other", &[]),
                "{inserted:?}"
            );
        }
        for call in std::mem::take(&mut self.input.calls) {
            self.call(&call).await;
        }
        for key in &self.input.keys {
            let expected = self.model.get(*key).map(|(value, _)| value.clone());
            let found = self.caches.reader.get(*key).await;
            let stats = self.caches.reader.tier_stats();
            assert_eq!(found, expected, "{key:?} {stats:?}");
            let other = self.other.get(*key).await;
            let is_kept = other.as_deref() == Some(&b"other"[..]);
            assert!(is_kept || !is_storable(key, b"other", &[]), "{key:?}");
        }
    }

    fn key(&self, at: u8) -> Vec<u8> {
        self.input.keys[usize::from(at) % self.input.keys.len()].to_vec()
    }

    fn tag(&self, at: u8) -> &'a str {
        self.input.tags[usize::from(at) % self.input.tags.len()]
    }

    fn found(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.model.get(key).map(|(value, _)| value.clone())
    }

    fn loaded(&self, contents: &Contents<'a>) -> (Loaded<Vec<u8>>, Vec<String>) {
        let set = (0..8).filter(|at| contents.tags >> at & 1 == 1);
        let tags = set.chain(contents.more_tags.iter().copied());
        let tags: Vec<String> = tags.map(|at| self.tag(at).to_string()).collect();
        let value = contents.value.repeat(usize::from(contents.repeated) + 1);
        let mut loaded = Loaded::new(value).tags(tags.clone());
        if let Some(ttl) = contents.ttl {
            loaded = loaded.ttl(Duration::from_secs(600 + u64::from(ttl)));
        }
        (loaded, tags)
    }

    /// Updates the model after a write.
    fn written(
        &mut self,
        key: Vec<u8>,
        value: Vec<u8>,
        tags: Vec<String>,
        propagation: Propagation,
    ) {
        match propagation {
            Propagation::Acknowledged => {
                self.model.insert(key, (value, tags));
            }
            Propagation::NotShared => {
                assert!(!is_storable(&key, &value, &tags));
                self.model.remove(&key);
            }
            _ => panic!("{propagation:?}"),
        }
    }

    /// Updates the model after a load.
    async fn loaded_now(&mut self, key: Vec<u8>, value: Vec<u8>, tags: Vec<String>) {
        let found = self.caches.reader.get(&key).await;
        if let Some(found) = found {
            assert_eq!(found, value);
            self.model.insert(key, (value, tags));
        } else {
            assert!(!is_storable(&key, &value, &tags));
            self.model.remove(&key);
        }
    }

    async fn call(&mut self, call: &Call<'a>) {
        let writer = &self.caches.writer;
        match call {
            Call::Get(key) => {
                let key = self.key(*key);
                assert_eq!(self.caches.reader.get(&key).await, self.found(&key));
            }
            Call::GetMany(keys) => {
                let keys: Vec<_> = keys.iter().map(|&key| self.key(key)).collect();
                let expected: Vec<_> = keys.iter().map(|key| self.found(key)).collect();
                assert_eq!(self.caches.reader.get_many(&keys).await, expected);
            }
            Call::Insert(key, contents) => {
                let key = self.key(*key);
                let (loaded, tags) = self.loaded(contents);
                let value = loaded.clone().into_value();
                let propagation = writer.insert_loaded(key.clone(), loaded).await;
                self.written(key, value, tags, propagation);
            }
            Call::WriteThrough(key, contents) => {
                let key = self.key(*key);
                let (loaded, tags) = self.loaded(contents);
                let value = loaded.clone().into_value();
                let write = async |_| Ok::<_, Infallible>(());
                let written = writer.write_through_loaded(key.clone(), loaded, write);
                let propagation = written.await.unwrap();
                self.written(key, value, tags, propagation);
            }
            Call::Load(key, contents) => {
                let key = self.key(*key);
                let (loaded, tags) = self.loaded(contents);
                let value = loaded.clone().into_value();
                let load = async |_| Ok::<_, Infallible>(loaded);
                let returned = writer.get_or_load_entry_async(&key, load).await.unwrap();
                if let Some(found) = self.found(&key) {
                    assert_eq!(returned, found);
                    return;
                }
                assert_eq!(returned, value);
                self.loaded_now(key, value, tags).await;
            }
            Call::Refresh(key, value) => {
                let key = self.key(*key);
                let load = async |_| Ok::<_, Infallible>(value.to_vec());
                let returned = writer.refresh_async(&key, load).await.unwrap();
                assert_eq!(returned, *value);
                let tags = self.model.get(&key).map(|(_, tags)| tags.clone());
                let tags = tags.unwrap_or_default();
                self.loaded_now(key, value.to_vec(), tags).await;
            }
            Call::Invalidate(key) => {
                let key = self.key(*key);
                let propagation = writer.invalidate(&key).await;
                assert_eq!(propagation, Propagation::Acknowledged);
                self.model.remove(&key);
            }
            Call::InvalidateTag(tag) => {
                let tag = self.tag(*tag);
                let propagation = writer.invalidate_tag(tag).await;
                assert_eq!(propagation, Propagation::Acknowledged);
                self.model
                    .retain(|_, (_, tags)| tags.iter().all(|other| other != tag));
            }
            Call::Clear => {
                let propagation = writer.clear().await;
                assert_eq!(propagation, Propagation::Acknowledged);
                self.model.clear();
            }
        }
    }
}
