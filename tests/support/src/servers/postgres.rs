//! A `postgres` server.

use super::process::Process;
use super::{eventually, free_port, signal};
use rustix::process::{Signal, geteuid};
use std::fs::{File, read_dir};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A `postgres` server of one test, with a database `postgres`. It refuses to run as root, so tests of root run it as
/// the user `postgres`.
pub struct Postgres {
    port: u16,
    folder: TempDir,
    process: Option<Process>,
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

    /// Returns the id of the main process, the parent of the processes that serve clients.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// Starts the server again, at the same address and with its committed data.
    pub fn restart(&mut self) {
        self.kill();
        let log = File::create(self.folder.path().join("log")).unwrap();
        let mut command = as_user("postgres");
        command
            .arg("-D")
            .arg(self.folder.path().join("data"))
            .arg("-k")
            .arg(self.folder.path())
            .args(["-p", &self.port.to_string(), "-h", "127.0.0.1"])
            .args(["-c", "max_connections=200"])
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let process = self.process.insert(Process::spawn(&mut command).unwrap());
        let port = self.port.to_string();
        eventually("postgres accepts connections", || {
            let ended = process.try_wait().unwrap();
            assert!(ended.is_none(), "postgres has ended: {ended:?}");
            let mut ask = Command::new(binary("pg_isready"));
            let ask = ask.args(["-q", "-h", "127.0.0.1", "-p", &port]);
            ask.status().unwrap().success()
        });
    }

    /// Stops the server at once, without waiting for its clients. It recovers when it is started again.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // After KILL, the processes that serve clients would continue to run and keep the shared memory.
            signal(&process, Signal::QUIT);
            process.wait().unwrap();
        }
    }

    /// Pauses the main process. New connections wait, and existing ones are served.
    pub fn pause(&self) {
        signal(self.process.as_ref().unwrap(), Signal::STOP);
    }

    pub fn resume(&self) {
        signal(self.process.as_ref().unwrap(), Signal::CONT);
    }

    /// Returns the log since the last start.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns a command that runs a program of `PostgreSQL` as a user that it accepts.
fn as_user(program: &str) -> Command {
    let program = binary(program);
    if !geteuid().is_root() {
        return Command::new(program);
    }
    // `setpriv` replaces itself by the program, so the process id is that of the program.
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

/// Returns the path of a program of the newest installed version. Debian does not add these programs to the `PATH`.
pub fn binary(program: &str) -> PathBuf {
    let versions = read_dir("/usr/lib/postgresql").into_iter().flatten();
    let newest = versions
        .flatten()
        .map(|version| version.path())
        .filter(|version| version.join("bin").join(program).exists())
        .max_by_key(|version| version_number(version));
    newest.map_or_else(
        || program.into(),
        |version| version.join("bin").join(program),
    )
}

fn version_number(version: &Path) -> Option<u32> {
    version.file_name()?.to_str()?.parse().ok()
}

fn run(command: &mut Command) {
    let done = command.output().expect("postgresql is installed");
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?}: {errors}");
}
