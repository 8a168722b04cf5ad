//! The page of the shop in a real browser.

use super::browser::Browser;
use super::servers::shop::Shop;
use fantoccini::Locator;
use serde_json::Value;

/// Environment variable with the path of a file to which a screenshot of the page under traffic is written.
const SCREENSHOT_VARIABLE: &str = "HOTSET_SCREENSHOT";

/// Returns an expression of JavaScript for a number in the table of caches.
fn number(cache: &str, column: usize) -> String {
    let cell = format!("[data-cache={cache}] td:nth-child({column})");
    format!("Number(document.querySelector('{cell}').textContent.replaceAll(',', ''))")
}

/// Column of the hits in the table of caches, from 1.
const HITS_COLUMN: usize = 3;
/// Column of the loads in the table of caches, from 1.
const LOADS_COLUMN: usize = 4;

/// Opens the page, and waits until its table shows all caches.
async fn open(shop: &Shop) -> Browser {
    let browser = Browser::start().await;
    browser.client.goto(&shop.url()).await.unwrap();
    let rows = "document.querySelectorAll('#caches tr').length === 6";
    browser.until(rows).await;
    browser
}

/// Enters another price by keyboard and submits it.
async fn change_price(browser: &Browser, product: &str, dollars: &str) {
    let client = &browser.client;
    let list = client.find(Locator::Id("product")).await.unwrap();
    list.select_by_value(product).await.unwrap();
    let price = client.find(Locator::Id("cents")).await.unwrap();
    price.clear().await.unwrap();
    price.send_keys(dollars).await.unwrap();
    browser.click("#change button").await;
}

