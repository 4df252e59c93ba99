//! Many small files in one request: their bytes are made durable together, and one transaction names them.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | [`Store::admit`]: done before, given up, room | stage | its own status; 507 before a byte is written |
//! | [`stage`]: hashes checked, bytes in `tmp/` (no lock is held) | settle | 422, 507 for that file alone |
//! | all durable | place | the request fails; nothing was changed |
//! | [`Store::place`]: each checked, one transaction with notes | files | a file that is in the way: its own status; else nothing changed |
//! | files | answer | carried out before the next request |
//!
//! A file that was sent twice is answered as the first time. What a crash leaves in `tmp/` under our
//! prefix no row names: it is dropped when the store is opened.
use super::upload::{Begun, New, answered, check_id, put_rows, room};
use super::{Store, charge, to_i64};
use crate::api::{BatchReply, NodeInfo, UploadBegin};
use crate::error::{Result, SyncError};
use crate::files::{Area, At, Files, join};
use crate::rng::unhex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// What files in `tmp/` are called that wait here; ids of uploads have no `-`.
const PREFIX: &str = "s-";

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A small file whose bytes are in `tmp/`.
#[derive(Debug)]
pub struct Staged {
    id: String,
    own: String,
    inode: u64,
    hash: [u8; 32],
}

impl Staged {
    /// Writes the bytes; nothing is durable before [`stage`] returns.
    ///
    /// # Errors
    /// [`SyncError::Damaged`] if length or hash are others than announced; I/O.
    fn write(files: &dyn Files, req: &UploadBegin, bytes: &[u8]) -> Result<Self> {
        let hash = *blake3::hash(bytes).as_bytes();
        let wrong = !req.hash.is_empty() && unhex::<32>(&req.hash) != Some(hash);
        if wrong || bytes.len() as u64 != req.size {
            return Err(SyncError::Damaged(format!("{:?} on its way to the server", req.name)));
        }
        let own = format!("tmp/{PREFIX}{}", NEXT.fetch_add(1, Ordering::Relaxed));
        match files.put(At(Area::Own, &own), bytes, req.mtime_ns, req.exec) {
            Ok(stat) => Ok(Self { id: req.id.clone(), own, inode: stat.inode, hash }),
            Err(SyncError::Crash) => Err(SyncError::Crash),
            Err(e) => {
                files.remove_file(At(Area::Own, &own))?;
                Err(e)
            }
        }
    }
}

/// Writes the bytes of every file that nothing was told of yet, and makes them durable together. A file
/// that fails gets its own answer.
///
/// # Errors
/// I/O when they are made durable: then none of them is used.
pub fn stage<B: AsRef<[u8]>>(
    files: &dyn Files,
    all: &[(UploadBegin, B)],
    told: &mut [Option<BatchReply>],
) -> Result<Vec<(usize, Staged)>> {
    let mut staged = Vec::with_capacity(all.len());
    for (n, ((req, bytes), told)) in all.iter().zip(told).enumerate() {
        if told.is_none() {
            match Staged::write(files, req, bytes.as_ref()) {
                Ok(one) => staged.push((n, one)),
                Err(SyncError::Crash) => return Err(SyncError::Crash),
                Err(e) => *told = Some(reply(Err(e))),
            }
        }
    }
    let places: Vec<_> =
        staged.iter().map(|(_, s)| (At(Area::Own, s.own.as_str()), s.inode)).collect();
    if let Err(e) = files.settle(&places) {
        discard(files, staged.iter().map(|(_, s)| s.own.as_str()));
        return Err(e);
    }
    Ok(staged)
}

/// Removes what is not used; what stays behind is dropped when the store is opened.
fn discard<'a>(files: &dyn Files, own: impl Iterator<Item = &'a str>) {
    for own in own {
        if let Err(e) = files.remove_file(At(Area::Own, own)) {
            tracing::debug!(error = %e, "left behind");
        }
    }
}

/// How a result is told in an answer to many.
#[must_use]
pub fn reply(result: Result<NodeInfo>) -> BatchReply {
    match result {
        Ok(node) => BatchReply { status: 200, node: Some(node), error: String::new() },
        Err(e) => BatchReply { status: e.status(), node: None, error: e.to_string() },
    }
}

impl Store {
    /// What can be said of each file before its bytes are touched; `None`: go on with it.
    ///
    /// # Errors
    /// [`SyncError::RootLost`]; database.
    pub fn admit<B>(&mut self, all: &[(UploadBegin, B)]) -> Result<Vec<Option<BatchReply>>> {
        self.begin()?;
        let mut more = 0_i64;
        let mut out = Vec::with_capacity(all.len());
        for (req, _) in all {
            let first = check_id(&req.id).and_then(|()| self.done_before(&req.id));
            let told = match first {
                Ok(Some(node)) => Some(reply(Ok(node))),
                Ok(None) => {
                    let with = more.saturating_add(to_i64(req.size));
                    let go =
                        self.not_given_up(&req.id).and_then(|()| room(&self.db, self.quota, with));
                    match go {
                        Ok(()) => {
                            more = with;
                            None
                        }
                        Err(e @ SyncError::Db(_)) => return Err(e),
                        Err(e) => Some(reply(Err(e))),
                    }
                }
                Err(e @ SyncError::Db(_)) => return Err(e),
                Err(e) => Some(reply(Err(e))),
            };
            out.push(told);
        }
        Ok(out)
    }

