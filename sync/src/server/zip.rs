//! A folder as one zip file, made while it is sent: nothing is kept on the disk or in memory but one
//! piece. Stored, not compressed (what fills disks is compressed already), with UTF-8 names; zip64 where
//! a file, an offset or the number of entries needs it. Names and revisions are those of the moment when
//! the request came; what is deleted meanwhile is left out, what is changed goes in as it is now.
//!
//! | bytes of a file's entry | |
//! |---|---|
//! | local header, 30 bytes + name (+ 20 zip64) | sizes and CRC-32 follow after the data (bit 3) |
//! | data | as it is |
//! | descriptor, 16 bytes (24 zip64) | CRC-32, sizes |
//!
//! At the end the directory: 46 bytes + name (+ 28 zip64) per entry, and its end record (22, before it 76
//! with zip64).
use super::content::opened;
use super::http::{Answer, Failure, blocking};
use super::users::Worker;
use crate::error::{Result, SyncError};
use crate::files::{Area, At, PIECE_BYTES, join};
use crate::tree::{Kind, NodeId, ROOT};
use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A zip has at most so many entries.
const ENTRIES_MAX: usize = 200_000;
const LIMIT_32: u64 = 0xFFFF_FFFF;
const LIMIT_16: u64 = 0xFFFF;
/// Bit 3: a descriptor follows the data; bit 11: the name is UTF-8.
const FLAGS: u16 = 0x0808;
const FLAGS_DIR: u16 = 0x0800;

/// What has been written of one entry, for the directory at the end.
struct Done {
    name: String,
    at: u64,
    size: u64,
    crc: u32,
    time: (u16, u16),
    mode: u32,
}

/// The bytes around the data.
#[derive(Default)]
struct Zip {
    at: u64,
    done: Vec<Done>,
}

/// A time in DOS's words: date and time of day, in steps of two seconds from 1980 on, UTC.
fn dos(mtime_ns: i64) -> (u16, u16) {
    let secs = mtime_ns.div_euclid(1_000_000_000);
    let (y, m, d) = super::pages::date(secs.div_euclid(86_400));
    let sec = secs.rem_euclid(86_400);
    if !(1980..=2107).contains(&y) {
        return (0x21, 0);
    }
    let date = ((y - 1980) << 9) | (m << 5) | d;
    let time = ((sec / 3_600) << 11) | ((sec % 3_600 / 60) << 5) | (sec % 60 / 2);
    (u16::try_from(date).unwrap_or(0x21), u16::try_from(time).unwrap_or(0))
}

fn put16(out: &mut Vec<u8>, all: &[u16]) {
    all.iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
}

fn put32(out: &mut Vec<u8>, all: &[u32]) {
    all.iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
}

fn put64(out: &mut Vec<u8>, all: &[u64]) {
    all.iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
}

