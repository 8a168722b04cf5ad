//! The example `shop`, as its users start it.

use super::{eventually, signal};
use rustix::process::Signal;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

/// Filling a large database takes a while.
const PATIENCE: Duration = Duration::from_secs(120);

/// A process of it.
pub(crate) struct Shop {
    process: Child,
    address: SocketAddr,
    said: Arc<Mutex<String>>,
}

impl Shop {
    /// Starts it on a free port, and waits until it serves.
    pub(crate) fn start(options: &[&str]) -> Self {
        Self::try_start(options).unwrap_or_else(|said| panic!("the shop did not start:\n{said}"))
    }

    /// As [`start`](Self::start); if it ends instead, what it has said.
    pub(crate) fn try_start(options: &[&str]) -> Result<Self, String> {
        let mut process = Command::new(executable())
            .args(["--listen", "127.0.0.1:0"])
            .args(options)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let (tell, told) = channel();
        let out = BufReader::new(process.stdout.take().unwrap());
        let errors = BufReader::new(process.stderr.take().unwrap());
        listen(out, Arc::clone(&said), Some(tell));
        let heard = listen(errors, Arc::clone(&said), None);
        match told.recv_timeout(PATIENCE) {
            Ok(address) => Ok(Self {
                process,
                address,
                said,
            }),
            Err(error) => {
                // It may have ended.
                let _ = process.kill();
                process.wait().unwrap();
                heard.join().unwrap();
                let mut said = said.lock().unwrap().clone();
                if error == RecvTimeoutError::Timeout {
                    said.push_str("it took too long\n");
                }
                Err(said)
            }
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What it has printed so far, errors too.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Asks it to end, and waits until it has answered its clients and written its snapshot.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        signal(&self.process, Signal::TERM);
        eventually("the shop ends", || {
            self.process.try_wait().unwrap().is_some()
        });
        self.process.wait().unwrap()
    }

    pub(crate) fn pause(&self) {
        signal(&self.process, Signal::STOP);
    }

    pub(crate) fn resume(&self) {
        signal(&self.process, Signal::CONT);
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Notes what it prints, so that it is never held up, and tells where it listens.
fn listen(
    from: impl BufRead + Send + 'static,
    said: Arc<Mutex<String>>,
    tell: Option<Sender<SocketAddr>>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut tell = tell;
        for line in from.lines().map_while(Result::ok) {
            let address = line.strip_prefix("listening on http://");
            if let Some((address, tell)) = address.zip(tell.take_if(|_| address.is_some())) {
                // Nobody may wait any longer.
                let _ = tell.send(address.parse().unwrap());
            }
            let mut said = said.lock().unwrap();
            said.push_str(&line);
            said.push('\n');
        }
    })
}

/// Built once, with the profile and the features of the program that asks.
fn executable() -> &'static PathBuf {
    static EXECUTABLE: OnceLock<PathBuf> = OnceLock::new();
    EXECUTABLE.get_or_init(build)
}

fn build() -> PathBuf {
    // As in target/debug/deps/test or target/release/examples/load.
    let own = std::env::current_exe().unwrap();
    let folder = own.ancestors().nth(2).unwrap();
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => unreachable!("cargo names it"),
    };
    let mut cargo = Command::new(env!("CARGO"));
    // What cargo told this program of its own package: build scripts look at it, and what depends on
    // them would be built anew each time.
    for (name, _) in std::env::vars_os() {
        let told = ["CARGO_PKG_", "CARGO_MANIFEST_"];
        if name
            .to_str()
            .is_some_and(|name| told.iter().any(|told| name.starts_with(told)))
        {
            cargo.env_remove(name);
        }
    }
    let built = cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--example", "shop", "--profile", profile])
        .args(["--features", &features().join(",")])
        .arg("--target-dir")
        .arg(folder.parent().unwrap())
        .args(["--quiet", "--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(built.status.success(), "the shop was not built");
    let executable = String::from_utf8(built.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "shop")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    executable.expect("cargo tells where it is")
}

/// The same, so that nothing is built twice.
fn features() -> Vec<&'static str> {
    let features = [
        ("tokio", cfg!(feature = "tokio")),
        ("snapshot", cfg!(feature = "snapshot")),
        ("redis", cfg!(feature = "redis")),
        ("redis-tls", cfg!(feature = "redis-tls")),
        ("serde", cfg!(feature = "serde")),
        ("metrics", cfg!(feature = "metrics")),
        ("tracing", cfg!(feature = "tracing")),
    ];
    let on = features.into_iter().filter(|(_, is_on)| *is_on);
    on.map(|(name, _)| name).collect()
}
