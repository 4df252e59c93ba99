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
use md5::Md5;
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
    sums: (Sha1, Md5),
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

/// The sums as ownCloud tells them.
fn sums((sha1, md5): &mut (Sha1, Md5)) -> String {
    format!("SHA1:{} MD5:{}", hex(&sha1.finalize_reset()), hex(&md5.finalize_reset()))
}

/// Whether a claim `TYPE:SUM` holds; types that we do not know are not checked.
fn holds(claim: &str, sums: &str) -> bool {
    let pairs = |text: &str| -> Vec<(String, String)> {
        let pair = |c: &str| c.split_once(':').map(|(a, b)| (a.to_lowercase(), b.to_lowercase()));
        text.split_ascii_whitespace().filter_map(pair).collect()
    };
    let ours = pairs(sums);
    pairs(claim).iter().all(|c| ours.contains(c) || ours.iter().all(|(kind, _)| *kind != c.0))
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
            self.sums.0.update(&piece);
            self.sums.1.update(&piece);
            let progress = call.worker.progress(&self.req.id)?;
            progress.lock().append(&*call.worker.files, &self.req.id, self.pos, &piece)?;
            self.pos = end;
        }
        Ok(())
    }

    fn finish(&mut self, call: &Call) -> Result<()> {
        self.write(call, true)?;
        let sums = sums(&mut self.sums);
        if let Some(claim) = self.claimed.as_deref().filter(|c| !holds(c, &sums)) {
            return Err(SyncError::Invalid(format!("the checksum is {sums}, not {claim}")));
        }
        if !self.known {
            call.worker.store.lock().upload_resize(&self.req.id, self.pos)?;
        }
        let node = call.worker.commit(&self.req.id, BY)?;
        call.worker.store.lock().remember_sums(&node.hash, &sums)?;
        self.done = Some(node);
        Ok(())
    }
}

impl Upload {
    /// An upload that was begun. `known`: its length was told.
    #[must_use]
    pub fn new(call: Arc<Call>, req: UploadBegin, known: bool, claimed: Option<String>) -> Self {
        let (piece, sums) = (Vec::new(), (Sha1::new(), Md5::new()));
        let state = State { req, known, piece, pos: 0, sums, claimed, done: None };
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
        let mut both = (Sha1::new_with_prefix(b"abc"), Md5::new_with_prefix(b"abc"));
        let sums = sums(&mut both);
        let (sha1, md5) =
            ("a9993e364706816aba3e25717850c26c9cd0d89d", "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(sums, format!("SHA1:{sha1} MD5:{md5}"));
        assert!(holds(&format!("sha1:{}", sha1.to_uppercase()), &sums));
        assert!(holds(&format!("MD5:{md5}"), &sums) && holds("ADLER32:0", &sums));
        assert!(!holds("SHA1:00", &sums) && !holds(&format!("SHA1:{sha1} md5:00"), &sums));
    }
}
