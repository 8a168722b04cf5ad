//! The current primary, by vote of a majority of the servers that decide it.
//!
//! A primary that was replaced may not know it: paused, or cut off, it goes on to confirm writes. Therefore none of its
//! replies counts until, after the reply, a majority of the deciding servers has said that it still is the primary of
//! the same term. Any two majorities share a voter, and no voter goes back to an older primary or term. So everything
//! that the old primary has confirmed was written before the first write to the new one.

use crate::tiered::l2::redis::coalesced_query::CoalescedQuery;
use crate::tiered::l2::redis::shared_connection::SharedConnection;
use crate::tiered::l2::redis::topology::{Primary, View, agreed, view_of_cluster};
use crate::tiered::l2::redis::url::{Address, PrimaryResolver, ServerUrl};
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

type Link = SharedConnection<MultiplexedConnection>;

/// Time after which a subscription to a sentinel's events is renewed, because it may have been cut without notice.
const WATCHED: Duration = Duration::from_secs(60);

/// Asks the servers that decide which server is the primary.
pub(crate) struct Decision {
    target: Arc<ServerUrl>,
    /// A key of the namespace: a cluster has a primary for each slot.
    key: String,
    /// Longest time that one of them may take to answer. It is half of a caller's deadline.
    deadline: Duration,
    /// Longest time that connecting may take.
    patience: Duration,
    runtime: Handle,
    links: Mutex<HashMap<Address, Arc<Link>>>,
    /// The deciding servers, according to their last majority.
    known: Mutex<Vec<Address>>,
    rounds: CoalescedQuery<Primary>,
}

impl Decision {
    pub(crate) fn new(
        target: Arc<ServerUrl>,
        key: &str,
        deadline: Duration,
        patience: Duration,
        runtime: &Handle,
    ) -> Self {
        Self {
            target,
            key: key.into(),
            deadline: deadline / 2,
            patience,
            runtime: runtime.clone(),
            links: Mutex::default(),
            known: Mutex::default(),
            rounds: CoalescedQuery::new(runtime.clone()),
        }
    }

    /// Returns the server that was the primary at some time after this call.
    pub(crate) async fn primary(self: &Arc<Self>) -> Result<Primary, RemoteError> {
        if self.target.primary_resolver == PrimaryResolver::Nobody {
            return Ok(Primary::default());
        }
        let decide = || {
            let decision = Arc::clone(self);
            async move { decision.decide().await }
        };
        self.rounds.ask(decide).await
    }

    /// Asks the known servers, or else those that the URL names.
    async fn decide(&self) -> Result<Primary, RemoteError> {
        let known = self.known.lock().clone();
        match self.ask_all(known).await {
            Ok(primary) => Ok(primary),
            Err(_) => self.ask_all(self.named().to_vec()).await,
        }
    }

    /// Asks servers at once, and further ones that these name, until a majority agrees.
    async fn ask_all(&self, some: Vec<Address>) -> Result<Primary, RemoteError> {
        let mut asked: HashSet<Address> = some.into_iter().collect();
        let asking: FuturesUnordered<_> = asked.iter().cloned().map(|it| self.ask(it)).collect();
        tokio::pin!(asking);
        let mut views: Vec<View> = Vec::new();
        let mut silent = None;
        while let Some(view) = asking.next().await {
            match view {
                Ok(view) => {
                    let unasked = view
                        .voters
                        .values()
                        .filter(|it| asked.insert((*it).clone()));
                    unasked.for_each(|it| asking.push(self.ask(it.clone())));
                    views.push(view);
                }
                Err(why) => silent = Some(why),
            }
            if let Some(view) = agreed(&views, self.least()) {
                self.keep(view);
                return Ok(view.primary.clone());
            }
        }
        let said = views.len();
        let why = match silent {
            Some(RemoteError::Forbidden(what)) => return Err(RemoteError::Forbidden(what)),
            Some(why) => why.to_string(),
            None => "they disagree, or are too few".to_string(),
        };
        Err(RemoteError::Undecided(format!(
            "{said} of {} said: {why}",
            asked.len()
        )))
    }

    /// Returns the addresses in the URL.
    fn named(&self) -> &[Address] {
        match &self.target.primary_resolver {
            PrimaryResolver::Nobody => &[],
            PrimaryResolver::Sentinels { addresses, .. } => addresses,
            PrimaryResolver::Cluster { seeds } => seeds,
        }
    }

    /// Returns the smallest number of voters, since a sentinel may not know all others yet.
    fn least(&self) -> usize {
        match &self.target.primary_resolver {
            PrimaryResolver::Sentinels { addresses, .. } => addresses.len(),
            PrimaryResolver::Cluster { .. } | PrimaryResolver::Nobody => 0,
        }
    }

    /// Closes the connections to all servers except the voters and those that the URL names.
    fn keep(&self, view: &View) {
        let mut links = self.links.lock();
        let is_asked = |address: &Address| {
            self.named().contains(address) || view.voters.values().any(|voter| voter == address)
        };
        links.retain(|address, _| is_asked(address));
        if matches!(
            self.target.primary_resolver,
            PrimaryResolver::Cluster { .. }
        ) {
            *self.known.lock() = view.voters.values().cloned().collect();
        }
    }

    /// Returns the connection to a server.
    fn link(&self, address: &Address) -> Arc<Link> {
        let mut links = self.links.lock();
        let new = || Arc::new(SharedConnection::new(self.patience, self.runtime.clone()));
        Arc::clone(links.entry(address.clone()).or_insert_with(new))
    }

