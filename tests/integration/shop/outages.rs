//! The shop while a server is down.

use super::processes::Chain;
use super::routes::SMALL;
use super::servers::eventually;
use super::servers::shop::Shop;
use std::thread;
use std::time::Duration;
use tokio_postgres::NoTls;

#[test]
fn without_redis_it_reads_and_writes_and_says_so() {
    let mut chain = Chain::new();
    let [one, other] = chain.open_two();
    other.get("/prices/7");
    chain.redis.kill();
    let changed = one.put_price(7, 123);
    // The database has it. The other hears of it later.
    assert_eq!((changed.status, &changed.body["cents"]), (202, &123.into()));
    assert_eq!(one.get("/prices/7").body, changed.body);
    eventually("the other does not trust its copy any longer", || {
        other.get("/prices/7").body == changed.body
    });
    for path in ["/products/7", "/products/299", "/profiles/7", "/"] {
        assert_eq!(one.raw("GET", path, "", false).status(), 200, "{path}");
    }
    eventually("the health says so", || {
        let health = one.get("/healthz");
        assert_eq!(health.status, 200, "{health:?}");
        health.body["status"] == "degraded"
    });
    assert!(one.cache("prices")["redis"]["queued"].as_u64().unwrap() > 0);

    chain.redis.restart();
    eventually("changes are acknowledged again", || {
        one.put_price(7, 456).status == 200
    });
    assert_eq!(other.get("/prices/7").body["cents"], 456);
    eventually("the health says so", || {
        one.get("/healthz").body["status"] == "ok" && other.get("/healthz").body["status"] == "ok"
    });
}

#[test]
fn it_opens_without_redis() {
    let mut chain = Chain::new();
    chain.redis.kill();
    let shop = chain.open(&[]);
    assert!(
        shop.output().contains("prices: not warmed"),
        "{}",
        shop.output()
    );
    assert_eq!(shop.get("/prices/7").status, 200);
    assert_eq!(shop.put_price(7, 1).status, 202);
    assert_eq!(shop.get("/prices/7").body["cents"], 1);
}

#[test]
fn without_the_database_what_is_held_is_served() {
    let mut chain = Chain::new();
    let shop = chain.open(&[]);
    chain.postgres.kill();
    assert_eq!(shop.get("/products/7").status, 200);
    assert_eq!(shop.get("/prices/7").status, 200);
    let refused = [
        shop.get("/products/299"),
        shop.get_anew("/prices/7"),
        shop.put_price(7, 1),
        shop.get("/healthz"),
    ];
    for answer in refused {
        assert_eq!(answer.status, 503, "{answer:?}");
    }
    assert_eq!(shop.get("/healthz").body["status"], "down");
    chain.postgres.restart();
    eventually("it is back", || shop.get("/healthz").status == 200);
    assert_eq!(shop.put_price(7, 1).status, 200);
    assert_eq!(shop.get("/products/299").status, 200);
}

#[test]
fn a_change_that_comes_late_is_seen_by_all_once_it_is_made() {
    let chain = Chain::new();
    let [one, other] = chain.open_two();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let locked = runtime.block_on(async {
        let url = chain.postgres.url();
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        let lock = "BEGIN; SELECT 1 FROM prices WHERE product = 7 FOR UPDATE";
        client.batch_execute(lock).await.unwrap();
        client
    });
    let before = other.get("/prices/7").body;
    assert_eq!(one.put_price(7, 111).status, 503);
    for shop in [&one, &other] {
        assert_eq!(shop.get("/prices/7").body, before);
    }
    runtime.block_on(locked.batch_execute("COMMIT")).unwrap();
    for shop in [&one, &other] {
        eventually("it is seen", || shop.get("/prices/7").body["cents"] == 111);
    }
}

#[test]
fn who_is_told_to_stop_tells_others_of_its_changes_first() {
    let chain = Chain::new();
    let (database, redis) = (chain.postgres.url(), chain.redis.url());
    let places = ["--database", &database, "--redis", &redis];
    let options = [&SMALL[..], &places, &["--redis-deadline", "300"]].concat();
    let [mut one, other] = [Shop::start(&options), Shop::start(&options)];
    for shop in [&one, &other] {
        assert_eq!(shop.get("/prices/7").body["version"], 1);
    }
    chain.redis.pause();
    assert_eq!(one.put_price(7, 222).status, 202);
    thread::scope(|scope| {
        let stopping = scope.spawn(|| one.stop());
        // One that waits for nothing has ended by now.
        thread::sleep(Duration::from_secs(1));
        chain.redis.resume();
        assert!(stopping.join().unwrap().success());
    });
    assert!(
        !one.output().contains("not all changes"),
        "{}",
        one.output()
    );
    eventually("the other trusts Redis again", || {
        other.get("/healthz").body["redis"] == "ok"
    });
    assert_eq!(other.get("/prices/7").body["cents"], 222);
}
