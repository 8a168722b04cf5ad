//! The SQLite database of profiles, in a temporary folder.

use crate::AnyError;
use crate::people::Person;
use indicatif::{ProgressBar, ProgressIterator, ProgressStyle};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rusqlite::{Connection, OpenFlags, Transaction, params};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tempfile::TempDir;

const TABLES: &str = "
    CREATE TABLE profiles (
        id        INTEGER PRIMARY KEY,
        name      TEXT NOT NULL,
        email     TEXT NOT NULL,
        city      TEXT NOT NULL,
        bio       TEXT NOT NULL,
        followers INTEGER NOT NULL,
        joined    INTEGER NOT NULL
    );
    CREATE TABLE badges (
        profile_id INTEGER NOT NULL REFERENCES profiles,
        name       TEXT NOT NULL,
        PRIMARY KEY (profile_id, name)
    ) WITHOUT ROWID;
";

const PROFILE: &str = "
    SELECT profiles.name, email, city, bio, followers, joined,
           coalesce(group_concat(badges.name, ', '), '')
    FROM profiles LEFT JOIN badges ON badges.profile_id = profiles.id
    WHERE profiles.id = ?1
    GROUP BY profiles.id
";

/// The public profile of a user.
#[derive(PartialEq)]
#[cfg_attr(feature = "async", derive(serde::Serialize))]
pub struct Profile {
    pub name: String,
    email: String,
    city: String,
    bio: String,
    followers: u32,
    joined: u32,
    badges: String,
}

/// A database whose folder is removed when it is dropped.
pub struct Database {
    folder: TempDir,
    queries: Arc<AtomicU64>,
}

impl Database {
    /// Creates a database with generated profiles.
    pub fn create(profiles: usize, seed: u64) -> Result<Self, AnyError> {
        let database = Self {
            folder: tempfile::tempdir()?,
            queries: Arc::default(),
        };
        let mut connection = Connection::open(database.file())?;
        connection.execute_batch(TABLES)?;
        fill(&mut connection, profiles as u64, seed)?;
        // Set after the inserts, because in WAL mode each row would be written twice.
        connection.pragma_update(None, "journal_mode", "WAL")?;
        Ok(database)
    }

    /// Returns the path of the database file.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("profiles.sqlite")
    }

    /// Opens connections for `count` threads.
    pub fn readers(&self, count: usize) -> rusqlite::Result<Vec<Reader>> {
        (0..count).map(|_| self.reader()).collect()
    }

    /// Opens a connection for one thread at a time.
    pub fn reader(&self) -> rusqlite::Result<Reader> {
        // Each connection is used by one thread at a time, so SQLite does not need to lock it.
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Ok(Reader {
            connection: Connection::open_with_flags(self.file(), flags)?,
            queries: Arc::clone(&self.queries),
        })
    }

    /// Returns the number of queries of all readers so far.
    pub fn queries(&self) -> u64 {
        self.queries.load(Relaxed)
    }
}

/// A connection for one thread at a time.
pub struct Reader {
    connection: Connection,
    queries: Arc<AtomicU64>,
}

impl Reader {
    /// Queries a profile.
    pub fn profile(&self, id: u64) -> rusqlite::Result<Arc<Profile>> {
        self.queries.fetch_add(1, Relaxed);
        let mut query = self.connection.prepare_cached(PROFILE)?;
        query.query_row([id], |row| {
            Ok(Arc::new(Profile {
                name: row.get(0)?,
                email: row.get(1)?,
                city: row.get(2)?,
                bio: row.get(3)?,
                followers: row.get(4)?,
                joined: row.get(5)?,
                badges: row.get(6)?,
            }))
        })
    }
}

/// Fills the tables in one transaction, because each commit waits for the disk.
fn fill(connection: &mut Connection, profiles: u64, seed: u64) -> Result<(), AnyError> {
    let style = "creating profiles {wide_bar} {human_pos} of {human_len}, {eta} left";
    let bar = ProgressBar::new(profiles).with_style(ProgressStyle::with_template(style)?);
    let mut rng = SmallRng::seed_from_u64(seed);
    let transaction = connection.transaction()?;
    for id in (0..profiles).progress_with(bar.clone()) {
        insert(&transaction, id, &Person::random(id, &mut rng))?;
    }
    transaction.commit()?;
    bar.finish_and_clear();
    Ok(())
}

fn insert(transaction: &Transaction, id: u64, person: &Person) -> rusqlite::Result<()> {
    let mut profile =
        transaction.prepare_cached("INSERT INTO profiles VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
    profile.execute(params![
        id,
        person.name,
        person.email,
        person.city,
        person.bio,
        person.followers,
        person.joined
    ])?;
    let mut badge = transaction.prepare_cached("INSERT INTO badges VALUES (?1, ?2)")?;
    for name in &person.badges {
        badge.execute(params![id, name])?;
    }
    Ok(())
}
