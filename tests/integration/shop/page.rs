//! The page, as people see it.

use super::browser::Browser;
use super::servers::shop::Shop;
use fantoccini::Locator;
use serde_json::Value;

/// Names a file that a picture of the page is written to, once there is something to be seen.
const SCREENSHOT: &str = "HOTSET_SCREENSHOT";

/// A number in the table of caches.
fn figure(cache: &str, column: usize) -> String {
    let cell = format!("[data-cache={cache}] td:nth-child({column})");
    format!("Number(document.querySelector('{cell}').textContent.replaceAll(',', ''))")
}

const HITS: usize = 3;
const LOADS: usize = 4;

async fn open(shop: &Shop) -> Browser {
    let browser = Browser::start().await;
    browser.client.goto(&shop.url()).await.unwrap();
    let rows = "document.querySelectorAll('#caches tr').length === 6";
    browser.until(rows).await;
    browser
}

/// Puts another price in, as one does with a keyboard.
async fn change_a_price(browser: &Browser, product: &str, dollars: &str) {
    let client = &browser.client;
    let list = client.find(Locator::Id("product")).await.unwrap();
    list.select_by_value(product).await.unwrap();
    let price = client.find(Locator::Id("cents")).await.unwrap();
    price.clear().await.unwrap();
    price.send_keys(dollars).await.unwrap();
    browser.click("#change button").await;
}

/// Nothing that the page itself has done wrong.
async fn check_log(browser: &Browser) {
    let log = browser.log().await;
    let entries = log.as_array().unwrap().iter();
    let bad: Vec<_> = entries
        .filter(|entry| ["SEVERE", "WARNING"].contains(&entry["level"].as_str().unwrap()))
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

#[tokio::test]
async fn it_shows_what_the_caches_do() {
    let shop = Shop::start(&[]);
    let browser = open(&shop).await;
    let source = browser.text("#source").await;
    assert!(source.starts_with("10,000 products in SQLite"), "{source}");
    assert_eq!(browser.text("#redis").await, "caches of this process");
    let shelf = "return document.querySelectorAll('#products li').length";
    assert_eq!(browser.run(shelf).await, 12);

    // Nobody has asked for a profile yet.
    assert_eq!(
        browser.text("[data-cache=profiles] .wide").await,
        "\u{2013}"
    );
    browser.click("#traffic").await;
    assert_eq!(browser.text("#traffic").await, "Stop the traffic");
    for (cache, column) in [("profiles", HITS), ("products", HITS), ("profiles", LOADS)] {
        browser
            .until(&format!("{} > 100", figure(cache, column)))
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
    picture(&browser).await;

    browser.click("#traffic").await;
    assert_eq!(browser.text("#traffic").await, "Send traffic");
    browser
        .until("document.getElementById('rate').textContent.startsWith('1/')")
        .await;
    check_log(&browser).await;
    browser.close().await;
}

#[tokio::test]
async fn a_price_is_changed_in_it() {
    let shop = Shop::start(&["--products", "300"]);
    let browser = open(&shop).await;
    change_a_price(&browser, "4", "12.34").await;
    browser
        .until("document.getElementById('price').textContent === '$12.34'")
        .await;
    assert_eq!(
        browser.text("#products [data-id='4'] .price").await,
        "$12.34"
    );
    assert!(browser.text("#price-note").await.starts_with("version 2"));
    assert_eq!(shop.get_anew("/prices/4").body["cents"], 1_234);
    // By others: it shows that as well.
    shop.put_price(4, 99);
    browser
        .until("document.getElementById('price').textContent === '$0.99'")
        .await;
    check_log(&browser).await;
    browser.close().await;
}

#[tokio::test]
async fn it_says_so_when_the_shop_is_gone() {
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
    let said = browser.text("#trouble").await;
    assert!(said.starts_with("The shop does not answer"), "{said}");
    browser.close().await;
}

/// So that those who do not see it can use it.
#[tokio::test]
async fn controls_and_pictures_have_names() {
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
async fn it_shows_what_another_process_has_changed_and_how_it_is_with_redis() {
    let mut chain = super::processes::Chain::new();
    let [one, other] = chain.open_two();
    let browser = open(&one).await;
    let state = "document.getElementById('redis').textContent";
    browser
        .until(&format!(
            "{state} === 'Redis: invalidations proven to arrive'"
        ))
        .await;
    browser
        .until("document.getElementById('price').textContent.startsWith('$')")
        .await;
    assert_eq!(other.put_price(1, 4_242).status, 200);
    browser
        .until("document.getElementById('price').textContent === '$42.42'")
        .await;
    let backplane = browser.text("[data-cache=prices] .tier:last-child").await;
    assert!(backplane.starts_with("proven"), "{backplane}");
    chain.redis.kill();
    browser
        .until(&format!(
            "{state}.includes('not proven') || {state}.includes('breaker')"
        ))
        .await;
    check_log(&browser).await;
    browser.close().await;
}

/// After half a minute of traffic, where a picture is wanted.
async fn picture(browser: &Browser) {
    let Some(file) = std::env::var_os(SCREENSHOT) else {
        return;
    };
    for points in (5..=30).step_by(5) {
        let drawn = format!("document.querySelector('#rates .hit').points.length > {points}");
        browser.until(&drawn).await;
    }
    let picture = browser.client.screenshot().await.unwrap();
    std::fs::write(file, picture).unwrap();
}
