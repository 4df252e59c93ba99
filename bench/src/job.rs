//! The messages between coordinator and worker: one JSON value a line, over the worker's standard
//! input and output (or through an agent's connection).
//!
//! A worker gets one `Setup`, answers `Ready`, then gets phases; during one it sends `Progress`, at
//! its end `Done`. `Failed` ends it. All workers get a phase at the same moment: that is the barrier.
use crate::api::Api;
use crate::hist::Hist;
use crate::host::FsChoice;
use crate::{ior, mdtest};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Read};

/// Longest line that either side accepts.
pub const LINE_BYTES_MAX: u64 = 16 << 20;

/// What a worker is for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Job {
    /// Bandwidth.
    Ior(ior::Spec),
    /// Metadata.
    Mdtest(mdtest::Spec),
}

/// The first message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    /// What to do.
    pub job: Job,
    /// By which way.
    pub api: Api,
    /// Which file system (native clients alone).
    pub fs: FsChoice,
    /// The file or directory, as the user wrote it.
    pub path: String,
    /// This worker's number.
    pub rank: u32,
    /// How many there are.
    pub clients: u32,
}

/// One step between two barriers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Phase {
    /// Of IOR.
    Ior(ior::Phase),
    /// Of mdtest.
    Mdtest(mdtest::Phase),
    /// Write out and forget the page cache of this host (root).
    DropCaches,
}

/// Coordinator to worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToWorker {
    /// The first message.
    Setup(Box<Setup>),
    /// Do this now.
    Phase(Phase),
    /// No more.
    End,
}

/// What a phase did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// When it began and ended, on this host's monotonic clock.
    pub begin_ns: u64,
    #[allow(missing_docs)]
    pub end_ns: u64,
    /// Seconds for opening, for all transfers with their fsync, for closing.
    pub open_s: f64,
    #[allow(missing_docs)]
    pub access_s: f64,
    #[allow(missing_docs)]
    pub close_s: f64,
    /// Transfers or operations.
    pub ops: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// Latency of each transfer or operation.
    pub hist: Hist,
    /// Transfers whose bytes were not those that belong there.
    pub damaged: u64,
    /// The first of them in words.
    pub damage: Option<String>,
}

/// Worker to coordinator.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum FromWorker {
    /// Connected, ready for phases.
    Ready,
    /// So far in this phase.
    Progress {
        /// Transfers or operations.
        ops: u64,
        /// Bytes.
        bytes: u64,
    },
    /// The phase has ended.
    Done(Box<Outcome>),
    /// It cannot go on.
    Failed(String),
}

/// Reads one message; none at the end of the stream.
///
/// # Errors
/// A stream that breaks, a line that is too long or no message.
pub fn read_line<T: for<'a> Deserialize<'a>>(from: &mut impl BufRead) -> Result<Option<T>> {
    let mut line = Vec::new();
    let got = from.take(LINE_BYTES_MAX).read_until(b'\n', &mut line).context("read a message")?;
    if got == 0 {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        bail!("a message was cut short or longer than {LINE_BYTES_MAX} bytes");
    }
    Ok(Some(serde_json::from_slice(&line).context("a line that is no message")?))
}

/// A message as a line.
///
/// # Errors
/// A message that JSON cannot say.
pub fn to_line<T: Serialize>(message: &T) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message).context("write a message")?;
    line.push(b'\n');
    Ok(line)
}

/// This host's monotonic clock, which its processes share.
pub fn now_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one timespec, which is this one.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages_or_errors() {
        let line = to_line(&FromWorker::Progress { ops: 3, bytes: 4 }).unwrap();
        let mut two = [line.clone(), line[..9].to_vec()].concat();
        let mut from = two.as_slice();
        let first: Option<FromWorker> = read_line(&mut from).unwrap();
        assert!(matches!(first, Some(FromWorker::Progress { ops: 3, bytes: 4 })));
        let e = read_line::<FromWorker>(&mut from).unwrap_err().to_string();
        assert!(e.contains("cut short"), "{e}");
        assert!(read_line::<FromWorker>(&mut [].as_slice()).unwrap().is_none());
        two[0] = b'x';
        assert!(read_line::<FromWorker>(&mut two.as_slice()).is_err());
    }
}
