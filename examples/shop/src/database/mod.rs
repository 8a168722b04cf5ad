//! The database, SQLite or PostgreSQL: one interface, and one set of statements.

mod fill;
mod postgres;
mod sqlite;

use crate::AnyError;
use crate::latency::Latencies;
use crate::records::{Found, Home, Id, Listed, Offer, Record, Versioned};
use postgres::Postgres;
use sqlite::Sqlite;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// A query that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(5);

const POPULAR: i64 = 12;

/// A clone is another handle to it.
#[derive(Clone)]
pub(crate) struct Database {
    backend: Backend,
    reads: Arc<Latencies>,
    products: Id,
}

#[derive(Clone)]
enum Backend {
    Sqlite(Sqlite),
    Postgres(Postgres),
}

impl Database {
    /// Opens it, and fills it with so many products if it is empty.
    pub(crate) async fn open(place: Option<&str>, products: Id) -> Result<Self, AnyError> {
        let is_url =
            |place: &&str| place.starts_with("postgres://") || place.starts_with("postgresql://");
        let (backend, products) = match place {
            Some(url) if is_url(&url) => {
                let (postgres, products) = Postgres::open(url, products).await?;
                (Backend::Postgres(postgres), products)
            }
            path => {
                let (sqlite, products) = Sqlite::open(path, products).await?;
                (Backend::Sqlite(sqlite), products)
            }
        };
        Ok(Self {
            backend,
            reads: Arc::new(Latencies::new()),
            products,
        })
    }

    pub(crate) fn name(&self) -> &'static str {
        match self.backend {
            Backend::Sqlite(_) => "SQLite",
            Backend::Postgres(_) => "PostgreSQL",
        }
    }

    /// How many there were when it was opened.
    pub(crate) fn products(&self) -> Id {
        self.products
    }

    /// How long queries took.
    pub(crate) fn reads(&self) -> &Latencies {
        &self.reads
    }

    pub(crate) async fn find<T: Record>(&self, id: Id) -> Result<Option<T>, AnyError> {
        Ok(self.read(T::QUERY, vec![id]).await?.pop())
    }

    /// Of several. They are numbers, so they may be part of the statement.
    pub(crate) async fn find_many<T: Record>(&self, ids: &[Id]) -> Result<Vec<T>, AnyError> {
        let list: Vec<_> = ids.iter().map(Id::to_string).collect();
        let query = T::QUERY.replace("$1", &list.join(", "));
        self.read(&query, Vec::new()).await
    }

    pub(crate) async fn home(&self) -> Result<Home, AnyError> {
        let products = self.read::<Listed>(Listed::QUERY, vec![POPULAR]).await?;
        Ok(Home { products })
    }

    /// What the home page shows, in one query.
    pub(crate) async fn offers(&self) -> Result<Vec<Offer>, AnyError> {
        self.read(Offer::QUERY, vec![POPULAR]).await
    }

    /// What sells best, first.
    pub(crate) async fn popular(&self, most: i64) -> Result<Vec<Id>, AnyError> {
        let query = "SELECT id FROM products ORDER BY sold DESC, id LIMIT $1";
        self.read(query, vec![most]).await
    }

    /// Stores the next version of what was read, and tells whether it was the next one still. It takes as
    /// long as it takes: what is given up might be done all the same, later, when nobody tells the caches.
    pub(crate) async fn change<T: Versioned>(&self, old: &T, new: &T) -> Result<bool, AnyError> {
        let parameters = vec![new.number(), old.id(), old.version()];
        let changed = match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.write(T::CHANGE, parameters).await,
            Backend::Postgres(postgres) => postgres.write(T::CHANGE, parameters).await,
        };
        Ok(changed? == 1)
    }

    /// Does it answer?
    pub(crate) async fn ping(&self) -> Result<(), AnyError> {
        let query = "SELECT CAST(1 AS BIGINT)";
        self.ask::<Id>(query, Vec::new()).await.map(drop)
    }

    async fn read<T: Found>(&self, query: &str, of: Vec<i64>) -> Result<Vec<T>, AnyError> {
        let begun = Instant::now();
        let rows = self.ask(query, of).await;
        self.reads.add(begun.elapsed());
        metrics::counter!("shop_database_reads_total").increment(1);
        rows
    }

    async fn ask<T: Found>(&self, query: &str, of: Vec<i64>) -> Result<Vec<T>, AnyError> {
        match &self.backend {
            Backend::Sqlite(sqlite) => in_time(sqlite.read(query.into(), of)).await,
            Backend::Postgres(postgres) => in_time(postgres.read(query, of)).await,
        }
    }
}

impl Found for Id {
    fn read(row: &impl crate::records::Row) -> Result<Self, AnyError> {
        row.number(0)
    }
}

/// What the database answers, if it does in time.
pub(crate) async fn in_time<T>(
    query: impl Future<Output = Result<T, AnyError>>,
) -> Result<T, AnyError> {
    let late = || format!("the database did not answer within {DEADLINE:?}");
    timeout(DEADLINE, query).await.map_err(|_| late())?
}
