//! Accounts in a MariaDB (or MySQL) database, for sites that have one. That database is what lasts; the
//! tables that the rest of the server works on are an SQLite in memory, read from there at the start.
//!
//! Every change goes there before it counts here: triggers tell of each row that a statement changes, and
//! SQLite's commit hook writes those rows outside, in one transaction, before SQLite commits. If that
//! fails, SQLite rolls back and the request fails; since nobody knows then whether the other side has
//! committed, everything is read from there again before the next use.
//!
//! | outside | a change | what is read |
//! |---|---|---|
//! | there | written there, then here | what is here |
//! | away | refused (500, logged) | what was last known |
//! | there again | everything is read again first | what is there |
//!
//! One server per database: it holds a lock of the database's (`GET_LOCK`) as long as it is connected, and
//! does not write without it. Tables there have the names and columns of those here, with `pvfs2_` before
//! the name, and `row_id` where a table here has no key of its own.
use crate::error::{Result, SyncError};
use mysql::prelude::Queryable;
use mysql::{Conn, Opts, OptsBuilder, Row, TxOpts, Value as Far};
use parking_lot::Mutex;
use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::{Value, ValueRef};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// It gets so long for an answer.
const WAIT: Duration = Duration::from_secs(5);
/// When it was away it is asked again after so long.
const AGAIN: Duration = Duration::from_secs(1);

/// A table, as SQLite tells it.
#[derive(Clone, Debug)]
struct Table {
    name: String,
    columns: Vec<String>,
    /// What a row is found by; columns of `columns`, or `row_id`.
    key: Vec<String>,
    kinds: Vec<String>,
}

/// A row that changed.
enum Change {
    Put(usize, Vec<Value>),
    Drop(usize, Vec<Value>),
}

/// What is shared between the hooks and who opens the connection.
struct Shared {
    tables: Vec<Table>,
    opts: Opts,
    conn: Mutex<Option<Conn>>,
    changes: Mutex<Vec<Change>>,
    loading: AtomicBool,
    /// The other side may have what SQLite has not.
    stale: AtomicBool,
    /// When it did not answer; it is not asked again at once.
    away: Mutex<Option<Instant>>,
}

/// Accounts outside.
pub struct Outside(Arc<Shared>);

fn far(e: mysql::Error) -> SyncError {
    // Its URL has a password; its errors have not.
    SyncError::Io {
        what: "accounts' database".into(),
        source: std::io::Error::other(e.to_string()),
    }
}

fn to_far(v: &Value) -> Far {
    match v {
        Value::Null => Far::NULL,
        Value::Integer(n) => Far::Int(*n),
        Value::Real(x) => Far::Double(*x),
        Value::Text(t) => Far::Bytes(t.clone().into_bytes()),
        Value::Blob(b) => Far::Bytes(b.clone()),
    }
}

fn from_far(v: Far, kind: &str) -> Value {
    match v {
        Far::Int(n) => Value::Integer(n),
        Far::UInt(n) => Value::Integer(i64::try_from(n).unwrap_or(i64::MAX)),
        Far::Double(x) => Value::Real(x),
        Far::Bytes(b) if kind == "TEXT" => Value::Text(String::from_utf8_lossy(&b).into_owned()),
        Far::Bytes(b) if kind == "INTEGER" => {
            String::from_utf8_lossy(&b).parse().map_or(Value::Null, Value::Integer)
        }
        Far::Bytes(b) => Value::Blob(b),
        _ => Value::Null,
    }
}

