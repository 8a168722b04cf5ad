//! Snapshots of the shop, which it writes when it stops and restores when it starts.

use super::routes::SMALL;
use super::servers::shop::Shop;
use std::fs;

#[test]
fn next_shop_restores_the_snapshot_except_prices_and_stock() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.sqlite");
    let snapshots = folder.path().join("snapshots");
    let paths = [
        ["--database", file.to_str().unwrap()],
        ["--snapshot", snapshots.to_str().unwrap()],
    ];
    let options = [&SMALL[..], &paths.concat()].concat();
    let mut shop = Shop::start(&options);
    assert!(
        shop.output().contains("restored: 0 entries"),
        "{}",
        shop.output()
    );
    for id in 1..=20 {
        shop.get(&format!("/profiles/{id}"));
    }
    shop.put_price(7, 123);
    assert!(shop.stop().success(), "{}", shop.output());
    // Products, prices and stock were warmed, and the changed price was stored with its change.
    assert!(
        shop.output().contains("snapshot: 470 entries"),
        "{}",
        shop.output()
    );

    // Another program changes a price while no shop runs.
    let database = rusqlite::Connection::open(&file).unwrap();
    let change = "UPDATE prices SET cents = 456, version = version + 1 WHERE product = 7";
    database.execute(change, []).unwrap();
    let next = Shop::start(&options);
    // Prices and stock are not restored.
    assert!(
        next.output().contains("restored: 170 entries"),
        "{}",
        next.output()
    );
    assert_eq!(next.get("/prices/7").body["cents"], 456);
    for id in 1..=20 {
        next.get(&format!("/profiles/{id}"));
    }
    let profiles = next.cache("profiles");
    assert_eq!(
        (&profiles["hits"], &profiles["loads"]),
        (&20.into(), &0.into())
    );
}

#[test]
fn shop_with_a_damaged_snapshot_starts_without_it() {
    let snapshots = tempfile::tempdir().unwrap();
    let options = [
        &SMALL[..],
        &["--snapshot", snapshots.path().to_str().unwrap()],
    ]
    .concat();
    fs::write(snapshots.path().join("products"), "no snapshot").unwrap();
    let shop = Shop::start(&options);
    assert!(
        shop.output().contains("products: not restored"),
        "{}",
        shop.output()
    );
    assert_eq!(shop.get("/products/7").status, 200);
}
