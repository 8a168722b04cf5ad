//! The routes of one shop over SQLite.

use super::servers::eventually;
use super::servers::shop::Shop;
use std::path::Path;
use std::thread;

/// Options of a shop with 300 products, half of which are warmed.
pub(crate) const SMALL: [&str; 2] = ["--products", "300"];

/// Starts a shop over a database of its own.
fn small() -> Shop {
    Shop::start(&SMALL)
}

/// Starts a shop over the given SQLite file.
fn over(database: &Path) -> Shop {
    Shop::start(&[&SMALL[..], &["--database", database.to_str().unwrap()]].concat())
}

/// Checks that each route returns the same without the cache, on a miss and on a hit.
pub(crate) fn check_reads(shop: &Shop) {
    for id in [1, 7, 300] {
        for route in ["products", "prices", "stock", "profiles", "sessions"] {
            let path = format!("/{route}/{id}");
            let uncached = shop.get_uncached(&path);
            assert_eq!(
                (uncached.status, &uncached.body["id"]),
                (200, &id.into()),
                "{path}"
            );
            for _ in 0..2 {
                assert_eq!(shop.get(&path).body, uncached.body, "{path}");
            }
        }
    }
    let product = shop.get("/products/7").body;
    assert!(product["description"].as_str().unwrap().len() > 150);
    assert!(product["category"].is_string());
    let stats = shop.get("/stats").body;
    assert_eq!(stats["products"], 300);
    for name in ["products", "prices", "profiles"] {
        // With Redis, L1 does not serve its entries while a busy machine delays the proof that invalidations arrive.
        eventually("repeated requests are hits", || {
            let has_hits = shop.cache(name)["hits"].as_u64().unwrap() >= 3;
            if !has_hits {
                assert_eq!(shop.get(&format!("/{name}/7")).status, 200);
            }
            has_hits
        });
    }
}

#[test]
fn routes_return_the_same_with_and_without_the_cache() {
    let shop = small();
    check_reads(&shop);
    // With Redis, L1 loses its entries if invalidations are proven to arrive only after the products were warmed.
    for (name, entries) in [("products", 150), ("prices", 150), ("profiles", 3)] {
        let cache = shop.cache(name);
        assert_eq!(cache["entries"], entries, "{cache}");
    }
    // Each of the three profiles was requested twice.
    assert_eq!(shop.cache("profiles")["hit_ratio"], 0.5);
    eventually("the database answers within a second", || {
        let health = shop.get("/healthz");
        assert_eq!(health.body["redis"], "not used");
        (health.status, &health.body["status"]) == (200, &"ok".into())
    });
}

#[test]
fn popular_products_are_warmed_before_the_first_request() {
    let shop = small();
    assert!(
        shop.output().contains("warmed: 450 entries"),
        "{}",
        shop.output()
    );
    for id in 1..=100 {
        shop.get(&format!("/products/{id}"));
        shop.get(&format!("/prices/{id}"));
    }
    assert_eq!(shop.get("/stats").body["database_reads"], 0);
    assert_eq!(shop.cache("products")["hit_ratio"], 1.0);
}

#[test]
fn value_comes_from_the_cache_unless_the_request_bypasses_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.sqlite");
    let shop = over(&file);
    let name = |uncached| {
        let answer = shop.ask("GET", "/products/7", "", uncached);
        answer.body["name"].as_str().unwrap().to_string()
    };
    let old = name(false);
    let database = rusqlite::Connection::open(&file).unwrap();
    let rename = "UPDATE products SET name = 'another' WHERE id = 7";
    assert_eq!(database.execute(rename, []).unwrap(), 1);
    assert_eq!(name(false), old);
    assert_eq!(name(true), "another");
}

#[test]
fn change_is_visible_to_the_next_read() {
    let shop = small();
    for cents in [1, 5, 99_999] {
        let before = shop.get("/prices/7").body["version"].as_i64().unwrap();
        let changed = shop.put_price(7, cents);
        assert_eq!(
            (changed.status, &changed.body["cents"]),
            (200, &cents.into())
        );
        assert_eq!(changed.body["version"], before + 1);
        assert_eq!(shop.get("/prices/7").body, changed.body);
        assert_eq!(shop.get_uncached("/prices/7").body, changed.body);
    }
    let stock = shop.get("/stock/7").body["count"].as_i64().unwrap();
    let taken = shop.take(7, stock);
    assert_eq!((taken.status, &taken.body["count"]), (200, &0.into()));
    assert_eq!(shop.get("/stock/7").body, taken.body);
    let refused = shop.take(7, 1);
    assert_eq!(
        (refused.status, &refused.body["error"]),
        (409, &"there are only 0".into())
    );
    assert_eq!(shop.get("/stock/7").body, taken.body);
}

