//! Clients that send the requests of simulated visitors for a given time.

use crate::AnyError;
use crate::http::Connection;
use crate::mix::{Endpoint, Popularity, Visits};
use crate::tally::Tally;
use indicatif::ProgressBar;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

/// The settings that all runs have in common.
pub(crate) struct Load<'a> {
    pub(crate) shops: &'a [SocketAddr],
    pub(crate) popularity: &'a Popularity,
    pub(crate) clients: u64,
    /// The requests per second of all clients together, or `None` for a closed loop.
    pub(crate) rate: Option<u64>,
}

/// The settings of one run.
pub(crate) struct RunSettings {
    /// Whether the requests bypass the caches.
    pub(crate) uncached: bool,
    pub(crate) duration: Duration,
    /// The seed that determines the requests.
    pub(crate) seed: u64,
}

impl Load<'_> {
    /// Runs all clients, and returns the latencies of their requests.
    ///
    /// # Errors
    ///
    /// Returns the first error of a client.
    pub(crate) fn run(&self, settings: &RunSettings, bar: &ProgressBar) -> Result<Tally, AnyError> {
        let started = Instant::now();
        let from = bar.position();
        thread::scope(|scope| {
            let client = |number| {
                let mut client = Client::new(self, settings, started, number);
                scope.spawn(move || {
                    client.work(|elapsed| {
                        if number == 0 {
                            bar.set_position(from + millis(elapsed));
                        }
                    })
                })
            };
            let clients: Vec<_> = (0..self.clients).map(client).collect();
            let mut all = Tally::default();
            for client in clients {
                all.add(&client.join().expect("no client panics")?);
            }
            Ok(all)
        })
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A blocking client for one thread: a response wakes its thread directly, and costs two system calls.
struct Client<'a> {
    connections: Vec<Connection>,
    visits: Visits<'a>,
    uncached: bool,
    pace: Pace,
    path: String,
    body: String,
    tally: Tally,
}

impl<'a> Client<'a> {
    fn new(load: &Load<'a>, settings: &RunSettings, started: Instant, number: u64) -> Self {
        let mut shops: Vec<_> = load.shops.to_vec();
        let first = usize::try_from(number).unwrap_or(0) % shops.len();
        shops.rotate_left(first);
        let interval = load
            .rate
            .map(|rate| Duration::from_secs(load.clients) / to_u32(rate));
        Self {
            connections: shops.into_iter().map(Connection::new).collect(),
            // Clients of different numbers or runs have different seeds.
            visits: Visits::new(load.popularity, settings.seed << 32 | number),
            uncached: settings.uncached,
            pace: Pace {
                // The first requests of the clients are spread over one interval.
                due: started + interval.unwrap_or_default() * to_u32(number) / to_u32(load.clients),
                interval,
                end: started + settings.duration,
            },
            path: String::new(),
            body: String::new(),
            tally: Tally::default(),
        }
    }

    /// Sends requests until the end of the run.
    fn work(&mut self, progress: impl Fn(Duration)) -> Result<Tally, AnyError> {
        let started = Instant::now();
        let mut shop = 0;
        while let Some((requests, id)) = self.visits.next() {
            for &endpoint in requests {
                let Some(request_start) = self.pace.wait() else {
                    return Ok(std::mem::take(&mut self.tally));
                };
                self.send(shop, endpoint, id)?;
                self.tally.record(endpoint, request_start.elapsed());
            }
            // The next page is requested from another shop, as behind a load balancer.
            shop = (shop + 1) % self.connections.len();
            progress(started.elapsed());
        }
        unreachable!("the sequence of visits is infinite")
    }

    /// Sends one request. Returns an error if it fails.
    fn send(&mut self, shop: usize, endpoint: Endpoint, id: u64) -> Result<(), AnyError> {
        let request = endpoint.request(id, self.uncached, &mut self.path, &mut self.body);
        let problem = match self.connections[shop].send(&request) {
            // A product that is sold out is not a failure.
            Ok(response) if response.status == 409 && endpoint == Endpoint::TakeStock => {
                return Ok(());
            }
            Ok(response) if (200..300).contains(&response.status) => return Ok(()),
            Ok(response) => response.reason(),
            Err(error) => error.to_string(),
        };
        Err(format!("{} {}: {problem}", request.method, request.path).into())
    }
}

fn to_u32(number: u64) -> u32 {
    u32::try_from(number).expect("the options are checked")
}

/// The schedule of a client.
struct Pace {
    /// The time at which the next request is due.
    due: Instant,
    /// The time between two requests, or `None` for a closed loop.
    interval: Option<Duration>,
    end: Instant,
}

impl Pace {
    /// Waits until the next request is due, and returns the start of its latency. Returns `None` at the end of the run.
    fn wait(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let Some(interval) = self.interval else {
            return (now < self.end).then_some(now);
        };
        let due = self.due;
        self.due += interval;
        if due >= self.end {
            return None;
        }
        if due <= now {
            // The last response was late, so the latency of this request includes the time since it was due.
            return Some(due);
        }
        // With a given rate, requests are sent at fixed times, so this client waits.
        thread::sleep(due - now);
        // The current time and not `due`, because the shop is not responsible for a sleep that takes too long.
        Some(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(interval: Option<Duration>, due: Instant, end: Instant) -> Pace {
        Pace { due, interval, end }
    }

    #[test]
    fn late_request_starts_at_its_due_time() {
        let ms = Duration::from_millis;
        let due = Instant::now().checked_sub(ms(30));
        let due = due.expect("the clock has counted 30 ms");
        // Two requests are due already. A third one would be due after the end of the run.
        let mut late = pace(Some(ms(10)), due, due + ms(15));
        assert_eq!(late.wait(), Some(due));
        assert_eq!(late.wait(), Some(due + ms(10)));
        assert_eq!(late.wait(), None);
    }

    #[test]
    fn request_does_not_start_before_its_due_time() {
        let due = Instant::now() + Duration::from_millis(5);
        let end = due + Duration::from_secs(60);
        let start = pace(Some(Duration::from_secs(1)), due, end).wait();
        assert!(start.expect("the run has not ended") >= due);
    }

    #[test]
    fn request_without_a_rate_starts_at_once() {
        let now = Instant::now();
        let far = now + Duration::from_secs(60);
        let start = pace(None, far, far).wait().expect("the run has not ended");
        assert!(start < far);
        assert_eq!(pace(None, now, now).wait(), None);
    }
}
