//! The servers under load, on free ports.

use crate::AnyError;
use crate::cpu::Processes;
use crate::servers::Server;
use crate::servers::postgres::{Postgres, binary};
use crate::servers::shop::Shop;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

const SHOPS: usize = 2;

/// The servers, in the order in which they are stopped when this is dropped.
pub(crate) struct Stage {
    shops: Vec<Shop>,
    redis: Server,
    postgres: Postgres,
}

impl Stage {
    /// Starts all servers.
    pub(crate) fn start(products: u64) -> Result<Self, AnyError> {
        require("redis-server".as_ref(), "redis-server")?;
        require(&binary("postgres"), "postgresql")?;
        eprintln!("starting PostgreSQL, Redis and two shops (the first run also builds the shop)");
        let (redis, postgres) = (Server::start(), Postgres::start());
        let products = products.to_string();
        let options = ["--database", &postgres.url(), "--redis", &redis.url()];
        let options = [&options[..], &["--products", &products]].concat();
        // The shops start one after the other, because the first one fills the database.
        let shop = |_| {
            Shop::try_start(&options).map_err(|output| format!("cannot start a shop: {output}"))
        };
        let shops = (0..SHOPS).map(shop).collect::<Result<_, _>>()?;
        Ok(Self {
            shops,
            redis,
            postgres,
        })
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.shops.iter().map(Shop::address).collect()
    }

    pub(crate) fn processes(&self) -> Processes {
        Processes {
            shops: self.shops.iter().map(Shop::pid).collect(),
            redis: self.redis.pid(),
            postgres: self.postgres.pid(),
        }
    }

    /// Kills Redis, and restarts it empty after the outage.
    pub(crate) fn restart_redis(&mut self, outage: Duration) {
        self.redis.kill();
        // The outage lasts for this time, while the clients continue.
        thread::sleep(outage);
        self.redis.restart();
    }

    /// Stops the shops, and returns the number of transactions that PostgreSQL has committed. PostgreSQL counts those
    /// of a connection when the connection is closed at the latest.
    pub(crate) fn transactions(mut self) -> Result<u64, AnyError> {
        for shop in &mut self.shops {
            shop.stop();
        }
        let count = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
        let mut psql = Command::new(binary("psql"));
        let output = psql
            .args(["-X", "-t", "-A", "-c", count, &self.postgres.url()])
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let count = text.trim().parse();
        count.map_err(|_| String::from_utf8_lossy(&output.stderr).into())
    }
}

/// Returns an error if a program is not installed.
fn require(program: &Path, package: &str) -> Result<(), AnyError> {
    let mut command = Command::new(program);
    let command = command.arg("--version").stdout(Stdio::null());
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        _ => Err(format!(
            "{} does not run; use apt-get install {package}, or --target with shops that are already running",
            program.display()
        )
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_program_is_reported_with_its_package() {
        let missing = require("no-such-server".as_ref(), "its-package").unwrap_err();
        let missing = missing.to_string();
        assert!(
            missing.starts_with("no-such-server does not run"),
            "{missing}"
        );
        assert!(missing.contains("apt-get install its-package"), "{missing}");
    }
}
