//! Processes of servers, none of which outlives the tests.

use std::io::{self, Write};
use std::ops::{Deref, DerefMut};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Reads the ids of processes that start (`+`) or end (`-`), and kills those that are left when its input ends.
const WATCHDOG: &str = r#"
    $1 == "+" { running[$2] }
    $1 == "-" { delete running[$2] }
    END { for (id in running) system("kill -KILL " id " 2>/dev/null") }
"#;

/// The input of the watchdog of this process.
static WATCHDOG_INPUT: Mutex<Option<ChildStdin>> = Mutex::new(None);

/// A process that is killed when this value is dropped, and also if the test program is killed.
pub struct Process(Child);

impl Process {
    /// Starts a process.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        let child = command.spawn()?;
        tell_watchdog('+', child.id())?;
        Ok(Self(child))
    }
}

impl Deref for Process {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Process {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = tell_watchdog('-', self.0.id());
        let _ = self.0.wait();
    }
}

/// Tells the watchdog that a process starts or ends. The first call starts the watchdog.
fn tell_watchdog(sign: char, id: u32) -> io::Result<()> {
    let mut input = WATCHDOG_INPUT
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if input.is_none() {
        let watchdog = Command::new("awk")
            .arg(WATCHDOG)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        *input = watchdog.stdin;
    }
    let input = input.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
    writeln!(input, "{sign} {id}")
}
