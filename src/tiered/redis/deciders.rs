//! Which server is the primary *now*, by word of a majority of those who decide it.
//!
//! A primary that was replaced may not know it: paused, or cut off, it goes on to confirm what it is
//! told. So nothing that it says counts until a majority of those who decide has said, after that,
//! that it is the primary still, of the same term. Any two majorities share a voter, and no voter goes
//! back to an older term; so what the old primary has confirmed came before the first word to the new.

use super::dial::Dial;
use super::rounds::Rounds;
use super::target::{Address, Deciders, Target};
use super::views::{Primary, View, agreed, view_of_cluster};
use crate::tiered::remote::RemoteError;
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

type Link = Dial<MultiplexedConnection>;

/// Asks those who decide.
pub(crate) struct Decision {
    target: Arc<Target>,
    /// A key of the namespace: a cluster has a primary for each slot.
    key: String,
    /// How long one of them may take to answer. Who waits for that waits longer.
    deadline: Duration,
    patience: Duration,
    runtime: Handle,
    links: Mutex<HashMap<Address, Arc<Link>>>,
    rounds: Rounds<Result<Primary, RemoteError>>,
}

impl Decision {
    pub(crate) fn new(
        target: Arc<Target>,
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
            rounds: Rounds::default(),
        }
    }

    /// Who was the primary at a time after this was called.
    pub(crate) async fn primary(&self) -> Result<Primary, RemoteError> {
        if self.target.deciders == Deciders::Nobody {
            return Ok(Primary::default());
        }
        self.rounds.ask(|| self.ask_all()).await
    }

    /// Asks all at once, and those of whom they tell, until a majority agrees.
    async fn ask_all(&self) -> Result<Primary, RemoteError> {
        let mut asked: HashSet<Address> = self.addresses().into_iter().collect();
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
            if let Some(view) = agreed(&views) {
                self.keep(view);
                return Ok(view.primary.clone());
            }
        }
        let why = silent.map_or_else(|| "they disagree".to_string(), |why| why.to_string());
        let said = views.len();
        Err(RemoteError::Undecided(format!(
            "{said} of {} said: {why}",
            asked.len()
        )))
    }

    fn addresses(&self) -> Vec<Address> {
        match &self.target.deciders {
            Deciders::Nobody => Vec::new(),
            Deciders::Sentinels { addresses, .. } => addresses.clone(),
            Deciders::Cluster { seeds } => {
                let links = self.links.lock();
                links.keys().chain(seeds).cloned().collect()
            }
        }
    }

    /// Those who decide are these, from now on.
    fn keep(&self, view: &View) {
        let is_voter = |address: &Address| view.voters.values().any(|voter| voter == address);
        self.links.lock().retain(|address, _| is_voter(address));
    }

    fn link(&self, address: &Address) -> Arc<Link> {
        let mut links = self.links.lock();
        let new = || Arc::new(Dial::new(self.patience, self.runtime.clone()));
        Arc::clone(links.entry(address.clone()).or_insert_with(new))
    }

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
            let (number, mut connection) = link.get(connecting).await?;
            let view = self.view(&address, &mut connection).await;
            // Whatever went wrong: the next one begins anew.
            view.inspect_err(|_| link.discard(number))
        };
        let view = tokio::time::timeout(self.deadline, asking).await;
        view.unwrap_or_else(|_| {
            link.hang_up();
            Err(RemoteError::Timeout)
        })
    }

    /// Do those who decide tell of it?
    pub(crate) fn has_events(&self) -> bool {
        matches!(self.target.deciders, Deciders::Sentinels { .. })
    }

    /// Calls `changed` whenever a sentinel says that there is another primary.
    pub(crate) async fn watch(&self, changed: impl Fn()) {
        let watching = self.addresses().into_iter().map(|address| {
            let changed = &changed;
            async move {
                loop {
                    // It is mended, and until then there are the others, and polls.
                    let _ = self.watch_one(&address, changed).await;
                    tokio::time::sleep(self.patience).await;
                }
            }
        });
        join_all(watching).await;
    }

    async fn watch_one(&self, address: &Address, changed: impl Fn()) -> RedisResult<()> {
        let Deciders::Sentinels { service, .. } = &self.target.deciders else {
            return Ok(());
        };
        let mut events = self.target.decider(address)?.get_async_pubsub().await?;
        events.subscribe("+switch-master").await?;
        let mut events = events.into_on_message();
        while let Some(event) = events.next().await {
            let text: String = event.get_payload()?;
            if text.split(' ').next() == Some(service) {
                changed();
            }
        }
        Ok(())
    }

    /// The term is asked for before the primary: if it is over by then, the two do not go together, and
    /// no majority says so.
    async fn view(
        &self,
        address: &Address,
        link: &mut MultiplexedConnection,
    ) -> Result<View, RemoteError> {
        match &self.target.deciders {
            Deciders::Sentinels { addresses, service } => {
                let mut question = Pipeline::new();
                question.cmd("SENTINEL").arg("MASTER").arg(service);
                let name = "GET-MASTER-ADDR-BY-NAME";
                question.cmd("SENTINEL").arg(name).arg(service);
                let (state, (host, port)): (HashMap<String, String>, (String, u16)) =
                    question.query_async(link).await?;
                let primary = format!("{host}:{port}");
                let voters = addresses.iter().map(|it| (it.clone(), it.clone()));
                Ok(View {
                    by: address.clone(),
                    primary: Primary {
                        id: primary.clone(),
                        address: Some(primary),
                        term: number(state.get("config-epoch"))?,
                    },
                    voters: voters.collect(),
                })
            }
            Deciders::Cluster { .. } | Deciders::Nobody => {
                let mut question = Pipeline::new();
                question.cmd("CLUSTER").arg("KEYSLOT").arg(&self.key);
                question.cmd("CLUSTER").arg("INFO");
                question.cmd("CLUSTER").arg("NODES");
                let (slot, info, nodes): (u16, InfoDict, String) =
                    question.query_async(link).await?;
                let epoch = number(info.get::<String>("cluster_current_epoch").as_ref())?;
                let host = address.rsplit_once(':').map_or("", |(host, _)| host);
                let view = view_of_cluster(&nodes, epoch, slot, host);
                view.ok_or_else(|| RemoteError::Undecided("nobody serves the slot".into()))
            }
        }
    }
}

fn number(text: Option<&String>) -> Result<u64, RemoteError> {
    let number = text.and_then(|text| text.parse().ok());
    number.ok_or_else(|| RemoteError::Refused("a reply without an epoch".into()))
}
