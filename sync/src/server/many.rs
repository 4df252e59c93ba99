//! Many small files in one request, in and out. The body of one in, and the answer of one out, is a row of
//! files as [`crate::api::pack`] writes them; each file has its own status.
use super::http::{Answer, Failure, Who, blocking};
use crate::api::{BatchReply, ContentHead, FILES_BYTES_MAX, FILES_MAX, UploadBegin, pack, unpack};
use crate::error::{Result, SyncError};
use crate::files::{Area, At, SMALL_BYTES};
use crate::store::stage;
use crate::tree::NodeId;
use axum::Json;
use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// So many files are open at once for one answer.
const OPEN_MAX: usize = 64;

fn too_many() -> SyncError {
    SyncError::Invalid(format!("at most {FILES_MAX} files in one request"))
}

/// Files with their heads, from a request's body.
fn files_in(mut body: Bytes) -> Result<Vec<(UploadBegin, Bytes)>> {
    let mut all = Vec::new();
    while let Some(one) = unpack(&mut body, |h: &UploadBegin| h.size)? {
        if all.len() == FILES_MAX {
            return Err(too_many());
        }
        all.push(one);
    }
    Ok(all)
}

/// Takes many small files; they are durable when the answer leaves.
pub async fn put(who: Who, body: Bytes) -> Answer<Json<Vec<BatchReply>>> {
    blocking(move || {
        let all = files_in(body)?;
        if all.is_empty() {
            return Err(SyncError::Invalid("no file in it".into()));
        }
        let (worker, by) = (&who.worker, who.by());
        let mut told = worker.store.lock().admit(&all)?;
        let staged = stage(&*worker.files, &all, &mut told)?;
        worker.change(|s| s.place(&all, &staged, told, &by)).map(Json)
    })
    .await
}

/// Files that are open at the revision that was asked for.
fn open(who: &Who, wanted: &[(NodeId, i64)]) -> Vec<Result<(File, u64, String)>> {
    let store = who.worker.store.lock();
    let one = |(node, rev): &(NodeId, i64)| {
        let (info, path) = store.content_path(*node, Some(*rev))?;
        if info.size > SMALL_BYTES {
            let why =
                format!("{:?} is larger than {SMALL_BYTES} bytes: ask for it alone", info.name);
            return Err(SyncError::Invalid(why));
        }
        let file = who.worker.files.open_file(At(Area::Tree, &path))?;
        Ok((file, info.size, info.name))
    };
    wanted.iter().map(one).collect()
}

/// The next part of an answer.
fn part(who: &Who, wanted: &[(NodeId, i64)]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for opened in open(who, wanted) {
        let read = opened.and_then(|(file, size, name)| {
            let damaged = |len| SyncError::Damaged(format!("{name:?} has {len} bytes, not {size}"));
            let len = file.metadata().map_err(|e| SyncError::io(name.clone(), e))?.len();
            if len != size {
                return Err(damaged(len));
            }
            let mut bytes = vec![0; usize::try_from(size).map_err(|_| damaged(len))?];
            file.read_exact_at(&mut bytes, 0).map_err(|e| SyncError::io(name.clone(), e))?;
            Ok(bytes)
        });
        match read {
            Ok(bytes) => {
                let head =
                    ContentHead { status: 200, size: bytes.len() as u64, error: String::new() };
                pack(&mut out, &head, &bytes)?;
            }
            Err(e) => {
                let head = ContentHead { status: e.status(), size: 0, error: e.to_string() };
                pack(&mut out, &head, &[])?;
            }
        }
    }
    Ok(out)
}

/// Gives many small files, each at one revision.
pub async fn get(who: Who, Json(wanted): Json<Vec<(NodeId, i64)>>) -> Answer<Response> {
    if wanted.len() > FILES_MAX {
        return Err(Failure(too_many()));
    }
    let state = (Arc::new(who), Arc::new(wanted), 0);
    let parts = stream::unfold(state, |(who, wanted, from)| async move {
        if from >= wanted.len() {
            return None;
        }
        let end = (from + OPEN_MAX).min(wanted.len());
        let (w, all) = (who.clone(), wanted.clone());
        let made = tokio::task::spawn_blocking(move || {
            part(&w, all.get(from..end).unwrap_or_default()).map(Bytes::from)
        });
        let made = made.await.unwrap_or_else(|e| Err(SyncError::Net(e.to_string())));
        let next = if made.is_ok() { end } else { wanted.len() };
        Some((made.map_err(std::io::Error::other), (who, wanted, next)))
    });
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((kind, Body::from_stream(parts)).into_response())
}

/// A body with many files.
pub const BODY_BYTES_MAX: usize = FILES_BYTES_MAX + (1 << 20);
