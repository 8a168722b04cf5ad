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

/// How long connecting may take; who waits for it waits no longer than its own deadline.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// Where the server is.
#[derive(Clone)]
pub(crate) struct Target(Client);

impl Target {
    /// `None` if that is no URL of a server.
    pub(crate) fn new(url: &str) -> Option<Self> {
        Client::open(url).ok().map(Self)
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
    current: Mutex<Option<(u64, Connecting)>>,
}

impl Connector {
    pub(crate) fn new(target: Target) -> Self {
        Self {
            target,
            current: Mutex::new(None),
        }
    }

    /// The connection. All who ask while it is made wait for the same one.
    pub(crate) async fn get(&self) -> Result<Connection, RemoteError> {
        let (number, connecting) = {
            let mut current = self.current.lock();
            let (number, connecting) = current.get_or_insert_with(|| {
                let number = random::bits();
                (number, connect(self.target.clone(), number))
            });
            (*number, connecting.clone())
        };
        let result = connecting.await;
        if result.is_err() {
            self.discard(number);
        }
        result
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

/// Connects, in a task of its own: a caller who does not wait to the end has not tried in vain.
fn connect(target: Target, number: u64) -> Connecting {
    let attempt = tokio::spawn(tokio::time::timeout(PATIENCE, async move {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(None);
        let client = &target.0;
        let mut link = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        let info: InfoDict = redis::cmd("INFO")
            .arg("server")
            .query_async(&mut link)
            .await?;
        let run = info.get::<String>("run_id");
        let run = run.ok_or_else(|| RemoteError::Refused("INFO tells no run_id".into()))?;
        for script in scripts() {
            script.load_async(&mut link).await?;
        }
        Ok(Connection {
            link,
            run: run.into(),
            number,
        })
    }));
    let result = attempt.map(|result| match result {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(RemoteError::Timeout),
        Err(_) => Err(RemoteError::Disconnected("the runtime shuts down".into())),
    });
    result.boxed().shared()
}

/// Somebody flushed them: a new connection brings them again.
fn lost_scripts(error: &RedisError) -> bool {
    error.code() == Some("NOSCRIPT")
}

impl From<RedisError> for RemoteError {
    fn from(error: RedisError) -> Self {
        if error.is_timeout() {
            Self::Timeout
        } else if error.is_io_error() || error.is_unrecoverable_error() || lost_scripts(&error) {
            Self::Disconnected(error.to_string())
        } else {
            Self::Refused(error.to_string())
        }
    }
}
