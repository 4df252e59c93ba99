//! Bytes in and out. A download reads from the file as it was when the request came, also if it is
//! replaced meanwhile; it goes out as an attachment that no browser runs (trap 19). An upload's pieces
//! are written outside the store's lock.
use super::http::{Answer, Who, blocking};
use crate::api::UploadState;
use crate::error::{Result, SyncError};
use crate::files::{Area, At, PIECE_BYTES, name_of};
use crate::tree::NodeId;
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// So much of an upload is written at once.
const RECEIVE_BYTES: usize = 2 << 20;
/// So much of a body is still taken in, and dropped, after it was refused.
const REFUSED_BYTES: usize = 64 << 20;
/// So many pieces of a download are read before they are needed.
const PIECES_AHEAD: usize = 2;

/// `?rev=`: only at this revision.
#[derive(Debug, Deserialize)]
pub struct At1 {
    rev: Option<i64>,
}

/// `?offset=`.
#[derive(Debug, Deserialize)]
pub struct Offset {
    #[serde(default)]
    offset: u64,
}

impl Offset {
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }
}

/// A file that is open for a download.
pub(super) struct Opened {
    file: File,
    size: u64,
    name: String,
    etag: String,
}

impl Opened {
    /// The file and its length.
    pub(super) fn parts(self) -> (File, u64) {
        (self.file, self.size)
    }
}

/// The content of a live file.
pub async fn node(
    who: Who,
    Path(id): Path<NodeId>,
    Query(q): Query<At1>,
    headers: HeaderMap,
) -> Answer<Response> {
    let opened = blocking(move || {
        let store = who.worker.store.lock();
        let (info, path) = store.content_path(id, q.rev)?;
        let file = who.worker.files.open_file(At(Area::Tree, &path))?;
        opened(file, info.size, info.name, &info.hash)
    })
    .await?;
    answer(opened, &headers)
}

/// The content of an old version.
pub async fn version(
    who: Who,
    Path((id, rev)): Path<(NodeId, i64)>,
    headers: HeaderMap,
) -> Answer<Response> {
    let opened = blocking(move || {
        let store = who.worker.store.lock();
        let (info, path) = store.version_path(id, rev)?;
        let file = who.worker.files.open_file(At(Area::Own, &path))?;
        let name = store.node(id)?.name;
        opened(file, info.size, name, &info.hash)
    })
    .await?;
    answer(opened, &headers)
}

pub(super) fn opened(file: File, size: u64, name: String, hash: &str) -> Result<Opened> {
    let len = file.metadata().map_err(|e| SyncError::io(name.clone(), e))?.len();
    if len != size {
        return Err(SyncError::Damaged(format!(
            "{name:?} has {len} bytes, not {size}: something else changed it"
        )));
    }
    Ok(Opened { file, size, name, etag: format!("\"{hash}\"") })
}

/// The first range that is asked for, as first and last byte; `None`: the whole file.
fn range(text: Option<&str>, size: u64) -> std::result::Result<Option<(u64, u64)>, ()> {
    let Some(spec) = text.and_then(|t| t.strip_prefix("bytes=")) else { return Ok(None) };
    if spec.contains(',') {
        return Ok(None);
    }
    let Some((from, to)) = spec.split_once('-') else { return Ok(None) };
    let (from, to) = match (from.trim().parse::<u64>(), to.trim().parse::<u64>()) {
        (Ok(a), Ok(b)) if a <= b => (a, b.min(size.saturating_sub(1))),
        (Ok(a), Err(_)) if to.trim().is_empty() => (a, size.saturating_sub(1)),
        (Err(_), Ok(n)) if from.trim().is_empty() && n > 0 => {
            (size.saturating_sub(n), size.saturating_sub(1))
        }
        _ => return Ok(None),
    };
    if from >= size { Err(()) } else { Ok(Some((from, to))) }
}

/// A file name for Content-Disposition, by RFC 8187.
pub(super) fn attachment(name: &str) -> String {
    let mut out = String::from("attachment; filename*=UTF-8''");
    for b in name_of(name).bytes() {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

pub(super) fn answer(o: Opened, headers: &HeaderMap) -> Answer<Response> {
    let text = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    if text(header::IF_NONE_MATCH).is_some_and(|t| t.split(',').any(|t| t.trim() == o.etag)) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, o.etag)]).into_response());
    }
    // A range of another content than the one that was begun is no use.
    let same = text(header::IF_RANGE).is_none_or(|t| t == o.etag);
    let asked = if same { range(text(header::RANGE), o.size) } else { Ok(None) };
    let Ok(asked) = asked else {
        let whole = format!("bytes */{}", o.size);
        return Ok(
            (StatusCode::RANGE_NOT_SATISFIABLE, [(header::CONTENT_RANGE, whole)]).into_response()
        );
    };
    let (from, end) = asked.map_or((0, o.size), |(a, b)| (a, b + 1));
    let file = Arc::new(o.file);
    let read = move |pos| {
        let file = file.clone();
        async move {
            let len = usize::try_from(end - pos).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            let piece = tokio::task::spawn_blocking(move || {
                let mut buf = vec![0; len];
                file.read_exact_at(&mut buf, pos).map(|()| Bytes::from(buf))
            });
            piece.await.unwrap_or_else(|e| Err(std::io::Error::other(e)))
        }
    };
    // After an error the connection ends, so that nobody takes what follows for the file.
    let pieces = stream::iter((from..end).step_by(PIECE_BYTES)).map(read).buffered(PIECES_AHEAD);
    let mut response = Body::from_stream(pieces).into_response();
    if let Some((a, b)) = asked {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let part = format!("bytes {a}-{b}/{}", o.size);
        insert(&mut response, header::CONTENT_RANGE, &part);
    }
    insert(&mut response, header::CONTENT_LENGTH, &(end - from).to_string());
    insert(&mut response, header::CONTENT_TYPE, "application/octet-stream");
    insert(&mut response, header::CONTENT_DISPOSITION, &attachment(&o.name));
    insert(&mut response, header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'");
    insert(&mut response, header::ACCEPT_RANGES, "bytes");
    insert(&mut response, header::ETAG, &o.etag);
    Ok(response)
}

