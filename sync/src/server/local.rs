//! What a server keeps about itself in `ROOT/.sync/service.db`: storage routes, on which of them each
//! user's store lies, stores that are being put in place of others ([`super::replace`]), and settings
//! that are words. Accounts are not here, so that they may lie in another database.
use super::accounts::UserId;
use crate::error::{Result, SyncError};
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::path::{Path, PathBuf};

/// The route that every server has: its root.
pub const MAIN: i64 = 0;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS route (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, path TEXT NOT NULL UNIQUE,
    store TEXT NOT NULL);
-- on which route a user's store lies; 0 is the root
CREATE TABLE IF NOT EXISTS place (user INTEGER PRIMARY KEY, route INTEGER NOT NULL);
-- a store that takes another's place: one row from the first copied byte to the last removed one
CREATE TABLE IF NOT EXISTS swap (
    user INTEGER PRIMARY KEY, name TEXT NOT NULL, from_route INTEGER NOT NULL,
    to_route INTEGER NOT NULL, step TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS word (k TEXT PRIMARY KEY, v TEXT NOT NULL) WITHOUT ROWID;
";

/// A place where stores may lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its number; [`MAIN`] is the root.
    pub id: i64,
    /// What the administrator calls it.
    pub name: String,
    /// The directory.
    pub path: PathBuf,
    /// The identity of the store that begins there, against an empty mount point (trap 5).
    pub store: String,
}

/// How far a store is on its way into another's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is being copied to the side; nothing refers to the copy.
    Copy,
    /// The copy is whole and checked, and takes the place; nothing else may be done with the user.
    Place,
    /// It is in place; what it replaced is being removed.
    Clean,
}

impl Step {
    fn word(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Place => "place",
            Self::Clean => "clean",
        }
    }
}

/// A row of the table `swap`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swap {
    /// Whose store.
    pub user: UserId,
    /// The user's name, which is the folder's.
    pub name: String,
    /// The route it lay on.
    pub from: i64,
    /// The route it goes to; the same if a backup is loaded.
    pub to: i64,
    /// How far it is.
    pub step: Step,
}

fn swap_of(r: &Row) -> rusqlite::Result<Swap> {
    let step = match r.get::<_, String>(4)?.as_str() {
        "copy" => Step::Copy,
        "place" => Step::Place,
        _ => Step::Clean,
    };
    Ok(Swap { user: r.get(0)?, name: r.get(1)?, from: r.get(2)?, to: r.get(3)?, step })
}

/// The server's own database.
pub struct Local(Mutex<Connection>);

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Local").finish_non_exhaustive()
    }
}

impl Local {
    /// Opens it, with its tables made.
    ///
    /// # Errors
    /// Database; another server that has it open.
    pub fn open(path: &Path) -> Result<Self> {
        let db = Connection::open(path)?;
        db.execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = FULL;")?;
        db.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
        db.execute_batch(TABLES)?;
        Ok(Self(Mutex::new(db)))
    }