    /// Makes what is durable in `tmp/` the content of files, in order, each checked for itself, all in
    /// one transaction; `told` is what was answered to the others.
    ///
    /// # Errors
    /// I/O, database: then nothing was changed, or it is carried out before the next request.
    pub fn place<B>(
        &mut self,
        all: &[(UploadBegin, B)],
        staged: &[(usize, Staged)],
        told: Vec<Option<BatchReply>>,
        who: &str,
    ) -> Result<Vec<BatchReply>> {
        let files = self.files.clone();
        let told = match self.name_them(all, staged, told, who) {
            Ok((told, unused)) => {
                discard(&*files, unused.iter().map(String::as_str));
                told
            }
            Err(e) => {
                discard(&*files, staged.iter().map(|(_, s)| s.own.as_str()));
                return Err(e);
            }
        };
        self.recover()?;
        let silent = || reply(Err(SyncError::Net("not answered".into())));
        Ok(told.into_iter().map(|t| t.unwrap_or_else(silent)).collect())
    }

    /// The transaction; also returns what of `tmp/` it did not use.
    fn name_them<B>(
        &mut self,
        all: &[(UploadBegin, B)],
        staged: &[(usize, Staged)],
        mut told: Vec<Option<BatchReply>>,
        who: &str,
    ) -> Result<(Vec<Option<BatchReply>>, Vec<String>)> {
        let ms = self.begin()?;
        let files = self.files.clone();
        // Another request for the same may have come in between; and the same may be in this one twice.
        let mut known: HashMap<&str, Result<Option<NodeInfo>>> = HashMap::new();
        for (_, s) in staged {
            let now = self.not_given_up(&s.id).and_then(|()| self.done_before(&s.id));
            known.insert(&s.id, now);
        }
        let (mut paths, mut unused, mut charged) = (HashMap::new(), Vec::new(), 0_i64);
        let quota = self.quota;
        let tx = self.db.transaction()?;
        for (n, s) in staged {
            let (Some((req, _)), Some(told)) = (all.get(*n), told.get_mut(*n)) else { continue };
            let (hash, inode, own, files) = (s.hash, s.inode, s.own.as_str(), &*files);
            let new = New { hash, inode, own, files, ms, who };
            let first = match known.remove(s.id.as_str()) {
                Some(Ok(None)) => true,
                Some(Ok(Some(node))) => {
                    *told = Some(reply(Ok(node.clone())));
                    known.insert(&s.id, Ok(Some(node)));
                    false
                }
                Some(Err(e)) => {
                    *told = Some(reply(Err(e)));
                    false
                }
                None => false,
            };
            if !first {
                unused.push(s.own.clone());
                continue;
            }
            let more = charged.saturating_add(to_i64(req.size));
            let placed = room(&tx, quota, more)
                .and_then(|()| put_rows(&tx, &Begun::from(req), &new, &mut paths));
            match placed {
                Ok(node) => {
                    charged = more;
                    answered(&tx, &s.id, &node, ms)?;
                    *told = Some(reply(Ok(node.clone())));
                    known.insert(&s.id, Ok(Some(node)));
                }
                Err(e @ SyncError::Db(_)) => return Err(e),
                Err(e) => {
                    unused.push(s.own.clone());
                    *told = Some(reply(Err(e)));
                }
            }
        }
        charge(&tx, charged)?;
        tx.commit()?;
        Ok((told, unused))
    }

    /// All of it, for whoever holds the store alone.
    ///
    /// # Errors
    /// As the steps.
    pub fn put_many<B: AsRef<[u8]>>(
        &mut self,
        all: &[(UploadBegin, B)],
        who: &str,
    ) -> Result<Vec<BatchReply>> {
        let files = self.files.clone();
        let mut told = self.admit(all)?;
        let staged = stage(&*files, all, &mut told)?;
        self.place(all, &staged, told, who)
    }

    /// Drops what a crash left of requests for many files.
    pub(super) fn drop_stale_small(&mut self) -> Result<()> {
        for (name, _) in self.files.list(At(Area::Own, "tmp"))?.entries {
            if name.starts_with(PREFIX) {
                self.files.remove_file(At(Area::Own, &join("tmp", &name)))?;
            }
        }
        Ok(())
    }
}
