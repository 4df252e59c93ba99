//! What only WebDAV needs of a store: nodes by their path, properties that clients keep with a node
//! (they follow it when it moves, and go with its deleted mark), sums of contents.
use super::{Store, holder, live};
use crate::error::{Result, SyncError};
use crate::names;
use crate::rng::unhex;
use crate::tree::{NodeId, ROOT};
use rusqlite::{OptionalExtension, params};

/// Properties of one node.
const PROPS_MAX: i64 = 100;
/// Bytes of one property.
const PROP_BYTES_MAX: usize = 16 << 10;

/// A property: namespace and name, and its XML as the client sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prop {
    /// Namespace; empty: none.
    pub ns: String,
    /// Name.
    pub name: String,
    /// The whole element.
    pub xml: Vec<u8>,
}

impl Store {
    /// The live node at a path, names joined by `/`. A name counts as the same in any Unicode
    /// composition, but not in another case.
    ///
    /// # Errors
    /// [`SyncError::NotFound`].
    pub fn resolve(&self, path: &str) -> Result<crate::api::NodeInfo> {
        let mut at = live(&self.db, ROOT)?;
        for name in path.split('/').filter(|n| !n.is_empty()) {
            match holder(&self.db, at.id, name)? {
                Some(found) if names::same(&found.name, name) => at = found,
                _ => return Err(SyncError::NotFound(format!("{path:?}"))),
            }
        }
        Ok(at)
    }

    /// A node's properties.
    ///
    /// # Errors
    /// Database.
    pub fn props(&self, node: NodeId) -> Result<Vec<Prop>> {
        let mut q = self
            .db
            .prepare_cached("SELECT ns, name, xml FROM prop WHERE node = ?1 ORDER BY ns, name")?;
        let rows =
            q.query_map([node], |r| Ok(Prop { ns: r.get(0)?, name: r.get(1)?, xml: r.get(2)? }))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// One property's XML.
    ///
    /// # Errors
    /// Database.
    pub fn prop(&self, node: NodeId, ns: &str, name: &str) -> Result<Option<Vec<u8>>> {
        let mut q = self
            .db
            .prepare_cached("SELECT xml FROM prop WHERE node = ?1 AND ns = ?2 AND name = ?3")?;
        Ok(q.query_row(params![node, ns, name], |r| r.get(0)).optional()?)
    }

    /// Sets (`true`) and removes properties, all or none, in order.
    ///
    /// # Errors
    /// [`SyncError::Invalid`] beyond the limits; database.
    pub fn patch_props(&mut self, node: NodeId, patch: &[(bool, Prop)]) -> Result<()> {
        self.begin()?;
        let tx = self.db.transaction()?;
        for (set, p) in patch {
            if *set {
                if p.xml.len() > PROP_BYTES_MAX {
                    let why = format!("property {:?} is over {PROP_BYTES_MAX} bytes", p.name);
                    return Err(SyncError::Invalid(why));
                }
                tx.prepare_cached("INSERT OR REPLACE INTO prop VALUES (?1, ?2, ?3, ?4)")?
                    .execute(params![node, p.ns, p.name, p.xml])?;
            } else {
                tx.prepare_cached("DELETE FROM prop WHERE node = ?1 AND ns = ?2 AND name = ?3")?
                    .execute(params![node, p.ns, p.name])?;
            }
        }
        let sql = "SELECT count(*) FROM prop WHERE node = ?1";
        if tx.query_row::<i64, _, _>(sql, [node], |r| r.get(0))? > PROPS_MAX {
            return Err(SyncError::Invalid(format!("more than {PROPS_MAX} properties")));
        }
        Ok(tx.commit()?)
    }

    /// Gives a copy the properties of what it was copied from.
    ///
    /// # Errors
    /// Database.
    pub fn copy_props(&mut self, from: NodeId, to: NodeId) -> Result<()> {
        self.may_change()?;
        self.db.execute(
            "INSERT OR REPLACE INTO prop SELECT ?2, ns, name, xml FROM prop WHERE node = ?1",
            [from, to],
        )?;
        Ok(())
    }

    /// The sums of a content by its BLAKE3, if they are known: `SHA1:... MD5:...`.
    ///
    /// # Errors
    /// Database.
    pub fn sums(&self, hash: &str) -> Result<Option<String>> {
        let Some(hash) = unhex::<32>(hash) else { return Ok(None) };
        let mut q = self.db.prepare_cached("SELECT sums FROM sum WHERE hash = ?1")?;
        Ok(q.query_row([hash], |r| r.get(0)).optional()?)
    }

    /// Remembers the sums of a content.
    ///
    /// # Errors
    /// Database.
    pub fn remember_sums(&mut self, hash: &str, sums: &str) -> Result<()> {
        if let Some(hash) = unhex::<32>(hash).filter(|_| self.held.is_none()) {
            self.db
                .prepare_cached("INSERT OR IGNORE INTO sum VALUES (?1, ?2)")?
                .execute(params![hash, sums])?;
        }
        Ok(())
    }

    /// Forgets the sums of contents that no file and no version has any more.
    pub(super) fn forget_sums(&mut self) -> Result<()> {
        self.db.execute(
            "DELETE FROM sum WHERE hash NOT IN (SELECT hash FROM node) \
             AND hash NOT IN (SELECT hash FROM version)",
            [],
        )?;
        Ok(())
    }
}
