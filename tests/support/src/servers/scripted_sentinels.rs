//! Sentinels whose votes a test sets, so that it decides in which order they learn of a failover.

use super::replicated::{SERVICE, url};
use super::{
    Arc, AsyncListener, AtomicU64, Ipv4Addr, JoinHandle, SeqCst, Server, TcpStream, watch,
};
use std::io;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;

/// The view of a sentinel: the port of the primary, and its term.
type View = (u16, u64);

/// Three sentinels that answer clients like real ones, but monitor no server.
pub struct ScriptedSentinels {
    sentinels: Vec<ScriptedSentinel>,
    votes: Arc<AtomicU64>,
}

struct ScriptedSentinel {
    port: u16,
    view: watch::Sender<View>,
    accepting: JoinHandle<()>,
}

impl ScriptedSentinels {
    /// Starts sentinels that name `primary`.
    pub async fn start(primary: &Server) -> Self {
        let mut listeners = Vec::new();
        for _ in 0..3 {
            listeners.push(AsyncListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        }
        let port = |listener: &AsyncListener| listener.local_addr().unwrap().port();
        let ports: Arc<[u16]> = listeners.iter().map(port).collect();
        let votes = Arc::new(AtomicU64::new(0));
        let start = |(index, listener)| {
            let view = watch::Sender::new((primary.port(), 0));
            let client = Client {
                index,
                ports: Arc::clone(&ports),
                view: view.subscribe(),
                votes: Arc::clone(&votes),
            };
            ScriptedSentinel {
                port: ports[index],
                view,
                accepting: tokio::spawn(accept(listener, client)),
            }
        };
        let sentinels = listeners.into_iter().enumerate().map(start).collect();
        Self { sentinels, votes }
    }

    pub fn url(&self) -> String {
        url(self.sentinels.iter().map(|sentinel| sentinel.port))
    }

    /// Lets the sentinel `index` learn of a failover to `primary`, which it announces to its clients.
    pub fn elect(&self, index: usize, primary: &Server) {
        let elect = |view: &mut View| *view = (primary.port(), view.1 + 1);
        self.sentinels[index].view.send_modify(elect);
    }

    /// Returns the number of votes that were requested from all sentinels.
    pub fn votes(&self) -> u64 {
        self.votes.load(SeqCst)
    }
}

impl Drop for ScriptedSentinel {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The data that a connection of a client to the sentinel `index` needs.
#[derive(Clone)]
struct Client {
    index: usize,
    ports: Arc<[u16]>,
    view: watch::Receiver<View>,
    votes: Arc<AtomicU64>,
}

async fn accept(listener: AsyncListener, client: Client) {
    while let Ok((stream, _)) = listener.accept().await {
        let client = client.clone();
        tokio::spawn(async move {
            // An error is the end of the connection.
            let _ = client.serve(stream).await;
        });
    }
}

impl Client {
    /// Answers commands until the connection ends.
    async fn serve(self, stream: TcpStream) -> io::Result<()> {
        let (input, mut output) = stream.into_split();
        let (replies, mut queue) = mpsc::unbounded_channel::<String>();
        tokio::spawn(async move {
            while let Some(reply) = queue.recv().await {
                if output.write_all(reply.as_bytes()).await.is_err() {
                    break;
                }
            }
        });
        let mut input = BufReader::new(input);
        loop {
            let words = read_command(&mut input).await?;
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            // An error means that the connection has ended.
            let _ = replies.send(self.reply(&words));
            if words[0] == "SUBSCRIBE" {
                tokio::spawn(self.clone().announce(replies.clone()));
            }
        }
    }

    /// Sends a message for each change of the view.
    async fn announce(mut self, replies: mpsc::UnboundedSender<String>) {
        let (mut old, _) = *self.view.borrow_and_update();
        while self.view.changed().await.is_ok() {
            let (new, _) = *self.view.borrow_and_update();
            let text = format!("{SERVICE} 127.0.0.1 {old} 127.0.0.1 {new}");
            old = new;
            if replies
                .send(texts(&["message", "+switch-master", &text]))
                .is_err()
            {
                break;
            }
        }
    }

    fn reply(&self, words: &[&str]) -> String {
        let (primary, term) = *self.view.borrow();
        match words {
            ["SENTINEL", "MASTER", _] => texts(&["config-epoch", &term.to_string()]),
            ["SENTINEL", "SENTINELS", _] => {
                let others = (0..self.ports.len()).filter(|index| *index != self.index);
                let others: Vec<_> = others
                    .map(|index| {
                        let (id, port) = (index.to_string(), self.ports[index].to_string());
                        texts(&["runid", &id, "ip", "127.0.0.1", "port", &port])
                    })
                    .collect();
                array(&others)
            }
            ["SENTINEL", "MYID"] => text(&self.index.to_string()),
            ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", _] => {
                self.votes.fetch_add(1, SeqCst);
                texts(&["127.0.0.1", &primary.to_string()])
            }
            ["SUBSCRIBE", channel] => array(&[text("subscribe"), text(channel), ":1\r\n".into()]),
            _ => "+OK\r\n".into(),
        }
    }
}

/// Reads a command: an array of strings.
async fn read_command(input: &mut (impl AsyncBufReadExt + Unpin)) -> io::Result<Vec<String>> {
    let count = read_length(input).await?;
    let mut words = Vec::new();
    for _ in 0..count {
        // Each string ends with a line break.
        let mut word = vec![0; read_length(input).await? + 2];
        input.read_exact(&mut word).await?;
        word.truncate(word.len() - 2);
        words.push(String::from_utf8(word).map_err(io::Error::other)?);
    }
    Ok(words)
}

/// Reads a line with a type and a length.
async fn read_length(input: &mut (impl AsyncBufReadExt + Unpin)) -> io::Result<usize> {
    let mut line = String::new();
    input.read_line(&mut line).await?;
    let digits = line.get(1..).ok_or(io::ErrorKind::UnexpectedEof)?;
    digits.trim_end().parse().map_err(io::Error::other)
}

fn text(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

fn texts(items: &[&str]) -> String {
    let items: Vec<String> = items.iter().map(|item| text(item)).collect();
    array(&items)
}

fn array(items: &[String]) -> String {
    format!("*{}\r\n{}", items.len(), items.concat())
}
