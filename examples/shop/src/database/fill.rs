//! The tables, and the generated data for an empty database. The data is the same each time.

use crate::records::Id;
use std::fmt::Write;

/// The number of rows per statement.
const BATCH_SIZE: usize = 500;

pub(super) const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS categories (id BIGINT PRIMARY KEY, name TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS products (id BIGINT PRIMARY KEY, category BIGINT NOT NULL,
        name TEXT NOT NULL, description TEXT NOT NULL, sold BIGINT NOT NULL);
    CREATE INDEX IF NOT EXISTS products_sold ON products (sold DESC, id);
    CREATE TABLE IF NOT EXISTS prices (product BIGINT PRIMARY KEY,
        cents BIGINT NOT NULL, version BIGINT NOT NULL);
    CREATE TABLE IF NOT EXISTS stock (product BIGINT PRIMARY KEY,
        count BIGINT NOT NULL, version BIGINT NOT NULL);
    CREATE TABLE IF NOT EXISTS profiles (id BIGINT PRIMARY KEY,
        name TEXT NOT NULL, city TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS sessions (id BIGINT PRIMARY KEY,
        profile BIGINT NOT NULL, basket BIGINT NOT NULL);
    CREATE TABLE IF NOT EXISTS reviews (id BIGINT PRIMARY KEY, product BIGINT NOT NULL,
        author BIGINT NOT NULL, stars BIGINT NOT NULL, words TEXT NOT NULL);
    CREATE INDEX IF NOT EXISTS reviews_product ON reviews (product);
    CREATE INDEX IF NOT EXISTS reviews_author ON reviews (author);";

pub(super) const COUNT: &str = "SELECT count(*) FROM products";

const CATEGORIES: [&str; 8] = [
    "Kitchen",
    "Garden",
    "Desk",
    "Travel",
    "Bath",
    "Workshop",
    "Living room",
    "Outdoors",
];
const MATERIALS: [&str; 12] = [
    "Oak", "Copper", "Linen", "Steel", "Cork", "Glass", "Wool", "Marble", "Bamboo", "Brass",
    "Clay", "Leather",
];
const THINGS: [&str; 16] = [
    "kettle", "lamp", "tray", "notebook", "chair", "vase", "blanket", "clock", "basket", "shelf",
    "bottle", "mirror", "stool", "jar", "bag", "bowl",
];
const SENTENCES: [&str; 8] = [
    "Made by hand in a small workshop that has done nothing else for forty years.",
    "It is lighter than it looks, and stands up to daily use.",
    "Wipe it with a damp cloth, and let it dry in the open air.",
    "Each piece differs a little in color and grain from the next.",
    "The parts can be taken apart, mended and replaced.",
    "It comes in a box without plastic, with a leaflet on its care.",
    "Two sizes fit into each other, so that they can be stored together.",
    "The finish is food-safe and free of solvents.",
];
const OPINIONS: [&str; 6] = [
    "Just as it is described, and well packed.",
    "I have bought a second one as a present.",
    "Smaller than I thought, but I like it all the same.",
    "It does what it should, and it looks good on the table.",
    "After a year of use it is as good as new.",
    "The color is a little darker than in the picture.",
];
const NAMES: [&str; 12] = [
    "Amina", "Boris", "Chloe", "Daniel", "Elif", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Kofi",
    "Lena",
];
const CITIES: [&str; 8] = [
    "Lisbon", "Oslo", "Nairobi", "Osaka", "Porto", "Quito", "Riga", "Tunis",
];

/// Returns statements that fill the tables with `products` products, profiles and sessions each.
pub(super) fn statements(products: Id) -> impl Iterator<Item = String> {
    inserts("categories", 0..8, |id| {
        format!("({id}, '{}')", pick(&CATEGORIES, id))
    })
    .chain(inserts("products", 1..=products, product))
    .chain(inserts("prices", 1..=products, |id| {
        format!("({id}, {}, 1)", 499 + mix(id, 1) % 20_000)
    }))
    .chain(inserts("stock", 1..=products, |id| {
        format!("({id}, {}, 1)", 100 + mix(id, 2) % 900)
    }))
    .chain(inserts("profiles", 1..=products, |id| {
        let (name, city) = (pick(&NAMES, mix(id, 3)), pick(&CITIES, mix(id, 4)));
        format!("({id}, '{name} {id}', '{city}')")
    }))
    .chain(inserts("sessions", 1..=products, move |id| {
        format!("({id}, {}, {})", 1 + mix(id, 5) % products, mix(id, 6) % 8)
    }))
    .chain(inserts("reviews", 1..=products * 4, move |id| {
        review(id, products)
    }))
    .chain(["ANALYZE".to_string()])
}

/// Returns a row of a product. The sales follow a Zipf distribution: product 2 has half the sales of product 1, product
/// 3 a third, and so on.
fn product(id: Id) -> String {
    let (material, thing) = (pick(&MATERIALS, mix(id, 7)), pick(&THINGS, mix(id, 8)));
    let first = mix(id, 9);
    let sentences: Vec<_> = (0..4).map(|next| pick(&SENTENCES, first + next)).collect();
    let (category, description) = (mix(id, 10) % 8, sentences.join(" "));
    let sold = 10_000_000 / id;
    format!("({id}, {category}, '{material} {thing} {id}', '{description}', {sold})")
}

/// Returns a row of a review.
fn review(id: Id, products: Id) -> String {
    let (product, author) = (1 + mix(id, 11) % products, 1 + mix(id, 12) % products);
    let (stars, words) = (3 + mix(id, 13) % 3, pick(&OPINIONS, mix(id, 14)));
    format!("({id}, {product}, {author}, {stars}, '{words}')")
}

/// Returns statements that insert the rows of these ids.
fn inserts(
    table: &'static str,
    ids: impl Iterator<Item = Id>,
    row: impl Fn(Id) -> String,
) -> impl Iterator<Item = String> {
    let mut ids = ids.peekable();
    std::iter::from_fn(move || {
        ids.peek()?;
        let mut statement = format!("INSERT INTO {table} VALUES ");
        for (number, id) in ids.by_ref().take(BATCH_SIZE).enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(statement, "{comma}{}", row(id)).expect("writing to a string does not fail");
        }
        Some(statement)
    })
}

/// Chooses a word by a number that is not negative.
fn pick<'a>(words: &[&'a str], number: Id) -> &'a str {
    let index = usize::try_from(number).expect("the number is not negative");
    words[index % words.len()]
}

/// Derives a pseudorandom number from an id, with the finalizer of SplitMix64. The result is never negative.
fn mix(id: Id, salt: u64) -> Id {
    let mut bits = id.unsigned_abs().wrapping_add(salt << 40);
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    Id::try_from((bits ^ (bits >> 31)) >> 2).expect("62 bits fit into an id")
}
