//! Two processes of the shop over one PostgreSQL and one Redis, or a cluster.

use super::client::agent;
use super::routes::{SMALL, check_concurrent_purchases, check_reads};
use super::servers::cluster::Cluster;
use super::servers::postgres::Postgres;
use super::servers::shop::Shop;
use super::servers::{Server, eventually, soon_async};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::thread;

/// The servers that processes of the shop share.
pub(crate) struct Backends {
    pub(crate) postgres: Postgres,
    pub(crate) redis: Server,
}

impl Backends {
    pub(crate) fn new() -> Self {
        Self {
            postgres: Postgres::start(),
            redis: Server::start(),
        }
    }

    /// Starts a shop with additional options.
    pub(crate) fn start_shop(&self, options: &[&str]) -> Shop {
        start_shop(&self.postgres, &self.redis.url(), options)
    }

    /// Starts two shops at the same time.
    pub(crate) fn start_two_shops(&self) -> [Shop; 2] {
        start_two_shops(&self.postgres, &self.redis.url())
    }
}

/// Starts a shop over a database and the Redis with this URL, with additional options.
fn start_shop(postgres: &Postgres, redis: &str, options: &[&str]) -> Shop {
    let database = postgres.url();
    // Long enough that a change is acknowledged on a busy machine, too.
    let deadline = ["--redis-deadline", "10000"];
    let servers = [&["--database", &database, "--redis", redis], &deadline[..]].concat();
    Shop::start(&[&SMALL[..], &servers, options].concat())
}

/// Starts two shops at the same time.
fn start_two_shops(postgres: &Postgres, redis: &str) -> [Shop; 2] {
    thread::scope(|scope| {
        let start = || scope.spawn(|| start_shop(postgres, redis, &[]));
        [start(), start()].map(|shop| shop.join().unwrap())
    })
}

/// Waits until invalidations by other processes are proven to arrive in a shop.
fn wait_until_healthy(shop: &Shop) {
    eventually("the shop is healthy", || {
        // On a busy machine, the database may take more than the second that the shop waits for it.
        let health = shop.get("/healthz");
        health.status == 200 && health.body["redis"] == "ok"
    });
}

#[test]
fn acknowledged_change_is_visible_in_both_processes() {
    let backends = Backends::new();
    let shops = backends.start_two_shops();
    check_reads(&shops[0]);
    wait_until_healthy(&shops[1]);
    let [one, other] = &shops;
    for round in 0..60 {
        let (writer, reader) = if round % 2 == 0 {
            (one, other)
        } else {
            (other, one)
        };
        // Caches the value that the change is about to replace.
        reader.get("/prices/7");
        let changed = writer.put_price(7, round);
        assert_eq!(
            (changed.status, &changed.body["cents"]),
            (200, &round.into())
        );
        assert_eq!(reader.get("/prices/7").body, changed.body);
        assert_eq!(writer.get("/prices/7").body, changed.body);
    }
    let hits = shops
        .each_ref()
        .map(|shop| shop.cache("prices")["hits"].as_u64().unwrap());
    assert!(hits.iter().all(|hits| *hits > 0), "{hits:?}");
}

/// The keys are in partitions on all primaries of the cluster.
#[test]
fn acknowledged_changes_over_a_cluster_are_visible_in_both_processes() {
    let (postgres, cluster) = (Postgres::start(), Cluster::start_without_failover());
    let shops = start_two_shops(&postgres, &cluster.url());
    shops.iter().for_each(wait_until_healthy);
    check_reads(&shops[0]);
    assert_eq!(cluster.partitions("shop:prices", 16).len(), 16);
    let [one, other] = &shops;
    for id in 1..=60 {
        let (writer, reader) = if id % 2 == 0 {
            (one, other)
        } else {
            (other, one)
        };
        // Caches the value that the change is about to replace.
        reader.get(&format!("/prices/{id}"));
        let changed = writer.put_price(id, 7 * id);
        assert_eq!(
            (changed.status, &changed.body["cents"]),
            (200, &(7 * id).into())
        );
        for shop in &shops {
            assert_eq!(shop.get(&format!("/prices/{id}")).body, changed.body);
        }
    }
    // The shops read from Redis what the other one has loaded.
    let l2_hits = |shop: &Shop| shop.cache("prices")["redis"]["hits"].as_u64().unwrap();
    assert!(
        shops.iter().all(|shop| l2_hits(shop) > 0),
        "no hits in Redis"
    );
}

