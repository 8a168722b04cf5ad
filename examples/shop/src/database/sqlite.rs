//! SQLite, on the threads for blocking tasks.

use super::fill;
use crate::AnyError;
use crate::records::{FromRow, Id, Row};
use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, TransactionBehavior, params_from_iter};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// The number of connections.
const CONNECTIONS: usize = 8;

/// The maximum time that a writer waits for another writer.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The maximum time that a process waits until another process has filled the tables.
const FILL_TIMEOUT: Duration = Duration::from_secs(300);

/// The time between attempts to set the journal mode.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Several connections to one file.
#[derive(Clone)]
pub(super) struct Sqlite {
    idle: Arc<Mutex<Vec<Connection>>>,
    /// The number of idle connections.
    permits: Arc<Semaphore>,
    /// The temporary folder of the file, if there is one. Removed with the last handle.
    _folder: Option<Arc<TempDir>>,
}

impl Sqlite {
    /// Opens the file, or one in a temporary folder, and fills an empty database. Also returns the number of products.
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
            let existing = fill(&path, products)?;
            let idle: Result<Vec<_>, _> = (0..CONNECTIONS).map(|_| connect(&path)).collect();
            Ok::<_, rusqlite::Error>((idle?, existing))
        });
        let (idle, existing) = opened.await?.map_err(|error| {
            format!(
                "cannot open the SQLite file: {error}; set --database to a file that can be written"
            )
        })?;
        let sqlite = Self {
            idle: Arc::new(Mutex::new(idle)),
            permits: Arc::new(Semaphore::new(CONNECTIONS)),
            _folder: folder.map(Arc::new),
        };
        Ok((sqlite, existing))
    }

    /// Runs a query.
    pub(super) async fn read<T: FromRow>(
        &self,
        query: String,
        values: Vec<i64>,
    ) -> Result<Vec<T>, AnyError> {
        let read = move |connection: &Connection| {
            let mut query = connection.prepare_cached(&query)?;
            let mut rows = query.query(params_from_iter(values))?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(T::from_row(row)?);
            }
            Ok(found)
        };
        self.run(read).await
    }

    /// Runs a statement, and returns the number of changed rows.
    pub(super) async fn write(
        &self,
        change: &'static str,
        values: Vec<i64>,
    ) -> Result<u64, AnyError> {
        let write = move |connection: &Connection| {
            let changed = connection
                .prepare_cached(change)?
                .execute(params_from_iter(values))?;
            Ok(changed as u64)
        };
        self.run(write).await
    }

    /// Runs a closure with a connection, on a thread for blocking tasks.
    async fn run<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Connection) -> Result<T, AnyError> + Send + 'static,
    ) -> Result<T, AnyError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await?;
        let idle = Arc::clone(&self.idle);
        // The closure owns the permit, because the query continues if the task that waits for it is dropped.
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

/// Opens a connection.
fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    Ok(connection)
}

/// Fills the tables if they are empty, and returns the number of products. If several processes start at the same time,
/// one fills the tables and the others wait.
fn fill(path: &Path, products: Id) -> rusqlite::Result<Id> {
    let mut connection = connect(path)?;
    connection.busy_timeout(FILL_TIMEOUT)?;
    use_write_ahead_log(&connection)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(fill::TABLES)?;
    let count = || transaction.query_row(fill::COUNT, [], |row| row.get(0));
    if count()? == 0 {
        for statement in fill::statements(products) {
            transaction.execute_batch(&statement)?;
        }
    }
    let existing = count()?;
    transaction.commit()?;
    Ok(existing)
}

/// Sets the journal mode in which readers do not wait for writers. If another connection sets it at the same time, SQLite
/// fails at once and does not report when it can be set, so this tries again after a pause.
fn use_write_ahead_log(connection: &Connection) -> rusqlite::Result<()> {
    let begun = Instant::now();
    loop {
        let result = connection.pragma_update(None, "journal_mode", "WAL");
        let is_busy =
            |error: &rusqlite::Error| error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy);
        match result {
            Err(error) if is_busy(&error) && begun.elapsed() < FILL_TIMEOUT => {
                thread::sleep(RETRY_INTERVAL);
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn connections_that_open_a_new_file_at_the_same_time_fill_it_once() {
        const OPENERS: usize = 8;
        for _ in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("shop.sqlite");
            let start = Barrier::new(OPENERS);
            thread::scope(|scope| {
                let open = || {
                    start.wait();
                    fill(&path, 3)
                };
                let opened: Vec<_> = (0..OPENERS).map(|_| scope.spawn(open)).collect();
                for opened in opened {
                    assert_eq!(opened.join().unwrap().unwrap(), 3);
                }
            });
        }
    }
}
