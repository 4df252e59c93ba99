//! Operations at the server, and what the trees and the base learn from its answers.
use super::Remote;
use super::base::{Sent, Signature};
use super::engine::Pass;
use crate::api::{BatchOp, Delete, Exchange, Mkdir, Move, NodeInfo, UploadBegin};
use crate::error::{Result, SyncError};
use crate::files::{Area, At};
use crate::rng::hex;
use crate::tree::{Entry, Key, Kind, NodeId};
use crate::vault::content::Sealer;

/// Bytes of a large file in one request.
const SEND_BYTES: usize = 16 << 20;

pub(super) fn parent_node(key: Key) -> Result<NodeId> {
    match key {
        Key::Node(id) => Ok(id),
        Key::New(_) => Err(SyncError::Stale("its directory is not at the server yet".into())),
    }
}

/// The node that a local entry was, if the server has it no more.
pub(super) fn old_node(key: Key) -> Option<NodeId> {
    match key {
        Key::Node(id) => Some(id),
        Key::New(_) => None,
    }
}

impl Pass<'_> {
    pub(super) fn request_key(&mut self) -> String {
        format!("{:016x}{:016x}", (self.e.nonce)(), (self.e.nonce)())
    }

    /// Requests that were not done and will not be sent again are given up.
    pub(super) fn give_up_requests(&mut self) -> Result<()> {
        for (key, sent) in self.e.base.unanswered()? {
            let here = self.l.occupant(Key::Node(sent.parent), &sent.name, Key::New(u64::MAX));
            let goes_on = here
                .and_then(|k| self.l.get(k))
                .is_some_and(|l| l.name == sent.name && hex(&l.content.hash) == sent.hash);
            if sent.kind == Kind::File && !sent.hash.is_empty() {
                if goes_on {
                    continue;
                }
                self.net.upload_drop(&key)?;
            }
            self.e.base.answered(&key)?;
        }
        Ok(())
    }

    /// Asks for one operation on names, noted before and struck out when it was answered.
    fn ask(&mut self, key: &str, sent: Sent, op: &BatchOp) -> Result<NodeInfo> {
        self.e.base.send(key, &sent)?;
        let result = self.net.run(op);
        match &result {
            Err(SyncError::Net(_)) => {}
            Err(_) => self.e.base.answered(key)?,
            Ok(info) => self.heard(info),
        }
        result
    }

    /// The server's answer is what it has now.
    pub(super) fn heard(&mut self, info: &NodeInfo) {
        let key = Key::Node(info.id);
        if info.deleted {
            self.r.remove(key);
            self.infos.remove(&info.id);
        } else {
            let mut e = info.entry();
            if e.kind == Kind::Dir
                && let Some(was) = self.r.get(key)
            {
                e.content = was.content;
            }
            self.r.put(key, e);
            self.infos.insert(info.id, info.clone());
        }
        self.report.up += 1;
    }

    pub(super) fn mkdir_remote(&mut self, key: Key) -> Result<()> {
        let l = self.entry(&self.l, key)?;
        let parent = self.target(l.parent)?;
        let request = self.request_key();
        let sent = Sent {
            node: None,
            parent,
            name: l.name.clone(),
            kind: Kind::Dir,
            hash: String::new(),
            exec: false,
            instead_of: old_node(key),
        };
        let vault = l.content.hash;
        let req = Mkdir { parent, name: l.name, key: request.clone() };
        let info = self.ask(&request, sent, &BatchOp::Mkdir(req))?;
        let old = self.rekey(key, info.id);
        self.agree(info.id, info.entry(), old)?;
        self.e.base.answered(&request)?;
        if vault == [0; 32] {
            return Ok(());
        }
        // Before anything is put in it.
        self.send_key_file(Key::Node(info.id), info.id, vault)
    }

    pub(super) fn move_remote(&mut self, node: NodeId, rev: i64) -> Result<()> {
        let key = Key::Node(node);
        let l = self.entry(&self.l, key)?;
        let parent = self.target(l.parent)?;
        self.net.fits(parent, &l.name)?;
        let request = self.request_key();
        let sent = Sent {
            node: Some(node),
            parent,
            name: l.name.clone(),
            kind: l.kind,
            hash: String::new(),
            exec: false,
            instead_of: None,
        };
        let req = Move { node, rev, parent, name: l.name, key: request.clone() };
        self.ask(&request, sent, &BatchOp::Move(req))?;
        self.agree_place(node)?;
        self.e.base.answered(&request)
    }

    /// The base takes a node's place at the server; its content stays as agreed.
    fn agree_place(&mut self, node: NodeId) -> Result<()> {
        let key = Key::Node(node);
        let (r, mut s) = (self.entry(&self.r, key)?, self.entry(&self.s, key)?);
        (s.parent, s.name) = (r.parent, r.name.clone());
        if r.same_content(&s) {
            s.rev = r.rev;
        }
        if self.l.get(key).is_some_and(|l| l.same_content(&s)) {
            return self.agree(node, s, None);
        }
        let sig = self.signatures.get(&node).copied().unwrap_or_default();
        self.e.base.agree(node, &s, sig, None)?;
        self.s.put(key, s);
        Ok(())
    }

    pub(super) fn exchange_remote(&mut self, a: (NodeId, i64), b: (NodeId, i64)) -> Result<()> {
        let req = Exchange { a, b, key: self.request_key() };
        let info = self.net.run(&BatchOp::Exchange(req))?;
        // The other one lies where this one was; its revision is heard with the next changes.
        let was = self.entry(&self.r, Key::Node(a.0))?;
        if let Some(other) = self.infos.get(&b.0).cloned() {
            let mut other = other;
            other.parent = parent_node(was.parent)?;
            other.name = was.name;
            other.rev = info.rev - 1;
            self.heard(&other);
        }
        self.heard(&info);
        self.agree_place(a.0)?;
        self.agree_place(b.0)
    }

    pub(super) fn delete_remote(&mut self, node: NodeId, rev: i64) -> Result<()> {
        let req = Delete { node, rev, tree: false, key: self.request_key() };
        let info = self.net.run(&BatchOp::Delete(req))?;
        self.heard(&info);
        self.s.remove(Key::Node(node));
        self.e.base.forget(node)
    }

    /// What is noted of a file that is sent, and its hash as text.
    pub(super) fn sending(
        &self,
        key: Key,
        l: &Entry,
        replace: Option<(NodeId, i64)>,
    ) -> Result<(Sent, String)> {
        // A node that is replaced keeps its place at the server, wherever it is here.
        let parent = match replace {
            Some((id, _)) => {
                let here = self.l.vault(l.parent).map(|(_, key)| key);
                let there = parent_node(self.entry(&self.r, Key::Node(id))?.parent)?;
                if here != self.net.key_of(there) {
                    return Err(SyncError::Stale(format!("{} is in another folder", l.name)));
                }
                there
            }
            None => self.target(l.parent)?,
        };
        self.net.fits(parent, &l.name)?;
        let hash = hex(&l.content.hash);
        let sent = Sent {
            node: replace.map(|(id, _)| id),
            parent,
            name: l.name.clone(),
            kind: l.kind,
            hash: hash.clone(),
            exec: l.content.exec,
            instead_of: if replace.is_none() { old_node(key) } else { None },
        };
        Ok((sent, hash))
    }

    pub(super) fn upload(&mut self, key: Key, replace: Option<(NodeId, i64)>) -> Result<()> {
        let l = self.entry(&self.l, key)?;
        let path = self.path(key)?;
        let seen = self.stats.get(&key).copied();
        let stat = seen.ok_or_else(|| SyncError::Stale(format!("{path} is gone")))?;
        let (sent, hash) = self.sending(key, &l, replace)?;
        let parent = sent.parent;
        let sealer = self.net.vault(parent).map(|v| v.sealer(&l.content.hash, stat.size));
        let (size, hash) = match &sealer {
            Some(s) => (s.sealed_size(), self.sealed_hash(s, &path, &l.content.hash)?),
            None => (stat.size, hash),
        };
        // The same upload goes on after a restart.
        let begun = self.e.base.unanswered()?.into_iter().find(|(_, s)| *s == sent);
        let id = match begun {
            Some((id, _)) => id,
            None => self.request_key(),
        };
        self.e.base.send(&id, &sent)?;
        let req = UploadBegin {
            id: id.clone(),
            parent,
            name: l.name.clone(),
            replace,
            size,
            hash,
            mtime_ns: stat.mtime_ns,
            exec: l.content.exec,
        };
        let result = self.send(&req, &path, sealer.as_ref(), stat.size);
        if let Err(e) = &result
            && (e.is_stale() || matches!(e, SyncError::Damaged(_) | SyncError::Full(_)))
        {
            // Nothing more will come of this id.
            self.net.upload_drop(&id)?;
            self.e.base.answered(&id)?;
        }
        let info = result?;
        if info.rev <= self.cursor {
            // An answer from before the last fetch; what became of it since then is known already.
            self.e.base.answered(&id)?;
            return Err(SyncError::Stale(format!("{path} was sent before")));
        }
        self.heard(&info);
        if replace.is_some() {
            let mut s = self.entry(&self.s, key)?;
            (s.content, s.rev) = (l.content, info.rev);
            self.agree(info.id, s, None)?;
        } else {
            let old = self.rekey(key, info.id);
            self.agree(info.id, info.entry(), old)?;
        }
        self.e.base.answered(&id)
    }

    /// The hash of a file as it is sent to an encrypted folder, noted before anything is.
    fn sealed_hash(&mut self, s: &Sealer, path: &str, plain: &[u8; 32]) -> Result<String> {
        let hash = s.hash(&*self.e.files, path, plain)?;
        self.net.know(hash, *plain);
        self.e.base.know(&hash, plain)?;
        Ok(hex(&hash))
    }

    fn send(
        &mut self,
        req: &UploadBegin,
        path: &str,
        sealer: Option<&Sealer>,
        plain_size: u64,
    ) -> Result<NodeInfo> {
        let mut pos = self.net.upload_begin(req)?.offset;
        if pos == 0 && sealer.is_none() {
            pos = self.send_delta(req, path)?;
        }
        while pos < req.size {
            // One request; the server writes while it comes in.
            let room = usize::try_from(req.size - pos).unwrap_or(SEND_BYTES).min(SEND_BYTES);
            let at = At(Area::Tree, path);
            let piece = match sealer {
                Some(s) => s.read(&*self.e.files, at, pos, room)?,
                None => self.e.files.read(at, pos, room)?,
            };
            if piece.is_empty() {
                return Err(SyncError::Stale(format!("{path} became shorter")));
            }
            self.net.upload_append(&req.id, pos, &piece)?;
            pos += piece.len() as u64;
            self.report.bytes_up += piece.len() as u64;
            self.tell()?;
        }
        let now = self.e.files.stat(At(Area::Tree, path))?.map(|s| Signature::of(&s).size);
        if now != Some(plain_size) {
            return Err(SyncError::Stale(format!("{path} changed while it was sent")));
        }
        // The server checks the hash, so a mixture of two states is never taken.
        self.net.upload_commit(&req.id)
    }
}
