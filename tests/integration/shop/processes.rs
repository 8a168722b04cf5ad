//! Two processes of the shop over one PostgreSQL and one Redis: they are one shop.

use super::client::agent;
use super::routes::{SMALL, check_reads, check_takers};
use super::servers::postgres::Postgres;
use super::servers::shop::Shop;
use super::servers::{Server, eventually};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::thread;

pub(crate) struct Chain {
    pub(crate) postgres: Postgres,
    pub(crate) redis: Server,
}

impl Chain {
    pub(crate) fn new() -> Self {
        Self {
            postgres: Postgres::start(),
            redis: Server::start(),
        }
    }

    pub(crate) fn open(&self, more: &[&str]) -> Shop {
        let (database, redis) = (self.postgres.url(), self.redis.url());
        // A change is to be acknowledged on a busy machine as well.
        let deadline = ["--redis-deadline", "10000"];
        let places = [&["--database", &database, "--redis", &redis], &deadline[..]].concat();
        Shop::start(&[&SMALL[..], &places, more].concat())
    }

    /// Started at one time.
    pub(crate) fn open_two(&self) -> [Shop; 2] {
        thread::scope(|scope| {
            let open = || scope.spawn(|| self.open(&[]));
            [open(), open()].map(|shop| shop.join().unwrap())
        })
    }
}

#[test]
fn what_one_changes_all_see() {
    let chain = Chain::new();
    let shops = chain.open_two();
    check_reads(&shops[0]);
    eventually("all is well", || {
        let health = shops[1].get("/healthz");
        assert_eq!(health.status, 200, "{health:?}");
        health.body["redis"] == "ok"
    });
    let [one, other] = &shops;
    for round in 0..60 {
        let (writer, reader) = if round % 2 == 0 {
            (one, other)
        } else {
            (other, one)
        };
        // So that it holds what is about to be old.
        reader.get("/prices/7");
        let changed = writer.put_price(7, round);
        assert_eq!(
            (changed.status, &changed.body["cents"]),
            (200, &round.into())
        );
        assert_eq!(reader.get("/prices/7").body, changed.body);
        assert_eq!(writer.get("/prices/7").body, changed.body);
    }
    let held = shops
        .each_ref()
        .map(|shop| shop.cache("prices")["hits"].as_u64().unwrap());
    assert!(held.iter().all(|hits| *hits > 0), "{held:?}");
}

#[test]
fn nobody_reads_an_older_version_than_was_acknowledged() {
    let chain = Chain::new();
    let shops = chain.open_two();
    let (acknowledged, is_over) = (AtomicI64::new(1), AtomicBool::new(false));
    let read = |shop: &Shop| {
        let mut reads = 0;
        while !is_over.load(SeqCst) {
            let least = acknowledged.load(SeqCst);
            let version = shop.get("/prices/3").body["version"].as_i64().unwrap();
            assert!(version >= least, "{version} after {least} was acknowledged");
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
        is_over.store(true, SeqCst);
        readers
            .into_iter()
            .map(|reader| reader.join().unwrap())
            .collect()
    });
    assert!(reads.iter().all(|reads| *reads > 100), "{reads:?}");
}

#[test]
fn two_sell_nothing_twice() {
    let chain = Chain::new();
    let [one, other] = chain.open_two();
    check_takers(&[&one, &other]);
}

#[test]
fn what_one_leaves_another_begins_with() {
    let chain = Chain::new();
    let kept = tempfile::tempdir().unwrap();
    let snapshot = ["--snapshot", kept.path().to_str().unwrap()];
    let mut shop = chain.open(&snapshot);
    shop.get("/profiles/7");
    assert!(shop.stop().success(), "{}", shop.output());
    assert!(
        shop.output().contains("snapshot: 451 entries"),
        "{}",
        shop.output()
    );
    let next = chain.open(&snapshot);
    assert!(
        next.output().contains("restored: 451 entries"),
        "{}",
        next.output()
    );
    next.get("/profiles/7");
    assert_eq!(next.cache("profiles")["hits"], 1);
    assert_eq!(next.get("/stats").body["database_reads"], 0);
}

/// It changes a price that another transaction holds, so that it has to wait.
#[tokio::test]
async fn one_that_is_told_to_end_answers_first() {
    let chain = Chain::new();
    let mut shop = chain.open(&[]);
    let (address, url) = (shop.address(), shop.url());
    let config = chain.postgres.url();
    let connected = tokio_postgres::connect(&config, tokio_postgres::NoTls).await;
    let (mut holder, connection) = connected.unwrap();
    tokio::spawn(connection);
    let held = holder.transaction().await.unwrap();
    let lock = "SELECT 1 FROM prices WHERE product = 5 FOR UPDATE";
    held.batch_execute(lock).await.unwrap();
    let change = thread::spawn(move || {
        let change = agent().put(format!("{url}/prices/5"));
        change.send(r#"{"cents": 77}"#).unwrap().status()
    });
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    while held.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 0 {}
    let stopped = thread::spawn(move || (shop.stop(), shop.output()));
    eventually("it takes no more customers", || {
        TcpStream::connect(address).is_err()
    });
    held.commit().await.unwrap();
    assert_eq!(change.join().unwrap(), 200);
    let (status, said) = stopped.join().unwrap();
    assert!(status.success(), "{said}");
}
