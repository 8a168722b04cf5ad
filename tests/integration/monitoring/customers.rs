//! Clients that send requests to shops.

use super::servers::shop::Shop;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Number of customers of each shop.
const CUSTOMERS_PER_SHOP: usize = 4;

/// Pause of a customer between two requests, which leaves time for the shops on a machine with few cores.
const PAUSE: Duration = Duration::from_millis(40);

/// The requests of a customer, and their results.
#[derive(Debug, Default)]
pub(crate) struct Served {
    pub(crate) requests: u64,
    pub(crate) slowest: Duration,
    /// Requests with an unexpected status.
    pub(crate) failures: Vec<String>,
}

/// Threads that send requests until they are stopped.
pub(crate) struct Customers {
    stopped: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Served>>,
}

impl Customers {
    pub(crate) fn of(shops: &[Arc<Shop>], products: i64) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let customers = shops.iter().cycle().take(shops.len() * CUSTOMERS_PER_SHOP);
        let start = |(seed, shop): (u64, &Arc<Shop>)| {
            let (shop, stopped) = (Arc::clone(shop), Arc::clone(&stopped));
            std::thread::spawn(move || {
                let mut random = SmallRng::seed_from_u64(seed);
                let mut served = Served::default();
                while !stopped.load(SeqCst) {
                    served.send_request(&shop, &mut random, products);
                    std::thread::sleep(PAUSE);
                }
                served
            })
        };
        let threads = (0..).zip(customers).map(start).collect();
        Self { stopped, threads }
    }

    /// Stops the customers. Returns the results of each.
    pub(crate) fn stop(&mut self) -> Vec<Served> {
        self.stopped.store(true, SeqCst);
        let threads = self.threads.drain(..);
        threads.map(|thread| thread.join().unwrap()).collect()
    }
}

impl Drop for Customers {
    /// Stops the customers before the shops are dropped.
    fn drop(&mut self) {
        self.stopped.store(true, SeqCst);
        for thread in self.threads.drain(..) {
            // A thread that has panicked has printed the reason.
            let _ = thread.join();
        }
    }
}

impl Served {
    /// Sends a random request, and records its result.
    fn send_request(&mut self, shop: &Shop, random: &mut SmallRng, products: i64) {
        let id = random.random_range(1..=products);
        let (method, path, body, fresh) = match random.random_range(0..20) {
            0 => ("PUT", format!("/prices/{id}"), r#"{"cents": 500}"#, false),
            1 => (
                "POST",
                format!("/stock/{id}/take"),
                r#"{"count": 1}"#,
                false,
            ),
            2 => ("GET", format!("/prices/{id}"), "", true),
            3 => ("GET", "/".to_string(), "", false),
            4..8 => ("GET", format!("/stock/{id}"), "", false),
            8..12 => ("GET", format!("/products/{id}"), "", false),
            12..14 => ("GET", format!("/profiles/{id}"), "", false),
            14..16 => ("GET", format!("/sessions/{id}"), "", false),
            _ => ("GET", format!("/prices/{id}"), "", false),
        };
        let begun = Instant::now();
        let response = shop.raw(method, &path, body, fresh);
        self.requests += 1;
        self.slowest = self.slowest.max(begun.elapsed());
        // 202: changed, but not yet acknowledged by all processes; 409: sold out.
        if ![200, 202, 409].contains(&response.status().as_u16()) {
            let status = response.status();
            self.failures.push(format!("{method} {path}: {status}"));
        }
    }
}
