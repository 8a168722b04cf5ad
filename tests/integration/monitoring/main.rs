//! The files for Prometheus and Grafana in `examples/deploy`, with a real Prometheus that scrapes two processes of the
//! example `shop`.

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
use std::sync::Arc;
use support::servers;

/// All services that compose.yaml starts with the profile "shop", except Grafana, and customers. Fields are dropped
/// from the first to the last.
struct Deployment {
    customers: Customers,
    prometheus: Prometheus,
    _exporter: RedisExporter,
    _shops: Vec<Arc<Shop>>,
    redis: Server,
    _postgres: Postgres,
}

impl Deployment {
    fn start() -> Self {
        let (postgres, redis) = (Postgres::start(), Server::start());
        let (database, url) = (postgres.url(), redis.url());
        // The requested products do not fit into L1.
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
        }
    }
}
