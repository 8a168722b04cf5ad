//! A connection to a server whose calls end when it is closed.

use crate::tiered::l2::redis::url::ServerClient;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{
    AsyncConnectionConfig, Cmd, Pipeline, PushInfo, PushKind, RedisError, RedisFuture, RedisResult,
    Value,
};
use std::convert::Infallible;
use std::io;
use std::time::Duration;
use tokio::sync::watch;

/// A connection whose calls end when the server closes it.
///
/// A [`MultiplexedConnection`] on its own loses a call that is sent at the moment at which the connection is closed:
/// the call stays in the queue of a task that has ended, until its deadline. That happened to about one of 100
/// connections that a test killed, and the read then ran its loader.
#[derive(Clone)]
pub(super) struct ServerConnection {
    connection: MultiplexedConnection,
    /// `true` once the connection is closed. The sender may also be dropped instead.
    closed: watch::Receiver<bool>,
}

impl ServerConnection {
    /// Connects to the server of a client that speaks RESP3.
    pub(super) async fn open(
        client: &ServerClient,
        connect_timeout: Duration,
    ) -> RedisResult<Self> {
        let (close, closed) = watch::channel(false);
        let note = move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                close.send_replace(true);
            }
            Ok::<_, Infallible>(())
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(connect_timeout))
            .set_push_sender(note);
        Ok(Self {
            connection: client.connect(config).await?,
            closed,
        })
    }
}

/// Returns the error of a call whose connection was closed before the reply.
fn closed_error() -> RedisError {
    let why = "the server has closed the connection";
    io::Error::new(io::ErrorKind::BrokenPipe, why).into()
}

impl ConnectionLike for ServerConnection {
    fn req_packed_command<'a>(&'a mut self, call: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            tokio::select! {
                biased;
                reply = self.connection.req_packed_command(call) => reply,
                _ = self.closed.wait_for(|closed| *closed) => Err(closed_error()),
            }
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        calls: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            tokio::select! {
                biased;
                replies = self.connection.req_packed_commands(calls, offset, count) => replies,
                _ = self.closed.wait_for(|closed| *closed) => Err(closed_error()),
            }
        })
    }

    fn get_db(&self) -> i64 {
        self.connection.get_db()
    }
}
