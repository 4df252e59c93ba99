//! What the device remembers: the server's table as last heard, and the state that both sides last
//! agreed on with the signature of each local file then. Observations only, never planned work.
use crate::api::NodeInfo;
use crate::error::Result;
use crate::files::Stat;
use crate::tree::{Content, Entry, Key, Kind, NodeId, Tree};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// How a local file looked when its hash was taken; another signature means: hash it again. An inode of
/// 0 fits nothing (trap 2: what changed within the last second is hashed again).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signature {
    /// Bytes.
    pub size: u64,
    /// Time of the last change of the bytes.
    pub mtime_ns: i64,
    /// Time of the last change of anything; 0: not to be trusted.
    pub ctime_ns: i64,
    /// The inode.
    pub inode: u64,
}

impl Signature {
    /// Of what lies there now.
    #[must_use]
    pub fn of(stat: &Stat) -> Self {
        Self {
            size: stat.size,
            mtime_ns: stat.mtime_ns,
            ctime_ns: stat.ctime_ns,
            inode: stat.inode,
        }
    }
}

/// A download that is about to get its place, or to be swapped with the file there. Once it is, the base
/// must say so, also after a crash: else a file that the user deletes meanwhile would come back.
#[derive(Clone, Debug)]
pub struct Swap {
    /// Its name below `tmp/`.
    pub tmp: String,
    /// Its inode.
    pub inode: u64,
    /// What it is swapped with.
    pub path: String,
    /// What that must have held; all zero if nothing was there.
    pub hash: [u8; 32],
    /// What both sides agree on then.
    pub agreed: NodeInfo,
}

/// A request that was sent to the server. If its answer was lost, the server tells it later,
/// and that is agreed on, whatever the user did with the local file since: else a file that was deleted
/// meanwhile would come back, and an edit would be in conflict with itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// The node that it changes; `None`: it makes a new one.
    pub node: Option<NodeId>,
    /// Where it will lie.
    pub parent: NodeId,
    /// Under which name.
    pub name: String,
    /// File or directory.
    pub kind: Kind,
    /// The hash that it sends, in hexadecimal; empty if it changes only the place.
    pub hash: String,
    /// The execute bit that it sends.
    pub exec: bool,
    /// The node that the new one takes the place of, which was deleted at the server.
    pub instead_of: Option<NodeId>,
}

