//! The cache of open datafiles: finding, making, removing.
//!
//! Place in the walks: read and write, before the datafile itself. Invariants: a datafile is open once
//! at most (its shard's lock is held while it is opened); a removed handle is noted before its files
//! go; writes leave a reserve of the disk free.
use super::datafile::{Datafile, State};
use super::media::{Kind, Media};
use super::stream_out::Stream;
use super::sums::Sums;
use super::{Inner, OVERFLOW, SHARDS, fail, stale, writeout};
use parking_lot::{Mutex, RwLock};
use pvfs2_proto::{ErrorCode, Handle, PvfsError, Result};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Keeps a reserve of the disk free, looking only now and then.
pub(super) struct Room {
    pub reserve_bytes: u64,
    /// Bytes that may be written before looking again.
    pub unchecked_bytes: AtomicU64,
}

impl Room {
    pub fn take(&self, media: &dyn Media, bytes: u64) -> Result<()> {
        let take = |left: u64| left.checked_sub(bytes);
        let order = Ordering::Relaxed;
        if self.reserve_bytes == 0 || self.unchecked_bytes.fetch_update(order, order, take).is_ok()
        {
            return Ok(());
        }
        let (free, _) = media.space().map_err(|e| fail("statfs", e))?;
        if free < self.reserve_bytes.saturating_add(bytes) {
            return Err(PvfsError::new(
                ErrorCode::NoSpace,
                format!(
                    "{free} bytes are free where datafiles are stored, {} of them are reserved: \
                     remove files or enlarge the disk",
                    self.reserve_bytes
                ),
            ));
        }
        let unchecked = (free - self.reserve_bytes - bytes).min(self.reserve_bytes / 4);
        self.unchecked_bytes.store(unchecked, order);
        Ok(())
    }
}

impl Inner {
    pub(super) fn media(&self) -> &dyn Media {
        self.shared.media.as_ref()
    }

    pub(super) fn is_buried(&self, handle: Handle) -> bool {
        self.shared.marks.is_buried(handle.0, self.shared.env.now_ns())
    }

    pub(super) fn shard(&self, handle: u64) -> &Mutex<HashMap<u64, Arc<Datafile>>> {
        // Fibonacci hashing: handles of one server are often consecutive.
        let mixed = handle.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.shards[(mixed >> 60) as usize % SHARDS]
    }

    /// The open datafile, opening it if it exists.
    pub(super) fn find(&self, handle: Handle) -> Result<Option<Arc<Datafile>>> {
        self.get(handle, false, None)
    }

    /// As [`Inner::find`], for who is about to read from `offset`: where it must be opened, the disk
    /// begins with the bytes before its checksums are read.
    pub(super) fn find_to_read(
        &self,
        handle: Handle,
        (offset, len): (u64, u64),
    ) -> Result<Option<Arc<Datafile>>> {
        self.get(handle, false, Some((offset, len)))
    }

    /// The open datafile, making it if need be.
    pub(super) fn make(&self, handle: Handle) -> Result<Arc<Datafile>> {
        self.get(handle, true, None)?.ok_or_else(|| stale(handle))
    }

    fn get(
        &self,
        handle: Handle,
        create: bool,
        reads: Option<(u64, u64)>,
    ) -> Result<Option<Arc<Datafile>>> {
        if self.closed.load(Ordering::Acquire) {
            return Err(PvfsError::new(ErrorCode::Io, "this storage space was closed"));
        }
        let mut shard = self.shard(handle.0).lock();
        if shard.len() >= OVERFLOW * self.options.open_max.div_ceil(SHARDS)
            && !shard.contains_key(&handle.0)
        {
            // More than the background can keep up with: help it, so that descriptors stay bounded.
            drop(shard);
            self.round()?;
            shard = self.shard(handle.0).lock();
        }
        if let Some(d) = shard.get(&handle.0) {
            d.used.store(self.tick.load(Ordering::Relaxed), Ordering::Relaxed);
            return Ok(Some(d.clone()));
        }
        if self.is_buried(handle) {
            return Err(stale(handle));
        }
        let opened = self.open_datafile(handle.0, create, reads).map_err(|e| {
            let code = if e.raw_os_error() == Some(libc::ENOSPC) {
                ErrorCode::NoSpace
            } else {
                ErrorCode::Io
            };
            PvfsError::new(
                code,
                format!("cannot open datafile {}: {e}", self.shared.name(handle.0)),
            )
        })?;
        let Some(d) = opened else { return Ok(None) };
        let d = Arc::new(d);
        shard.insert(handle.0, d.clone());
        let keep = self.options.open_max.div_ceil(SHARDS);
        // Not at every opening: while everything is dirty there is nothing to find.
        if shard.len() > keep && shard.len().is_multiple_of(8) {
            writeout::trim(&mut shard, keep);
        }
        Ok(Some(d))
    }

