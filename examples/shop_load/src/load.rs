//! Clients that ask for what visitors would, for a while.

use crate::AnyError;
use crate::http::Connection;
use crate::mix::{Endpoint, Popularity, Visits};
use crate::tally::Tally;
use indicatif::ProgressBar;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

pub(crate) struct Load<'a> {
    pub(crate) shops: &'a [SocketAddr],
    pub(crate) popularity: &'a Popularity,
    pub(crate) clients: u64,
    /// Of all clients together.
    pub(crate) rate: Option<u64>,
}

/// Requests that all get the same treatment, for a while.
pub(crate) struct Stretch {
    /// Past the caches.
    pub(crate) uncached: bool,
    pub(crate) duration: Duration,
    /// What is asked for follows from it.
    pub(crate) seed: u64,
}

impl Load<'_> {
    /// Fails with the first answer that is none.
    pub(crate) fn run(&self, stretch: &Stretch, bar: &ProgressBar) -> Result<Tally, AnyError> {
        let started = Instant::now();
        let from = bar.position();
        thread::scope(|scope| {
            let client = |number| {
                let mut client = Client::new(self, stretch, started, number);
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

/// A thread's and not a task's: each answer wakes who waits for it, and costs two system calls.
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
    fn new(load: &Load<'a>, stretch: &Stretch, started: Instant, number: u64) -> Self {
        let mut shops: Vec<_> = load.shops.to_vec();
        let first = usize::try_from(number).unwrap_or(0) % shops.len();
        shops.rotate_left(first);
        let interval = load
            .rate
            .map(|rate| Duration::from_secs(load.clients) / to_u32(rate));
        Self {
            connections: shops.into_iter().map(Connection::new).collect(),
            // Two clients of two slices have nothing in common.
            visits: Visits::new(load.popularity, stretch.seed << 32 | number),
            uncached: stretch.uncached,
            pace: Pace {
                // They do not all begin at once.
                due: started + interval.unwrap_or_default() * to_u32(number) / to_u32(load.clients),
                interval,
                end: started + stretch.duration,
            },
            path: String::new(),
            body: String::new(),
            tally: Tally::default(),
        }
    }

    fn work(&mut self, progress: impl Fn(Duration)) -> Result<Tally, AnyError> {
        let started = Instant::now();
        let mut shop = 0;
        while let Some((asks, id)) = self.visits.next() {
            for &endpoint in asks {
                let Some(begun) = self.pace.wait() else {
                    return Ok(std::mem::take(&mut self.tally));
                };
                self.ask(shop, endpoint, id)?;
                self.tally.record(endpoint, begun.elapsed());
            }
            // The next page comes from another shop, as behind a load balancer.
            shop = (shop + 1) % self.connections.len();
            progress(started.elapsed());
        }
        unreachable!("visits have no end")
    }

    fn ask(&mut self, shop: usize, endpoint: Endpoint, id: u64) -> Result<(), AnyError> {
        let request = endpoint.request(id, self.uncached, &mut self.path, &mut self.body);
        let problem = match self.connections[shop].ask(&request) {
            // What is sold out is an answer too.
            Ok(answer) if answer.status == 409 && endpoint == Endpoint::TakeStock => return Ok(()),
            Ok(answer) if (200..300).contains(&answer.status) => return Ok(()),
            Ok(answer) => answer.reason(),
            Err(error) => error.to_string(),
        };
        Err(format!("{} {}: {problem}", request.method, request.path).into())
    }
}

fn to_u32(number: u64) -> u32 {
    u32::try_from(number).expect("the options are checked")
}

/// When to ask.
struct Pace {
    /// When the next request is due.
    due: Instant,
    /// None: as soon as the last one is answered.
    interval: Option<Duration>,
    end: Instant,
}

impl Pace {
    /// Waits until a request is due, and tells from when on it has waited; None at the end.
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
            // The answer to the last one came late, and this one waits since it was due.
            return Some(due);
        }
        thread::sleep(due - now);
        // That the sleep was too long is not the shop's fault.
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
    fn a_late_request_has_waited_since_it_was_due() {
        let ms = Duration::from_millis;
        let due = Instant::now();
        // So that two were due, and a third would have been had there been time.
        thread::sleep(ms(30));
        let mut late = pace(Some(ms(10)), due, due + ms(15));
        assert_eq!(late.wait(), Some(due));
        assert_eq!(late.wait(), Some(due + ms(10)));
        assert_eq!(late.wait(), None);
    }

    #[test]
    fn a_request_is_not_early() {
        let due = Instant::now() + Duration::from_millis(5);
        let end = due + Duration::from_secs(60);
        let begun = pace(Some(Duration::from_secs(1)), due, end).wait();
        assert!(begun.expect("it is not the end") >= due);
    }

    #[test]
    fn without_a_rate_nobody_waits() {
        let now = Instant::now();
        let far = now + Duration::from_secs(60);
        let begun = pace(None, far, far).wait().expect("it is not the end");
        assert!(begun < far);
        assert_eq!(pace(None, now, now).wait(), None);
    }
}
