//! The connection to a server, and what is known of the server behind it.
//!
//! A connection of our own making, where the `redis` crate has one that mends itself: each new one
//! must first learn which run of the server it has reached, since a server that was restarted may have
//! come back with an older state, and no command may get past that.

use super::scripts;
use crate::random;
use crate::tiered::remote::RemoteError;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use redis::aio::{MultiplexedConnection, PubSubStream};
use redis::{AsyncConnectionConfig, Client, InfoDict, RedisError};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// How long connecting may take at least; who waits for it waits no longer than its own deadline.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many deadlines connecting may take: it is several round trips.
const PATIENT: u32 = 8;

/// Where the server is.
#[derive(Clone)]
pub(crate) struct Target(Client);

impl Target {
    /// # Errors
    ///
    /// Why that is no URL of a server, without what is in it.
    pub(crate) fn new(url: &str) -> Result<Self, &'static str> {
        if url.starts_with("rediss:") {
            return Err("since there is no TLS");
        }
        let client = Client::open(url).map_err(|_| "since it does not parse")?;
        if client.get_connection_info().redis_settings().db() < 0 {
            return Err("since its database is below 0");
        }
        Ok(Self(client))
    }

    pub(crate) fn database(&self) -> i64 {
        self.0.get_connection_info().redis_settings().db()
    }
}

/// A connection to one run of a server.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) link: MultiplexedConnection,
    /// The server's name for this run of itself.
    pub(crate) run: Arc<str>,
    /// Tells it from the connections before.
    pub(crate) number: u64,
}

type Connecting = Shared<BoxFuture<'static, Result<Connection, RemoteError>>>;

/// Makes one connection at a time, for whoever needs it.
pub(crate) struct Connector {
    target: Target,
    patience: Duration,
    /// Not that of whoever happens to need a connection.
    runtime: Handle,
    current: Mutex<Option<(u64, Connecting)>>,
}

impl Connector {
    pub(crate) fn new(target: Target, deadline: Duration, runtime: Handle) -> Self {
        Self {
            target,
            patience: PATIENCE.max(deadline.saturating_mul(PATIENT)),
            runtime,
            current: Mutex::new(None),
        }
    }

    /// The connection. All who ask while it is made wait for the same one.
    pub(crate) async fn get(&self) -> Result<Connection, RemoteError> {
        let (number, connecting) = {
            let mut current = self.current.lock();
            let (number, connecting) = current.get_or_insert_with(|| {
                let number = random::bits();
                (number, self.connect(number))
            });
            (*number, connecting.clone())
        };
        let result = connecting.await;
        if result.is_err() {
            self.discard(number);
        }
        result
    }

    /// In a task of its own: a caller who does not wait to the end has not tried in vain.
    fn connect(&self, number: u64) -> Connecting {
        let connecting = connect(self.target.clone(), self.patience, number);
        let attempt = tokio::time::timeout(self.patience, connecting);
        let result = self.runtime.spawn(attempt).map(|result| match result {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(RemoteError::Timeout),
            Err(_) => Err(RemoteError::Disconnected("the runtime shuts down".into())),
        });
        result.boxed().shared()
    }

    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// The connection of this number is not to be used any more.
    pub(crate) fn discard(&self, number: u64) {
        let mut current = self.current.lock();
        let dropped = current.take_if(|(other, _)| *other == number);
        drop(current);
        drop(dropped);
    }

    /// A subscription to channels, which ends with its connection.
    pub(crate) async fn listen(&self, channels: &[String]) -> Result<PubSubStream, RemoteError> {
        let mut pubsub = self.target.0.get_async_pubsub().await?;
        pubsub.subscribe(channels).await?;
        Ok(pubsub.into_on_message())
    }
}

/// What a connection begins with: which run of the server it is, and the scripts.
async fn connect(
    target: Target,
    patience: Duration,
    number: u64,
) -> Result<Connection, RemoteError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(patience))
        .set_response_timeout(None);
    let client = &target.0;
    let mut link = client
        .get_multiplexed_async_connection_with_config(&config)
        .await?;
    let mut first = redis::pipe();
    first.cmd("INFO").arg("server");
    for script in scripts() {
        first.cmd("SCRIPT").arg("LOAD").arg(script.source).ignore();
    }
    let (info,): (InfoDict,) = first.query_async(&mut link).await?;
    let run = info.get::<String>("run_id");
    let run = run.ok_or_else(|| RemoteError::Refused("INFO tells no run_id".into()))?;
    Ok(Connection {
        link,
        run: run.into(),
        number,
    })
}

/// Somebody flushed the scripts, or the server is another's replica now: a new connection brings
/// them, or finds the primary.
fn is_lost(error: &RedisError) -> bool {
    matches!(error.code(), Some("NOSCRIPT" | "READONLY"))
}

impl From<RedisError> for RemoteError {
    fn from(error: RedisError) -> Self {
        if error.is_timeout() {
            Self::Timeout
        } else if error.is_io_error() || error.is_unrecoverable_error() || is_lost(&error) {
            Self::Disconnected(error.to_string())
        } else {
            Self::Refused(error.to_string())
        }
    }
}
