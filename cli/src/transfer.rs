//! Moves the bytes of one file between two ends, several pieces at once.
//!
//! Workers take piece after piece (an atomic offset) and carry it from end to end: each has a
//! carrier of its own, so that one waits for servers while another reads or writes locally. A piece
//! covers all servers, each of which gets one request. An answer that is late moves the operation to
//! the background, as in a mount; the worker waits for it.
//!
//! Invariant: no byte counts as moved before the sink's servers have answered.
use crate::cmd::cp::RemoteFile;
use crate::fsclient::Fs;
use crate::output::human_bytes;
use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use pvfs2_bmi::client::BlockingNet;
use pvfs2_bmi::region::SharedBuf;
use pvfs2_client::drive_now;
use pvfs2_client::sys::{Lent, read_into, write_from};
use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// One end of a copy.
pub enum End {
    /// A local file.
    Local(File),
    /// A file in PVFS2.
    Remote(RemoteFile),
}

/// The workers' settings.
pub struct Transfer<'a> {
    fs: &'a Fs,
    workers: usize,
    piece_bytes: usize,
    progress: &'a Progress,
    /// Held by the worker that writes into a local sink. The kernel lets one writer at a time into a
    /// file anyway, but makes the others spin for it, on the cores that the servers need.
    local_writer: Mutex<()>,
}

impl<'a> Transfer<'a> {
    /// `threads` workers (default: one per core, at most 4) with buffers of `piece_bytes`.
    pub fn new(
        fs: &'a Fs,
        threads: Option<u32>,
        piece_bytes: u64,
        progress: &'a Progress,
    ) -> Transfer<'a> {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get()).min(4);
        Transfer {
            fs,
            workers: threads.map_or(cores, |n| n as usize),
            piece_bytes: piece_bytes.clamp(4_096, 1 << 30) as usize,
            progress,
            local_writer: Mutex::new(()),
        }
    }

    /// Copies `size` bytes, or to the end where the size is not known beforehand.
    ///
    /// # Errors
    /// The first piece's that fails; others may have been moved.
    pub fn run(&self, from: &End, to: &End, size: Option<u64>) -> Result<()> {
        let Some(size) = size else { return self.stream(from, to) };
        let pieces = size.div_ceil(self.piece_bytes as u64);
        if pieces <= 1 {
            // The size may have grown since it was looked at: read to the end.
            return self.worker()?.pieces(from, to, &AtomicU64::new(0), size);
        }
        let next = AtomicU64::new(0);
        let failed: Mutex<Option<anyhow::Error>> = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..self.workers.min(pieces as usize) {
                scope.spawn(|| {
                    let work = |mut worker: Worker<'_>| worker.pieces(from, to, &next, size);
                    if let Err(e) = self.worker().and_then(work) {
                        // The others find nothing more to do.
                        next.store(u64::MAX / 2, Ordering::Relaxed);
                        failed.lock().get_or_insert(e);
                    }
                });
            }
        });
        failed.into_inner().map_or(Ok(()), Err)
    }

    /// A pipe or a device: piece after piece, in order.
    fn stream(&self, from: &End, to: &End) -> Result<()> {
        let End::Local(file) = from else { bail!("only local special files are read as a stream") };
        let (mut worker, mut file) = (self.worker()?, file);
        let mut logical_offset = 0;
        loop {
            let mut got = 0;
            while got < worker.buf.len() {
                match file.read(&mut worker.buf[got..])? {
                    0 => break,
                    n => got += n,
                }
            }
            if got == 0 {
                return Ok(());
            }
            worker.write(to, logical_offset, got)?;
            logical_offset += got as u64;
        }
    }

    fn worker(&self) -> Result<Worker<'_>> {
        let buf = SharedBuf::new(self.piece_bytes).context("no memory for a buffer")?;
        let mut net = BlockingNet::new(self.fs.client.shared().clone());
        net.share(buf.region().clone());
        let (progress, local_writer) = (self.progress, &self.local_writer);
        Ok(Worker { fs: self.fs, net, buf, progress, local_writer })
    }
}

struct Worker<'a> {
    fs: &'a Fs,
    net: BlockingNet,
    buf: SharedBuf,
    progress: &'a Progress,
    local_writer: &'a Mutex<()>,
}

