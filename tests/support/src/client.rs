//! An HTTP client of the example `shop`.

use super::servers::TEST_TIMEOUT;
use super::servers::shop::Shop;
use serde_json::{Value, json};
use ureq::http::{Request, Response};
use ureq::{Agent, Body, SendBody};

/// A response with a body in JSON.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Shop {
    /// Reads a path through the cache.
    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", false)
    }

    /// Reads a path without the cache.
    pub fn get_uncached(&self, path: &str) -> Answer {
        self.ask("GET", path, "", true)
    }

    /// Sets the price of a product.
    pub fn put_price(&self, id: i64, cents: i64) -> Answer {
        let body = json!({ "cents": cents }).to_string();
        self.ask("PUT", &format!("/prices/{id}"), &body, false)
    }

    /// Takes a number of items from the stock of a product.
    pub fn take(&self, id: i64, count: i64) -> Answer {
        let body = json!({ "count": count }).to_string();
        self.ask("POST", &format!("/stock/{id}/take"), &body, false)
    }

    /// Sends a request, without the cache if `uncached`. Panics if the body of the response is not JSON.
    pub fn ask(&self, method: &str, path: &str, body: &str, uncached: bool) -> Answer {
        let mut answer = self.raw(method, path, body, uncached);
        let status = answer.status().as_u16();
        let text = answer.body_mut().read_to_string().unwrap();
        let body = serde_json::from_str(&text);
        let body = body.unwrap_or_else(|_| panic!("{method} {path}: no JSON: {text}"));
        Answer { status, body }
    }

    /// Sends a request, without the cache if `uncached`, and returns the response as it is.
    pub fn raw(&self, method: &str, path: &str, body: &str, uncached: bool) -> Response<Body> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url()));
        if uncached {
            request = request.header("cache-control", "no-cache");
        }
        let agent = agent();
        let answer = if body.is_empty() {
            agent.run(request.body(SendBody::none()).unwrap())
        } else {
            agent.run(request.body(body.to_string()).unwrap())
        };
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Returns the statistics of a cache.
    pub fn cache(&self, name: &str) -> Value {
        let stats = self.get("/stats").body;
        let mut caches = stats["caches"].as_array().unwrap().iter();
        caches.find(|cache| cache["name"] == name).unwrap().clone()
    }
}

/// Creates an HTTP client that returns responses with error codes like others.
pub fn agent() -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(TEST_TIMEOUT))
        .allow_non_standard_methods(true);
    config.build().into()
}
