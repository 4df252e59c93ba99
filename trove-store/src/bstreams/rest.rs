//! A datafile on its way to rest: sync, side file, and learning what is unknown.
//!
//! Place in the walks: fsync, and the background of write-out. Invariants: a datafile is unmarked only
//! after its bytes, then its side file are durable, and only if nothing changed meanwhile; a failed
//! sync poisons it.
use super::datafile::{Datafile, State};
use super::media::{Kind, Media, MediaFile};
use super::sums::Sum;
use super::{STRIP_BYTES, Shared, crc};
use pvfs2_proto::{ErrorCode, Handle, PvfsError, Result};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A side file that was written and is to be synced.
pub(super) struct Stored {
    pub side: Arc<dyn MediaFile>,
    pub made: bool,
    version: u64,
}

impl Datafile {
    /// Makes bytes, length and name durable. Blocks on the disk.
    pub fn sync(&self, shared: &Shared, media: &dyn Media) -> Result<()> {
        let _one = self.syncing.lock();
        self.check(&self.state.read())?;
        if !self.unsynced.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let synced = shared.marks.sync(media).and_then(|()| self.file.sync()).and_then(|()| {
            if self.name_unsynced.swap(false, Ordering::AcqRel) {
                media.sync_names(self.handle)?;
            }
            Ok(())
        });
        synced.map_err(|e| self.poison(shared, &e))
    }

    pub fn poison(&self, shared: &Shared, e: &io::Error) -> PvfsError {
        let why = format!(
            "datafile {} could not be synced ({e}); what the disk kept is unknown, so it is refused \
             from now on: look after this server's disk and restart it",
            shared.name(self.handle)
        );
        tracing::error!(handle = %Handle(self.handle), "{why}");
        self.state.write().poisoned.get_or_insert_with(|| why.clone());
        PvfsError::new(ErrorCode::Io, why)
    }

    /// Writes the side file of a datafile at rest, without syncing it. `None`: it is in use, or
    /// partly unknown, or damaged, or at rest already.
    pub fn store_sums(&self, shared: &Shared, media: &dyn Media) -> Result<Option<Stored>> {
        let mut state = self.state.write();
        self.check(&state)?;
        let restless = !self.marked.load(Ordering::Acquire)
            || self.unsynced.load(Ordering::Acquire)
            || state.sums.has_unknown()
            || state.damaged.is_some();
        if restless {
            return Ok(None);
        }
        let stored = (|| {
            self.file.set_mtime(state.mtime_ns)?;
            let (side, made) = media
                .open(Kind::Sums, self.handle, true)?
                .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
            let State { sums, size, mtime_ns, .. } = &mut *state;
            sums.store(side.as_ref(), self.handle, *size, *mtime_ns)?;
            Ok(Stored { side, made, version: state.version })
        })();
        stored.map(Some).map_err(|e| self.error(shared, "store checksums of", e))
    }

    /// The side file is durable: the datafile is no longer marked, unless it has changed meanwhile.
    ///
    /// # Errors
    /// As the disk; it stays marked.
    pub fn settle(&self, shared: &Shared, media: &dyn Media, stored: &Stored) -> Result<()> {
        let state = self.state.write();
        if !state.removed && state.version == stored.version {
            let unmarked = shared.marks.unmark(media, self.handle);
            unmarked.map_err(|e| self.error(shared, "unmark", e))?;
            self.marked.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Learns up to `budget` bytes of unknown strips; gives what it read, and whether more is left.
    pub fn learn_some(&self, shared: &Shared, from: &mut u64, budget: u64) -> Result<(u64, bool)> {
        let mut read = 0;
        while read < budget {
            let mut state = self.state.write();
            self.check(&state)?;
            if !state.sums.has_unknown() || state.damaged.is_some() {
                return Ok((read, false));
            }
            let fail = |e| self.error(shared, "read", e);
            let data = self.file.next_data(*from * STRIP_BYTES).map_err(fail)?;
            let strip = data.map(|(start, _)| start / STRIP_BYTES).filter(|s| state.valid(*s) > 0);
            let Some(strip) = strip else {
                let size = state.size;
                state.sums.settle(size);
                return Ok((read, false));
            };
            if state.sums.get(strip) == Sum::Unknown {
                self.learn(&mut state, strip).map_err(fail)?;
                read += STRIP_BYTES;
            }
            *from = strip + 1;
        }
        Ok((read, true))
    }

    /// The plain CRC-32 of each strip in `strips` that lies before the end.
    pub fn strip_crcs(&self, shared: &Shared, strips: std::ops::Range<u64>) -> Result<Vec<u32>> {
        let mut state = self.state.write();
        self.check_readable(&state)?;
        let end = strips.end.min(state.size.div_ceil(STRIP_BYTES));
        let mut out = Vec::with_capacity(end.saturating_sub(strips.start) as usize);
        for strip in strips.start..end {
            let sum = self.known(&mut state, strip);
            let sum = sum.map_err(|e| self.error(shared, "read", e))?;
            out.push(crc::plain(sum, state.valid(strip)));
        }
        Ok(out)
    }
}