/// A number in 32 bits, all ones if it is told elsewhere.
fn low(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl Zip {
    /// Begins an entry; a directory's name ends in a slash.
    fn begin(&mut self, name: String, size: u64, mtime_ns: i64, exec: bool) -> Vec<u8> {
        let dir = name.ends_with('/');
        let big = size >= LIMIT_32;
        let mut out = Vec::with_capacity(50 + name.len());
        let (date, time) = dos(mtime_ns);
        put32(&mut out, &[0x0403_4b50]);
        let flags = if dir { FLAGS_DIR } else { FLAGS };
        put16(&mut out, &[if big { 45 } else { 20 }, flags, 0, time, date]);
        let none = if big { u32::MAX } else { 0 };
        put32(&mut out, &[0, none, none]);
        let len = u16::try_from(name.len()).unwrap_or(u16::MAX);
        put16(&mut out, &[len, if big { 20 } else { 0 }]);
        out.extend_from_slice(name.as_bytes());
        if big {
            put16(&mut out, &[1, 16]);
            put64(&mut out, &[0, 0]);
        }
        let mode = match (dir, exec) {
            (true, _) => 0o040_755,
            (false, true) => 0o100_755,
            (false, false) => 0o100_644,
        };
        self.done.push(Done { name, at: self.at, size, crc: 0, time: (date, time), mode });
        self.at += out.len() as u64;
        out
    }

    /// Ends the data of the entry that was begun.
    fn end(&mut self, crc: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(24);
        let Some(last) = self.done.last_mut() else { return out };
        last.crc = crc;
        put32(&mut out, &[0x0807_4b50, crc]);
        if last.size >= LIMIT_32 {
            put64(&mut out, &[last.size, last.size]);
        } else {
            put32(&mut out, &[low(last.size), low(last.size)]);
        }
        self.at += last.size + out.len() as u64;
        out
    }

    /// The directory and its end.
    fn finish(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        for d in &self.done {
            let (big, far) = (d.size >= LIMIT_32, d.at >= LIMIT_32);
            let mut more = Vec::new();
            if big {
                put64(&mut more, &[d.size, d.size]);
            }
            if far {
                put64(&mut more, &[d.at]);
            }
            let extra = if more.is_empty() { 0 } else { more.len() as u16 + 4 };
            let flags = if d.name.ends_with('/') { FLAGS_DIR } else { FLAGS };
            let need = if extra > 0 { 45 } else { 20 };
            put32(&mut out, &[0x0201_4b50]);
            // Made by: Unix (3), so that the mode counts.
            put16(&mut out, &[0x0300 | 45, need, flags, 0, d.time.1, d.time.0]);
            put32(&mut out, &[d.crc, low(d.size), low(d.size)]);
            let len = u16::try_from(d.name.len()).unwrap_or(u16::MAX);
            put16(&mut out, &[len, extra, 0, 0, 0]);
            let dos_dir = if d.name.ends_with('/') { 0x10 } else { 0 };
            put32(&mut out, &[(d.mode << 16) | dos_dir, low(d.at)]);
            out.extend_from_slice(d.name.as_bytes());
            if extra > 0 {
                put16(&mut out, &[1, more.len() as u16]);
                out.extend_from_slice(&more);
            }
        }
        let (count, size, at) = (self.done.len() as u64, out.len() as u64, self.at);
        if count >= LIMIT_16 || size >= LIMIT_32 || at >= LIMIT_32 {
            put32(&mut out, &[0x0606_4b50]);
            put64(&mut out, &[44]);
            put16(&mut out, &[0x0300 | 45, 45]);
            put32(&mut out, &[0, 0]);
            put64(&mut out, &[count, count, size, at]);
            put32(&mut out, &[0x0706_4b50, 0]);
            put64(&mut out, &[at + size]);
            put32(&mut out, &[1]);
        }
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        put32(&mut out, &[0x0605_4b50]);
        put16(&mut out, &[0, 0, count, count]);
        put32(&mut out, &[low(size), low(at)]);
        put16(&mut out, &[0]);
        out
    }
}

/// An entry to come: the node, the revision that was seen, its path in the zip.
type Entry = (NodeId, String, bool);

fn entries(worker: &Worker, top: NodeId, name: &str) -> Result<Vec<Entry>> {
    let store = worker.store.lock();
    let mut all: Vec<Entry> = Vec::new();
    let mut todo = vec![(top, name.to_owned())];
    while let Some((dir, path)) = todo.pop() {
        for n in store.children(dir)? {
            let below = join(&path, &n.name);
            all.push((n.id, below.clone(), n.kind == Kind::Dir));
            if n.kind == Kind::Dir {
                todo.push((n.id, below));
            }
        }
        if all.len() > ENTRIES_MAX {
            let why = format!("more than {ENTRIES_MAX} files: take smaller folders");
            return Err(SyncError::Invalid(why));
        }
    }
    all.sort_by(|a, b| a.1.cmp(&b.1));
    all.reverse();
    Ok(all)
}

/// What is being sent.
struct Sending {
    worker: Arc<Worker>,
    zip: Zip,
    /// Last first.
    left: Vec<Entry>,
    open: Option<(File, u64, u64, crc32fast::Hasher)>,
    ended: bool,
}

impl Sending {
    /// The next bytes; `None` at the end.
    fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let mut out = Vec::new();
        while out.len() < PIECE_BYTES {
            if let Some((file, pos, size, crc)) = &mut self.open {
                let len = (*size - *pos).min(PIECE_BYTES as u64);
                if len == 0 {
                    out.extend(self.zip.end(crc.clone().finalize()));
                    self.open = None;
                    continue;
                }
                let from = out.len();
                out.resize(from + usize::try_from(len).unwrap_or(0), 0);
                let room = out.get_mut(from..).unwrap_or_default();
                file.read_exact_at(room, *pos).map_err(|e| SyncError::io("read for a zip", e))?;
                crc.update(room);
                *pos += len;
            } else if let Some((id, path, dir)) = self.left.pop() {
                self.begin(id, path, dir, &mut out)?;
            } else if self.ended {
                break;
            } else {
                out.extend(self.zip.finish());
                self.ended = true;
            }
        }
        Ok(Some(out).filter(|o| !o.is_empty()))
    }

    fn begin(&mut self, id: NodeId, path: String, dir: bool, out: &mut Vec<u8>) -> Result<()> {
        let store = self.worker.store.lock();
        let node = match store.node(id) {
            Ok(n) if !n.deleted => n,
            Ok(_) | Err(SyncError::NotFound(_)) => return Ok(()),
            Err(e) => return Err(e),
        };
        if dir {
            out.extend(self.zip.begin(format!("{path}/"), 0, node.mtime_ns, false));
            return Ok(());
        }
        let file = self.worker.files.open_file(At(Area::Tree, &store.path(id)?))?;
        drop(store);
        let (file, size) = opened(file, node.size, node.name, &node.hash)?.parts();
        out.extend(self.zip.begin(path, size, node.mtime_ns, node.exec));
        self.open = Some((file, 0, size, crc32fast::Hasher::new()));
        Ok(())
    }
}