pub(super) fn insert(response: &mut Response, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// Takes an upload's next bytes, `?offset=`.
pub async fn append(
    who: Who,
    Path(id): Path<String>,
    Query(q): Query<Offset>,
    body: Body,
) -> Answer<Json<UploadState>> {
    let offset = receive(&who, &id, q.offset, body.into_data_stream()).await?;
    Ok(Json(UploadState { offset }))
}

/// Writes a stream of bytes to an upload; never more than was announced.
///
/// # Errors
/// As the upload says; the bytes so far stay.
pub async fn receive<S, E>(who: &Who, id: &str, offset: u64, stream: S) -> Answer<u64>
where
    S: futures_util::Stream<Item = std::result::Result<Bytes, E>>,
    E: std::fmt::Display,
{
    let (worker, name) = (who.worker.clone(), id.to_owned());
    let (progress, size) = blocking(move || {
        let size = worker.store.lock().upload_size(&name)?;
        Ok((worker.progress(&name)?, size))
    })
    .await?;
    let mut stream = std::pin::pin!(stream);
    let (mut pos, mut piece) = (offset, Vec::new());
    // The next piece comes in while this one is written.
    let mut written: Option<JoinHandle<Result<()>>> = None;
    let got = loop {
        let next = stream.next().await;
        let ended = next.is_none();
        match next {
            Some(Ok(bytes)) => piece.extend_from_slice(&bytes),
            Some(Err(e)) => break Err(SyncError::Invalid(format!("upload cut: {e}"))),
            None => {}
        }
        if pos + piece.len() as u64 > size {
            let why = format!("more than the {size} bytes that were announced");
            break Err(SyncError::Invalid(why));
        }
        if !piece.is_empty() && (ended || piece.len() >= RECEIVE_BYTES) {
            if let Err(e) = write_ends(&mut written).await {
                break Err(e);
            }
            let (worker, progress, name) = (who.worker.clone(), progress.clone(), id.to_owned());
            let (at, bytes) = (pos, std::mem::take(&mut piece));
            pos += bytes.len() as u64;
            written = Some(tokio::task::spawn_blocking(move || {
                progress.lock().append(&*worker.files, &name, at, &bytes)
            }));
        }
        if ended {
            break Ok(pos);
        }
    };
    let got = write_ends(&mut written).await.and(got);
    if got.is_err() {
        // Whoever is still sending would find the connection closed, and not read why.
        let mut rest = REFUSED_BYTES;
        while let Some(Ok(bytes)) = stream.next().await {
            match rest.checked_sub(bytes.len()) {
                Some(less) => rest = less,
                None => break,
            }
        }
    }
    Ok(got?)
}

/// Waits for a piece that is being written, if there is one.
async fn write_ends(written: &mut Option<JoinHandle<Result<()>>>) -> Result<()> {
    match written.take() {
        Some(task) => task.await.unwrap_or_else(|e| Err(SyncError::Net(e.to_string()))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_clipped_or_refused() {
        assert_eq!(range(Some("bytes=2-5"), 10), Ok(Some((2, 5))));
        assert_eq!(range(Some("bytes=2-"), 10), Ok(Some((2, 9))));
        assert_eq!(range(Some("bytes=-3"), 10), Ok(Some((7, 9))));
        assert_eq!(range(Some("bytes=-30"), 10), Ok(Some((0, 9))));
        assert_eq!(range(Some("bytes=8-99"), 10), Ok(Some((8, 9))));
        assert_eq!(range(Some("bytes=10-"), 10), Err(()));
        for whole in [None, Some("bytes=5-2"), Some("bytes=0-1,4-5"), Some("lines=1-2")] {
            assert_eq!(range(whole, 10), Ok(None), "{whole:?}");
        }
        assert_eq!(
            attachment("a \"b\"\r\n.é"),
            "attachment; filename*=UTF-8''a%20%22b%22%0D%0A.%C3%A9"
        );
    }
}
