//! The caches of the shop: their settings, warming, and snapshots.

use crate::AnyError;
use crate::database::Database;
use crate::options::Redis;
use crate::records::{Home, Id, Price, Product, Profile, Record, Session, Stock};
use crate::snapshots::{self, Stored};
use crate::store::{CacheSettings, Store};
use hotset::{WarmOptions, WarmOutcome};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::Path;
use std::time::{Duration, Instant};

const HOUR: Duration = Duration::from_secs(3_600);
const FIVE_MINUTES: Duration = Duration::from_secs(300);

/// The number of keys per query while warming.
const BATCH_SIZE: usize = 500;

/// All caches of the shop.
pub(crate) struct Caches {
    pub(crate) products: Store<Product>,
    pub(crate) home: Store<Home>,
    pub(crate) profiles: Store<Profile>,
    pub(crate) sessions: Store<Session>,
    pub(crate) prices: Store<Price>,
    pub(crate) stock: Store<Stock>,
}

/// A record type with its own cache.
pub(crate) trait Cached: Record {
    /// The name of the cache and of the route.
    const NAME: &str;

    /// Returns the cache of this type.
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

/// Evaluates an expression for each cache and its name, and returns the results as an array.
macro_rules! map_caches {
    ($caches:expr, ($name:ident, $store:ident) => $done:expr) => {
        map_caches!(@ $caches, $name, $store, $done, products, home, profiles, sessions, prices, stock)
    };
    (@ $caches:expr, $name:ident, $store:ident, $done:expr, $($cache:ident),*) => {
        [$({
            let ($name, $store) = (stringify!($cache), &$caches.$cache);
            $done
        }),*]
    };
}
pub(crate) use map_caches;

impl Caches {
    /// Builds all caches, over Redis if one is given.
    pub(crate) fn new(capacity: usize, redis: Option<Redis>) -> Result<Self, AnyError> {
        let settings = |name, ttl, is_exact| CacheSettings {
            name,
            capacity,
            ttl,
            is_exact,
        };
        let home = CacheSettings {
            capacity: 1,
            ..settings("home", HOUR, false)
        };
        Ok(Self {
            products: settings("products", HOUR, false).build(redis)?,
            home: home.build(redis)?,
            profiles: settings("profiles", FIVE_MINUTES, false).build(redis)?,
            sessions: settings("sessions", FIVE_MINUTES, false).build(redis)?,
            prices: settings("prices", FIVE_MINUTES, true).build(redis)?,
            stock: settings("stock", FIVE_MINUTES, true).build(redis)?,
        })
    }

    /// Fills the caches of products, prices and stock with up to `max` of the most popular products each, and shows a
    /// progress bar.
    pub(crate) async fn warm(&self, max: usize, database: &Database) -> Result<(), AnyError> {
        let ids = database.popular(i64::try_from(max)?).await?;
        let style = ProgressStyle::with_template("warming {wide_bar} {pos}/{len} {eta}")?;
        let bar = ProgressBar::new(3 * ids.len() as u64).with_style(style);
        let started = Instant::now();
        let mut entries = 0;
        entries += warm::<Product>(self, &ids, database, &bar).await?;
        entries += warm::<Price>(self, &ids, database, &bar).await?;
        entries += warm::<Stock>(self, &ids, database, &bar).await?;
        bar.finish_and_clear();
        println!("warmed: {entries} entries in {:.1?}", started.elapsed());
        Ok(())
    }

    /// Restores the snapshots of the last run.
    pub(crate) async fn restore(&self, folder: &Path) {
        let restored = [
            restore("products", &self.products, folder).await,
            restore("home", &self.home, folder).await,
            restore("profiles", &self.profiles, folder).await,
            restore("sessions", &self.sessions, folder).await,
            restore_shared("prices", &self.prices, folder).await,
            restore_shared("stock", &self.stock, folder).await,
        ];
        println!("restored: {} entries", restored.iter().sum::<u64>());
    }

    /// Writes the snapshots for the next run.
    pub(crate) async fn write(&self, folder: &Path) -> Result<(), AnyError> {
        let mut entries = 0;
        for written in
            map_caches!(self, (name, store) => snapshots::write(store, &folder.join(name)).await)
        {
            entries += written.map_err(|error| format!("no snapshot was written: {error}"))?;
        }
        println!("snapshot: {entries} entries");
        Ok(())
    }
}

/// Warms one cache, and returns the number of loaded entries.
async fn warm<T: Cached>(
    caches: &Caches,
    ids: &[Id],
    database: &Database,
    bar: &ProgressBar,
) -> Result<u64, AnyError> {
    let (store, before) = (T::store(caches), bar.position());
    let cached = usize::try_from(store.stats().entries)?;
    let mut popular = ids[..ids.len().saturating_sub(cached)].to_vec();
    // The most popular products come last, so that they are the last to be evicted.
    popular.reverse();
    let warming = WarmOptions::new()
        .batch(BATCH_SIZE)
        .stop_after_failures(3)
        .on_progress(|progress| bar.set_position(before + progress.done()));
    let report = store.warm(warming, popular, database).await;
    bar.set_position(before + ids.len() as u64);
    match (report.failures.first(), report.end) {
        (Some(failed), _) => Err(format!("cannot warm {}: {:#}", T::NAME, failed.error).into()),
        (None, WarmOutcome::NotProven) => {
            bar.suspend(|| eprintln!("{}: not warmed, because Redis does not answer", T::NAME));
            Ok(0)
        }
        (None, _) => Ok(report.found),
    }
}

/// Restores the snapshot of one cache, and returns the number of restored entries.
async fn restore<T: Stored>(name: &str, store: &Store<T>, folder: &Path) -> u64 {
    let restored = snapshots::restore(store, &folder.join(name)).await;
    restored.unwrap_or_else(|error| {
        // For instance, the snapshot has another version. The cache is unchanged.
        eprintln!("{name}: not restored: {error}");
        0
    })
}

/// Restores the snapshot of a cache of changing values only over Redis. Without Redis it is not known whether a value
/// has changed since the snapshot was written.
async fn restore_shared<T: Cached>(name: &str, store: &Store<T>, folder: &Path) -> u64 {
    match store.tier() {
        Some(_) => restore(name, store, folder).await,
        None => 0,
    }
}