#[test]
fn read_is_never_older_than_a_change_acknowledged_before_it_began() {
    let backends = Backends::new();
    let shops = backends.start_two_shops();
    let (acknowledged, is_done) = (AtomicI64::new(1), AtomicBool::new(false));
    let read = |shop: &Shop| {
        let mut reads = 0;
        while !is_done.load(SeqCst) {
            let oldest = acknowledged.load(SeqCst);
            let version = shop.get("/prices/3").body["version"].as_i64().unwrap();
            assert!(
                version >= oldest,
                "version {version} was read after version {oldest} was acknowledged"
            );
            reads += 1;
        }
        reads
    };
    let reads: Vec<u32> = thread::scope(|scope| {
        let readers = shops.each_ref().map(|shop| scope.spawn(|| read(shop)));
        for cents in 1..=200 {
            let changed = shops[usize::from(cents % 3 == 0)].put_price(3, cents);
            assert_eq!(changed.status, 200, "{changed:?}");
            acknowledged.store(changed.body["version"].as_i64().unwrap(), SeqCst);
        }
        is_done.store(true, SeqCst);
        readers
            .into_iter()
            .map(|reader| reader.join().unwrap())
            .collect()
    });
    assert!(reads.iter().all(|reads| *reads > 0), "{reads:?}");
}

#[test]
fn concurrent_purchases_in_two_processes_sell_no_item_twice() {
    let backends = Backends::new();
    let [one, other] = backends.start_two_shops();
    check_concurrent_purchases(&[&one, &other]);
}

#[test]
fn next_process_restores_the_snapshot_of_the_previous_one() {
    let backends = Backends::new();
    let snapshots = tempfile::tempdir().unwrap();
    let snapshot = ["--snapshot", snapshots.path().to_str().unwrap()];
    let mut shop = backends.start_shop(&snapshot);
    shop.get("/profiles/7");
    assert!(shop.stop().success(), "{}", shop.output());
    assert!(
        shop.output().contains("snapshot: 451 entries"),
        "{}",
        shop.output()
    );
    let next = backends.start_shop(&snapshot);
    assert!(
        next.output().contains("restored: 451 entries"),
        "{}",
        next.output()
    );
    next.get("/profiles/7");
    assert_eq!(next.cache("profiles")["hits"], 1);
    assert_eq!(next.get("/stats").body["database_reads"], 0);
}

/// The request changes a price that another transaction has locked, so that it has to wait.
#[tokio::test]
async fn stopping_shop_answers_the_request_in_flight() {
    let backends = Backends::new();
    let mut shop = backends.start_shop(&[]);
    let (address, url) = (shop.address(), shop.url());
    let config = backends.postgres.url();
    let connected = tokio_postgres::connect(&config, tokio_postgres::NoTls).await;
    let (mut client, connection) = connected.unwrap();
    tokio::spawn(connection);
    let transaction = client.transaction().await.unwrap();
    let lock = "SELECT 1 FROM prices WHERE product = 5 FOR UPDATE";
    transaction.batch_execute(lock).await.unwrap();
    let change = thread::spawn(move || {
        let change = agent().put(format!("{url}/prices/5"));
        change.send(r#"{"cents": 77}"#).unwrap().status()
    });
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    soon_async("the change waits for the lock", || async {
        let row = transaction.query_one(waiting, &[]).await.unwrap();
        row.get::<_, i64>(0) > 0
    })
    .await;
    let stopped = thread::spawn(move || (shop.stop(), shop.output()));
    eventually("the shop accepts no more connections", || {
        TcpStream::connect(address).is_err()
    });
    transaction.commit().await.unwrap();
    assert_eq!(change.join().unwrap(), 200);
    let (status, output) = stopped.join().unwrap();
    assert!(status.success(), "{output}");
}
