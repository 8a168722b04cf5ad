//! Ports for servers, each for one test at a time, also if several test programs run.
//!
//! A server opens its port some time after it was chosen. Therefore a port is reserved by an abstract Unix socket with
//! its number in the name, which the kernel closes when the process ends. The ports are below those that the kernel
//! gives to connections and to listeners without a port of their own.

use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process;
use std::sync::{Mutex, PoisonError};

/// The ports from which servers get theirs.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// The reserved ports of this process.
static RESERVED: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());

/// Reserves a free port of the loopback interface until this process ends.
pub(super) fn reserve() -> u16 {
    let mut reserved = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
    // Processes begin at different ports, so that they seldom try the same one.
    let offset = process::id() as usize * 101 + reserved.len();
    let mut ports = PORTS.cycle().skip(offset % PORTS.len()).take(PORTS.len());
    let found = ports.find_map(|port| Some((port, try_reserve(port)?)));
    let (port, reservation) = found.expect("there is a free port");
    reserved.push(reservation);
    port
}

/// Reserves a port, unless it is reserved or used.
fn try_reserve(port: u16) -> Option<UnixListener> {
    let name = SocketAddr::from_abstract_name(format!("hotset-test-port-{port}")).ok()?;
    let reservation = UnixListener::bind_addr(&name).ok()?;
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
    Some(reservation)
}