/// Checks that concurrent purchases each change the stock by one, in one total order of versions.
pub(crate) fn check_concurrent_purchases(shops: &[&Shop]) {
    const PURCHASES: i64 = 20;
    let before = shops[0].get_uncached("/stock/9").body;
    let mut versions: Vec<_> = thread::scope(|scope| {
        let take = |shop: &Shop| {
            let answer = shop.take(9, 1);
            assert_eq!(answer.status, 200, "{answer:?}");
            let version = answer.body["version"].as_i64().unwrap();
            assert!(shop.get("/stock/9").body["version"].as_i64().unwrap() >= version);
            version
        };
        let buyers: Vec<_> = (0..4)
            .map(|index| {
                let shop = shops[index % shops.len()];
                scope.spawn(move || (0..PURCHASES).map(|_| take(shop)).collect::<Vec<_>>())
            })
            .collect();
        let buyers = buyers.into_iter();
        buyers.flat_map(|buyer| buyer.join().unwrap()).collect()
    });
    versions.sort_unstable();
    let (count, version) = (&before["count"], before["version"].as_i64().unwrap());
    assert_eq!(
        versions,
        (version + 1..=version + 4 * PURCHASES).collect::<Vec<_>>()
    );
    for shop in shops {
        let after = shop.get("/stock/9").body;
        assert_eq!(after["count"], count.as_i64().unwrap() - 4 * PURCHASES);
        assert_eq!(after["version"], version + 4 * PURCHASES);
    }
}

#[test]
fn concurrent_purchases_sell_no_item_twice() {
    let shop = small();
    check_concurrent_purchases(&[&shop]);
}

#[test]
fn invalid_request_is_refused_with_an_error_in_json() {
    let shop = small();
    let refused = [
        ("GET", "/products/301", "", 404),
        ("GET", "/products/-1", "", 404),
        ("GET", "/prices/0", "", 404),
        ("GET", "/products/seven", "", 400),
        ("GET", "/stock/99999999999999999999", "", 400),
        ("GET", "/nowhere", "", 404),
        ("DELETE", "/prices/7", "", 405),
        ("PUT", "/prices/seven", r#"{"cents": 1}"#, 400),
        ("PUT", "/prices/301", r#"{"cents": 1}"#, 404),
        ("PUT", "/prices/7", "", 400),
        ("PUT", "/prices/7", "cents", 400),
        ("PUT", "/prices/7", r#"{"cents": -1}"#, 400),
        ("PUT", "/prices/7", r#"{"cents": 1.5}"#, 400),
        ("PUT", "/prices/7", r#"{"cents": 1, "and": 2}"#, 400),
        ("PUT", "/prices/7", r#"{"cents": 9223372036854775807}"#, 400),
        ("POST", "/stock/7/take", r#"{"count": 0}"#, 400),
        ("POST", "/stock/7/take", r#"{"count": 1000000}"#, 409),
        ("POST", "/stock/301/take", r#"{"count": 1}"#, 404),
    ];
    let before = (shop.get("/prices/7").body, shop.get("/stock/7").body);
    for (method, path, body, status) in refused {
        let answer = shop.ask(method, path, body, false);
        assert_eq!(answer.status, status, "{method} {path} {body}: {answer:?}");
        assert!(!answer.body["error"].as_str().unwrap().is_empty());
    }
    // One byte above axum's limit, so that the service has read the whole body when it answers. It closes the
    // connection on a client that is still sending.
    let too_long = format!(r#"{{"cents": {}}}"#, "1".repeat((2 << 20) - 10));
    assert_eq!(too_long.len(), (2 << 20) + 1);
    assert_eq!(shop.ask("PUT", "/prices/7", &too_long, false).status, 413);
    assert_eq!(
        (shop.get("/prices/7").body, shop.get("/stock/7").body),
        before
    );
    // The absence of a product is cached, too.
    let reads = || shop.get("/stats").body["database_reads"].clone();
    let before = reads();
    assert_eq!(shop.get("/products/301").status, 404);
    assert_eq!(reads(), before);
}

#[test]
fn shops_started_together_fill_their_database_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.sqlite");
    let shops: Vec<_> = thread::scope(|scope| {
        let starts: Vec<_> = (0..2).map(|_| scope.spawn(|| over(&file))).collect();
        starts
            .into_iter()
            .map(|start| start.join().unwrap())
            .collect()
    });
    for shop in &shops {
        assert_eq!(shop.get("/stats").body["products"], 300);
    }
    assert_eq!(
        shops[0].get("/products/300").body,
        shops[1].get("/products/300").body
    );
}

#[test]
fn shop_that_cannot_start_prints_the_reason() {
    let output = |options: &[&str]| {
        Shop::try_start(options)
            .err()
            .expect("the shop must not start")
    };
    let file_error = output(&["--database", "/nowhere/shop.sqlite"]);
    assert!(
        file_error.contains("set --database to a file"),
        "{file_error}"
    );
    let url_error = output(&["--database", "postgres://127.0.0.1:1/x?connect_timeout=1"]);
    assert!(
        url_error.contains("cannot connect to PostgreSQL"),
        "{url_error}"
    );
    let number_error = output(&["--products", "0"]);
    assert!(number_error.contains("--products"), "{number_error}");
}
