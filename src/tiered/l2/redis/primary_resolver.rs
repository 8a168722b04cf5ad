//! The current primary, by vote of a majority of the servers that decide it.
//!
//! A primary that was replaced may not know it: paused, or cut off, it continues to confirm writes. Therefore none of
//! its replies counts until, after the reply, a majority of the voters has said that it is still the primary of the
//! same term. Any two majorities share a voter, and no voter goes back to an older primary or term. So everything that
//! the old primary has confirmed was written before the first write to the new one.

use crate::tiered::l2::redis::coalesced_query::CoalescedQuery;
use crate::tiered::l2::redis::longest_deadline::LongestDeadline;
use crate::tiered::l2::redis::shared_connection::SharedConnection;
use crate::tiered::l2::redis::topology::{Primary, Vote, cluster_vote, majority};
use crate::tiered::l2::redis::url::{Address, ServerUrl, Topology};
use crate::tiered::l2::remote::RemoteError;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, InfoDict, Pipeline, RedisResult};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

type VoterConnection = SharedConnection<MultiplexedConnection>;

/// Interval between renewals of a subscription to a sentinel's events, which may have been cut without notice.
const RESUBSCRIBE_INTERVAL: Duration = Duration::from_secs(60);

/// Asks the voters which server is the primary.
pub(super) struct PrimaryResolver {
    url: Arc<ServerUrl>,
    /// A key of the namespace: a cluster has a primary for each slot.
    key: String,
    deadline: Arc<LongestDeadline>,
    runtime: Handle,
    connections: Mutex<HashMap<Address, Arc<VoterConnection>>>,
    /// The voters of a cluster, according to their last majority.
    known_voters: Mutex<Vec<Address>>,
    query: CoalescedQuery<Primary>,
}

impl PrimaryResolver {
    /// Creates a resolver for the primary that serves `key`.
    pub(super) fn new(
        url: Arc<ServerUrl>,
        key: &str,
        deadline: Arc<LongestDeadline>,
        runtime: &Handle,
    ) -> Self {
        Self {
            url,
            key: key.into(),
            deadline,
            runtime: runtime.clone(),
            connections: Mutex::default(),
            known_voters: Mutex::default(),
            query: CoalescedQuery::new(runtime.clone()),
        }
    }

    /// Returns the server that was the primary at some time after this call.
    pub(super) async fn primary(self: &Arc<Self>) -> Result<Primary, RemoteError> {
        if self.url.topology == Topology::SingleServer {
            return Ok(Primary::default());
        }
        let resolve = || {
            let resolver = Arc::clone(self);
            async move { resolver.resolve().await }
        };
        self.query.run(resolve).await
    }

    /// Asks the known voters, or else the servers that the URL names.
    async fn resolve(&self) -> Result<Primary, RemoteError> {
        let known = self.known_voters.lock().clone();
        match self.poll_voters(known).await {
            Ok(primary) => Ok(primary),
            Err(_) => self.poll_voters(self.url_addresses().to_vec()).await,
        }
    }

    /// Asks servers at once, and further ones that these name, until a majority agrees.
    async fn poll_voters(&self, addresses: Vec<Address>) -> Result<Primary, RemoteError> {
        let mut asked: HashSet<Address> = addresses.into_iter().collect();
        let pending: FuturesUnordered<_> = asked.iter().cloned().map(|it| self.ask(it)).collect();
        tokio::pin!(pending);
        let mut votes: Vec<Vote> = Vec::new();
        let mut last_error = None;
        while let Some(vote) = pending.next().await {
            match vote {
                Ok(vote) => {
                    let unasked = vote
                        .voters
                        .values()
                        .filter(|it| asked.insert((*it).clone()));
                    unasked.for_each(|it| pending.push(self.ask(it.clone())));
                    votes.push(vote);
                }
                Err(error) => last_error = Some(error),
            }
            if let Some(vote) = majority(&votes, self.min_voters()) {
                self.retain_voters(vote);
                return Ok(vote.primary.clone());
            }
        }
        let why = match last_error {
            Some(RemoteError::Forbidden(what)) => return Err(RemoteError::Forbidden(what)),
            Some(error) => error.to_string(),
            None => "they disagree, or are too few".to_string(),
        };
        Err(RemoteError::Undecided(format!(
            "{} of {} servers have voted: {why}",
            votes.len(),
            asked.len()
        )))
    }