impl Worker<'_> {
    fn pieces(&mut self, from: &End, to: &End, next: &AtomicU64, size: u64) -> Result<()> {
        let piece = self.buf.len() as u64;
        loop {
            let logical_offset = next.fetch_add(piece, Ordering::Relaxed);
            if logical_offset >= size {
                return Ok(());
            }
            let want = piece.min(size - logical_offset) as usize;
            let got = self.read(from, logical_offset, want)?;
            if got > 0 {
                self.write(to, logical_offset, got)?;
            }
            if got < want {
                bail!("the source became shorter while it was copied; copy it again");
            }
        }
    }

    fn read(&mut self, from: &End, logical_offset: u64, want: usize) -> Result<usize> {
        let buf = &mut self.buf[..want];
        match from {
            End::Local(file) => {
                let mut got = 0;
                while got < want {
                    match file.read_at(&mut buf[got..], logical_offset + got as u64)? {
                        0 => break,
                        n => got += n,
                    }
                }
                Ok(got)
            }
            End::Remote(file) => {
                let mut op = self.fs.op();
                let reading =
                    read_into(&self.fs.client, &self.net, &mut op, file, logical_offset, buf);
                match drive_now(reading)? {
                    Lent::Done(n) => Ok(n),
                    Lent::Stalled(machine) => {
                        let bytes = self.fs.background.run_op(machine, op)?;
                        buf[..bytes.len()].copy_from_slice(&bytes);
                        Ok(bytes.len())
                    }
                }
            }
        }
    }

    fn write(&mut self, to: &End, logical_offset: u64, len: usize) -> Result<()> {
        let data = &self.buf[..len];
        match to {
            End::Local(file) => {
                let _alone = self.local_writer.lock();
                file.write_all_at(data, logical_offset)?;
            }
            End::Remote(file) => {
                let mut op = self.fs.op();
                let (client, net) = (&self.fs.client, &self.net);
                let written = match drive_now(write_from(
                    client,
                    net,
                    &mut op,
                    file,
                    logical_offset,
                    data,
                    false,
                ))? {
                    Lent::Done(n) => n,
                    Lent::Stalled(machine) => self.fs.background.run_op(machine, op)?,
                };
                if written != len {
                    bail!("only {written} of {len} bytes at {logical_offset} were written");
                }
            }
        }
        self.progress.add(len as u64);
        Ok(())
    }
}

/// What was moved so far, shown on a terminal.
pub struct Progress {
    shared: Arc<Shared>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    began: Instant,
    is_shown: bool,
}

#[derive(Default)]
struct Shared {
    bytes: AtomicU64,
    ended: AtomicBool,
}

impl Progress {
    /// Begins to count, and to show where `wanted` and stderr is a terminal.
    pub fn start(wanted: bool) -> Progress {
        let shared = Arc::new(Shared::default());
        let is_shown = wanted && std::io::stderr().is_terminal();
        let began = Instant::now();
        let thread = is_shown.then(|| {
            let shared = shared.clone();
            std::thread::spawn(move || show(&shared, began))
        });
        Progress { shared, thread: Mutex::new(thread), began, is_shown }
    }

    /// Whether a line is drawn.
    pub fn is_shown(&self) -> bool {
        self.is_shown
    }

    fn add(&self, bytes: u64) {
        self.shared.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Ends the line; bytes and seconds.
    pub fn end(&self) -> (u64, f64) {
        let seconds = self.began.elapsed().as_secs_f64();
        self.stop();
        (self.shared.bytes.load(Ordering::Relaxed), seconds)
    }

    fn stop(&self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.lock().take() {
            thread.thread().unpark();
            // It only draws: a panic there loses nothing.
            let _ = thread.join();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.stop();
    }
}

fn show(shared: &Shared, began: Instant) {
    const WIDTH: usize = 24;
    let (mut last, mut last_at, mut tick) = (0, began, 0usize);
    while !shared.ended.load(Ordering::Relaxed) {
        std::thread::park_timeout(Duration::from_millis(200));
        let (bytes, now) = (shared.bytes.load(Ordering::Relaxed), Instant::now());
        let rate = (bytes - last) as f64 / now.duration_since(last_at).as_secs_f64().max(1e-3);
        (last, last_at) = (bytes, now);
        // Without the total of a tree the bar only shows that it moves.
        let bar: String = (0..WIDTH)
            .map(|i| if (i + WIDTH - tick % WIDTH) % WIDTH < 6 { '=' } else { ' ' })
            .collect();
        tick += 1;
        let line =
            format!("\r[{bar}] {:>10}  {:>10}/s ", human_bytes(bytes), human_bytes(rate as u64));
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    let _ = std::io::stderr().write_all(b"\r\x1b[K");
}