/// Checks that the console of the page shows no warning and no error.
async fn check_log(browser: &Browser) {
    let log = browser.log().await;
    let entries = log.as_array().unwrap().iter();
    let bad: Vec<_> = entries
        .filter(|entry| ["SEVERE", "WARNING"].contains(&entry["level"].as_str().unwrap()))
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

#[tokio::test]
async fn page_shows_the_statistics_of_the_caches() {
    let shop = Shop::start(&[]);
    let browser = open(&shop).await;
    let source = browser.text("#source").await;
    assert!(source.starts_with("10,000 products in SQLite"), "{source}");
    assert_eq!(browser.text("#redis").await, "caches of this process");
    let products = "return document.querySelectorAll('#products li').length";
    assert_eq!(browser.run(products).await, 12);

    // No profile has been requested yet.
    assert_eq!(
        browser.text("[data-cache=profiles] .wide").await,
        "\u{2013}"
    );
    browser.click("#traffic").await;
    assert_eq!(browser.text("#traffic").await, "Stop the traffic");
    for (cache, column) in [
        ("profiles", HITS_COLUMN),
        ("products", HITS_COLUMN),
        ("profiles", LOADS_COLUMN),
    ] {
        browser
            .until(&format!("{} > 100", number(cache, column)))
            .await;
    }
    let ratio = "parseFloat(document.getElementById('hit-ratio').textContent)";
    browser
        .until(&format!("{ratio} > 30 && {ratio} < 100"))
        .await;
    let bars = "document.querySelector('[data-cache=profiles] .bar i').offsetWidth > 5";
    browser.until(bars).await;
    for drawn in ["#rates .hit", "#rates .load", "#times .hit", "#times .load"] {
        browser
            .until(&format!(
                "document.querySelector('{drawn}').points.length > 2"
            ))
            .await;
    }
    for time in ["#cached", "#loaded"] {
        let shown = browser.text(time).await;
        assert!(
            shown.ends_with("\u{b5}s") || shown.ends_with("ms"),
            "{shown}"
        );
    }
    let stats = shop.cache("profiles");
    assert!(stats["hits"].as_u64().unwrap() > 100, "{stats}");
    save_screenshot(&browser).await;

    browser.click("#traffic").await;
    assert_eq!(browser.text("#traffic").await, "Send traffic");
    browser
        .until("document.getElementById('rate').textContent.startsWith('1/')")
        .await;
    check_log(&browser).await;
    browser.close().await;
}

#[tokio::test]
async fn price_changed_on_the_page_is_shown_and_stored() {
    let shop = Shop::start(&["--products", "300"]);
    let browser = open(&shop).await;
    change_price(&browser, "4", "12.34").await;
    browser
        .until("document.getElementById('price').textContent === '$12.34'")
        .await;
    assert_eq!(
        browser.text("#products [data-id='4'] .price").await,
        "$12.34"
    );
    assert!(browser.text("#price-note").await.starts_with("version 2"));
    assert_eq!(shop.get_uncached("/prices/4").body["cents"], 1_234);
    // The page also shows a change that was made elsewhere.
    shop.put_price(4, 99);
    browser
        .until("document.getElementById('price').textContent === '$0.99'")
        .await;
    check_log(&browser).await;
    browser.close().await;
}

#[tokio::test]
async fn page_shows_an_error_after_the_shop_ends() {
    let mut shop = Shop::start(&["--products", "300"]);
    let browser = open(&shop).await;
    let hidden = browser
        .run("return document.getElementById('trouble').hidden")
        .await;
    assert_eq!(hidden, true);
    shop.kill();
    browser
        .until("!document.getElementById('trouble').hidden")
        .await;
    let error = browser.text("#trouble").await;
    assert!(error.starts_with("The shop does not answer"), "{error}");
    browser.close().await;
}

/// Screen readers need these names.
#[tokio::test]
async fn controls_and_graphics_have_accessible_names() {
    let shop = Shop::start(&["--products", "300"]);
    let browser = open(&shop).await;
    let elements = browser
        .client
        .find_all(Locator::Css("button, input, select, svg"))
        .await;
    let elements = elements.unwrap();
    assert_eq!(elements.len(), 6);
    for element in elements {
        let id = element.attr("id").await.unwrap();
        let script = "const e = arguments[0]; return e.getAttribute('aria-label') \
                      || e.labels?.[0]?.textContent || e.textContent";
        let element = serde_json::to_value(element).unwrap();
        let name: Value = browser.client.execute(script, vec![element]).await.unwrap();
        assert!(
            name.as_str().is_some_and(|name| name.len() > 3),
            "{id:?}: {name}"
        );
    }
    browser.close().await;
}

#[tokio::test]
async fn page_shows_changes_by_another_process_and_the_state_of_redis() {
    let mut backends = super::processes::Backends::new();
    let [one, other] = backends.start_two_shops();
    let browser = open(&one).await;
    let state = "document.getElementById('redis').textContent";
    browser
        .until(&format!(
            "{state} === 'Redis: invalidations are proven to arrive'"
        ))
        .await;
    browser
        .until("document.getElementById('price').textContent.startsWith('$')")
        .await;
    assert_eq!(other.put_price(1, 4_242).status, 200);
    browser
        .until("document.getElementById('price').textContent === '$42.42'")
        .await;
    let backplane = "document.querySelector('[data-cache=prices] .tier:last-child').textContent";
    browser
        .until(&format!("{backplane}.startsWith('proven')"))
        .await;
    backends.redis.kill();
    browser
        .until(&format!(
            "{state}.includes('not proven') || {state}.includes('breaker')"
        ))
        .await;
    check_log(&browser).await;
    browser.close().await;
}

/// Saves a screenshot after half a minute of traffic, if the environment asks for one.
async fn save_screenshot(browser: &Browser) {
    let Some(file) = std::env::var_os(SCREENSHOT_VARIABLE) else {
        return;
    };
    for points in (5..=30).step_by(5) {
        let drawn = format!("document.querySelector('#rates .hit').points.length > {points}");
        browser.until(&drawn).await;
    }
    let screenshot = browser.client.screenshot().await.unwrap();
    std::fs::write(file, screenshot).unwrap();
}