    /// Returns the addresses in the URL.
    fn url_addresses(&self) -> &[Address] {
        match &self.url.topology {
            Topology::SingleServer => &[],
            Topology::Sentinels { addresses, .. } => addresses,
            Topology::Cluster { seeds } => seeds,
        }
    }

    /// Returns the smallest possible number of voters, because a sentinel may not know all others yet.
    fn min_voters(&self) -> usize {
        match &self.url.topology {
            Topology::Sentinels { addresses, .. } => addresses.len(),
            Topology::Cluster { .. } | Topology::SingleServer => 0,
        }
    }

    /// Closes the connections to all servers except the voters and those that the URL names. Remembers the voters of a
    /// cluster.
    fn retain_voters(&self, vote: &Vote) {
        let mut connections = self.connections.lock();
        let is_needed = |address: &Address| {
            self.url_addresses().contains(address)
                || vote.voters.values().any(|voter| voter == address)
        };
        connections.retain(|address, _| is_needed(address));
        if matches!(self.url.topology, Topology::Cluster { .. }) {
            *self.known_voters.lock() = vote.voters.values().cloned().collect();
        }
    }

    /// Returns the connection to a server.
    fn connection(&self, address: &Address) -> Arc<VoterConnection> {
        let mut connections = self.connections.lock();
        let new = || {
            let deadline = Arc::clone(&self.deadline);
            Arc::new(SharedConnection::new(deadline, self.runtime.clone()))
        };
        Arc::clone(connections.entry(address.clone()).or_insert_with(new))
    }

    /// Asks one server, and once more on a fresh connection if it has closed the connection.
    async fn ask(&self, address: Address) -> Result<Vote, RemoteError> {
        let shared = self.connection(&address);
        let asking = async {
            let connect = || {
                let client = self.url.voter_client(&address);
                async move { Ok(client?.connect(AsyncConnectionConfig::new()).await?) }
            };
            let mut is_retry = false;
            loop {
                let (number, mut connection) = shared.get(connect).await?;
                let vote = self.request_vote(&address, &mut connection).await;
                if vote.is_err() {
                    shared.discard(number);
                }
                // The server may have closed the connection while it was idle.
                let is_closed = matches!(vote, Err(RemoteError::Disconnected(_)));
                if is_retry || !is_closed {
                    return vote;
                }
                is_retry = true;
            }
        };
        // A voter may take half of a caller's deadline.
        let vote = tokio::time::timeout(self.deadline.get() / 2, asking).await;
        vote.unwrap_or_else(|_| {
            shared.discard_open();
            Err(RemoteError::Timeout)
        })
    }

    /// Returns `true` if the voters announce a new primary.
    pub(super) fn announces_failovers(&self) -> bool {
        matches!(self.url.topology, Topology::Sentinels { .. })
    }

    /// Calls `on_primary` with the address of the new primary whenever a sentinel announces one.
    pub(super) async fn watch(&self, on_primary: impl Fn(&str)) {
        let watching = self.url_addresses().iter().map(|address| {
            let on_primary = &on_primary;
            async move {
                loop {
                    let watching = self.watch_sentinel(address, on_primary);
                    let watching = tokio::time::timeout(RESUBSCRIBE_INTERVAL, watching);
                    if watching.await.is_ok() {
                        // The subscription has ended or failed. Until the next attempt, the other sentinels and polls
                        // detect a failover.
                        tokio::time::sleep(self.deadline.connect_timeout()).await;
                    }
                }
            }
        });
        join_all(watching).await;
    }

