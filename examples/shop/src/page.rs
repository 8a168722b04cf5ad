//! The home page: the best sellers, and the statistics of the caches.

use crate::AnyError;
use crate::records::{ListedProduct, Offer, Price, Stock, Versioned};
use crate::service::Shop;
use std::fmt::Write;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Renders the home page. If `bypass` is set, all data comes from one query of the database. The caches contain the
/// list of products apart from prices and stock, because the list seldom changes.
pub(crate) async fn home(shop: &Shop, bypass: bool) -> Result<String, AnyError> {
    let mut cards = String::new();
    if bypass {
        for Offer {
            product,
            cents,
            left,
        } in shop.offers().await?
        {
            card(&mut cards, &product, cents, left);
        }
    } else {
        for product in &shop.home().await?.products {
            let price = shop.get::<Price>(product.id, false).await?;
            let stock = shop.get::<Stock>(product.id, false).await?;
            if let Some((price, stock)) = price.zip(stock) {
                card(&mut cards, product, price.number(), stock.number());
            }
        }
    }
    Ok(PAGE
        .replace("/* style */", STYLE)
        .replace("/* script */", SCRIPT)
        .replace("<!-- products -->", &cards))
}

/// Adds a product to the list.
fn card(cards: &mut String, product: &ListedProduct, cents: i64, left: i64) {
    let ListedProduct {
        id,
        name,
        category,
        stars,
    } = product;
    let (name, category) = (escaped(name), escaped(category));
    let price = dollars(cents);
    let stars = format!("{}.{}", stars / 100, stars / 10 % 10);
    let _ = write!(
        cards,
        "<li data-id=\"{id}\"><span class=\"name\"><a href=\"/products/{id}\">{name}</a>\
         <span class=\"category\">{category}</span></span>\
         <span class=\"stars\" title=\"stars out of 5\">{stars}</span>\
         <b class=\"price\">{price}</b><span class=\"stock\">{left} left</span></li>"
    );
}

fn dollars(cents: i64) -> String {
    format!("${}.{:02}", cents / 100, cents % 100)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}
