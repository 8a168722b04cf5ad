//! PostgreSQL, over a pool of connections.

use super::fill;
use crate::AnyError;
use crate::records::{Found, Id, Row};
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use std::error::Error;
use std::time::Duration;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Config, NoTls};

const CONNECTIONS: usize = 16;
const PATIENCE: Duration = Duration::from_secs(5);

/// Held by who fills the tables.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7461746)";

#[derive(Clone)]
pub(super) struct Postgres(Pool);

impl Postgres {
    /// With the number of products that there are.
    pub(super) async fn open(url: &str, products: Id) -> Result<(Self, Id), AnyError> {
        let config: Config = url
            .parse()
            .map_err(|error| format!("--database {}", told(&error)))?;
        let recycling_method = RecyclingMethod::Fast;
        let manager = Manager::from_config(config, NoTls, ManagerConfig { recycling_method });
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS)
            .runtime(Runtime::Tokio1)
            .create_timeout(Some(PATIENCE))
            .wait_timeout(Some(PATIENCE))
            .build()?;
        let postgres = Self(pool);
        let there = postgres.fill(products).await?;
        Ok((postgres, there))
    }

    /// One process fills it, and another one that is started at the same time waits.
    async fn fill(&self, products: Id) -> Result<Id, AnyError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await.map_err(failed)?;
        transaction.batch_execute(LOCK).await.map_err(failed)?;
        let tables = format!("SET LOCAL client_min_messages = warning; {}", fill::TABLES);
        transaction.batch_execute(&tables).await.map_err(failed)?;
        let count = async || {
            transaction
                .query_one(fill::COUNT, &[])
                .await
                .map(|row| row.get(0))
        };
        let mut there: Id = count().await.map_err(failed)?;
        if there == 0 {
            for statement in fill::statements(products) {
                transaction
                    .batch_execute(&statement)
                    .await
                    .map_err(failed)?;
            }
            there = count().await.map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)?;
        Ok(there)
    }

    pub(super) async fn read<T: Found>(
        &self,
        query: &str,
        of: Vec<i64>,
    ) -> Result<Vec<T>, AnyError> {
        let client = self.client().await?;
        // One without parameters is of its own kind, and not worth keeping.
        let rows = if of.is_empty() {
            client.query(query, &[]).await
        } else {
            let query = client.prepare_cached(query).await.map_err(failed)?;
            client.query(&query, &parameters(&of)).await
        };
        rows.map_err(failed)?.iter().map(T::read).collect()
    }

    pub(super) async fn write(&self, change: &str, of: Vec<i64>) -> Result<u64, AnyError> {
        let client = self.client().await?;
        let change = client.prepare_cached(change).await.map_err(failed)?;
        client
            .execute(&change, &parameters(&of))
            .await
            .map_err(failed)
    }

    async fn client(&self) -> Result<Object, AnyError> {
        let client = self.0.get().await;
        client.map_err(|error| format!("PostgreSQL cannot be reached: {}", told(&error)).into())
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

fn parameters(of: &[i64]) -> Vec<&(dyn ToSql + Sync)> {
    of.iter().map(|number| number as _).collect()
}

#[allow(clippy::needless_pass_by_value)]
fn failed(error: tokio_postgres::Error) -> AnyError {
    told(&error).into()
}

/// With its causes, which it does not tell itself.
fn told(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    let causes: Vec<_> = causes.map(ToString::to_string).collect();
    causes.join(": ")
}
