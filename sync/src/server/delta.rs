//! Delta transfer at the server: the pieces of a content, ranges of it, and uploads whose parts are bytes
//! that come along or ranges of the content that is replaced. What the parts are for: [`crate::delta`].
use super::content::Offset;
use super::http::{Answer, Failure, Who, blocking};
use crate::api::{RangesAsk, SignatureAsk, UploadState, unpack};
use crate::delta::{Part, Piece, RANGES_MAX, Range, Window, cut};
use crate::error::{Result, SyncError};
use crate::files::{Area, At, PIECE_BYTES};
use crate::tree::NodeId;
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// The file at a revision, and its size.
fn open(who: &Who, id: NodeId, rev: i64) -> Result<(File, u64)> {
    let store = who.worker.store.lock();
    let (info, path) = store.content_path(id, Some(rev))?;
    Ok((who.worker.files.open_file(At(Area::Tree, &path))?, info.size))
}

/// Ranges lie within the file, and are together no longer than it.
fn check(ranges: &[Range], size: u64) -> Result<()> {
    let all = ranges.iter().fold(0_u64, |sum, r| sum.saturating_add(r.1));
    let beyond = ranges.iter().any(|r| r.0.saturating_add(r.1) > size);
    if ranges.len() > RANGES_MAX || beyond || all > size {
        let why = format!("at most {RANGES_MAX} ranges, within the {size} bytes, none twice");
        return Err(SyncError::Invalid(why));
    }
    Ok(())
}

/// The pieces of ranges of a content.
pub async fn signature(
    who: Who,
    Path(id): Path<NodeId>,
    Json(ask): Json<SignatureAsk>,
) -> Answer<Json<Vec<Vec<Piece>>>> {
    blocking(move || {
        let (file, size) = open(&who, id, ask.rev)?;
        check(&ask.ranges, size)?;
        let of = |range: &Range| {
            cut(Window::new(*range, |pos, room| file.read_at(room, pos)), ask.average)
        };
        ask.ranges.iter().map(of).collect::<Result<_>>().map(Json)
    })
    .await
}

/// Ranges of a content, one behind the other.
pub async fn ranges(
    who: Who,
    Path(id): Path<NodeId>,
    Json(ask): Json<RangesAsk>,
) -> Answer<Response> {
    let (file, rest) = blocking(move || {
        let (file, size) = open(&who, id, ask.rev)?;
        check(&ask.ranges, size)?;
        Ok((Arc::new(file), VecDeque::from(ask.ranges)))
    })
    .await?;
    let parts = stream::unfold((file, rest), |(file, mut rest)| async move {
        // Small ranges go out together.
        let (mut now, mut bytes) = (Vec::new(), 0);
        while bytes < PIECE_BYTES {
            let Some((from, len)) = rest.pop_front() else { break };
            let n = usize::try_from(len).unwrap_or(PIECE_BYTES).min(PIECE_BYTES - bytes);
            now.push((from, n));
            bytes += n;
            if (n as u64) < len {
                rest.push_front((from + n as u64, len - n as u64));
            }
        }
        if now.is_empty() {
            return None;
        }
        let f = file.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut out = vec![0; bytes];
            let mut room = out.as_mut_slice();
            for (from, n) in now {
                let (one, others) = room.split_at_mut(n);
                f.read_exact_at(one, from)?;
                room = others;
            }
            Ok(Bytes::from(out))
        });
        let read = read.await.unwrap_or_else(|e| Err(std::io::Error::other(e)));
        if read.is_err() {
            rest.clear();
        }
        Some((read, (file, rest)))
    });
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((kind, Body::from_stream(parts)).into_response())
}

/// Takes an upload's next parts, `?offset=`.
pub async fn parts(
    who: Who,
    Path(id): Path<String>,
    Query(q): Query<Offset>,
    mut body: Bytes,
) -> Answer<Json<UploadState>> {
    let mut all = Vec::new();
    while let Some(one) =
        unpack(&mut body, |p: &Part| if p.from.is_some() { 0 } else { p.size }).map_err(Failure)?
    {
        all.push(one);
    }
    blocking(move || {
        let worker = &who.worker;
        let (size, old) = {
            let store = worker.store.lock();
            let (_, path) = store.upload_source(&id)?;
            (store.upload_size(&id)?, worker.files.open_file(At(Area::Tree, &path))?)
        };
        let progress = worker.progress(&id)?;
        let mut p = progress.lock();
        let mut read = |from: u64, len: usize| {
            let mut room = vec![0; len];
            match old.read_exact_at(&mut room, from) {
                Ok(()) => Ok(room),
                Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(Vec::new()),
                Err(e) => Err(SyncError::io("read the old content", e)),
            }
        };
        p.append_parts(&*worker.files, &id, q.offset(), size, &all, &mut read)?;
        Ok(Json(UploadState { offset: p.offset }))
    })
    .await
}
