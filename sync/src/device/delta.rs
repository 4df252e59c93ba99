//! Delta transfer at the device: sends and fetches only what the other side's old content lacks. The result
//! is the same file by its hash, or the file travels whole.
//!
//! | step | crash after it |
//! |---|---|
//! | sent: parts appended at the server | the upload goes on at its offset, with plain bytes |
//! | fetched: parts to `tmp/p...` | dropped, begun anew |
//! | whole hash checked, renamed to `tmp/d...` | a download that is whole |
use super::Remote;
use super::engine::Pass;
use crate::api::{NodeInfo, UploadBegin};
use crate::delta::{DELTA_FROM, Part, Piece, Range, Side, plan};
use crate::error::{Result, SyncError};
use crate::files::{self, Area, At, Files, PIECE_BYTES};
use crate::rng::hex;
use crate::tree::{Key, Kind, NodeId};

/// A request with parts has about so many bytes, and at most so many parts.
const PARTS_BYTES_MAX: u64 = 4 << 20;
const PARTS_MAX: usize = 1_000;

struct Here<'a> {
    files: &'a dyn Files,
    path: &'a str,
}

impl Side for Here<'_> {
    fn pieces(&mut self, average: u32, ranges: &[Range]) -> Result<Vec<Vec<Piece>>> {
        files::pieces(self.files, At(Area::Tree, self.path), average, ranges)
    }
}

struct There<'a> {
    net: &'a mut dyn Remote,
    node: NodeId,
    rev: i64,
}

impl Side for There<'_> {
    fn pieces(&mut self, average: u32, ranges: &[Range]) -> Result<Vec<Vec<Piece>>> {
        self.net.signature(self.node, self.rev, average, ranges)
    }
}

impl Pass<'_> {
    /// Sends what the content that is replaced lacks; returns how far the upload is then.
    pub(super) fn send_delta(&mut self, req: &UploadBegin, path: &str) -> Result<u64> {
        let Some((node, rev)) = req.replace else { return Ok(0) };
        let old_size = self.infos.get(&node).map_or(0, |i| i.size);
        if req.size < DELTA_FROM || old_size < DELTA_FROM {
            return Ok(0);
        }
        let files = self.e.files.clone();
        let mut here = Here { files: &*files, path };
        let mut there = There { net: &mut self.net, node, rev };
        let Some(parts) = plan(&mut here, req.size, &mut there, old_size)? else { return Ok(0) };
        let (mut group, mut bytes, mut pos, mut begin) = (Vec::new(), 0, 0, 0);
        for part in parts {
            let mut left = part;
            while left.size > 0 {
                let now = match left.from {
                    Some(_) => left.size,
                    None => left.size.min(PIECE_BYTES as u64),
                };
                let data = match left.from {
                    Some(_) => Vec::new(),
                    None => {
                        let len = usize::try_from(now).unwrap_or(0);
                        files.read(At(Area::Tree, path), pos, len)?
                    }
                };
                if left.from.is_none() && data.len() as u64 != now {
                    return Err(SyncError::Stale(format!("{path} became shorter")));
                }
                bytes += data.len() as u64;
                group.push((Part { from: left.from, size: now }, data));
                pos += now;
                left = Part { from: left.from.map(|f| f + now), size: left.size - now };
                if bytes >= PARTS_BYTES_MAX || group.len() >= PARTS_MAX {
                    self.net.upload_parts(&req.id, begin, &group)?;
                    self.report.bytes_up += bytes;
                    group.clear();
                    (bytes, begin) = (0, pos);
                }
            }
        }
        if !group.is_empty() {
            self.net.upload_parts(&req.id, begin, &group)?;
            self.report.bytes_up += bytes;
        }
        Ok(pos)
    }

    /// Puts a new content together from what lies here and what it lacks; true: it is whole in `to`.
    pub(super) fn fetch_delta(&mut self, info: &NodeInfo, to: At) -> Result<bool> {
        let key = Key::Node(info.id);
        let size = self.stats.get(&key).map_or(0, |s| s.size);
        let file = self.l.get(key).is_some_and(|l| l.kind == Kind::File);
        if !file || size < DELTA_FROM || info.size < DELTA_FROM {
            return Ok(false);
        }
        let path = self.path(key)?;
        let files = self.e.files.clone();
        let mut here = Here { files: &*files, path: &path };
        let mut there = There { net: &mut self.net, node: info.id, rev: info.rev };
        let Some(parts) = plan(&mut there, info.size, &mut here, size)? else { return Ok(false) };
        let tmp = format!("tmp/p{}x{}", info.id, info.rev);
        let at = At(Area::Own, &tmp);
        files.remove_file(at)?;
        let (mut missing, mut pos) = (Vec::new(), 0);
        for part in parts {
            let Some(from) = part.from else {
                missing.push((pos, part.size));
                pos += part.size;
                continue;
            };
            let mut done = 0;
            while done < part.size {
                let room =
                    usize::try_from(part.size - done).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
                let piece = files.read(At(Area::Tree, &path), from + done, room)?;
                if piece.is_empty() {
                    return Ok(false);
                }
                files.write(at, pos + done, &piece)?;
                done += piece.len() as u64;
            }
            pos += part.size;
        }
        let mut places = missing.iter().copied();
        let mut place = places.next();
        let mut came = 0;
        self.net.ranges(info.id, info.rev, &missing, &mut |bytes| {
            let mut rest = bytes;
            while let (Some((from, left)), false) = (place, rest.is_empty()) {
                let n = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                let (now, later) = rest.split_at(n);
                files.write(at, from, now)?;
                came += n as u64;
                rest = later;
                let left = (from + n as u64, left - n as u64);
                place = if left.1 > 0 { Some(left) } else { places.next() };
            }
            Ok(())
        })?;
        self.report.bytes_down += came;
        if hex(&files::hash(&*files, at)?.0) != info.hash {
            // The file here changed while it was read; the whole content is fetched.
            files.remove_file(at)?;
            return Ok(false);
        }
        files.remove_file(to)?;
        files.rename(at, to)?;
        Ok(true)
    }
}
