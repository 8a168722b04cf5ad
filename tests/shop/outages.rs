//! The shop while a server is down.

use super::processes::Chain;
use super::servers::eventually;

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
        shop.said().contains("prices: not warmed"),
        "{}",
        shop.said()
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
