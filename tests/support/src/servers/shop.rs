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
pub struct Shop {
    process: Child,
    address: SocketAddr,
    said: Arc<Mutex<String>>,
}

impl Shop {
    /// Starts it on a free port, and waits until it serves.
    pub fn start(options: &[&str]) -> Self {
        Self::try_start(options).unwrap_or_else(|said| panic!("the shop did not start:\n{said}"))
    }

    /// As [`start`](Self::start); if it ends instead, what it has said.
    pub fn try_start(options: &[&str]) -> Result<Self, String> {
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

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What it has printed so far, errors too.
    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Asks it to end, and waits until it has answered its clients and written its snapshot.
    pub fn stop(&mut self) -> ExitStatus {
        signal(&self.process, Signal::TERM);
        eventually("the shop ends", || {
            self.process.try_wait().unwrap().is_some()
        });
        self.process.wait().unwrap()
    }

    pub fn pause(&self) {
        signal(&self.process, Signal::STOP);
    }

    pub fn resume(&self) {
        signal(&self.process, Signal::CONT);
    }

    pub fn kill(&mut self) {
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

/// Builds the shop once, with the profile of the calling program, and returns its path.
fn executable() -> &'static PathBuf {
    static EXECUTABLE: OnceLock<PathBuf> = OnceLock::new();
    EXECUTABLE.get_or_init(build)
}

fn build() -> PathBuf {
    // The program is in target/debug/deps if it is a test, and in target/release if it is the load generator.
    let own = std::env::current_exe().unwrap();
    let folder = own.parent().unwrap();
    let folder = if folder.ends_with("deps") {
        folder.parent().unwrap()
    } else {
        folder
    };
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
        // With the features of all packages, as after a build of the workspace's tests, so that nothing is built
        // twice.
        .args(["build", "--workspace", "--all-features", "--bin", "shop"])
        .args(["--profile", profile])
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
