//! A little traffic.

use super::servers::shop::Shop;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Of each shop.
const CUSTOMERS: usize = 4;

/// Between two requests of one.
const PAUSE: Duration = Duration::from_millis(5);

/// What shops have done for their customers.
#[derive(Debug, Default)]
pub(crate) struct Served {
    pub(crate) answers: u64,
    pub(crate) slowest: Duration,
    /// Answers that are none.
    pub(crate) failures: Vec<String>,
}

/// They ask until they are sent home.
pub(crate) struct Customers {
    closed: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Served>>,
}

impl Customers {
    pub(crate) fn of(shops: &[Arc<Shop>], products: i64) -> Self {
        let closed = Arc::new(AtomicBool::new(false));
        let customers = shops.iter().cycle().take(shops.len() * CUSTOMERS);
        let start = |(seed, shop): (u64, &Arc<Shop>)| {
            let (shop, closed) = (Arc::clone(shop), Arc::clone(&closed));
            std::thread::spawn(move || {
                let mut random = SmallRng::seed_from_u64(seed);
                let mut served = Served::default();
                while !closed.load(SeqCst) {
                    served.note(&shop, &mut random, products);
                    std::thread::sleep(PAUSE);
                }
                served
            })
        };
        let threads = (0..).zip(customers).map(start).collect();
        Self { closed, threads }
    }

    /// Sends them home. For each, what it was served.
    pub(crate) fn leave(&mut self) -> Vec<Served> {
        self.closed.store(true, SeqCst);
        let threads = self.threads.drain(..);
        threads.map(|thread| thread.join().unwrap()).collect()
    }
}

impl Drop for Customers {
    /// Waits for them, since shops close with their last customer.
    fn drop(&mut self) {
        self.closed.store(true, SeqCst);
        for thread in self.threads.drain(..) {
            // One that has panicked has said why.
            let _ = thread.join();
        }
    }
}

impl Served {
    fn note(&mut self, shop: &Shop, random: &mut SmallRng, products: i64) {
        let id = random.random_range(1..=products);
        let (method, path, body, anew) = match random.random_range(0..20) {
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
        let answer = shop.raw(method, &path, body, anew);
        self.answers += 1;
        self.slowest = self.slowest.max(begun.elapsed());
        // Also: changed, but not all processes know yet; and sold out.
        if ![200, 202, 409].contains(&answer.status().as_u16()) {
            let status = answer.status();
            self.failures.push(format!("{method} {path}: {status}"));
        }
    }
}
