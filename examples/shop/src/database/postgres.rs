//! PostgreSQL, through a pool of connections.

use super::fill;
use crate::AnyError;
use crate::records::{FromRow, Id, Row};
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use std::error::Error;
use std::time::Duration;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Config, NoTls};

/// The maximum number of connections.
const MAX_CONNECTIONS: usize = 16;

/// The maximum time to open a connection or to wait for an idle one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The statement that locks the tables while they are filled.
const LOCK_TABLES: &str = "SELECT pg_advisory_xact_lock(7461746)";

#[derive(Clone)]
pub(super) struct Postgres(Pool);

impl Postgres {
    /// Connects, and fills an empty database. Also returns the number of products.
    pub(super) async fn open(url: &str, products: Id) -> Result<(Self, Id), AnyError> {
        let config: Config = url
            .parse()
            .map_err(|error| format!("--database {}", with_sources(&error)))?;
        let recycling_method = RecyclingMethod::Fast;
        let manager = Manager::from_config(config, NoTls, ManagerConfig { recycling_method });
        let pool = Pool::builder(manager)
            .max_size(MAX_CONNECTIONS)
            .runtime(Runtime::Tokio1)
            .create_timeout(Some(CONNECT_TIMEOUT))
            .wait_timeout(Some(CONNECT_TIMEOUT))
            .build()?;
        let postgres = Self(pool);
        let existing = postgres.fill(products).await?;
        Ok((postgres, existing))
    }

    /// Fills the tables if they are empty, and returns the number of products. If several processes start at the same
    /// time, one fills the tables and the others wait.
    async fn fill(&self, products: Id) -> Result<Id, AnyError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await.map_err(to_error)?;
        transaction
            .batch_execute(LOCK_TABLES)
            .await
            .map_err(to_error)?;
        let tables = format!("SET LOCAL client_min_messages = warning; {}", fill::TABLES);
        transaction.batch_execute(&tables).await.map_err(to_error)?;
        let count = async || {
            transaction
                .query_one(fill::COUNT, &[])
                .await
                .map(|row| row.get(0))
        };
        let mut existing: Id = count().await.map_err(to_error)?;
        if existing == 0 {
            for statement in fill::statements(products) {
                transaction
                    .batch_execute(&statement)
                    .await
                    .map_err(to_error)?;
            }
            existing = count().await.map_err(to_error)?;
        }
        transaction.commit().await.map_err(to_error)?;
        Ok(existing)
    }

    /// Runs a query.
    pub(super) async fn read<T: FromRow>(
        &self,
        query: &str,
        values: Vec<i64>,
    ) -> Result<Vec<T>, AnyError> {
        let client = self.client().await?;
        // A statement without parameters contains its ids and is used once, so it is not prepared.
        let rows = if values.is_empty() {
            client.query(query, &[]).await
        } else {
            let query = client.prepare_cached(query).await.map_err(to_error)?;
            client.query(&query, &parameters(&values)).await
        };
        rows.map_err(to_error)?.iter().map(T::from_row).collect()
    }

    /// Runs a statement, and returns the number of changed rows.
    pub(super) async fn write(&self, change: &str, values: Vec<i64>) -> Result<u64, AnyError> {
        let client = self.client().await?;
        let change = client.prepare_cached(change).await.map_err(to_error)?;
        client
            .execute(&change, &parameters(&values))
            .await
            .map_err(to_error)
    }

    /// Takes a connection from the pool.
    async fn client(&self) -> Result<Object, AnyError> {
        let client = self.0.get().await;
        client.map_err(|error| {
            format!("cannot connect to PostgreSQL: {}", with_sources(&error)).into()
        })
    }
}

impl Row for tokio_postgres::Row {
    fn number(&self, column: usize) -> Result<i64, AnyError> {
        Ok(self.try_get(column)?)
    }

    fn text(&self, column: usize) -> Result<String, AnyError> {
        Ok(self.try_get(column)?)
    }
}

fn parameters(values: &[i64]) -> Vec<&(dyn ToSql + Sync)> {
    values.iter().map(|number| number as _).collect()
}

#[allow(clippy::needless_pass_by_value)]
fn to_error(error: tokio_postgres::Error) -> AnyError {
    with_sources(&error).into()
}

/// Formats an error together with its sources, which its own text does not include.
fn with_sources(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    let causes: Vec<_> = causes.map(ToString::to_string).collect();
    causes.join(": ")
}
