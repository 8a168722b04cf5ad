//! What the shop tells of itself: `/stats` and `/healthz`.

use crate::caches::each;
use crate::latency::Summary;
use crate::service::Shop;
use crate::tier::Tier;
use hotset::{DurationHistogram, Stats};
use serde::Serialize;
use std::time::Duration;

/// What has happened since the first customer came.
#[derive(Serialize)]
pub(crate) struct Report {
    seconds: f64,
    database: &'static str,
    products: i64,
    database_reads: u64,
    /// How long the database's answers took.
    database_times: Summary,
    /// How long reads took through the caches.
    cached: Summary,
    /// How long they took past them, where that was asked for.
    uncached: Summary,
    caches: Vec<Figures>,
}

#[derive(Serialize)]
struct Figures {
    name: &'static str,
    entries: u64,
    hits: u64,
    misses: u64,
    /// From 0 to 1; none before the first look-up.
    hit_ratio: Option<f64>,
    loads: u64,
    load_failures: u64,
    coalesced: u64,
    stale: u64,
    evicted: u64,
    expired: u64,
    load_times: Summary,
    ages: Ages,
    redis: Option<Tier>,
}

/// How old values were when they were served, in seconds.
#[derive(Serialize)]
struct Ages {
    sampled: u64,
    p50: f64,
    p90: f64,
    p99: f64,
}

impl Report {
    pub(crate) fn of(shop: &Shop) -> Self {
        let now = each!(shop.caches, (name, store) => (name, store.stats(), store.tier()));
        let figures = now.into_iter().zip(&shop.warmed);
        let database_times = shop.database.reads().summary();
        Self {
            seconds: shop.begun.elapsed().as_secs_f64(),
            database: shop.database.name(),
            products: shop.database.products(),
            database_reads: database_times.count,
            database_times,
            cached: shop.cached.summary(),
            uncached: shop.uncached.summary(),
            caches: figures
                .map(|((name, now, tier), then)| Figures::between(name, then, &now, tier))
                .collect(),
        }
    }
}

impl Figures {
    #[allow(clippy::cast_precision_loss)]
    fn between(name: &'static str, then: &Stats, now: &Stats, redis: Option<Tier>) -> Self {
        let (hits, misses) = (now.hits - then.hits, now.misses - then.misses);
        let lookups = hits + misses;
        Self {
            name,
            entries: now.entries,
            hits,
            misses,
            hit_ratio: (lookups > 0).then(|| hits as f64 / lookups as f64),
            loads: now.loads - then.loads,
            load_failures: now.load_failures - then.load_failures,
            coalesced: now.coalesced - then.coalesced,
            stale: now.stale - then.stale,
            evicted: now.evicted - then.evicted,
            expired: now.expired - then.expired,
            load_times: Summary::between(&then.load_times, &now.load_times),
            ages: Ages::of(&now.ages),
            redis,
        }
    }
}

impl Ages {
    fn of(ages: &DurationHistogram) -> Self {
        let seconds = |percent| ages.percentile(percent).as_secs_f64();
        Self {
            sampled: ages.count(),
            p50: seconds(50.0),
            p90: seconds(90.0),
            p99: seconds(99.0),
        }
    }
}

/// Does the shop serve? Without Redis it does, though not as well.
#[derive(Serialize)]
pub(crate) struct Health {
    status: &'static str,
    database: String,
    redis: String,
}

impl Health {
    pub(crate) async fn of(shop: &Shop) -> Self {
        let database = tokio::time::timeout(Duration::from_secs(1), shop.database.ping()).await;
        let database = match database {
            Ok(Ok(())) => "ok".into(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer within a second".into(),
        };
        let redis = redis(shop);
        let status = match (&*database, &*redis) {
            ("ok", "ok" | "not used") => "ok",
            ("ok", _) => "degraded",
            _ => "down",
        };
        Self {
            status,
            database,
            redis,
        }
    }

    pub(crate) fn serves(&self) -> bool {
        self.status != "down"
    }
}

/// Prices and stock know at once when Redis is gone: they do not serve without its word.
fn redis(shop: &Shop) -> String {
    let tiers: Vec<_> = [shop.caches.prices.tier(), shop.caches.stock.tier()]
        .into_iter()
        .flatten()
        .collect();
    let bad = tiers
        .iter()
        .find(|tier| tier.breaker_open || tier.proven_seconds.is_none());
    match (bad, tiers.is_empty()) {
        (_, true) => "not used".into(),
        (None, false) => "ok".into(),
        (Some(tier), false) => {
            let error = tier.last_error.as_deref().unwrap_or("it does not answer");
            format!("{error}; {} changes wait for it", tier.queued)
        }
    }
}
