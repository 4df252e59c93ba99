//! Scrub: reads every datafile and compares it with its checksums, at the rate its driver chooses.
//!
//! Place in the walks: beside them; the server calls [`Scrub::step`] from a pool and sleeps between
//! steps. Invariant: a strip that does not match is reported and stays as it is.
use crate::bstreams::{Bstreams, STRIP_BYTES};
use pvfs2_proto::{ErrorCode, Handle, Result};
use std::sync::Arc;

/// One damaged place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The datafile.
    pub handle: Handle,
    /// Where its bad strip begins.
    pub physical_offset: u64,
    /// The sentence for the log.
    pub detail: String,
}

/// What a step has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubStep {
    /// Bytes read.
    pub bytes: u64,
    /// What does not match.
    pub damaged: Vec<Damage>,
    /// All datafiles were seen.
    pub done: bool,
}

/// A pass over all datafiles.
pub struct Scrub {
    bstreams: Arc<Bstreams>,
    current: Option<Handle>,
    after: Handle,
    offset: u64,
    page: std::collections::VecDeque<Handle>,
    end: bool,
    buf: Vec<u8>,
}

const PAGE: usize = 1024;

impl Scrub {
    /// A pass from the beginning.
    pub fn new(bstreams: Arc<Bstreams>) -> Scrub {
        Scrub {
            bstreams,
            current: None,
            after: Handle::NULL,
            offset: 0,
            page: Default::default(),
            end: false,
            buf: vec![0; STRIP_BYTES as usize],
        }
    }

    /// Reads about `max_bytes`. Blocks on the disk.
    ///
    /// # Errors
    /// `Io` when a disk fails to read; the next step goes on with the next datafile.
    pub fn step(&mut self, max_bytes: u64) -> Result<ScrubStep> {
        let mut out = ScrubStep::default();
        let mut spent = 0;
        while spent < max_bytes {
            let Some(handle) = self.datafile()? else {
                out.done = true;
                break;
            };
            // A datafile costs something even when it is empty.
            spent += 4096;
            match self.bstreams.read(handle, self.offset, &mut self.buf) {
                Ok(n) => {
                    out.bytes += n as u64;
                    spent += n as u64;
                    self.offset += n as u64;
                    if n < self.buf.len() {
                        self.current = None;
                    }
                }
                Err(e) if e.code == ErrorCode::Damaged => {
                    let detail = e.detail.into_owned();
                    out.damaged.push(Damage { handle, physical_offset: self.offset, detail });
                    self.offset += STRIP_BYTES;
                    if self.offset >= self.bstreams.stat(handle)?.size {
                        self.current = None;
                    }
                }
                // Removed meanwhile.
                Err(e) if e.code == ErrorCode::Stale => self.current = None,
                Err(e) => {
                    self.current = None;
                    return Err(e);
                }
            }
        }
        Ok(out)
    }

    fn datafile(&mut self) -> Result<Option<Handle>> {
        if self.current.is_none() {
            if self.page.is_empty() && !self.end {
                let (page, end) = self.bstreams.list(self.after, PAGE)?;
                self.after = page.last().copied().unwrap_or(self.after);
                self.page = page.into();
                self.end = end;
            }
            self.current = self.page.pop_front();
            self.offset = 0;
        }
        Ok(self.current)
    }
}
