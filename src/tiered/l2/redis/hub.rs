//! The connections of a process to the servers of one URL.

use crate::error::BuildError;
use crate::tiered::l2::redis::coalesced_query::CoalescedQuery;
use crate::tiered::l2::redis::hub_builder::RedisHubBuilder;
use crate::tiered::l2::redis::link::Link;
use crate::tiered::l2::redis::longest_deadline::LongestDeadline;
use crate::tiered::l2::redis::primary_resolver::PrimaryResolver;
use crate::tiered::l2::redis::renewal::Renewals;
use crate::tiered::l2::redis::topology::Votes;
use crate::tiered::l2::redis::url::{Certificates, ServerUrl, Topology};
use crate::tiered::l2::redis::voters::Voters;
use crate::tiered::l2::remote::RemoteError;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Weak};
use tokio::runtime::Handle;

/// The hubs of all URLs that caches of this process use. A hub ends with its last cache.
static HUBS: Mutex<Vec<Weak<Hub>>> = Mutex::new(Vec::new());

/// The links to the primaries behind a URL.
pub(crate) struct Hub {
    pub(super) url: Arc<ServerUrl>,
    /// The runtime that drives the connections.
    pub(super) runtime: Handle,
    pub(super) deadline: Arc<LongestDeadline>,
    voters: Arc<Voters>,
    /// The query for the primaries of all slots of a cluster.
    locations: CoalescedQuery<Arc<Votes>>,
    /// By the id of the server of a cluster, and the number of replicas that a change needs. A link without enough
    /// replicas connects again and again, which must not disturb caches that need none.
    links: Shared<(Option<String>, u64), Link>,
    /// By the slot of the keys in a cluster, and the number of replicas that a change needs.
    renewals: Shared<(Option<u16>, u64), Renewals>,
}

/// Objects by name that exist as long as caches use them.
type Shared<N, T> = Mutex<HashMap<N, Weak<T>>>;

impl Hub {
    fn new(url: ServerUrl, runtime: Handle) -> Self {
        let (url, deadline) = (Arc::new(url), Arc::<LongestDeadline>::default());
        let voters = Voters::new(Arc::clone(&url), Arc::clone(&deadline), runtime.clone());
        Self {
            url,
            voters: Arc::new(voters),
            locations: CoalescedQuery::new(runtime.clone()),
            deadline,
            runtime,
            links: Mutex::default(),
            renewals: Mutex::default(),
        }
    }

    /// Returns the hub of the URL in this runtime, which all caches with the same URL and certificates share.
    fn shared(url: ServerUrl, runtime: &Handle) -> Arc<Self> {
        let mut hubs = HUBS.lock();
        hubs.retain(|hub| hub.strong_count() > 0);
        let is_same = |hub: &Arc<Self>| hub.runtime.id() == runtime.id() && *hub.url == url;
        let known = hubs.iter().filter_map(Weak::upgrade).find(is_same);
        known.unwrap_or_else(|| {
            let hub = Arc::new(Self::new(url, runtime.clone()));
            hubs.push(Arc::downgrade(&hub));
            hub
        })
    }

    /// Returns `true` if another server may become the primary while clients are still connected to the old one.
    pub(crate) fn fails_over(&self) -> bool {
        self.url.fails_over()
    }

    /// Returns `true` if keys are in slots, which different servers may serve.
    pub(crate) fn has_slots(&self) -> bool {
        matches!(self.url.topology, Topology::Cluster { .. })
    }

    /// Returns the link to the only primary, or to this server of a cluster, for changes that need this number of
    /// replicas.
    pub(super) fn link(&self, server: Option<String>, replicas: u64) -> Arc<Link> {
        shared(&self.links, (server.clone(), replicas), || {
            let resolver = PrimaryResolver::new(Arc::clone(&self.voters), server, &self.runtime);
            let deadline = Arc::clone(&self.deadline);
            Link::new(&self.url, resolver, deadline, &self.runtime)
        })
    }

    /// Returns the renewals of caches whose keys are in this slot, and whose changes need this number of replicas.
    pub(super) fn renewals(&self, slot: Option<u16>, replicas: u64) -> Arc<Renewals> {
        shared(&self.renewals, (slot, replicas), || {
            Renewals::new(Arc::clone(&self.deadline), self.runtime.clone())
        })
    }

    /// Returns the votes of all servers of a cluster that answer, for any slot.
    pub(super) async fn locate(&self) -> Result<Arc<Votes>, RemoteError> {
        let voters = Arc::clone(&self.voters);
        let locate = || async move {
            let are_complete = |votes: &Votes, is_last| {
                let is_complete = is_last && votes.len() > 0 || votes.are_complete();
                is_complete.then_some(())
            };
            let ((), votes) = voters.poll(are_complete).await?;
            Ok(Arc::new(votes))
        };
        self.locations.run(locate).await
    }
}