    /// Subscribes to the events of one sentinel.
    async fn watch_sentinel(&self, address: &str, on_primary: impl Fn(&str)) -> RedisResult<()> {
        let Topology::Sentinels { service, .. } = &self.url.topology else {
            return Ok(());
        };
        let mut events = self.url.voter_client(address)?.subscribe().await?;
        events.subscribe("+switch-master").await?;
        let mut events = events.into_on_message();
        while let Some(event) = events.next().await {
            let text: String = event.get_payload()?;
            let words: Vec<&str> = text.split(' ').collect();
            if let [name, _, _, host, port] = words[..] {
                if name == service {
                    on_primary(&format!("{host}:{port}"));
                }
            }
        }
        Ok(())
    }

    /// Asks a server for its vote.
    async fn request_vote(
        &self,
        address: &Address,
        connection: &mut MultiplexedConnection,
    ) -> Result<Vote, RemoteError> {
        match &self.url.topology {
            Topology::Sentinels { service, .. } => {
                request_sentinel_vote(service, address, connection).await
            }
            Topology::Cluster { .. } | Topology::SingleServer => {
                let by_name = self.url.has_tls();
                request_cluster_vote(&self.key, address, by_name, connection).await
            }
        }
    }
}

/// The fields of a reply, by name.
type Fields = HashMap<String, String>;

/// The replies of a sentinel: the state of the primary, the other sentinels, its own id, and the primary's address.
type SentinelReplies = (Fields, Vec<Fields>, String, (String, u16));

/// Asks a sentinel for its vote. The query for the term precedes the query for the primary: after a failover between
/// the two they do not match, and no majority agrees on them.
async fn request_sentinel_vote(
    service: &str,
    address: &Address,
    connection: &mut MultiplexedConnection,
) -> Result<Vote, RemoteError> {
    let mut query = Pipeline::new();
    for what in ["MASTER", "SENTINELS"] {
        query.cmd("SENTINEL").arg(what).arg(service);
    }
    query.cmd("SENTINEL").arg("MYID");
    let name = "GET-MASTER-ADDR-BY-NAME";
    query.cmd("SENTINEL").arg(name).arg(service);
    let replies: SentinelReplies = query.query_async(connection).await?;
    let (state, others, voter, (host, port)) = replies;
    let primary = format!("{host}:{port}");
    let other = |it: &Fields| Some((it.get("runid")?.clone(), sentinel_address(it)?));
    let own = (voter.clone(), address.clone());
    Ok(Vote {
        voter,
        primary: Primary {
            id: primary.clone(),
            address: Some(primary),
            term: parse_term(state.get("config-epoch"))?,
        },
        voters: others.iter().filter_map(other).chain([own]).collect(),
    })
}

/// Asks a server of a cluster for its vote on the slot of `key`. The query for the term precedes the query for the
/// primary, like with sentinels.
async fn request_cluster_vote(
    key: &str,
    address: &Address,
    by_name: bool,
    connection: &mut MultiplexedConnection,
) -> Result<Vote, RemoteError> {
    let mut query = Pipeline::new();
    query.cmd("CLUSTER").arg("KEYSLOT").arg(key);
    query.cmd("CLUSTER").arg("INFO");
    query.cmd("CLUSTER").arg("NODES");
    let replies: (u16, InfoDict, String) = query.query_async(connection).await?;
    let (slot, info, nodes) = replies;
    let epoch = parse_term(info.get::<String>("cluster_current_epoch").as_ref())?;
    let host = address.rsplit_once(':').map_or("", |(host, _)| host);
    let vote = cluster_vote(&nodes, epoch, slot, host, by_name);
    vote.ok_or_else(|| RemoteError::Undecided("no server serves the slot".into()))
}

/// Returns the address of a sentinel in the reply of another one.
fn sentinel_address(fields: &Fields) -> Option<Address> {
    Some(format!("{}:{}", fields.get("ip")?, fields.get("port")?))
}

/// Parses the number of a term.
fn parse_term(text: Option<&String>) -> Result<u64, RemoteError> {
    let term = text.and_then(|text| text.parse().ok());
    term.ok_or_else(|| RemoteError::Refused("the reply has no epoch".into()))
}