    /// The routes besides the root, by name.
    ///
    /// # Errors
    /// Database.
    pub fn routes(&self) -> Result<Vec<Route>> {
        let db = self.0.lock();
        let mut q = db.prepare_cached("SELECT id, name, path, store FROM route ORDER BY name")?;
        let rows = q.query_map([], |r| {
            let path = PathBuf::from(r.get::<_, String>(2)?);
            Ok(Route { id: r.get(0)?, name: r.get(1)?, path, store: r.get(3)? })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Adds a route.
    ///
    /// # Errors
    /// [`SyncError::Taken`]; database.
    pub fn add_route(&self, name: &str, path: &str, store: &str) -> Result<i64> {
        let sql = "INSERT INTO route (name, path, store) VALUES (?1, ?2, ?3) \
                   ON CONFLICT DO NOTHING RETURNING id";
        let mut db = self.0.lock();
        let tx = db.transaction()?;
        let made = tx.query_row(sql, params![name, path, store], |r| r.get(0)).optional()?;
        tx.commit()?;
        made.ok_or_else(|| SyncError::Taken(format!("route {name} or {path}")))
    }

    /// Forgets a route on which no store lies.
    ///
    /// # Errors
    /// [`SyncError::Taken`] if one does; database.
    pub fn drop_route(&self, id: i64) -> Result<()> {
        let mut db = self.0.lock();
        let tx = db.transaction()?;
        let sql = "SELECT (SELECT count(*) FROM place WHERE route = ?1) \
                   + (SELECT count(*) FROM swap WHERE from_route = ?1 OR to_route = ?1)";
        let used: i64 = tx.query_row(sql, [id], |r| r.get(0))?;
        if used > 0 {
            return Err(SyncError::Taken(format!(
                "{used} stores lie on this route: move them away first"
            )));
        }
        if tx.execute("DELETE FROM route WHERE id = ?1", [id])? == 0 {
            return Err(SyncError::NotFound(format!("route {id}")));
        }
        tx.execute("DELETE FROM word WHERE k = 'route' AND v = ?1", [id.to_string()])?;
        Ok(tx.commit()?)
    }

    /// On which route a user's store lies, if that was ever written down.
    ///
    /// # Errors
    /// Database.
    pub fn place(&self, user: UserId) -> Result<Option<i64>> {
        let db = self.0.lock();
        let mut q = db.prepare_cached("SELECT route FROM place WHERE user = ?1")?;
        Ok(q.query_row([user], |r| r.get(0)).optional()?)
    }

    /// The highest number of a user whose store has a place.
    ///
    /// # Errors
    /// Database.
    pub fn highest_place(&self) -> Result<Option<UserId>> {
        Ok(self.0.lock().query_row("SELECT max(user) FROM place", [], |r| r.get(0))?)
    }

    /// Writes it down.
    ///
    /// # Errors
    /// Database.
    pub fn set_place(&self, user: UserId, route: i64) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO place VALUES (?1, ?2)";
        self.0.lock().execute(sql, [user, route])?;
        Ok(())
    }

    /// Stores that are on their way.
    ///
    /// # Errors
    /// Database.
    pub fn swaps(&self) -> Result<Vec<Swap>> {
        let db = self.0.lock();
        let mut q = db.prepare_cached("SELECT user, name, from_route, to_route, step FROM swap")?;
        Ok(q.query_map([], swap_of)?.collect::<rusqlite::Result<_>>()?)
    }

    /// Begins a way.
    ///
    /// # Errors
    /// [`SyncError::Taken`] if that user's store is on its way already; database.
    pub fn begin_swap(&self, user: UserId, name: &str, from: i64, to: i64) -> Result<Swap> {
        let step = Step::Copy;
        let sql = "INSERT INTO swap VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING";
        match self.0.lock().execute(sql, params![user, name, from, to, step.word()])? {
            1 => Ok(Swap { user, name: name.to_owned(), from, to, step }),
            _ => Err(SyncError::Taken(format!("the store of {name} is being moved or loaded"))),
        }
    }

    /// A way's next step; with [`Step::Clean`] the store lies where it went.
    ///
    /// # Errors
    /// Database.
    pub fn step_swap(&self, swap: &mut Swap, step: Step) -> Result<()> {
        let mut db = self.0.lock();
        let tx = db.transaction()?;
        tx.execute("UPDATE swap SET step = ?2 WHERE user = ?1", params![swap.user, step.word()])?;
        if step == Step::Clean {
            let sql = "INSERT OR REPLACE INTO place VALUES (?1, ?2)";
            tx.execute(sql, [swap.user, swap.to])?;
        }
        tx.commit()?;
        swap.step = step;
        Ok(())
    }

    /// The end of a way.
    ///
    /// # Errors
    /// Database.
    pub fn end_swap(&self, user: UserId) -> Result<()> {
        self.0.lock().execute("DELETE FROM swap WHERE user = ?1", [user])?;
        Ok(())
    }

    /// A setting.
    ///
    /// # Errors
    /// Database.
    pub fn word(&self, key: &str) -> Result<Option<String>> {
        let sql = "SELECT v FROM word WHERE k = ?1";
        Ok(self.0.lock().query_row(sql, [key], |r| r.get(0)).optional()?)
    }

    /// Sets it; empty: removes it.
    ///
    /// # Errors
    /// Database.
    pub fn set_word(&self, key: &str, value: &str) -> Result<()> {
        let db = self.0.lock();
        if value.is_empty() {
            db.execute("DELETE FROM word WHERE k = ?1", [key])?;
        } else {
            db.execute("INSERT OR REPLACE INTO word VALUES (?1, ?2)", [key, value])?;
        }
        Ok(())
    }
}