/// Returns the object of this name, or a new one if nobody uses one.
fn shared<N: Eq + Hash, T>(all: &Shared<N, T>, name: N, new: impl FnOnce() -> T) -> Arc<T> {
    let mut all = all.lock();
    all.retain(|_, it| it.strong_count() > 0);
    all.get(&name).and_then(Weak::upgrade).unwrap_or_else(|| {
        let new = Arc::new(new());
        all.insert(name, Arc::downgrade(&new));
        new
    })
}

/// The connections of a process to Redis, which several caches share.
///
/// Caches in one runtime share their connections without this type if they have the same URL, the same certificates and
/// the same number of replicas: one for small values, one for large values, and one for messages. A hub is needed for
/// credentials that change (feature `redis-credentials`), and for connections that another runtime drives than the one
/// in which the caches are built.
///
/// Clones share the connections, which are opened when a cache needs them and closed with the last cache.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), hotset::BuildError> {
/// use hotset::{LocalCache, RedisHub, TieredCache};
///
/// let hub = RedisHub::connect("redis://127.0.0.1/")?;
/// let prices: TieredCache<String, u64> = LocalCache::builder()
///     .capacity(100_000)
///     .redis(&hub, "prices")
///     .build()?;
/// let names: TieredCache<u64, String> = LocalCache::builder()
///     .capacity(10_000)
///     .redis(&hub, "names")
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedisHub(pub(crate) Arc<Hub>);

impl RedisHub {
    /// Creates a hub whose connections are driven by the current tokio runtime. `url` is that of
    /// [`LocalCacheBuilder::redis`](crate::LocalCacheBuilder::redis). The servers need not be reachable.
    ///
    /// # Errors
    ///
    /// Returns an error if the URL is invalid, or if this is not called in a tokio runtime.
    pub fn connect(url: impl Into<String>) -> Result<Self, BuildError> {
        Self::builder(url).build()
    }

    /// Returns a builder of a hub.
    pub fn builder(url: impl Into<String>) -> RedisHubBuilder {
        RedisHubBuilder::new(url.into())
    }

    /// Creates a hub in the current runtime.
    pub(super) fn new(url: ServerUrl) -> Result<Self, BuildError> {
        let runtime = Handle::try_current().map_err(|_| BuildError::NoRuntime)?;
        Ok(Self(Arc::new(Hub::new(url, runtime))))
    }
}

impl fmt::Debug for RedisHub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the URL, which may contain a password.
        f.debug_struct("RedisHub").finish_non_exhaustive()
    }
}

/// The Redis of a cache: its URL, or a [`RedisHub`].
///
/// [`LocalCacheBuilder::redis`](crate::LocalCacheBuilder::redis) accepts everything that converts into it: strings, and
/// hubs by value or by reference.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), hotset::BuildError> {
/// use hotset::{LocalCache, RedisHub, RedisServer};
///
/// fn server(hub: Option<&RedisHub>) -> RedisServer {
///     hub.map_or("redis://127.0.0.1/".into(), RedisServer::from)
/// }
///
/// let builder = LocalCache::<String, u64>::builder()
///     .capacity(100_000)
///     .redis(server(None), "prices");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct RedisServer(Server);

/// The two kinds of a [`RedisServer`].
#[derive(Clone)]
enum Server {
    Url(String),
    Hub(RedisHub),
}

/// The servers of a cache, which are valid.
pub(crate) enum Target {
    Url(Box<ServerUrl>),
    Hub(Arc<Hub>),
}

impl Target {
    /// Returns the hub, which for a URL is that of all caches in this runtime.
    pub(crate) fn into_hub(self, runtime: &Handle) -> Arc<Hub> {
        match self {
            Self::Url(url) => Hub::shared(*url, runtime),
            Self::Hub(hub) => hub,
        }
    }
}

impl RedisServer {
    /// Returns the servers, or an error if the URL or a certificate is invalid.
    pub(crate) fn target(&self, certificates: Certificates) -> Result<Target, BuildError> {
        match &self.0 {
            Server::Url(url) => {
                let url = ServerUrl::new(url, certificates)?;
                Ok(Target::Url(Box::new(url)))
            }
            Server::Hub(_) if !certificates.is_empty() => Err(BuildError::HubCertificates),
            Server::Hub(hub) => Ok(Target::Hub(Arc::clone(&hub.0))),
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the URL, which may contain a password.
        f.write_str(match self {
            Self::Url(_) => "Url(..)",
            Self::Hub(_) => "Hub(..)",
        })
    }
}

impl<U: Into<String>> From<U> for RedisServer {
    fn from(url: U) -> Self {
        Self(Server::Url(url.into()))
    }
}

impl From<RedisHub> for RedisServer {
    fn from(hub: RedisHub) -> Self {
        Self(Server::Hub(hub))
    }
}

impl From<&RedisHub> for RedisServer {
    fn from(hub: &RedisHub) -> Self {
        hub.clone().into()
    }
}
