//! The example `shop`, started as a process.

use super::process::Process;
use super::{TEST_TIMEOUT, eventually, signal};
use rustix::process::Signal;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

/// A process of the shop.
pub struct Shop {
    process: Process,
    address: SocketAddr,
    /// The output so far, including standard error.
    output: Arc<Mutex<String>>,
    /// The threads that collect the output. They end with the process.
    collectors: Vec<thread::JoinHandle<()>>,
}

impl Shop {
    /// Starts the shop on a free port, and waits until it serves.
    pub fn start(options: &[&str]) -> Self {
        Self::try_start(options)
            .unwrap_or_else(|output| panic!("the shop did not start:\n{output}"))
    }

    /// Like [`start`](Self::start), but returns the output if the shop does not start.
    pub fn try_start(options: &[&str]) -> Result<Self, String> {
        let mut command = Command::new(executable());
        command
            .args(["--listen", "127.0.0.1:0"])
            .args(options)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = Process::spawn(&mut command).unwrap();
        let output = Arc::new(Mutex::new(String::new()));
        let (sender, receiver) = channel();
        let out = BufReader::new(process.stdout.take().unwrap());
        let errors = BufReader::new(process.stderr.take().unwrap());
        let collectors = vec![
            collect_output(out, Arc::clone(&output), Some(sender)),
            collect_output(errors, Arc::clone(&output), None),
        ];
        match receiver.recv_timeout(TEST_TIMEOUT) {
            Ok(address) => Ok(Self {
                process,
                address,
                output,
                collectors,
            }),
            Err(error) => {
                // It may have ended.
                let _ = process.kill();
                process.wait().unwrap();
                join_all(collectors);
                let mut output = output.lock().unwrap().clone();
                if error == RecvTimeoutError::Timeout {
                    output.push_str("the shop took too long to start\n");
                }
                Err(output)
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

    /// Returns the output so far, including standard error.
    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// Terminates the shop, and waits until it has answered its clients and written its snapshot, and all of its output
    /// was collected.
    pub fn stop(&mut self) -> ExitStatus {
        signal(&self.process, Signal::TERM);
        eventually("the shop ends", || {
            self.process.try_wait().unwrap().is_some()
        });
        join_all(self.collectors.drain(..));
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

fn join_all(threads: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    for thread in threads {
        thread.join().unwrap();
    }
}

/// Collects output, so that the process never blocks on a full pipe, and sends the address at which the shop listens.
fn collect_output(
    from: impl BufRead + Send + 'static,
    output: Arc<Mutex<String>>,
    address_sender: Option<Sender<SocketAddr>>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut address_sender = address_sender;
        for line in from.lines().map_while(Result::ok) {
            let address = line.strip_prefix("listening on http://");
            if let Some((address, sender)) =
                address.zip(address_sender.take_if(|_| address.is_some()))
            {
                // The receiver may have timed out.
                let _ = sender.send(address.parse().unwrap());
            }
            let mut output = output.lock().unwrap();
            output.push_str(&line);
            output.push('\n');
        }
    })
}

/// Returns the path of the shop: that in the variable `HOTSET_SHOP` if it is set. Otherwise builds the shop once, with
/// the profile of the calling program. A build would wait for other builds in the same folder.
fn executable() -> &'static PathBuf {
    static EXECUTABLE: OnceLock<PathBuf> = OnceLock::new();
    EXECUTABLE.get_or_init(|| std::env::var_os("HOTSET_SHOP").map_or_else(build, PathBuf::from))
}

fn build() -> PathBuf {
    // The program is in target/debug/deps if it is a test, and in target/release if it is the load generator.
    let own = std::env::current_exe().unwrap();
    let folder = own.parent().unwrap();
    let is_test = folder.ends_with("deps");
    let folder = if is_test {
        folder.parent().unwrap()
    } else {
        folder
    };
    // Cargo selects the features of dependencies for all packages and targets that it builds. The test, which exists
    // by now, makes it select those with which the tests were built, so that no dependency is built twice.
    let also_built: &[&str] = if is_test {
        &["--test", "envelope"]
    } else {
        &[]
    };
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => unreachable!("the folder has a name"),
    };
    let mut cargo = Command::new(env!("CARGO"));
    // Build scripts read these variables, which describe the package of this program. With them, dependencies with
    // build scripts would be built again each time.
    for (name, _) in std::env::vars_os() {
        let prefixes = ["CARGO_PKG_", "CARGO_MANIFEST_"];
        if name
            .to_str()
            .is_some_and(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)))
        {
            cargo.env_remove(name);
        }
    }
    let built = cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--workspace", "--all-features", "--bin", "shop"])
        .args(also_built)
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
    executable.expect("cargo prints the path")
}
