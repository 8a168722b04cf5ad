//! The files of examples/deploy for Prometheus and Grafana, with a real Prometheus that watches two real
//! shops.

mod customers;
mod dashboard;
mod files;
mod outage;
mod rules;

use customers::Customers;
use servers::Server;
use servers::postgres::Postgres;
use servers::prometheus::{Prometheus, RedisExporter};
use servers::shop::Shop;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use support::servers;

/// One at a time: what is measured here are seconds.
static TURN: Mutex<()> = Mutex::new(());

/// All that compose.yaml starts with the profile "shop", but for Grafana, and customers. It is stopped from
/// the top.
struct World {
    customers: Customers,
    prometheus: Prometheus,
    _exporter: RedisExporter,
    _shops: Vec<Arc<Shop>>,
    redis: Server,
    _postgres: Postgres,
    _turn: MutexGuard<'static, ()>,
}

impl World {
    fn start() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let (postgres, redis) = (Postgres::start(), Server::start());
        let (database, url) = (postgres.url(), redis.url());
        // What customers ask for does not fit into L1.
        let options = [
            "--database",
            &database,
            "--redis",
            &url,
            "--products",
            "1000",
        ];
        let shops: Vec<_> = (0..2).map(|_| Arc::new(Shop::start(&options))).collect();
        let addresses: Vec<_> = shops.iter().map(|shop| shop.address()).collect();
        let exporter = RedisExporter::start(redis.address());
        let prometheus = Prometheus::start(&addresses, exporter.address());
        Self {
            customers: Customers::of(&shops, 1_000),
            prometheus,
            _exporter: exporter,
            _shops: shops,
            redis,
            _postgres: postgres,
            _turn: turn,
        }
    }
}