/// A folder as a zip, on its way out.
///
/// # Errors
/// [`SyncError::NotFound`], [`SyncError::Invalid`]. What goes wrong later cuts the answer off.
pub async fn answer(worker: Arc<Worker>, top: NodeId) -> Answer<Response> {
    let (sending, name) = blocking(move || {
        let node = worker.store.lock().node(top)?;
        if node.deleted || node.kind != Kind::Dir {
            return Err(SyncError::NotFound("this folder".into()));
        }
        let name = if top == ROOT { "files".to_owned() } else { node.name };
        let left = entries(&worker, top, &name)?;
        Ok((Sending { worker, zip: Zip::default(), left, open: None, ended: false }, name))
    })
    .await?;
    let pieces = stream::unfold(Some(Box::new(sending)), |sending| async move {
        let mut sending = sending?;
        let work = tokio::task::spawn_blocking(move || {
            let piece = sending.next();
            (sending, piece)
        });
        match work.await {
            Ok((sending, Ok(Some(piece)))) => Some((Ok(Bytes::from(piece)), Some(sending))),
            Ok((_, Ok(None))) => None,
            Ok((_, Err(e))) => {
                tracing::warn!(error = %e, "a zip was cut off");
                Some((Err(std::io::Error::other(e.to_string())), None))
            }
            Err(e) => Some((Err(std::io::Error::other(e)), None)),
        }
    });
    let mut response = Body::from_stream(pieces).into_response();
    let named = super::content::attachment(&format!("{name}.zip"));
    for (key, value) in [
        (header::CONTENT_TYPE, "application/zip"),
        (header::CONTENT_DISPOSITION, named.as_str()),
        (header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'"),
    ] {
        super::content::insert(&mut response, key, value);
    }
    Ok(response)
}

/// The zip of one's own folder.
pub async fn own(
    who: super::http::Who,
    axum::extract::Path(id): axum::extract::Path<NodeId>,
) -> std::result::Result<Response, Response> {
    answer(who.worker, id).await.map_err(|Failure(e)| super::pages::problem(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_small_zip() {
        let mut zip = Zip::default();
        let mut all = zip.begin("d/".into(), 0, 0, false);
        all.extend(zip.begin("d/a".into(), 3, 1_709_210_096_000_000_000, true));
        all.extend_from_slice(b"abc");
        all.extend(zip.end(crc32fast::hash(b"abc")));
        let at = all.len();
        all.extend(zip.finish());
        assert_eq!((at, all.len()), (32 + 33 + 19, 84 + 48 + 49 + 22));
        let hex = crate::rng::hex(&all[32..84]);
        // header, needs 2.0, flags, stored, 12:34:56 on 2024-02-29, name, data, descriptor
        let want = "504b0304140008080000".to_owned()
            + "5c645d58"
            + "000000000000000000000000"
            + "03000000"
            + "642f61"
            + "616263"
            + "504b0708"
            + "c2412435"
            + "0300000003000000";
        assert_eq!(hex, want);
        assert_eq!(
            crate::rng::hex(&all[all.len() - 22..]),
            "504b0506000000000200020061000000".to_owned() + "54000000" + "0000"
        );
        assert_eq!(dos(-1), (0x21, 0), "before 1980");
    }

    #[test]
    fn what_is_large_is_told_in_64_bits() {
        let mut zip = Zip::default();
        let head = zip.begin("big".into(), 5 << 30, 0, false);
        assert_eq!((head.len(), &head[18..26]), (30 + 3 + 20, &[0xFF; 8][..]));
        assert_eq!(zip.end(1).len(), 24);
        zip.begin("far".into(), 1, 0, false);
        zip.end(2);
        let end = zip.finish();
        let far = 46 + 3 + 20;
        assert_eq!(end.len(), far + 46 + 3 + 12 + 76 + 22);
        let offset = u64::from_le_bytes(end[far + 46 + 3 + 4..][..8].try_into().unwrap());
        assert_eq!(offset, (5 << 30) + 53 + 24);
        assert_eq!(&end[end.len() - 98..][..4], &0x0606_4b50_u32.to_le_bytes());
    }
}