    fn open_datafile(
        &self,
        handle: u64,
        create: bool,
        reads: Option<(u64, u64)>,
    ) -> io::Result<Option<Datafile>> {
        let Some((file, made)) = self.media().open(Kind::Data, handle, create)? else {
            return Ok(None);
        };
        if let Some((offset, len)) = reads {
            file.read_ahead(offset, len);
        }
        let marks = &self.shared.marks;
        let found = file.stat()?;
        let mut damaged = None;
        let mut marked = marks.is_marked(handle);
        let sums = if made {
            self.datafiles.fetch_add(1, Ordering::Relaxed);
            Sums::empty()
        } else if marked {
            Sums::unknown()
        } else {
            match self.load_sums(handle)? {
                Some((sums, size, mtime_ns)) => {
                    let same = size == found.size;
                    if same && (mtime_ns == found.mtime_ns || !marks.power_lost()) {
                        sums
                    } else if marks.power_lost() {
                        // Written out, but the mark before it was lost with the power.
                        marks.mark_unknown(self.media(), handle)?;
                        marked = true;
                        Sums::unknown()
                    } else {
                        damaged = Some(format!(
                            "datafile {} has {} bytes, its checksums were written for {size}: the \
                             disk has changed it; restore the file from a copy",
                            self.shared.name(handle),
                            found.size
                        ));
                        sums
                    }
                }
                None if found.size == 0 => Sums::empty(),
                None => {
                    tracing::warn!(
                        "datafile {} has no checksums beside it: taking them from its bytes",
                        self.shared.name(handle)
                    );
                    marks.mark_unknown(self.media(), handle)?;
                    marked = true;
                    Sums::unknown()
                }
            }
        };
        Ok(Some(Datafile {
            handle,
            file,
            state: RwLock::new(State {
                size: found.size,
                mtime_ns: found.mtime_ns,
                sums,
                version: 0,
                removed: false,
                poisoned: None,
                damaged,
                stream: Stream::default(),
            }),
            marked: AtomicBool::new(marked),
            // After a kill the page cache may hold what the disk does not.
            unsynced: AtomicBool::new(made || !self.was_clean),
            name_unsynced: AtomicBool::new(made || !self.was_clean),
            used: AtomicU64::new(self.tick.load(Ordering::Relaxed)),
            syncing: Mutex::new(()),
        }))
    }

    fn load_sums(&self, handle: u64) -> io::Result<Option<(Sums, u64, i64)>> {
        match self.media().open(Kind::Sums, handle, false)? {
            Some((side, _)) => Sums::load(side.as_ref(), handle),
            None => Ok(None),
        }
    }

    pub(super) fn remove(&self, handle: Handle) -> Result<bool> {
        let gone = {
            let mut shard = self.shard(handle.0).lock();
            let now_ns = self.shared.env.now_ns();
            let buried = self.shared.marks.bury(self.media(), handle.0, now_ns);
            buried.map_err(|e| fail("note the removal in", e))?;
            shard.remove(&handle.0)
        };
        if let Some(d) = &gone {
            d.state.write().removed = true;
        }
        let removed = self.media().remove(Kind::Data, handle.0).map_err(|e| fail("remove", e))?;
        self.media().remove(Kind::Sums, handle.0).map_err(|e| fail("remove", e))?;
        let unmarked = self.shared.marks.unmark(self.media(), handle.0);
        unmarked.map_err(|e| fail("unmark a datafile in", e))?;
        if let Some(d) = gone.filter(|d| Arc::strong_count(d) > 1) {
            // Somebody holds it for a moment (the background, a reader): free its space now. What
            // fails here is freed when he lets go.
            let _ = d.file.set_len(0);
        }
        if removed {
            self.datafiles.fetch_sub(1, Ordering::Relaxed);
        }
        self.shared.wake();
        Ok(removed)
    }

    pub(super) fn open_ones(&self) -> Vec<Arc<Datafile>> {
        self.shards.iter().flat_map(|s| s.lock().values().cloned().collect::<Vec<_>>()).collect()
    }
}
