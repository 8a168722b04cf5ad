//! SQLite, in threads for what blocks.

use super::fill;
use crate::AnyError;
use crate::records::{Found, Id, Row};
use parking_lot::Mutex;
use rusqlite::{Connection, TransactionBehavior, params_from_iter};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

const CONNECTIONS: usize = 8;

/// How long a writer waits for another one.
const PATIENCE: Duration = Duration::from_secs(5);

/// A few connections to a file.
#[derive(Clone)]
pub(super) struct Sqlite {
    idle: Arc<Mutex<Vec<Connection>>>,
    /// One for each connection.
    permits: Arc<Semaphore>,
    /// Removed with the last handle, if it is one of our own.
    _folder: Option<Arc<TempDir>>,
}

impl Sqlite {
    /// With the number of products that there are.
    pub(super) async fn open(path: Option<&str>, products: Id) -> Result<(Self, Id), AnyError> {
        let folder = path.is_none().then(tempfile::tempdir).transpose()?;
        let path = match (path, &folder) {
            (Some(path), _) => PathBuf::from(path),
            (None, folder) => folder
                .as_ref()
                .ok_or("no folder")?
                .path()
                .join("shop.sqlite"),
        };
        let opened = spawn_blocking(move || {
            let there = fill(&path, products)?;
            let idle: Result<Vec<_>, _> = (0..CONNECTIONS).map(|_| connect(&path)).collect();
            Ok::<_, rusqlite::Error>((idle?, there))
        });
        let (idle, there) = opened.await?.map_err(|error| {
            format!("the SQLite file cannot be opened: {error}; give --database one that can be")
        })?;
        let sqlite = Self {
            idle: Arc::new(Mutex::new(idle)),
            permits: Arc::new(Semaphore::new(CONNECTIONS)),
            _folder: folder.map(Arc::new),
        };
        Ok((sqlite, there))
    }

    pub(super) async fn read<T: Found>(
        &self,
        query: String,
        of: Vec<i64>,
    ) -> Result<Vec<T>, AnyError> {
        let read = move |connection: &Connection| {
            let mut query = connection.prepare_cached(&query)?;
            let mut rows = query.query(params_from_iter(of))?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(T::read(row)?);
            }
            Ok(found)
        };
        self.run(read).await
    }

    pub(super) async fn write(&self, change: &'static str, of: Vec<i64>) -> Result<u64, AnyError> {
        let write = move |connection: &Connection| {
            let changed = connection
                .prepare_cached(change)?
                .execute(params_from_iter(of))?;
            Ok(changed as u64)
        };
        self.run(write).await
    }

    async fn run<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Connection) -> Result<T, AnyError> + Send + 'static,
    ) -> Result<T, AnyError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await?;
        let idle = Arc::clone(&self.idle);
        // The permit goes along: a query is not interrupted if the task that waits for it ends.
        let blocking = move || {
            let connection = idle.lock().pop();
            let connection = connection.expect("there is a connection for each permit");
            let result = run(&connection);
            idle.lock().push(connection);
            drop(permit);
            result
        };
        spawn_blocking(blocking).await?
    }
}

impl Row for rusqlite::Row<'_> {
    fn number(&self, column: usize) -> Result<i64, AnyError> {
        Ok(self.get(column)?)
    }

    fn text(&self, column: usize) -> Result<String, AnyError> {
        Ok(self.get(column)?)
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(PATIENCE)?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    Ok(connection)
}

/// One process fills it, and another one that is started at the same time waits.
fn fill(path: &Path, products: Id) -> rusqlite::Result<Id> {
    let mut connection = connect(path)?;
    connection.busy_timeout(PATIENCE * 60)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(fill::TABLES)?;
    let count = || transaction.query_row(fill::COUNT, [], |row| row.get(0));
    if count()? == 0 {
        for statement in fill::statements(products) {
            transaction.execute_batch(&statement)?;
        }
    }
    let there = count()?;
    transaction.commit()?;
    Ok(there)
}
