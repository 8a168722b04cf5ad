//! A network link of low bandwidth, which all connections share.

use super::{Arc, AsyncListener, Duration, Ipv4Addr, JoinHandle, Mutex, SocketAddr, TcpStream};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

/// Number of bytes that a connection sends in one turn.
const PACKET_SIZE: usize = 16 << 10;

/// Time by which the link accepts bytes in advance, so that neither the timer nor a busy machine limits the bandwidth.
const MAX_QUEUE_TIME: Duration = Duration::from_millis(50);

/// A proxy in front of a server that limits the bandwidth in each direction. Connections take turns.
pub struct SlowLink {
    port: u16,
    accepting: JoinHandle<()>,
}

/// One direction of the link.
struct Direction {
    bytes_per_second: f64,
    /// Time at which all bytes sent so far have arrived.
    idle_at: Mutex<Instant>,
}

impl SlowLink {
    /// Starts a link to the server at `target`.
    pub async fn start(target: SocketAddr, bytes_per_second: u32) -> Self {
        let listener = AsyncListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let direction = || {
            Arc::new(Direction {
                bytes_per_second: bytes_per_second.into(),
                idle_at: Mutex::new(Instant::now()),
            })
        };
        let (up, down) = (direction(), direction());
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (up, down) = (Arc::clone(&up), Arc::clone(&down));
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(target).await else {
                        return;
                    };
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    // The end of one direction ends the connection.
                    tokio::select! {
                        _ = up.forward(from_client, to_server) => {}
                        _ = down.forward(from_server, to_client) => {}
                    }
                });
            }
        });
        Self { port, accepting }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }
}

impl Drop for SlowLink {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Direction {
    /// Forwards bytes until the connection ends.
    async fn forward(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) -> io::Result<()> {
        let mut packet = vec![0; PACKET_SIZE];
        loop {
            let read = from.read(&mut packet).await?;
            if read == 0 {
                return Ok(());
            }
            let arrival = self.arrival(read);
            if arrival > Instant::now() + MAX_QUEUE_TIME {
                // The packet waits for its place in the queue of the link.
                tokio::time::sleep_until(arrival - MAX_QUEUE_TIME).await;
            }
            to.write_all(&packet[..read]).await?;
        }
    }

    /// Returns the time at which the next bytes arrive.
    fn arrival(&self, bytes: usize) -> Instant {
        let bytes = u32::try_from(bytes).unwrap();
        let takes = Duration::from_secs_f64(f64::from(bytes) / self.bytes_per_second);
        let mut idle_at = self.idle_at.lock().unwrap();
        *idle_at = (*idle_at).max(Instant::now()) + takes;
        *idle_at
    }
}
