//! The reports of the routes `/stats` and `/healthz`.

use crate::caches::map_caches;
use crate::latency::Summary;
use crate::service::Shop;
use crate::tier::Tier;
use hotset::{DurationHistogram, Stats};
use serde::Serialize;
use std::time::Duration;

/// The report of `/stats`, since the caches were warmed.
#[derive(Serialize)]
pub(crate) struct Report {
    seconds: f64,
    database: &'static str,
    products: i64,
    database_reads: u64,
    /// The latencies of database queries.
    database_times: Summary,
    /// The latencies of reads through the caches.
    cached: Summary,
    /// The latencies of reads that bypass the caches.
    uncached: Summary,
    caches: Vec<CacheReport>,
}

/// The statistics of one cache.
#[derive(Serialize)]
struct CacheReport {
    name: &'static str,
    entries: u64,
    hits: u64,
    misses: u64,
    /// The hit ratio from 0 to 1, or `None` before the first lookup.
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

/// The ages of served values, in seconds.
#[derive(Serialize)]
struct Ages {
    sampled: u64,
    p50: f64,
    p90: f64,
    p99: f64,
}

impl Report {
    pub(crate) fn of(shop: &Shop) -> Self {
        let now = map_caches!(shop.caches, (name, store) => (name, store.stats(), store.tier()));
        let figures = now.into_iter().zip(&shop.warmed);
        let database_times = shop.database.reads().summary();
        Self {
            seconds: shop.started.elapsed().as_secs_f64(),
            database: shop.database.name(),
            products: shop.database.products(),
            database_reads: database_times.count,
            database_times,
            cached: shop.cached.summary(),
            uncached: shop.uncached.summary(),
            caches: figures
                .map(|((name, now, tier), then)| CacheReport::between(name, then, &now, tier))
                .collect(),
        }
    }
}

impl CacheReport {
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

/// The report of `/healthz`: "ok", "degraded" without Redis, or "down" without the database.
#[derive(Serialize)]
pub(crate) struct Health {
    status: &'static str,
    database: String,
    redis: String,
}

impl Health {
    /// Checks the health of the database and of Redis.
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

    /// Returns `true` if the shop can answer requests.
    pub(crate) fn serves(&self) -> bool {
        self.status != "down"
    }
}

/// Describes the health of Redis, by the caches of prices and stock. Their class `Realtime` detects an outage at once.
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
            format!("{error}; {} invalidations are queued", tier.queued)
        }
    }
}
