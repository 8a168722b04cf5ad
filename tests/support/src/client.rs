//! A client of the shop.

use super::servers::shop::Shop;
use serde_json::{Value, json};
use std::time::Duration;
use ureq::http::{Request, Response};
use ureq::{Agent, Body, SendBody};

/// An answer that should be JSON.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Shop {
    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", false)
    }

    /// Past the cache.
    pub fn get_anew(&self, path: &str) -> Answer {
        self.ask("GET", path, "", true)
    }

    pub fn put_price(&self, id: i64, cents: i64) -> Answer {
        let body = json!({ "cents": cents }).to_string();
        self.ask("PUT", &format!("/prices/{id}"), &body, false)
    }

    pub fn take(&self, id: i64, count: i64) -> Answer {
        let body = json!({ "count": count }).to_string();
        self.ask("POST", &format!("/stock/{id}/take"), &body, false)
    }

    pub fn ask(&self, method: &str, path: &str, body: &str, anew: bool) -> Answer {
        let mut answer = self.raw(method, path, body, anew);
        let status = answer.status().as_u16();
        let text = answer.body_mut().read_to_string().unwrap();
        let body = serde_json::from_str(&text);
        let body = body.unwrap_or_else(|_| panic!("{method} {path}: no JSON: {text}"));
        Answer { status, body }
    }

    pub fn raw(&self, method: &str, path: &str, body: &str, anew: bool) -> Response<Body> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url()));
        if anew {
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

    /// A cache's figures.
    pub fn cache(&self, name: &str) -> Value {
        let stats = self.get("/stats").body;
        let mut caches = stats["caches"].as_array().unwrap().iter();
        caches.find(|cache| cache["name"] == name).unwrap().clone()
    }
}

pub fn agent() -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(30)))
        .allow_non_standard_methods(true);
    config.build().into()
}
