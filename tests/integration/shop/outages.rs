//! The shop while a server is down.

use super::processes::Backends;
use super::routes::SMALL;
use super::servers::eventually;
use super::servers::shop::Shop;
use std::thread;
use std::time::Duration;
use tokio_postgres::NoTls;

#[test]
fn shop_serves_and_reports_degraded_health_during_an_outage_of_redis() {
    let mut backends = Backends::new();
    let [one, other] = backends.start_two_shops();
    other.get("/prices/7");
    backends.redis.kill();
    let changed = one.put_price(7, 123);
    // The database has stored the change. The other shop learns of it later.
    assert_eq!((changed.status, &changed.body["cents"]), (202, &123.into()));
    assert_eq!(one.get("/prices/7").body, changed.body);
    eventually("the other shop reads the new price", || {
        other.get("/prices/7").body == changed.body
    });
    for path in ["/products/7", "/products/299", "/profiles/7", "/"] {
        assert_eq!(one.raw("GET", path, "", false).status(), 200, "{path}");
    }
    eventually("the health is degraded", || {
        let health = one.get("/healthz");
        (health.status, &health.body["status"]) == (200, &"degraded".into())
    });
    assert!(one.cache("prices")["redis"]["queued"].as_u64().unwrap() > 0);

    backends.redis.restart();
    eventually("changes are acknowledged again", || {
        one.put_price(7, 456).status == 200
    });
    assert_eq!(other.get("/prices/7").body["cents"], 456);
    eventually("both shops are healthy", || {
        one.get("/healthz").body["status"] == "ok" && other.get("/healthz").body["status"] == "ok"
    });
}

#[test]
fn shop_starts_without_redis() {
    let mut backends = Backends::new();
    backends.redis.kill();
    let shop = backends.start_shop(&[]);
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
fn cached_values_are_served_during_an_outage_of_the_database() {
    let mut backends = Backends::new();
    let shop = backends.start_shop(&[]);
    backends.postgres.kill();
    assert_eq!(shop.get("/products/7").status, 200);
    assert_eq!(shop.get("/prices/7").status, 200);
    let refused = [
        shop.get("/products/299"),
        shop.get_uncached("/prices/7"),
        shop.put_price(7, 1),
        shop.get("/healthz"),
    ];
    for answer in refused {
        assert_eq!(answer.status, 503, "{answer:?}");
    }
    assert_eq!(shop.get("/healthz").body["status"], "down");
    backends.postgres.restart();
    eventually("the shop is healthy", || shop.get("/healthz").status == 200);
    assert_eq!(shop.put_price(7, 1).status, 200);
    assert_eq!(shop.get("/products/299").status, 200);
}

#[test]
fn change_committed_after_its_request_failed_becomes_visible_in_all_processes() {
    let backends = Backends::new();
    let [one, other] = backends.start_two_shops();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let lock_holder = runtime.block_on(async {
        let url = backends.postgres.url();
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
    runtime
        .block_on(lock_holder.batch_execute("COMMIT"))
        .unwrap();
    for shop in [&one, &other] {
        eventually("the change is visible", || {
            shop.get("/prices/7").body["cents"] == 111
        });
    }
}

#[test]
fn stopping_shop_sends_its_queued_invalidations_first() {
    let backends = Backends::new();
    let (database, redis) = (backends.postgres.url(), backends.redis.url());
    let urls = ["--database", &database, "--redis", &redis];
    let options = [&SMALL[..], &urls, &["--redis-deadline", "1000"]].concat();
    let [mut one, other] = [Shop::start(&options), Shop::start(&options)];
    for shop in [&one, &other] {
        assert_eq!(shop.get("/prices/7").body["version"], 1);
    }
    backends.redis.pause();
    assert_eq!(one.put_price(7, 222).status, 202);
    thread::scope(|scope| {
        let stopping = scope.spawn(|| one.stop());
        // A shop that does not wait for its invalidations has ended by now.
        thread::sleep(Duration::from_secs(1));
        backends.redis.resume();
        assert!(stopping.join().unwrap().success());
    });
    assert!(
        !one.output().contains("not all changes"),
        "{}",
        one.output()
    );
    eventually("the other shop is connected to Redis again", || {
        other.get("/healthz").body["redis"] == "ok"
    });
    assert_eq!(other.get("/prices/7").body["cents"], 222);
}
