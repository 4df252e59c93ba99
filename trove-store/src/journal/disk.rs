//! The journal on disk: appends by one `write(2)`, syncs by `fdatasync`.
//!
//! Place in the walks: create and every other metadata operation, just before the reply.
//! Invariants: see the folder's head. The writer's lock is held for one `write(2)`, never for a
//! sync.
use super::Journal;
use super::record::{self, Change};
use super::segment::{self, SEGMENT_BYTES, SegmentHead};
use crate::error::{Result, TroveError};
use crate::format::{boot_id, sync_dir};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A journal in a folder.
pub struct DiskJournal {
    dir: PathBuf,
    head: SegmentHead,
    segment_bytes: u64,
    writer: Mutex<Writer>,
    last: AtomicU64,
    durable: AtomicU64,
    poisoned: Mutex<Option<String>>,
    is_poisoned: std::sync::atomic::AtomicBool,
    /// One sync at a time, so that "durable" only grows over what was really synced.
    syncing: Mutex<()>,
}

struct Writer {
    /// The segment that takes records; `None` until the first one.
    open: Option<Open>,
    next_index: u64,
    buf: Vec<u8>,
    /// All segments on disk, oldest first: (first index, path).
    segments: VecDeque<(u64, PathBuf)>,
    /// Closed segments that nobody has synced yet.
    unsynced: Vec<Arc<File>>,
    /// A segment was made since the folder was last synced.
    dir_dirty: bool,
    dirty: bool,
}

struct Open {
    file: Arc<File>,
    path: PathBuf,
    len: u64,
}

impl DiskJournal {
    /// Goes on after `last_index`, as recovery found it; `segments` are those still there.
    ///
    /// # Errors
    /// `Os`.
    pub fn new(dir: &Path, fs_id: u64, last_index: u64, segment_bytes: u64) -> Result<DiskJournal> {
        let mut segments: VecDeque<_> = segment::list(dir)?.into();
        // A last segment without records would get the name of the next one.
        while segments.back().is_some_and(|(first, _)| *first > last_index) {
            if let Some((_, path)) = segments.pop_back() {
                std::fs::remove_file(&path).map_err(TroveError::os("remove", &path))?;
            }
        }
        sync_dir(dir)?;
        let head = SegmentHead { fs_id, first_index: 0, boot_id: boot_id() };
        Ok(DiskJournal {
            dir: dir.to_path_buf(),
            head,
            segment_bytes: segment_bytes.clamp(4096, SEGMENT_BYTES),
            writer: Mutex::new(Writer {
                open: None,
                next_index: last_index + 1,
                buf: Vec::with_capacity(64 << 10),
                segments,
                unsynced: Vec::new(),
                dir_dirty: false,
                dirty: false,
            }),
            last: AtomicU64::new(last_index),
            durable: AtomicU64::new(last_index),
            poisoned: Mutex::new(None),
            is_poisoned: std::sync::atomic::AtomicBool::new(false),
            syncing: Mutex::new(()),
        })
    }

    fn check(&self) -> Result<()> {
        if !self.is_poisoned.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(TroveError::Poisoned(self.poisoned.lock().clone().unwrap_or_default()))
    }

    fn open_segment(&self, w: &mut Writer) -> Result<()> {
        let first_index = w.next_index;
        let path = segment::path_of(&self.dir, first_index);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(TroveError::os("make", &path))?;
        let head = SegmentHead { first_index, ..self.head }.encode();
        if let Err(e) = file.write_all_at(&head, 0) {
            let _ = std::fs::remove_file(&path);
            return Err(TroveError::os("write", &path)(e));
        }
        if let Some(old) = w.open.take() {
            w.unsynced.push(old.file);
        }
        w.segments.push_back((first_index, path.clone()));
        w.open = Some(Open { file: Arc::new(file), path, len: head.len() as u64 });
        w.dir_dirty = true;
        Ok(())
    }

