//! The servers that decide which servers are the primaries: sentinels, or the primaries of a cluster.

use crate::tiered::l2::redis::longest_deadline::LongestDeadline;
use crate::tiered::l2::redis::shared_connection::SharedConnection;
use crate::tiered::l2::redis::topology::{Primary, Shard, Vote, Votes, cluster_vote};
use crate::tiered::l2::redis::url::{Address, ServerUrl, Topology};
use crate::tiered::l2::remote::RemoteError;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Pipeline, RedisResult};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

type VoterConnection = SharedConnection<MultiplexedConnection>;

/// Interval between renewals of a subscription to a sentinel's events, which may have been cut without notice.
const RESUBSCRIBE_INTERVAL: Duration = Duration::from_secs(60);

/// The last slot of a cluster. The primary of sentinels serves all slots.
const LAST_SLOT: u16 = 16_383;

/// The voters of a URL, and the connections to them.
pub(super) struct Voters {
    url: Arc<ServerUrl>,
    deadline: Arc<LongestDeadline>,
    runtime: Handle,
    connections: Mutex<HashMap<Address, Arc<VoterConnection>>>,
    /// The voters of a cluster, according to the last decision.
    known: Mutex<Vec<Address>>,
}

impl Voters {
    pub(super) fn new(
        url: Arc<ServerUrl>,
        deadline: Arc<LongestDeadline>,
        runtime: Handle,
    ) -> Self {
        Self {
            url,
            deadline,
            runtime,
            connections: Mutex::default(),
            known: Mutex::default(),
        }
    }

    pub(super) fn topology(&self) -> &Topology {
        &self.url.topology
    }

    /// Asks the known voters, or else the servers that the URL names, until their votes suffice for a decision. Returns
    /// the decision, and the votes so far.
    ///
    /// `decide` is called after each vote, with `true` if no further one will arrive.
    pub(super) async fn poll<T>(
        &self,
        decide: impl Fn(&Votes, bool) -> Option<T>,
    ) -> Result<(T, Votes), RemoteError> {
        let known = self.known.lock().clone();
        match self.ask_all(known, &decide).await {
            Ok(decision) => Ok(decision),
            Err(_) => self.ask_all(self.url_addresses().to_vec(), &decide).await,
        }
    }

    /// Asks servers at once, and further ones that these name, until their votes suffice for a decision.
    async fn ask_all<T>(
        &self,
        addresses: Vec<Address>,
        decide: impl Fn(&Votes, bool) -> Option<T>,
    ) -> Result<(T, Votes), RemoteError> {
        let mut asked: HashSet<Address> = addresses.into_iter().collect();
        let pending: FuturesUnordered<_> = asked.iter().cloned().map(|it| self.ask(it)).collect();
        tokio::pin!(pending);
        let mut votes = Votes::new(self.min_voters());
        let mut last_error = None;
        while let Some(vote) = pending.next().await {
            match vote {
                Ok(vote) => {
                    let unasked = vote
                        .voters
                        .values()
                        .filter(|it| asked.insert((*it).clone()));
                    unasked.for_each(|it| pending.push(self.ask(it.clone())));
                    votes.add(vote);
                }
                Err(error) => last_error = Some(error),
            }
            if let Some(decision) = decide(&votes, pending.is_empty()) {
                self.retain_voters(&votes);
                return Ok((decision, votes));
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
    fn retain_voters(&self, votes: &Votes) {
        let mut connections = self.connections.lock();
        let voters: HashSet<&Address> = votes.voters().collect();
        let is_needed =
            |address: &Address| voters.contains(address) || self.url_addresses().contains(address);
        connections.retain(|address, _| is_needed(address));
        if matches!(self.url.topology, Topology::Cluster { .. }) {
            *self.known.lock() = voters.into_iter().cloned().collect();
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
                request_cluster_vote(address, by_name, connection).await
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
    let primary = Primary {
        id: primary.clone(),
        address: Some(primary),
        term: parse_term(state.get("config-epoch"))?,
    };
    Ok(Vote {
        voter,
        shards: vec![Shard {
            primary,
            slots: vec![(0, LAST_SLOT)],
        }],
        voters: others.iter().filter_map(other).chain([own]).collect(),
    })
}

/// Asks a server of a cluster for its vote.
async fn request_cluster_vote(
    address: &Address,
    by_name: bool,
    connection: &mut MultiplexedConnection,
) -> Result<Vote, RemoteError> {
    let mut query = redis::cmd("CLUSTER");
    let nodes: String = query.arg("NODES").query_async(connection).await?;
    let host = address.rsplit_once(':').map_or("", |(host, _)| host);
    let vote = cluster_vote(&nodes, host, by_name);
    vote.ok_or_else(|| RemoteError::Undecided("the server knows no primaries".into()))
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
