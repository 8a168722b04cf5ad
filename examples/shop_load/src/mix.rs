//! The requests of simulated visitors of a shop.

use crate::http::Request;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};
use std::fmt::Write;

/// A route of the shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Home,
    Product,
    Price,
    Stock,
    Profile,
    Session,
    SetPrice,
    TakeStock,
}

use Endpoint::{Home, Price, Product, Profile, Session, SetPrice, Stock, TakeStock};

impl Endpoint {
    pub(crate) const ALL: [Self; 8] = [
        Home, Product, Price, Stock, Profile, Session, SetPrice, TakeStock,
    ];

    /// Returns `true` if a cache can answer the request.
    pub(crate) fn is_cacheable(self) -> bool {
        !matches!(self, SetPrice | TakeStock)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Home => "GET /",
            Product => "GET /products/{id}",
            Price => "GET /prices/{id}",
            Stock => "GET /stock/{id}",
            Profile => "GET /profiles/{id}",
            Session => "GET /sessions/{id}",
            SetPrice => "PUT /prices/{id}",
            TakeStock => "POST /stock/{id}/take",
        }
    }

    /// Builds a request, with its path and body in buffers that the caller reuses.
    pub(crate) fn request<'a>(
        self,
        id: u64,
        uncached: bool,
        path: &'a mut String,
        body: &'a mut String,
    ) -> Request<'a> {
        path.clear();
        body.clear();
        let (method, place) = self.name().split_once(' ').expect("a method and a path");
        match place.split_once("{id}") {
            Some((before, after)) => write!(path, "{before}{id}{after}"),
            None => write!(path, "{place}"),
        }
        .expect("writing to a string does not fail");
        match self {
            // The price is arbitrary.
            SetPrice => write!(body, r#"{{"cents":{}}}"#, 100 + id % 9_900),
            TakeStock => write!(body, r#"{{"count":1}}"#),
            _ => Ok(()),
        }
        .expect("writing to a string does not fail");
        Request {
            method,
            path,
            uncached,
            body,
        }
    }
}

/// A page, or an action of a visitor.
pub(crate) struct Action {
    pub(crate) name: &'static str,
    /// The number of actions of this kind per 1,000.
    share: u32,
    /// The requests of the action, in their order.
    pub(crate) requests: &'static [Endpoint],
}

pub(crate) const ACTIONS: [Action; 6] = [
    Action {
        name: "product pages (product, price and stock)",
        share: 700,
        requests: &[Product, Price, Stock],
    },
    Action {
        name: "home pages",
        share: 100,
        requests: &[Home],
    },
    Action {
        name: "sessions",
        share: 100,
        requests: &[Session],
    },
    Action {
        name: "profiles",
        share: 85,
        requests: &[Profile],
    },
    Action {
        name: "purchases, which reduce the stock",
        share: 10,
        requests: &[TakeStock],
    },
    Action {
        name: "changes of a price",
        share: 5,
        requests: &[SetPrice],
    },
];

/// Describes the actions and their shares.
pub(crate) fn describe() -> String {
    let share = |action: &Action| format!("{:.1}% {}", f64::from(action.share) / 10.0, action.name);
    ACTIONS.each_ref().map(share).join("; ")
}

/// The distribution of requested products and users: the lower an id, the more popular, like the sales in the database
/// of the shop.
pub(crate) struct Popularity(Zipf<f64>);

impl Popularity {
    /// Creates a Zipf distribution over the ids from 1 to `count`.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn new(count: u64, exponent: f64) -> Self {
        Self(Zipf::new(count as f64, exponent).expect("the options are checked"))
    }

    /// Chooses an id.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub(crate) fn pick(&self, rng: &mut SmallRng) -> u64 {
        self.0.sample(rng) as u64
    }
}

/// The infinite sequence of visits of one client, which is determined by its seed.
pub(crate) struct Visits<'a> {
    popularity: &'a Popularity,
    rng: SmallRng,
}

impl<'a> Visits<'a> {
    pub(crate) fn new(popularity: &'a Popularity, seed: u64) -> Self {
        let rng = SmallRng::seed_from_u64(seed);
        Self { popularity, rng }
    }
}

impl Iterator for Visits<'_> {
    /// The requested endpoints, and the id that they have in common.
    type Item = (&'static [Endpoint], u64);

    fn next(&mut self) -> Option<Self::Item> {
        let mut point = self.rng.random_range(0..1_000);
        let action = ACTIONS.iter().find(|action| {
            let is_chosen = point < action.share;
            point = point.saturating_sub(action.share);
            is_chosen
        });
        let requests = action.expect("the shares sum up to 1,000").requests;
        Some((requests, self.popularity.pick(&mut self.rng)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_occur_in_proportion_to_their_shares() {
        assert_eq!(ACTIONS.iter().map(|action| action.share).sum::<u32>(), 1000);
        let popularity = Popularity::new(100, 1.0);
        let visits: Vec<_> = Visits::new(&popularity, 1).take(100_000).collect();
        for action in &ACTIONS {
            let count = visits
                .iter()
                .filter(|visit| visit.0 == action.requests)
                .count();
            let expected = 100 * action.share as usize;
            assert!(
                count.abs_diff(expected) < expected / 5,
                "{} of {}",
                count,
                action.name
            );
        }
    }

    #[test]
    fn popularity_is_inversely_proportional_to_the_id() {
        let popularity = Popularity::new(1_000, 1.0);
        let mut rng = SmallRng::seed_from_u64(1);
        let mut counts = vec![0_u32; 1_001];
        for _ in 0..100_000 {
            counts[usize::try_from(popularity.pick(&mut rng)).unwrap()] += 1;
        }
        assert_eq!(counts[0], 0);
        // 1 / (1 + 1/2 + .. + 1/1000) is 13.4%.
        assert!((12_900..13_900).contains(&counts[1]), "{}", counts[1]);
        assert!((6_400..7_000).contains(&counts[2]), "{}", counts[2]);
    }

    #[test]
    fn visits_of_equal_seeds_are_equal() {
        let popularity = Popularity::new(1_000, 1.0);
        let visits = |seed| -> Vec<_> { Visits::new(&popularity, seed).take(100).collect() };
        assert_eq!(visits(1), visits(1));
        assert_ne!(visits(1), visits(2));
    }

    #[test]
    fn request_replaces_contents_of_reused_buffers() {
        let (mut path, mut body) = (String::from("old"), String::from("old"));
        let request = TakeStock.request(7, false, &mut path, &mut body);
        assert_eq!(
            (request.method, request.path, request.body),
            ("POST", "/stock/7/take", r#"{"count":1}"#)
        );
        let request = Home.request(7, true, &mut path, &mut body);
        assert_eq!(
            (request.method, request.path, request.body),
            ("GET", "/", "")
        );
    }
}
