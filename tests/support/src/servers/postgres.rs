//! A `postgres` server.

use super::{eventually, free_port, signal};
use rustix::process::{Signal, geteuid};
use std::fs::{File, read_dir};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use tempfile::TempDir;

/// A `postgres` of this test's own, with a database `postgres`. It refuses to run as root, and runs as the
/// user `postgres` then.
pub struct Postgres {
    port: u16,
    folder: TempDir,
    process: Option<Child>,
}

impl Postgres {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        if geteuid().is_root() {
            run(Command::new("chown").arg("postgres").arg(folder.path()));
        }
        run(as_user("initdb")
            .args(["--auth", "trust", "--username", "postgres", "--no-sync"])
            .args(["--encoding", "UTF8", "--locale", "C", "--pgdata"])
            .arg(folder.path().join("data")));
        let mut server = Self {
            port: free_port(),
            folder,
            process: None,
        };
        server.restart();
        server
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process, and the parent of those that serve its clients.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// Starts it again, at the same address, with what it has committed.
    pub fn restart(&mut self) {
        self.kill();
        let log = File::create(self.folder.path().join("log")).unwrap();
        let process = as_user("postgres")
            .arg("-D")
            .arg(self.folder.path().join("data"))
            .arg("-k")
            .arg(self.folder.path())
            .args(["-p", &self.port.to_string(), "-h", "127.0.0.1"])
            .args(["-c", "max_connections=200"])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
        eventually("postgres takes connections", || {
            let port = self.port.to_string();
            let mut ask = Command::new(binary("pg_isready"));
            let ask = ask.args(["-q", "-h", "127.0.0.1", "-p", &port]);
            ask.status().unwrap().success()
        });
    }

    /// At once, without waiting for its clients. It recovers when it is started again.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Not KILL: those who serve its clients would live on, and hold the shared memory.
            signal(&process, Signal::QUIT);
            process.wait().unwrap();
        }
    }

    /// Clients wait, until it goes on, to be connected; those that are, do not.
    pub fn pause(&self) {
        signal(self.process.as_ref().unwrap(), Signal::STOP);
    }

    pub fn resume(&self) {
        signal(self.process.as_ref().unwrap(), Signal::CONT);
    }

    /// What it has logged since it was started.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A program of the server's, to be run as a user that it accepts.
fn as_user(program: &str) -> Command {
    let program = binary(program);
    if !geteuid().is_root() {
        return Command::new(program);
    }
    // It becomes the program, so that its process id is the program's.
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid",
            "postgres",
            "--regid",
            "postgres",
            "--init-groups",
        ])
        .arg("--")
        .arg(program);
    command
}

/// Of the newest version that there is. Debian keeps them out of the `PATH`.
pub fn binary(program: &str) -> PathBuf {
    let versions = read_dir("/usr/lib/postgresql").into_iter().flatten();
    let newest = versions
        .flatten()
        .map(|version| version.path())
        .filter(|version| version.join("bin").join(program).exists())
        .max_by_key(|version| number(version));
    newest.map_or_else(
        || program.into(),
        |version| version.join("bin").join(program),
    )
}

fn number(version: &Path) -> Option<u32> {
    version.file_name()?.to_str()?.parse().ok()
}

fn run(command: &mut Command) {
    let done = command.output().expect("postgresql is installed");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?}: {said}");
}
