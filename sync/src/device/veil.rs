//! The server behind a veil: names that go to a directory of an open encrypted folder are sealed on the
//! way, names, sizes and hashes in answers are opened. Contents are sealed and opened by whoever holds
//! them ([`super::vaults`]), since their hash must be known before they are sent.
use super::view::{Known, Sealed, opened};
use super::{Ask, Remote, Told};
use crate::api::{BatchOp, BatchReply, Changes, Mkdir, Move, NodeInfo, UploadBegin, UploadState};
use crate::delta::{Part, Piece, Range};
use crate::error::Result;
use crate::tree::{Kind, NodeId};
use crate::vault::{KeyId, Vault};
use std::collections::HashMap;
use std::sync::Arc;

/// The server of one look.
pub(super) struct Veil<'a> {
    net: &'a mut dyn Remote,
    inside: HashMap<NodeId, (Arc<Vault>, NodeId)>,
    sealed: HashMap<NodeId, Sealed>,
    known: Known,
}

impl<'a> Veil<'a> {
    /// `inside`: directories of open folders; `sealed`: files in them.
    pub fn new(
        net: &'a mut dyn Remote,
        inside: HashMap<NodeId, (Arc<Vault>, NodeId)>,
        sealed: HashMap<NodeId, Sealed>,
        known: Known,
    ) -> Self {
        Self { net, inside, sealed, known }
    }

    /// The key of the open folder that a directory is or lies in.
    pub fn key_of(&self, dir: NodeId) -> Option<KeyId> {
        self.inside.get(&dir).map(|(vault, _)| vault.id())
    }

    /// What seals for a directory.
    pub fn vault(&self, dir: NodeId) -> Option<Arc<Vault>> {
        self.inside.get(&dir).map(|(vault, _)| vault.clone())
    }

    /// A directory is from now on the folder itself (`number` 0) or lies in it.
    pub fn enter(&mut self, dir: NodeId, vault: Arc<Vault>, number: NodeId) {
        self.inside.insert(dir, (vault, number));
    }

    /// The sealed content of a file in an open folder, and what opens it.
    pub fn sealed(&self, info: &NodeInfo) -> Option<(Arc<Vault>, Sealed)> {
        let sealed = self.sealed.get(&info.id)?;
        Some((self.vault(info.parent)?, *sealed))
    }

    /// It is known what a sealed content holds.
    pub fn know(&mut self, sealed: [u8; 32], plain: [u8; 32]) {
        self.known.insert(sealed, plain);
    }

    /// Sends a key file, which is not sealed.
    pub fn put_key_file(&mut self, req: &UploadBegin, text: &[u8]) -> Result<NodeInfo> {
        let at = self.net.upload_begin(req)?.offset;
        let rest = text.get(usize::try_from(at).unwrap_or(0)..).unwrap_or_default();
        if !rest.is_empty() {
            self.net.upload_append(&req.id, at, rest)?;
        }
        self.net.upload_commit(&req.id)
    }

    fn name(&self, dir: NodeId, name: &str) -> Result<String> {
        match self.inside.get(&dir) {
            Some((vault, number)) => vault.seal_name(*number, name),
            None => Ok(name.to_owned()),
        }
    }

    fn begin(&self, req: &UploadBegin) -> Result<UploadBegin> {
        Ok(UploadBegin { name: self.name(req.parent, &req.name)?, ..req.clone() })
    }

    fn op(&self, op: &BatchOp) -> Result<BatchOp> {
        Ok(match op {
            BatchOp::Mkdir(r) => {
                BatchOp::Mkdir(Mkdir { name: self.name(r.parent, &r.name)?, ..r.clone() })
            }
            BatchOp::Move(r) => {
                BatchOp::Move(Move { name: self.name(r.parent, &r.name)?, ..r.clone() })
            }
            BatchOp::Exchange(_) | BatchOp::Delete(_) => op.clone(),
        })
    }