    /// Asks one server, and once more on a fresh connection if it has closed the connection.
    async fn ask(&self, address: Address) -> Result<View, RemoteError> {
        let link = self.link(&address);
        let asking = async {
            let connecting = || {
                let client = self.target.decider(&address);
                let config = AsyncConnectionConfig::new().set_response_timeout(None);
                async move {
                    let client = client?;
                    let link = client.get_multiplexed_async_connection_with_config(&config);
                    Ok(link.await?)
                }
            };
            let mut is_repeated = false;
            loop {
                let (number, mut connection) = link.get(connecting).await?;
                let view = self.view(&address, &mut connection).await;
                if view.is_err() {
                    link.discard(number);
                }
                // The server may have closed the connection while it was idle.
                let is_closed = matches!(view, Err(RemoteError::Disconnected(_)));
                if is_repeated || !is_closed {
                    return view;
                }
                is_repeated = true;
            }
        };
        let view = tokio::time::timeout(self.deadline, asking).await;
        view.unwrap_or_else(|_| {
            link.hang_up();
            Err(RemoteError::Timeout)
        })
    }

    /// Checks whether the deciding servers announce a new primary.
    pub(crate) fn has_events(&self) -> bool {
        matches!(
            self.target.primary_resolver,
            PrimaryResolver::Sentinels { .. }
        )
    }

    /// Calls `changed` with the address of the new primary whenever a sentinel announces one.
    pub(crate) async fn watch(&self, changed: impl Fn(&str)) {
        let watching = self.named().iter().map(|address| {
            let changed = &changed;
            async move {
                loop {
                    let watching = self.watch_one(address, changed);
                    if tokio::time::timeout(WATCHED, watching).await.is_ok() {
                        // It has ended or failed. Until the next attempt there are the other sentinels, and polls.
                        tokio::time::sleep(self.patience).await;
                    }
                }
            }
        });
        join_all(watching).await;
    }

    /// Listens to the events of one sentinel.
    async fn watch_one(&self, address: &str, changed: impl Fn(&str)) -> RedisResult<()> {
        let PrimaryResolver::Sentinels { service, .. } = &self.target.primary_resolver else {
            return Ok(());
        };
        let mut events = self.target.decider(address)?.get_async_pubsub().await?;
        events.subscribe("+switch-master").await?;
        let mut events = events.into_on_message();
        while let Some(event) = events.next().await {
            let text: String = event.get_payload()?;
            let words: Vec<&str> = text.split(' ').collect();
            if let [name, _, _, host, port] = words[..] {
                if name == service {
                    changed(&format!("{host}:{port}"));
                }
            }
        }
        Ok(())
    }

    /// Asks a server for its view. The question for the term precedes that for the primary: after a failover between
    /// the two they do not match, and no majority agrees on them.
    async fn view(
        &self,
        address: &Address,
        link: &mut MultiplexedConnection,
    ) -> Result<View, RemoteError> {
        match &self.target.primary_resolver {
            PrimaryResolver::Sentinels { service, .. } => {
                let mut question = Pipeline::new();
                for what in ["MASTER", "SENTINELS"] {
                    question.cmd("SENTINEL").arg(what).arg(service);
                }
                question.cmd("SENTINEL").arg("MYID");
                let name = "GET-MASTER-ADDR-BY-NAME";
                question.cmd("SENTINEL").arg(name).arg(service);
                let (state, others, by, (host, port)): Replies = question.query_async(link).await?;
                let primary = format!("{host}:{port}");
                let other = |it: &Fields| Some((it.get("runid")?.clone(), place(it)?));
                let own = (by.clone(), address.clone());
                Ok(View {
                    by,
                    primary: Primary {
                        id: primary.clone(),
                        address: Some(primary),
                        term: number(state.get("config-epoch"))?,
                    },
                    voters: others.iter().filter_map(other).chain([own]).collect(),
                })
            }
            PrimaryResolver::Cluster { .. } | PrimaryResolver::Nobody => {
                let mut question = Pipeline::new();
                question.cmd("CLUSTER").arg("KEYSLOT").arg(&self.key);
                question.cmd("CLUSTER").arg("INFO");
                question.cmd("CLUSTER").arg("NODES");
                let (slot, info, nodes): (u16, InfoDict, String) =
                    question.query_async(link).await?;
                let epoch = number(info.get::<String>("cluster_current_epoch").as_ref())?;
                let host = address.rsplit_once(':').map_or("", |(host, _)| host);
                let by_name = self.target.has_tls();
                let view = view_of_cluster(&nodes, epoch, slot, host, by_name);
                view.ok_or_else(|| RemoteError::Undecided("nobody serves the slot".into()))
            }
        }
    }
}

/// The fields of a reply, by name.
type Fields = HashMap<String, String>;

/// The replies of a sentinel: the state of the primary, the other sentinels, its own id, and the primary's address.
type Replies = (Fields, Vec<Fields>, String, (String, u16));

/// Returns the address of a sentinel in the reply of another one.
fn place(fields: &Fields) -> Option<Address> {
    Some(format!("{}:{}", fields.get("ip")?, fields.get("port")?))
}

/// Parses the number of a term.
fn number(text: Option<&String>) -> Result<u64, RemoteError> {
    let number = text.and_then(|text| text.parse().ok());
    number.ok_or_else(|| RemoteError::Refused("a reply without an epoch".into()))
}
