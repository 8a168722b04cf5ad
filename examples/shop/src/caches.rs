//! The caches of the shop: how they are set up, warmed, and kept for the next start.

use crate::AnyError;
use crate::database::Database;
use crate::options::Redis;
use crate::records::{Home, Id, Price, Product, Profile, Record, Session, Stock};
use crate::snapshots;
use crate::store::{Plan, Store};
use hotset::{WarmOptions, WarmOutcome};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::Path;
use std::time::{Duration, Instant};

const HOUR: Duration = Duration::from_secs(3_600);
const MINUTES: Duration = Duration::from_secs(300);

/// Keys of one query.
const BATCH: usize = 500;

pub(crate) struct Caches {
    pub(crate) products: Store<Product>,
    pub(crate) home: Store<Home>,
    pub(crate) profiles: Store<Profile>,
    pub(crate) sessions: Store<Session>,
    pub(crate) prices: Store<Price>,
    pub(crate) stock: Store<Stock>,
}

/// What has a cache, by its id.
pub(crate) trait Cached: Record {
    /// Of the cache, and of the route.
    const NAME: &str;

    fn store(caches: &Caches) -> &Store<Self>;
}

macro_rules! cached {
    ($($type:ty => $name:ident),*) => {$(
        impl Cached for $type {
            const NAME: &str = stringify!($name);

            fn store(caches: &Caches) -> &Store<Self> {
                &caches.$name
            }
        }
    )*};
}

cached!(
    Product => products, Profile => profiles, Session => sessions, Price => prices, Stock => stock
);

/// Does something with each cache and its name, and returns what comes of it.
macro_rules! each {
    ($caches:expr, ($name:ident, $store:ident) => $done:expr) => {
        each!(@ $caches, $name, $store, $done, products, home, profiles, sessions, prices, stock)
    };
    (@ $caches:expr, $name:ident, $store:ident, $done:expr, $($cache:ident),*) => {
        [$({
            let ($name, $store) = (stringify!($cache), &$caches.$cache);
            $done
        }),*]
    };
}
pub(crate) use each;

impl Caches {
    pub(crate) fn new(capacity: usize, redis: Option<Redis>) -> Result<Self, AnyError> {
        let plan = |name, ttl, is_exact| Plan {
            name,
            capacity,
            ttl,
            is_exact,
        };
        let home = Plan {
            capacity: 1,
            ..plan("home", HOUR, false)
        };
        Ok(Self {
            products: plan("products", HOUR, false).build(redis)?,
            home: home.build(redis)?,
            profiles: plan("profiles", MINUTES, false).build(redis)?,
            sessions: plan("sessions", MINUTES, false).build(redis)?,
            prices: plan("prices", MINUTES, true).build(redis)?,
            stock: plan("stock", MINUTES, true).build(redis)?,
        })
    }

    /// Loads what sells best, as far as there is room, with a bar that shows how far it is.
    pub(crate) async fn warm(&self, most: usize, database: &Database) -> Result<(), AnyError> {
        let ids = database.popular(i64::try_from(most)?).await?;
        let style = ProgressStyle::with_template("warming {wide_bar} {pos}/{len} {eta}")?;
        let bar = ProgressBar::new(3 * ids.len() as u64).with_style(style);
        let begun = Instant::now();
        let mut held = 0;
        held += warm::<Product>(self, &ids, database, &bar).await?;
        held += warm::<Price>(self, &ids, database, &bar).await?;
        held += warm::<Stock>(self, &ids, database, &bar).await?;
        bar.finish_and_clear();
        println!("warmed: {held} entries in {:.1?}", begun.elapsed());
        Ok(())
    }

    /// Begins with what the last run has left.
    pub(crate) async fn restore(&self, folder: &Path) {
        let restored = [
            restored("products", &self.products, folder).await,
            restored("home", &self.home, folder).await,
            restored("profiles", &self.profiles, folder).await,
            restored("sessions", &self.sessions, folder).await,
            // These may have changed since, which only Redis knows.
            exact("prices", &self.prices, folder).await,
            exact("stock", &self.stock, folder).await,
        ];
        println!("restored: {} entries", restored.iter().sum::<u64>());
    }

    /// Leaves what is held to the next run.
    pub(crate) async fn write(&self, folder: &Path) -> Result<(), AnyError> {
        let mut entries = 0;
        for written in
            each!(self, (name, store) => snapshots::write(store, &folder.join(name)).await)
        {
            entries += written.map_err(|error| format!("no snapshot was written: {error}"))?;
        }
        println!("snapshot: {entries} entries");
        Ok(())
    }
}

async fn warm<T: Cached>(
    caches: &Caches,
    ids: &[Id],
    database: &Database,
    bar: &ProgressBar,
) -> Result<u64, AnyError> {
    let (store, before) = (T::store(caches), bar.position());
    let held = usize::try_from(store.stats().entries)?;
    let mut best = ids[..ids.len().saturating_sub(held)].to_vec();
    // All of them fit, so the best come last, and are the last to be evicted.
    best.reverse();
    let warming = WarmOptions::new()
        .batch(BATCH)
        .stop_after_failures(3)
        .on_progress(|progress| bar.set_position(before + progress.done()));
    let report = store.warm(warming, best, database).await;
    bar.set_position(before + ids.len() as u64);
    match (report.failures.first(), report.end) {
        (Some(failed), _) => Err(format!("cannot warm {}: {}", T::NAME, failed.error).into()),
        (None, WarmOutcome::NotProven) => {
            bar.suspend(|| eprintln!("{}: not warmed, since Redis does not answer", T::NAME));
            Ok(0)
        }
        (None, _) => Ok(report.found),
    }
}

async fn restored<T: crate::snapshots::Stored>(name: &str, store: &Store<T>, folder: &Path) -> u64 {
    let restored = snapshots::restore(store, &folder.join(name)).await;
    restored.unwrap_or_else(|error| {
        // Of another version, say: the cache is as it was.
        eprintln!("{name}: not restored: {error}");
        0
    })
}

async fn exact<T: Cached>(name: &str, store: &Store<T>, folder: &Path) -> u64 {
    match store.tier() {
        Some(_) => restored(name, store, folder).await,
        None => 0,
    }
}
