//! Real servers on free loopback ports, which tests start, pause, kill and disconnect. They run with the configuration
//! files in `examples/deploy`.

pub mod cluster;
mod ports;
pub mod postgres;
pub mod process;
pub mod prometheus;
pub mod replicated;
pub mod scripted_sentinels;
pub mod shop;
pub mod slow_link;

use process::Process;
use rustix::process::{Pid, Signal, kill_process};
use std::fmt::Debug;
use std::future::{Future, ready};
use std::io;
use std::mem::forget;
use std::net::{Ipv4Addr, SocketAddr, TcpStream as BlockingStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener as AsyncListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The longest wait of a test before it fails. It only ends tests that hang: no test that passes comes near it, however
/// busy the machine is.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(300);

/// The interval between checks of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// The longest wait for the reply of a server that may be paused.
const REPLY_TIMEOUT: Duration = Duration::from_secs(3);

/// Waits for a condition, most often on another process, which cannot announce a change. So this polls with a short
/// pause. Panics after [`TEST_TIMEOUT`].
pub fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_true() {
        assert!(begun.elapsed() < TEST_TIMEOUT, "never became true: {what}");
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Like [`eventually`], but does not block the thread.
pub async fn soon(what: &str, mut is_true: impl FnMut() -> bool) {
    soon_async(what, || ready(is_true())).await;
}

/// Like [`soon`], for a condition that is checked by a future.
pub async fn soon_async<F: Future<Output = bool>>(what: &str, mut is_true: impl FnMut() -> F) {
    let begun = Instant::now();
    while !is_true().await {
        assert!(begun.elapsed() < TEST_TIMEOUT, "never became true: {what}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Runs a future, and fails if it hangs.
pub async fn in_time<F: Future>(future: F) -> F::Output {
    let timed = tokio::time::timeout(TEST_TIMEOUT, future).await;
    timed.expect("timed out")
}

/// Repeats an attempt with twice the time until it returns `true`. It is for tests in which something has to happen
/// before a time is over, such as a time to live or a lease, which a busy machine may exceed.
///
/// # Panics
///
/// Panics if no attempt succeeds.
pub async fn with_growing_time(first: Duration, mut attempt: impl AsyncFnMut(Duration) -> bool) {
    for doublings in 0..8 {
        if attempt(first * (1 << doublings)).await {
            return;
        }
    }
    panic!("no attempt succeeded");
}

/// Returns the path of a file in `examples/deploy`.
pub fn deployed(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/deploy");
    folder.join(name)
}

/// Returns a free port of the loopback interface, which no other test gets while this process runs.
pub fn free_port() -> u16 {
    ports::reserve()
}

/// Sends a signal to a process.
pub fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// A `redis-server` of one test.
pub struct Server {
    port: u16,
    folder: TempDir,
    options: Vec<String>,
    process: Option<Process>,
}

impl Server {
    /// Starts a server without further options.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with options like those in `redis.conf`, with two dashes before each.
    pub fn start_with(options: &[&str]) -> Self {
        let mut server = Self {
            port: free_port(),
            folder: tempfile::tempdir().unwrap(),
            options: options.iter().map(|&option| option.into()).collect(),
            process: None,
        };
        server.restart();
        server
    }

    /// Replaces the options. The next start uses them.
    pub fn set_options(&mut self, options: &[&str]) {
        self.options = options.iter().map(|&option| option.into()).collect();
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Starts the server again, at the same address and with its saved data.
    pub fn restart(&mut self) {
        self.kill();
        // The file is a copy, because sentinels make servers rewrite their configuration.
        let configuration = self.folder.path().join("redis.conf");
        std::fs::copy(deployed("redis.conf"), &configuration).unwrap();
        let mut command = Command::new("redis-server");
        command
            .arg(configuration)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .arg("--dir")
            .arg(self.folder.path())
            .args(&self.options)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = Process::spawn(&mut command).expect("redis-server is installed");
        let address = self.address();
        let process = self.process.insert(process);
        eventually("redis-server listens", || {
            let ended = process.try_wait().unwrap();
            assert!(ended.is_none(), "redis-server has ended: {ended:?}");
            BlockingStream::connect(address).is_ok()
        });
    }

    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    pub fn pause(&self) {
        signal(self.process.as_ref().unwrap(), Signal::STOP);
    }

    pub fn resume(&self) {
        signal(self.process.as_ref().unwrap(), Signal::CONT);
    }

    /// Runs a command and returns its reply.
    pub fn command<T: redis::FromRedisValue>(&self, command: &[&[u8]]) -> T {
        self.query(command, TEST_TIMEOUT).unwrap()
    }

    /// Like [`command`](Self::command), but returns `None` if the server does not reply.
    pub fn try_command<T: redis::FromRedisValue>(&self, command: &[&[u8]]) -> Option<T> {
        self.query(command, REPLY_TIMEOUT).ok()
    }

    fn query<T: redis::FromRedisValue>(
        &self,
        command: &[&[u8]],
        timeout: Duration,
    ) -> redis::RedisResult<T> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_connection_with_timeout(timeout)?;
        connection.set_read_timeout(Some(timeout))?;
        let (name, arguments) = command.split_first().unwrap();
        let mut call = redis::cmd(std::str::from_utf8(name).unwrap());
        for argument in arguments {
            call.arg(argument);
        }
        call.query(&mut connection)
    }

    /// Returns the processor time that the server has used, in seconds.
    pub fn processor_seconds(&self) -> f64 {
        let used = |name| self.info::<f64>("cpu", name);
        used("used_cpu_user:") + used("used_cpu_sys:")
    }

    /// Returns the number after a text in a section of the reply to `INFO`.
    pub fn info<T: FromStr<Err: Debug>>(&self, section: &str, name: &str) -> T {
        let info: String = self.command(&[b"INFO", section.as_bytes()]);
        let value = info.lines().find_map(|line| line.strip_prefix(name));
        let value = value.unwrap_or_else(|| panic!("{name} is in {info}"));
        let end = value.find([',', '\r']).unwrap_or(value.len());
        value[..end].trim().parse().unwrap()
    }

    /// Returns the names of the entries of a namespace.
    pub fn entries(&self, namespace: &str) -> Vec<Vec<u8>> {
        let pattern = format!("hotset:{{{namespace}}}:e:*");
        self.command(&[b"KEYS", pattern.as_bytes()])
    }
}

/// Starts a `redis-server` that saves nothing and ends with this process. Returns its URL.
///
/// It is for programs that end without running destructors.
pub fn start_redis_until_exit() -> String {
    let port = free_port();
    let mut command = Command::new("redis-server");
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--dir", "/"])
        .stdout(Stdio::null());
    // The watchdog kills it when this process ends.
    forget(Process::spawn(&mut command).expect("redis-server is installed"));
    eventually("redis-server listens", || {
        BlockingStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
    });
    format!("redis://127.0.0.1:{port}/")
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The connections that a [`Proxy`] cuts.
#[derive(Clone, Copy, PartialEq)]
pub enum Cut {
    Nothing,
    /// Connections that have subscribed.
    Subscriptions,
    /// The direction from the server to the client, on connections that have called a script.
    Replies,
    /// Connections of replicas and sentinels, but not those of clients.
    Peers,
    All,
}

/// A proxy in front of a server that can cut connections. Bytes sent on a cut connection do not arrive, and nothing is
/// closed, like with a pulled cable. A reset closes all connections.
pub struct Proxy {
    port: u16,
    target: Arc<Mutex<SocketAddr>>,
    cut: watch::Sender<Cut>,
    refuses: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<JoinHandle<()>>>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(target: SocketAddr) -> Self {
        let listener = AsyncListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (cut, is_cut) = watch::channel(Cut::Nothing);
        let refuses = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(Mutex::new(Vec::new()));
        let target = Arc::new(Mutex::new(target));
        let shared_target = Arc::clone(&target);
        let (tasks, refusing) = (Arc::clone(&connections), Arc::clone(&refuses));
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if refusing.load(SeqCst) {
                    continue;
                }
                let (target, is_cut) = (*shared_target.lock().unwrap(), is_cut.clone());
                let connection = tokio::spawn(async move {
                    // An error is the end of the connection.
                    let _ = forward(client, target, is_cut).await;
                });
                tasks.lock().unwrap().push(connection);
            }
        });
        Self {
            port,
            target,
            cut,
            refuses,
            connections,
            accepting,
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Forwards new connections to another server, like a host name whose address changes.
    pub fn forward_to(&self, target: SocketAddr) {
        *self.target.lock().unwrap() = target;
    }

    /// Cuts connections without closing them.
    pub fn cut(&self, what: Cut) {
        self.cut.send_replace(what);
    }

    /// Ends a cut or a reset. Bytes that were sent meanwhile arrive now.
    pub fn mend(&self) {
        self.refuses.store(false, SeqCst);
        self.cut(Cut::Nothing);
    }

    /// Closes all connections and refuses new ones.
    pub fn reset(&self) {
        self.refuses.store(true, SeqCst);
        for connection in self.connections.lock().unwrap().drain(..) {
            connection.abort();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.reset();
        self.accepting.abort();
    }
}

/// Forwards bytes until the connection ends. A side that is cut is not read, so its bytes wait.
async fn forward(
    mut client: TcpStream,
    target: SocketAddr,
    mut cut: watch::Receiver<Cut>,
) -> io::Result<()> {
    let mut server = TcpStream::connect(target).await?;
    let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let (mut subscribes, mut calls_scripts, mut is_peer) = (false, false, false);
    // Bytes of the client that were read and not yet forwarded.
    let mut pending = Vec::new();
    loop {
        let cuts = *cut.borrow_and_update();
        let is_cut = match cuts {
            Cut::Nothing | Cut::Replies => false,
            Cut::Subscriptions => subscribes,
            Cut::Peers => is_peer,
            Cut::All => true,
        };
        if is_cut {
            cut.changed().await.map_err(io::Error::other)?;
            continue;
        }
        server.write_all(&pending).await?;
        pending.clear();
        let read = tokio::select! {
            changed = cut.changed() => {
                changed.map_err(io::Error::other)?;
                continue;
            }
            read = client.read(&mut up) => {
                let sent = &up[..read?];
                let contains = |word: &[u8]| {
                    sent.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word))
                };
                subscribes |= contains(b"SUBSCRIBE");
                calls_scripts |= contains(b"EVALSHA");
                // Replicas and sentinels begin with these words.
                is_peer |= contains(b"REPLCONF") || contains(b"SENTINEL-");
                pending.extend_from_slice(sent);
                sent.len()
            }
            read = server.read(&mut down), if cuts != Cut::Replies || !calls_scripts => {
                let sent = &down[..read?];
                client.write_all(sent).await?;
                sent.len()
            }
        };
        if read == 0 {
            return Ok(());
        }
    }
}
