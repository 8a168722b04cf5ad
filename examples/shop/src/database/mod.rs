//! The database: one interface and one set of statements for SQLite and PostgreSQL.

mod fill;
mod postgres;
mod sqlite;

use crate::AnyError;
use crate::latency::Latencies;
use crate::records::{FromRow, Home, Id, ListedProduct, Offer, Record, Versioned};
use postgres::Postgres;
use sqlite::Sqlite;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// The maximum duration of a query, after which it has failed.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// The number of products on the home page.
const HOME_PAGE_PRODUCTS: i64 = 12;

/// The database of the shop. A clone is another handle to it.
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
    /// Opens the database at a path or URL, and fills it with `products` products if it is empty.
    pub(crate) async fn open(location: Option<&str>, products: Id) -> Result<Self, AnyError> {
        let is_url = |location: &&str| {
            location.starts_with("postgres://") || location.starts_with("postgresql://")
        };
        let (backend, products) = match location {
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

    /// Returns the name of the database system.
    pub(crate) fn name(&self) -> &'static str {
        match self.backend {
            Backend::Sqlite(_) => "SQLite",
            Backend::Postgres(_) => "PostgreSQL",
        }
    }

    /// Returns the number of products when the database was opened.
    pub(crate) fn products(&self) -> Id {
        self.products
    }

    /// Returns the latencies of all queries.
    pub(crate) fn reads(&self) -> &Latencies {
        &self.reads
    }

    /// Queries a record.
    pub(crate) async fn find<T: Record>(&self, id: Id) -> Result<Option<T>, AnyError> {
        Ok(self.read(T::QUERY, vec![id]).await?.pop())
    }

    /// Queries several records. The ids are numbers, so they can be part of the statement without quoting.
    pub(crate) async fn find_many<T: Record>(&self, ids: &[Id]) -> Result<Vec<T>, AnyError> {
        let list: Vec<_> = ids.iter().map(Id::to_string).collect();
        let query = T::QUERY.replace("$1", &list.join(", "));
        self.read(&query, Vec::new()).await
    }

    /// Queries the product list of the home page.
    pub(crate) async fn home(&self) -> Result<Home, AnyError> {
        let parameters = vec![HOME_PAGE_PRODUCTS];
        let products = self
            .read::<ListedProduct>(ListedProduct::QUERY, parameters)
            .await?;
        Ok(Home { products })
    }

    /// Queries all data of the home page at once, with prices and stock.
    pub(crate) async fn offers(&self) -> Result<Vec<Offer>, AnyError> {
        self.read(Offer::QUERY, vec![HOME_PAGE_PRODUCTS]).await
    }

    /// Queries the ids of up to `max` products in the order of their sales.
    pub(crate) async fn popular(&self, max: i64) -> Result<Vec<Id>, AnyError> {
        let query = "SELECT id FROM products ORDER BY sold DESC, id LIMIT $1";
        self.read(query, vec![max]).await
    }

    /// Replaces a record by its next version. Returns `false` if the database has another version than `old`. There is
    /// no timeout, because a statement that is abandoned may still be executed later, without an invalidation.
    pub(crate) async fn change<T: Versioned>(&self, old: &T, new: &T) -> Result<bool, AnyError> {
        let parameters = vec![new.number(), old.id(), old.version()];
        let changed = match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.write(T::CHANGE, parameters).await,
            Backend::Postgres(postgres) => postgres.write(T::CHANGE, parameters).await,
        };
        Ok(changed? == 1)
    }

    /// Checks whether the database answers.
    pub(crate) async fn ping(&self) -> Result<(), AnyError> {
        let query = "SELECT CAST(1 AS BIGINT)";
        self.query::<Id>(query, Vec::new()).await.map(drop)
    }

    /// Runs a query and records its latency.
    async fn read<T: FromRow>(
        &self,
        query: &str,
        parameters: Vec<i64>,
    ) -> Result<Vec<T>, AnyError> {
        let started = Instant::now();
        let rows = self.query(query, parameters).await;
        self.reads.add(started.elapsed());
        metrics::counter!("shop_database_reads_total").increment(1);
        rows
    }

    /// Runs a query with a timeout.
    async fn query<T: FromRow>(
        &self,
        query: &str,
        parameters: Vec<i64>,
    ) -> Result<Vec<T>, AnyError> {
        match &self.backend {
            Backend::Sqlite(sqlite) => with_timeout(sqlite.read(query.into(), parameters)).await,
            Backend::Postgres(postgres) => with_timeout(postgres.read(query, parameters)).await,
        }
    }
}

impl FromRow for Id {
    fn from_row(row: &impl crate::records::Row) -> Result<Self, AnyError> {
        row.number(0)
    }
}

/// Returns the result of a query, or an error if it takes longer than `QUERY_TIMEOUT`.
pub(crate) async fn with_timeout<T>(
    query: impl Future<Output = Result<T, AnyError>>,
) -> Result<T, AnyError> {
    let late = || format!("the database did not answer within {QUERY_TIMEOUT:?}");
    timeout(QUERY_TIMEOUT, query).await.map_err(|_| late())?
}
