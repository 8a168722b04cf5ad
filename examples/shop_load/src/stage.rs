//! The servers that the load needs, on free ports, stopped in the end.

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

/// In the order in which they stop.
pub(crate) struct Stage {
    shops: Vec<Shop>,
    redis: Server,
    postgres: Postgres,
}

impl Stage {
    pub(crate) fn start(products: u64) -> Result<Self, AnyError> {
        require("redis-server".as_ref(), "redis-server")?;
        require(&binary("postgres"), "postgresql")?;
        eprintln!(
            "starting PostgreSQL, Redis and shops, which takes longer where those are to be built"
        );
        let (redis, postgres) = (Server::start(), Postgres::start());
        let products = products.to_string();
        let options = ["--database", &postgres.url(), "--redis", &redis.url()];
        let options = [&options[..], &["--products", &products]].concat();
        // One after the other: the first fills the database.
        let shop = |_| Shop::try_start(&options).map_err(|said| format!("no shop: {said}"));
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

    /// Kills Redis, and starts it again, empty.
    pub(crate) fn restart_redis(&mut self, outage: Duration) {
        self.redis.kill();
        thread::sleep(outage);
        self.redis.restart();
    }
}

impl Stage {
    /// Stops the shops, and tells how many transactions PostgreSQL has committed. It counts those of a
    /// connection when that is closed, if not before.
    pub(crate) fn transactions(mut self) -> Result<u64, AnyError> {
        for shop in &mut self.shops {
            shop.stop();
        }
        let count = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
        let mut ask = Command::new(binary("psql"));
        let said = ask
            .args(["-X", "-t", "-A", "-c", count, &self.postgres.url()])
            .output()?;
        let text = String::from_utf8_lossy(&said.stdout);
        let count = text.trim().parse();
        count.map_err(|_| String::from_utf8_lossy(&said.stderr).into())
    }
}

/// Fails if there is no such program.
fn require(program: &Path, package: &str) -> Result<(), AnyError> {
    let mut ask = Command::new(program);
    let ask = ask.arg("--version").stdout(Stdio::null());
    match ask.status() {
        Ok(status) if status.success() => Ok(()),
        _ => Err(format!(
            "{} does not run: apt-get install {package}, or load shops that run already with --target",
            program.display()
        )
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_missing_is_told_with_its_package() {
        let missing = require("no-such-server".as_ref(), "its-package").unwrap_err();
        let missing = missing.to_string();
        assert!(
            missing.starts_with("no-such-server does not run"),
            "{missing}"
        );
        assert!(missing.contains("apt-get install its-package"), "{missing}");
    }
}