/// The device's database.
#[derive(Debug)]
pub struct Base {
    db: Connection,
}

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS text (k TEXT PRIMARY KEY, v TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS remote (id INTEGER PRIMARY KEY, info TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS base (
    id INTEGER PRIMARY KEY, parent INTEGER NOT NULL, name TEXT NOT NULL, kind INTEGER NOT NULL,
    hash BLOB NOT NULL, exec INTEGER NOT NULL, rev INTEGER NOT NULL, size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, inode INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS swap (
    tmp TEXT PRIMARY KEY, inode INTEGER NOT NULL, path TEXT NOT NULL, hash BLOB NOT NULL,
    agreed TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sent (key TEXT PRIMARY KEY, sent TEXT NOT NULL) WITHOUT ROWID;
-- of encrypted folders: hash of a sealed content -> hash of the plain one; key files by their hash
CREATE TABLE IF NOT EXISTS known (sealed BLOB PRIMARY KEY, plain BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS key_file (hash BLOB PRIMARY KEY, id BLOB NOT NULL, text BLOB NOT NULL);
";

/// What was learnt from many operations, to be taken in at once.
#[derive(Debug, Default)]
pub struct Learnt {
    /// Agreed on, as [`Base::agree`] takes it.
    pub agreed: Vec<(NodeId, Entry, Signature, Option<NodeId>)>,
    /// Gone on both sides.
    pub forgotten: Vec<NodeId>,
    /// Swaps that are over.
    pub swapped: Vec<String>,
    /// Requests that were answered.
    pub answered: Vec<String>,
}

fn agree_in(
    tx: &Transaction,
    id: NodeId,
    e: &Entry,
    sig: Signature,
    drop: Option<NodeId>,
) -> Result<()> {
    let parent = if let Key::Node(p) = e.parent { p } else { 0 };
    if let Some(old) = drop {
        tx.prepare_cached("DELETE FROM base WHERE id = ?1")?.execute([old])?;
        // A directory that was made again: what was agreed to lie in it lies there still.
        tx.prepare_cached("UPDATE base SET parent = ?2 WHERE parent = ?1")?.execute([old, id])?;
    }
    tx.prepare_cached(
        "INSERT OR REPLACE INTO base VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        id,
        parent,
        e.name,
        i64::from(e.kind == Kind::Dir),
        e.content.hash,
        e.content.exec,
        e.rev,
        i64::try_from(sig.size).unwrap_or(i64::MAX),
        sig.mtime_ns,
        sig.ctime_ns,
        sig.inode as i64
    ])?;
    Ok(())
}

/// The agreed state in memory.
pub type Agreed = (Tree, HashMap<NodeId, Signature>);

impl Base {
    /// Opens it, with its tables made.
    ///
    /// # Errors
    /// Database.
    pub fn open(db: Connection) -> Result<Self> {
        db.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA locking_mode = EXCLUSIVE;")?;
        db.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
        db.execute_batch(TABLES)?;
        Ok(Self { db })
    }

    /// Gives the connection back, as a process leaves it when it ends.
    #[must_use]
    pub fn into_db(self) -> Connection {
        self.db
    }

    /// The history and revision heard last.
    ///
    /// # Errors
    /// Database.
    pub fn cursor(&self) -> Result<(String, i64)> {
        let text = |k: &str| -> Result<Option<String>> {
            let mut q = self.db.prepare_cached("SELECT v FROM text WHERE k = ?1")?;
            Ok(q.query_row([k], |r| r.get(0)).optional()?)
        };
        let rev = text("cursor")?.and_then(|v| v.parse().ok()).unwrap_or(0);
        Ok((text("epoch")?.unwrap_or_default(), rev))
    }

    /// Takes in what the server said, and up to where.
    ///
    /// # Errors
    /// Database.
    pub fn heard(&mut self, epoch: &str, next: i64, nodes: &[NodeInfo]) -> Result<()> {
        let tx = self.db.transaction()?;
        for node in nodes {
            if node.deleted {
                tx.prepare_cached("DELETE FROM remote WHERE id = ?1")?.execute([node.id])?;
            } else {
                let info = serde_json::to_string(node).unwrap_or_default();
                tx.prepare_cached("INSERT OR REPLACE INTO remote VALUES (?1, ?2)")?
                    .execute(params![node.id, info])?;
            }
        }
        for (k, v) in [("epoch", epoch.to_owned()), ("cursor", next.to_string())] {
            tx.execute("INSERT OR REPLACE INTO text VALUES (?1, ?2)", [k, v.as_str()])?;
        }
        tx.commit()?;
        Ok(())
    }

    /// The server's history is another one, or this device was away too long: forget what was agreed,
    /// so that both sides are united and nothing is deleted (traps 7, 8, 9).
    ///
    /// # Errors
    /// Database.
    pub fn begin_anew(&mut self) -> Result<()> {
        self.db.execute_batch(
            "BEGIN; DELETE FROM remote; DELETE FROM base; DELETE FROM sent; DELETE FROM text; COMMIT;",
        )?;
        Ok(())
    }

    /// The server's table.
    ///
    /// # Errors
    /// Database.
    pub fn remote(&self) -> Result<HashMap<NodeId, NodeInfo>> {
        let mut q = self.db.prepare_cached("SELECT info FROM remote")?;
        let rows = q.query_map([], |r| r.get::<_, String>(0))?;
        let mut out = HashMap::new();
        for text in rows {
            if let Ok(node) = serde_json::from_str::<NodeInfo>(&text?) {
                out.insert(node.id, node);
            }
        }
        Ok(out)
    }

    /// What both sides agreed on.
    ///
    /// # Errors
    /// Database.
    pub fn agreed(&self) -> Result<Agreed> {
        let mut q = self.db.prepare_cached(
            "SELECT id, parent, name, kind, hash, exec, rev, size, mtime_ns, ctime_ns, inode FROM base",
        )?;
        let mut rows = q.query([])?;
        let (mut tree, mut signatures) = (Tree::new(), HashMap::new());
        while let Some(r) = rows.next()? {
            let id = r.get(0)?;
            let kind = if r.get::<_, i64>(3)? == 1 { Kind::Dir } else { Kind::File };
            let content = Content { hash: r.get(4)?, exec: r.get(5)? };
            let (parent, name, rev) = (Key::Node(r.get(1)?), r.get(2)?, r.get(6)?);
            tree.put(Key::Node(id), Entry { parent, name, kind, content, rev });
            let number = |i| -> rusqlite::Result<u64> {
                Ok(u64::try_from(r.get::<_, i64>(i)?).unwrap_or(0))
            };
            let signature = Signature {
                size: number(7)?,
                mtime_ns: r.get(8)?,
                ctime_ns: r.get(9)?,
                inode: r.get::<_, i64>(10)? as u64,
            };
            signatures.insert(id, signature);
        }
        Ok((tree, signatures))
    }

    /// Both sides agree on this now, and `drop` is no more. Called after the write is durable.
    ///
    /// # Errors
    /// Database.
    pub fn agree(
        &mut self,
        id: NodeId,
        e: &Entry,
        sig: Signature,
        drop: Option<NodeId>,
    ) -> Result<()> {
        let tx = self.db.transaction()?;
        agree_in(&tx, id, e, sig, drop)?;
        Ok(tx.commit()?)
    }

    /// Takes much in at once. Called after all of it is durable.
    ///
    /// # Errors
    /// Database: then none of it was taken in.
    pub fn take_in(&mut self, all: &Learnt) -> Result<()> {
        let tx = self.db.transaction()?;
        for (id, e, sig, drop) in &all.agreed {
            agree_in(&tx, *id, e, *sig, *drop)?;
        }
        for id in &all.forgotten {
            tx.prepare_cached("DELETE FROM base WHERE id = ?1")?.execute([id])?;
        }
        for tmp in &all.swapped {
            tx.prepare_cached("DELETE FROM swap WHERE tmp = ?1")?.execute([tmp])?;
        }
        for key in &all.answered {
            tx.prepare_cached("DELETE FROM sent WHERE key = ?1")?.execute([key])?;
        }
        Ok(tx.commit()?)
    }

    /// Gone on both sides.
    ///
    /// # Errors
    /// Database.
    pub fn forget(&mut self, id: NodeId) -> Result<()> {
        self.db.prepare_cached("DELETE FROM base WHERE id = ?1")?.execute([id])?;
        Ok(())
    }

    /// From now on the local file is not known by its inode.
    ///
    /// # Errors
    /// Database.
    pub fn detach(&mut self, id: NodeId) -> Result<()> {
        self.db.prepare_cached("UPDATE base SET inode = 0 WHERE id = ?1")?.execute([id])?;
        Ok(())
    }

    /// Notes a swap before it is made.
    ///
    /// # Errors
    /// Database.
    pub fn swap_begin(&mut self, s: &Swap) -> Result<()> {
        self.swaps_begin(std::slice::from_ref(s))
    }

    /// Notes many swaps before they are made.
    ///
    /// # Errors
    /// Database.
    pub fn swaps_begin(&mut self, all: &[Swap]) -> Result<()> {
        let tx = self.db.transaction()?;
        for s in all {
            let agreed = serde_json::to_string(&s.agreed).unwrap_or_default();
            tx.prepare_cached("INSERT OR REPLACE INTO swap VALUES (?1, ?2, ?3, ?4, ?5)")?
                .execute(params![s.tmp, s.inode as i64, s.path, s.hash, agreed])?;
        }
        Ok(tx.commit()?)
    }

    /// A swap is over, one way or the other.
    ///
    /// # Errors
    /// Database.
    pub fn swap_end(&mut self, tmp: &str) -> Result<()> {
        self.db.prepare_cached("DELETE FROM swap WHERE tmp = ?1")?.execute([tmp])?;
        Ok(())
    }

    /// Swaps that were noted and not ended.
    ///
    /// # Errors
    /// Database.
    pub fn swaps(&self) -> Result<Vec<Swap>> {
        let mut q = self.db.prepare_cached("SELECT tmp, inode, path, hash, agreed FROM swap")?;
        let mut rows = q.query([])?;
        let mut out = Vec::new();
        while let Some(r) = rows.next()? {
            if let Ok(agreed) = serde_json::from_str(&r.get::<_, String>(4)?) {
                let inode = r.get::<_, i64>(1)? as u64;
                let (tmp, path, hash) = (r.get(0)?, r.get(2)?, r.get(3)?);
                out.push(Swap { tmp, inode, path, hash, agreed });
            }
        }
        Ok(out)
    }

    /// Notes what is about to be asked of the server.
    ///
    /// # Errors
    /// Database.
    pub fn send(&mut self, key: &str, sent: &Sent) -> Result<()> {
        self.send_all([(key, sent)])
    }

    /// Notes much that is about to be asked.
    ///
    /// # Errors
    /// Database.
    pub fn send_all<'a>(
        &mut self,
        all: impl IntoIterator<Item = (&'a str, &'a Sent)>,
    ) -> Result<()> {
        let tx = self.db.transaction()?;
        for (key, sent) in all {
            let text = serde_json::to_string(sent).unwrap_or_default();
            tx.prepare_cached("INSERT OR REPLACE INTO sent VALUES (?1, ?2)")?
                .execute([key, text.as_str()])?;
        }
        Ok(tx.commit()?)
    }

    /// It was answered, or nothing will come of it.
    ///
    /// # Errors
    /// Database.
    pub fn answered(&mut self, key: &str) -> Result<()> {
        self.db.prepare_cached("DELETE FROM sent WHERE key = ?1")?.execute([key])?;
        Ok(())
    }

    /// What was asked and not answered.
    ///
    /// # Errors
    /// Database.
    pub fn unanswered(&self) -> Result<Vec<(String, Sent)>> {
        let mut q = self.db.prepare_cached("SELECT key, sent FROM sent")?;
        let rows = q.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?)))?;
        let mut out = Vec::new();
        for row in rows {
            let (key, text) = row?;
            if let Ok(sent) = serde_json::from_str(&text) {
                out.push((key, sent));
            }
        }
        Ok(out)
    }

    /// Which plain contents the sealed ones hold that this device has sent or fetched.
    ///
    /// # Errors
    /// Database.
    pub fn known(&self) -> Result<HashMap<[u8; 32], [u8; 32]>> {
        let mut q = self.db.prepare_cached("SELECT sealed, plain FROM known")?;
        let rows = q.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// A sealed content holds this plain one. It stays true whatever happens.
    ///
    /// # Errors
    /// Database.
    pub fn know(&mut self, sealed: &[u8; 32], plain: &[u8; 32]) -> Result<()> {
        self.db
            .prepare_cached("INSERT OR REPLACE INTO known VALUES (?1, ?2)")?
            .execute(params![sealed, plain])?;
        Ok(())
    }

    /// A key file by its hash.
    ///
    /// # Errors
    /// Database.
    pub fn key_file(&self, hash: &[u8; 32]) -> Result<Option<Vec<u8>>> {
        let mut q = self.db.prepare_cached("SELECT text FROM key_file WHERE hash = ?1")?;
        Ok(q.query_row([hash], |r| r.get(0)).optional()?)
    }

    /// The key file seen last for a key.
    ///
    /// # Errors
    /// Database.
    pub fn key_file_of(&self, id: &[u8; 32]) -> Result<Option<Vec<u8>>> {
        let sql = "SELECT text FROM key_file WHERE id = ?1 ORDER BY rowid DESC LIMIT 1";
        Ok(self.db.prepare_cached(sql)?.query_row([id], |r| r.get(0)).optional()?)
    }

    /// Remembers a key file.
    ///
    /// # Errors
    /// Database.
    pub fn keep_key_file(&mut self, hash: &[u8; 32], id: &[u8; 32], text: &[u8]) -> Result<()> {
        self.db
            .prepare_cached("INSERT OR REPLACE INTO key_file VALUES (?1, ?2, ?3)")?
            .execute(params![hash, id, text])?;
        Ok(())
    }
}