    fn write(&self, w: &mut Writer) -> Result<()> {
        let Writer { open: Some(open), buf, .. } = w else {
            return Err(TroveError::Poisoned("the journal has no open segment".into()));
        };
        let Err(e) = open.file.write_all_at(buf, open.len) else {
            open.len += buf.len() as u64;
            return Ok(());
        };
        let error = TroveError::os("append to", &open.path)(e);
        if let Err(e) = open.file.set_len(open.len) {
            self.poison(&format!(
                "{error}, and the journal could not be cut back ({e}): restart this server after \
                 mending its disk"
            ));
        }
        Err(match error.is_no_space() {
            true => TroveError::NoSpace(format!(
                "no space left for the journal in {}: free some space; nothing was changed",
                self.dir.display()
            )),
            false => error,
        })
    }

    fn sync_locked(&self) -> Result<u64> {
        let (closed, open, upto, dir_dirty) = {
            let mut w = self.writer.lock();
            if !w.dirty {
                return Ok(self.durable.load(Ordering::Acquire));
            }
            w.dirty = false;
            let open = w.open.as_ref().map(|o| o.file.clone());
            let dir_dirty = std::mem::take(&mut w.dir_dirty);
            (std::mem::take(&mut w.unsynced), open, w.next_index - 1, dir_dirty)
        };
        // Oldest first: a durable record never has a gap before it.
        for file in closed.iter().chain(&open) {
            file.sync_data().map_err(TroveError::os("sync a segment of", &self.dir))?;
        }
        if dir_dirty {
            sync_dir(&self.dir)?;
        }
        Ok(self.durable.fetch_max(upto, Ordering::AcqRel).max(upto))
    }
}

impl Journal for DiskJournal {
    fn append(&self, changes: &[Change]) -> Result<u64> {
        self.check()?;
        let mut w = self.writer.lock();
        let index = w.next_index;
        w.buf.clear();
        if w.buf.capacity() > 1 << 20 {
            w.buf = Vec::with_capacity(64 << 10);
        }
        record::encode(&mut w.buf, index, self.durable.load(Ordering::Relaxed), changes)?;
        let full = |o: &Open| o.len + w.buf.len() as u64 > self.segment_bytes;
        if w.open.as_ref().is_none_or(full) {
            self.open_segment(&mut w)?;
        }
        self.write(&mut w)?;
        w.next_index += 1;
        w.dirty = true;
        self.last.store(index, Ordering::Release);
        Ok(index)
    }

    fn sync(&self) -> Result<u64> {
        let _one = self.syncing.lock();
        self.check()?;
        self.sync_locked().inspect_err(|e| {
            self.poison(&format!(
                "{e}; what the disk kept is unknown, so nothing more is accepted: restart this \
                 server after looking after its disk"
            ));
        })
    }

    fn last_index(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    fn durable_index(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    fn checkpoint(&self, index: u64) -> Result<()> {
        self.check()?;
        segment::write_checkpoint(&self.dir, index)?;
        let mut w = self.writer.lock();
        // The open segment goes too when the checkpoint covers all of it.
        if w.next_index == index + 1 && w.open.is_some() {
            w.open = None;
            w.unsynced.clear();
            w.dirty = false;
            w.dir_dirty = false;
            self.durable.fetch_max(index, Ordering::AcqRel);
        }
        while let Some((_, path)) = w.segments.front() {
            let end = w.segments.get(1).map_or(w.next_index, |(first, _)| *first);
            if end > index + 1 || (w.segments.len() == 1 && w.open.is_some()) {
                break;
            }
            std::fs::remove_file(path).map_err(TroveError::os("remove", path))?;
            w.segments.pop_front();
        }
        Ok(())
    }

    fn poison(&self, why: &str) {
        let mut p = self.poisoned.lock();
        if p.is_none() {
            tracing::error!(journal = %self.dir.display(), "{why}");
            *p = Some(why.to_string());
        }
        self.is_poisoned.store(true, Ordering::Release);
    }
}