/// The tables that a connection has.
fn tables(db: &Connection) -> Result<Vec<Table>> {
    let mut q = db.prepare(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name",
    )?;
    let names: Vec<String> = q.query_map([], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?;
    let mut all = Vec::new();
    for name in names {
        let mut q = db.prepare(&format!("PRAGMA table_info({name})"))?;
        let rows = q.query_map([], |r| Ok((r.get(1)?, r.get(2)?, r.get::<_, i64>(5)?)))?;
        let rows: Vec<(String, String, i64)> = rows.collect::<rusqlite::Result<_>>()?;
        let mut key: Vec<String> =
            rows.iter().filter(|(.., pk)| *pk > 0).map(|(c, ..)| c.clone()).collect();
        let mut columns: Vec<String> = rows.iter().map(|(c, ..)| c.clone()).collect();
        let mut kinds: Vec<String> = rows.into_iter().map(|(_, k, _)| k).collect();
        if key.is_empty() {
            key.push("row_id".into());
            columns.insert(0, "row_id".into());
            kinds.insert(0, "INTEGER".into());
        }
        all.push(Table { name, columns, key, kinds });
    }
    Ok(all)
}

impl Table {
    /// A column as SQLite calls it.
    fn near(column: &str) -> &str {
        if column == "row_id" { "rowid" } else { column }
    }

    /// The statement that makes it outside.
    fn create(&self) -> String {
        let mut sql = format!("CREATE TABLE IF NOT EXISTS pvfs2_{} (", self.name);
        for (column, kind) in self.columns.iter().zip(&self.kinds) {
            let key = self.key.contains(column);
            let kind = match (kind.as_str(), key) {
                ("INTEGER", _) => "BIGINT",
                ("TEXT", true) => "VARCHAR(190) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
                ("TEXT", false) => "TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
                (_, true) => "VARBINARY(190)",
                (_, false) => "BLOB",
            };
            let _ = write!(sql, "`{column}` {kind}{}, ", if key { " NOT NULL" } else { "" });
        }
        let _ = write!(sql, "PRIMARY KEY ({})) ENGINE=InnoDB", self.key.join(", "));
        sql
    }

    fn put(&self) -> String {
        let columns = self.columns.iter().map(|c| format!("`{c}`")).collect::<Vec<_>>().join(", ");
        let marks = vec!["?"; self.columns.len()].join(", ");
        format!("REPLACE INTO pvfs2_{} ({columns}) VALUES ({marks})", self.name)
    }

    fn drop(&self) -> String {
        let key = self.key.iter().map(|c| format!("`{c}` = ?")).collect::<Vec<_>>().join(" AND ");
        format!("DELETE FROM pvfs2_{} WHERE {key}", self.name)
    }

    /// The triggers that tell of its changes.
    fn triggers(&self, n: usize) -> String {
        let of = |row: &str, columns: &[String]| {
            let all = columns.iter().map(|c| format!("{row}.{}", Self::near(c)));
            all.collect::<Vec<_>>().join(", ")
        };
        let name = &self.name;
        let put = format!("SELECT outside({n}, 1, {});", of("NEW", &self.columns));
        let drop = format!("SELECT outside({n}, 0, {});", of("OLD", &self.key));
        format!(
            "CREATE TRIGGER out_i_{name} AFTER INSERT ON {name} BEGIN {put} END;
             CREATE TRIGGER out_u_{name} AFTER UPDATE ON {name} BEGIN {drop} {put} END;
             CREATE TRIGGER out_d_{name} AFTER DELETE ON {name} BEGIN {drop} END;"
        )
    }
}

impl Shared {
    fn connect(&self) -> Result<Conn> {
        let mut conn = Conn::new(self.opts.clone()).map_err(far)?;
        let lock = "SELECT GET_LOCK(CONCAT('pvfs2-sync ', DATABASE()), 0)";
        match conn.query_first::<Option<i64>, _>(lock).map_err(far)? {
            Some(Some(1)) => Ok(conn),
            _ => Err(SyncError::Taken("the accounts' database: another server has it".into())),
        }
    }

    /// Does something on the connection, which is made if there is none or it is dead.
    fn with<T>(&self, f: impl FnOnce(&mut Conn) -> Result<T>) -> Result<T> {
        let mut held = self.conn.lock();
        let alive = held.as_mut().is_some_and(|c| c.ping().is_ok());
        if !alive {
            *held = None;
            *held = Some(self.connect()?);
        }
        let Some(conn) = held.as_mut() else {
            return Err(SyncError::Net("the accounts' database".into()));
        };
        let done = f(conn);
        if done.is_err() {
            *held = None;
        }
        done
    }

    fn push(&self, changes: &[Change]) -> Result<()> {
        self.with(|conn| {
            let mut tx = conn.start_transaction(TxOpts::default()).map_err(far)?;
            for change in changes {
                let (sql, values) = match change {
                    Change::Put(n, v) => (self.tables.get(*n).map(Table::put), v),
                    Change::Drop(n, v) => (self.tables.get(*n).map(Table::drop), v),
                };
                let values: Vec<Far> = values.iter().map(to_far).collect();
                tx.exec_drop(sql.unwrap_or_default(), values).map_err(far)?;
            }
            tx.commit().map_err(far)
        })
    }

    /// Reads everything into SQLite, in place of what is there.
    fn load(&self, db: &mut Connection) -> Result<()> {
        let mut read = Vec::new();
        for table in &self.tables {
            let columns: Vec<_> = table.columns.iter().map(|c| format!("`{c}`")).collect();
            let sql = format!("SELECT {} FROM pvfs2_{}", columns.join(", "), table.name);
            let rows: Vec<Row> = self.with(|conn| conn.query(sql).map_err(far))?;
            read.push((table, rows));
        }
        self.loading.store(true, Ordering::Release);
        let filled = fill(db, read);
        self.loading.store(false, Ordering::Release);
        filled?;
        self.stale.store(false, Ordering::Release);
        Ok(())
    }
}

fn fill(db: &mut Connection, read: Vec<(&Table, Vec<Row>)>) -> Result<()> {
    let tx = db.transaction()?;
    for (table, rows) in read {
        tx.execute(&format!("DELETE FROM {}", table.name), [])?;
        let columns: Vec<_> = table.columns.iter().map(|c| Table::near(c)).collect();
        let marks = vec!["?"; columns.len()].join(", ");
        let sql = format!("INSERT INTO {} ({}) VALUES ({marks})", table.name, columns.join(", "));
        let mut put = tx.prepare(&sql)?;
        for mut row in rows {
            let values =
                table.kinds.iter().enumerate().map(|(i, kind)| {
                    row.take::<Far, _>(i).map_or(Value::Null, |v| from_far(v, kind))
                });
            put.execute(rusqlite::params_from_iter(values))?;
        }
    }
    Ok(tx.commit()?)
}

impl Outside {
    /// Connects the tables of `db`, which are empty, with a database: `mysql://USER:PASSWORD@HOST/NAME`.
    ///
    /// # Errors
    /// The database's; another server that has it.
    pub fn connect(db: &mut Connection, url: &str) -> Result<Self> {
        let bad =
            |_| SyncError::Invalid("accounts: not mysql://USER:PASSWORD@HOST:PORT/NAME".into());
        let opts = Opts::from_url(url.trim()).map_err(bad)?;
        let opts = OptsBuilder::from_opts(opts)
            .read_timeout(Some(WAIT))
            .write_timeout(Some(WAIT))
            .tcp_connect_timeout(Some(WAIT));
        let shared = Arc::new(Shared {
            tables: tables(db)?,
            opts: opts.into(),
            conn: Mutex::default(),
            changes: Mutex::default(),
            loading: AtomicBool::new(false),
            stale: AtomicBool::new(true),
            away: Mutex::default(),
        });
        for table in &shared.tables {
            shared.with(|conn| conn.query_drop(table.create()).map_err(far))?;
        }
        shared.load(db)?;
        let told = shared.clone();
        db.create_scalar_function("outside", -1, FunctionFlags::SQLITE_UTF8, move |ctx| {
            if !told.loading.load(Ordering::Acquire) {
                let (n, put): (i64, i64) = (ctx.get(0)?, ctx.get(1)?);
                let n = usize::try_from(n).unwrap_or(usize::MAX);
                let values = (2..ctx.len()).map(|i| match ctx.get_raw(i) {
                    ValueRef::Null => Value::Null,
                    other => other.try_into().unwrap_or(Value::Null),
                });
                let values = values.collect();
                let change =
                    if put == 1 { Change::Put(n, values) } else { Change::Drop(n, values) };
                told.changes.lock().push(change);
            }
            Ok(0)
        })?;
        for (n, table) in shared.tables.iter().enumerate() {
            db.execute_batch(&table.triggers(n))?;
        }
        let committing = shared.clone();
        db.commit_hook(Some(move || {
            let changes = std::mem::take(&mut *committing.changes.lock());
            if changes.is_empty() {
                return false;
            }
            // True: do not commit.
            if committing.stale.load(Ordering::Acquire) {
                return true;
            }
            match committing.push(&changes) {
                Ok(()) => false,
                Err(e) => {
                    tracing::error!(error = %e, "a change of the accounts is refused");
                    committing.stale.store(true, Ordering::Release);
                    true
                }
            }
        }))?;
        let undone = shared.clone();
        db.rollback_hook(Some(move || undone.changes.lock().clear()))?;
        Ok(Self(shared))
    }

    /// Reads everything again if the other side may have what is not here.
    pub fn freshen(&self, db: &mut Connection) {
        if !self.0.stale.load(Ordering::Acquire)
            || self.0.away.lock().is_some_and(|since| since.elapsed() < AGAIN)
        {
            return;
        }
        if let Err(e) = self.0.load(db) {
            tracing::error!(error = %e, "the accounts are those that were last known");
            *self.0.away.lock() = Some(Instant::now());
        }
    }
}
