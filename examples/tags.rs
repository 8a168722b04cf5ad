//! Invalidates groups of entries: each cached page has the tags of the products that it shows, and a change of one
//! product invalidates all pages with its tag.
//!
//! ```sh
//! cargo run --example tags
//! ```

use hotset::{Loaded, LocalCache};
use std::error::Error;
use std::io;

type Pages = LocalCache<String, String>;

/// Simulates the rendering of a page, which fails if the page shows too many products.
fn render(path: &str, products: &[u64]) -> io::Result<String> {
    println!("  rendering {path}");
    if products.len() > 100 {
        return Err(io::Error::other("too many products on one page"));
    }
    Ok(format!("{path} with {products:?}"))
}

/// Returns a page that shows these products. Renders it if it is not cached.
fn page(pages: &Pages, path: &str, products: &[u64]) -> Result<String, Box<dyn Error>> {
    let page = pages.get_or_load_entry(path, |path| {
        let tags = products.iter().map(|id| format!("product:{id}"));
        render(path, products).map(|page| Loaded::new(page).tags(tags))
    })?;
    Ok(page)
}

/// Requests all pages.
fn show_all(pages: &Pages) -> Result<(), Box<dyn Error>> {
    page(pages, "/home", &[1, 2, 3])?;
    page(pages, "/sale", &[2])?;
    page(pages, "/about", &[])?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let pages: Pages = LocalCache::new(1_000);
    println!("first requests");
    show_all(&pages)?;
    println!("second requests, which hit the cache");
    show_all(&pages)?;

    println!("product 2 changes");
    pages.invalidate_tag("product:2");
    show_all(&pages)?;

    println!("product 3 changes");
    pages.invalidate_tag("product:3");
    show_all(&pages)
}