    /// An answer with plain names.
    fn plain(&mut self, info: NodeInfo) -> Result<NodeInfo> {
        let Some((vault, number)) = self.inside.get(&info.parent).cloned() else { return Ok(info) };
        if info.deleted {
            return Ok(info);
        }
        let (plain, sealed) = opened(&info, &vault, number, &self.known)?;
        match sealed {
            Some(sealed) => drop(self.sealed.insert(info.id, sealed)),
            None if info.kind == Kind::Dir => self.enter(info.id, vault, info.id),
            None => {}
        }
        Ok(plain)
    }

    fn replies(&mut self, all: Vec<BatchReply>) -> Result<Vec<BatchReply>> {
        let one = |mut reply: BatchReply| {
            reply.node = reply.node.map(|info| self.plain(info)).transpose()?;
            Ok(reply)
        };
        all.into_iter().map(one).collect()
    }
}

impl Remote for Veil<'_> {
    fn changes(&mut self, epoch: &str, since: i64) -> Result<Changes> {
        self.net.changes(epoch, since)
    }

    fn run(&mut self, op: &BatchOp) -> Result<NodeInfo> {
        let info = self.net.run(&self.op(op)?)?;
        self.plain(info)
    }

    fn outcome(&mut self, key: &str) -> Result<Option<NodeInfo>> {
        let found = self.net.outcome(key)?;
        found.map(|info| self.plain(info)).transpose()
    }

    fn upload_begin(&mut self, req: &UploadBegin) -> Result<UploadState> {
        self.net.upload_begin(&self.begin(req)?)
    }

    fn upload_append(&mut self, id: &str, offset: u64, bytes: &[u8]) -> Result<()> {
        self.net.upload_append(id, offset, bytes)
    }

    fn upload_parts(&mut self, id: &str, offset: u64, parts: &[(Part, Vec<u8>)]) -> Result<()> {
        self.net.upload_parts(id, offset, parts)
    }

    fn signature(
        &mut self,
        node: NodeId,
        rev: i64,
        average: u32,
        ranges: &[Range],
    ) -> Result<Vec<Vec<Piece>>> {
        self.net.signature(node, rev, average, ranges)
    }

    fn ranges(
        &mut self,
        node: NodeId,
        rev: i64,
        ranges: &[Range],
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        self.net.ranges(node, rev, ranges, sink)
    }

    fn upload_commit(&mut self, id: &str) -> Result<NodeInfo> {
        let info = self.net.upload_commit(id)?;
        self.plain(info)
    }

    fn upload_drop(&mut self, id: &str) -> Result<()> {
        self.net.upload_drop(id)
    }

    fn content(
        &mut self,
        node: NodeId,
        rev: i64,
        from: u64,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        self.net.content(node, rev, from, sink)
    }

    /// Names in it must fit: whoever asks has looked ([`Veil::fits`]).
    fn submit(&mut self, ask: Ask) {
        let ask = match ask {
            Ask::Put(files) => Ask::Put(
                files
                    .into_iter()
                    .map(|(req, bytes)| match self.begin(&req) {
                        Ok(sealed) => (sealed, bytes),
                        // Refused there; a plain name never goes.
                        Err(_) => (UploadBegin { name: String::new(), ..req }, bytes),
                    })
                    .collect(),
            ),
            Ask::Run(ops) => {
                let one = |op: BatchOp| match (self.op(&op), op) {
                    (Ok(sealed), _) => sealed,
                    (Err(_), BatchOp::Mkdir(r)) => {
                        BatchOp::Mkdir(Mkdir { name: String::new(), ..r })
                    }
                    (Err(_), BatchOp::Move(r)) => BatchOp::Move(Move { name: String::new(), ..r }),
                    (Err(_), op) => op,
                };
                Ask::Run(ops.into_iter().map(one).collect())
            }
            Ask::Get(wanted) => Ask::Get(wanted),
        };
        self.net.submit(ask);
    }

    fn collect(&mut self) -> Option<Result<Told>> {
        Some(match self.net.collect()? {
            Ok(Told::Replies(all)) => self.replies(all).map(Told::Replies),
            other => other,
        })
    }
}

impl Veil<'_> {
    /// Whether a name can be sealed for a directory.
    pub fn fits(&self, dir: NodeId, name: &str) -> Result<()> {
        self.name(dir, name).map(drop)
    }
}
