//! Invalidates groups of entries: each cached page has the tags of the products that it shows, and a change of one
//! product invalidates all pages with its tag.
//!
//! ```sh
//! cargo run --example tags
//! ```

use hotset::{Loaded, LocalCache};
use std::convert::Infallible;

type Pages = LocalCache<&'static str, String>;

/// Returns a page that shows these products. Renders it if it is not cached.
fn page(pages: &Pages, path: &'static str, products: &[u64]) -> String {
    let rendered = pages.get_or_load(&path, |path| {
        println!("  rendering {path}");
        let tags = products.iter().map(|id| format!("product:{id}"));
        Ok::<_, Infallible>(Loaded::new(format!("{path} with {products:?}")).tags(tags))
    });
    rendered.expect("this loader does not fail")
}

/// Requests all pages.
fn show_all(pages: &Pages) {
    page(pages, "/home", &[1, 2, 3]);
    page(pages, "/sale", &[2]);
    page(pages, "/about", &[]);
}

fn main() {
    let pages: Pages = LocalCache::new(1_000);
    println!("first requests");
    show_all(&pages);
    println!("second requests, which hit the cache");
    show_all(&pages);

    println!("product 2 changes");
    pages.invalidate_tag("product:2");
    show_all(&pages);

    println!("product 3 changes");
    pages.invalidate_tag("product:3");
    show_all(&pages);
}
