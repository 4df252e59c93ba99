//! A file that is being written through WebDAV: an upload of the store, in pieces.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | begun, at the revision that was seen | written | the upload is dropped |
//! | a piece is full | to the disk, hashed | as above; 507 before it if the length was not told |
//! | end: `OC-Checksum` checked | commit | 400, 412, 507; nothing changed |
use super::fs::{BY, Call, Meta};
use crate::api::{NodeInfo, UploadBegin};
use crate::error::{Result, SyncError};
use crate::files::PIECE_BYTES;
use crate::rng::{hex, secret};
use bytes::{Buf, Bytes};
use dav_server::fs::{DavFile, DavMetaData, FsError, FsFuture};
use sha1::{Digest, Sha1};
use std::io::SeekFrom;
use std::sync::Arc;

/// Room is reserved in such steps if the length is not told.
const STEP_BYTES: u64 = 16 << 20;

/// An id for an upload.
///
/// # Errors
/// No random bytes.
pub fn new_id() -> Result<String> {
    Ok(hex(&secret::<16>().map_err(|e| SyncError::io("random bytes", e))?))
}

/// The part that moves to where blocking is allowed and back.
struct State {
    req: UploadBegin,
    known: bool,
    piece: Vec<u8>,
    pos: u64,
    sum: Sha1,
    claimed: Option<String>,
    done: Option<NodeInfo>,
}

/// A file that is being written.
pub struct Upload {
    call: Arc<Call>,
    state: Option<Box<State>>,
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upload").finish_non_exhaustive()
    }
}

/// Whether a claim `TYPE:SUM` holds; types that we do not know are not checked.
fn holds(claim: &str, sha1: &[u8; 20]) -> bool {
    let mut each = claim.split_ascii_whitespace().filter_map(|c| c.split_once(':'));
    each.all(|(kind, sum)| {
        !kind.eq_ignore_ascii_case("sha1") || sum.eq_ignore_ascii_case(&hex(sha1))
    })
}

impl State {
    fn write(&mut self, call: &Call, all: bool) -> Result<()> {
        while self.piece.len() >= PIECE_BYTES || (all && !self.piece.is_empty()) {
            let rest = self.piece.split_off(self.piece.len().min(PIECE_BYTES));
            let piece = std::mem::replace(&mut self.piece, rest);
            let end = self.pos + piece.len() as u64;
            if end > self.req.size {
                if self.known {
                    let why = format!("more than the {} bytes that were announced", self.req.size);
                    return Err(SyncError::Invalid(why));
                }
                let size = end.next_multiple_of(STEP_BYTES);
                call.worker.store.lock().upload_grow(&self.req.id, size)?;
                self.req.size = size;
            }
            self.sum.update(&piece);
            let progress = call.worker.progress(&self.req.id)?;
            progress.lock().append(&*call.worker.files, &self.req.id, self.pos, &piece)?;
            self.pos = end;
        }
        Ok(())
    }

    fn finish(&mut self, call: &Call) -> Result<()> {
        self.write(call, true)?;
        let sha1: [u8; 20] = self.sum.finalize_reset().into();
        if let Some(claim) = self.claimed.as_deref().filter(|c| !holds(c, &sha1)) {
            let why = format!("the checksum is SHA1:{}, not {claim}", hex(&sha1));
            return Err(SyncError::Invalid(why));
        }
        if !self.known {
            call.worker.store.lock().upload_resize(&self.req.id, self.pos)?;
        }
        let node = call.worker.commit(&self.req.id, BY)?;
        call.worker.store.lock().remember_sha1(&node.hash, sha1)?;
        self.done = Some(node);
        Ok(())
    }
}

impl Upload {
    /// An upload that was begun. `known`: its length was told.
    #[must_use]
    pub fn new(call: Arc<Call>, req: UploadBegin, known: bool, claimed: Option<String>) -> Self {
        let (piece, sum) = (Vec::new(), Sha1::new());
        let state = State { req, known, piece, pos: 0, sum, claimed, done: None };
        Self { call, state: Some(Box::new(state)) }
    }

    /// Nothing is to be written.
    #[must_use]
    pub fn none(call: Arc<Call>) -> Self {
        Self { call, state: None }
    }

    fn run<'a>(
        &'a mut self,
        f: impl FnOnce(&mut State, &Call) -> Result<()> + Send + 'static,
    ) -> FsFuture<'a, ()> {
        Box::pin(async move {
            let Some(mut state) = self.state.take() else { return Err(FsError::GeneralFailure) };
            let call = self.call.clone();
            let work = tokio::task::spawn_blocking(move || {
                let done = f(&mut state, &call);
                (state, done)
            });
            match work.await {
                Ok((state, done)) => {
                    self.state = Some(state);
                    done.map_err(|e| self.call.failed(e))
                }
                Err(e) => Err(self.call.failed(SyncError::Net(format!("the worker ended: {e}")))),
            }
        })
    }
}

impl Drop for Upload {
    /// What was not brought to its end is given up.
    fn drop(&mut self) {
        let Some(state) = self.state.take().filter(|s| s.done.is_none()) else { return };
        let call = self.call.clone();
        let give_up = move || {
            if let Err(e) = call.worker.drop_upload(&state.req.id) {
                tracing::warn!(error = %e, "an upload that was cut off");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(give_up)),
            Err(_) => give_up(),
        }
    }
}

impl DavFile for Upload {
    fn metadata(&mut self) -> FsFuture<'_, Box<dyn DavMetaData>> {
        let done = self.state.as_ref().and_then(|s| s.done.clone());
        let meta = done.map(|n| Box::new(Meta(n)) as Box<dyn DavMetaData>);
        Box::pin(std::future::ready(meta.ok_or(FsError::NotImplemented)))
    }

    fn write_buf(&mut self, mut buf: Box<dyn Buf + Send>) -> FsFuture<'_, ()> {
        let bytes = buf.copy_to_bytes(buf.remaining());
        self.write_bytes(bytes)
    }

    fn write_bytes(&mut self, buf: Bytes) -> FsFuture<'_, ()> {
        match &mut self.state {
            Some(state) => state.piece.extend_from_slice(&buf),
            None => return Box::pin(std::future::ready(Err(FsError::GeneralFailure))),
        }
        if self.state.as_ref().is_some_and(|s| s.piece.len() < PIECE_BYTES) {
            return Box::pin(std::future::ready(Ok(())));
        }
        self.run(|state, call| state.write(call, false))
    }

    fn read_bytes(&mut self, _count: usize) -> FsFuture<'_, Bytes> {
        Box::pin(std::future::ready(Err(FsError::NotImplemented)))
    }

    fn seek(&mut self, _pos: SeekFrom) -> FsFuture<'_, u64> {
        Box::pin(std::future::ready(Err(FsError::NotImplemented)))
    }

    fn flush(&mut self) -> FsFuture<'_, ()> {
        self.run(State::finish)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_checksum_is_checked_if_we_know_its_kind() {
        let sum: [u8; 20] = Sha1::digest(b"abc").into();
        assert!(holds("SHA1:a9993e364706816aba3e25717850c26c9cd0d89d", &sum));
        assert!(holds("sha1:A9993E364706816ABA3E25717850C26C9CD0D89D", &sum));
        assert!(holds("MD5:0", &sum) && holds("", &sum));
        assert!(!holds("SHA1:00", &sum) && !holds("MD5:0 SHA1:00", &sum));
    }
}
