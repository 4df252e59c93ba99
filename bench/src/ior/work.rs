//! A client's side of IOR: opens, transfers, fsyncs, closes, and what each took.
//!
//! Neither stamping nor comparing counts as a transfer's latency; both are part of the phase's time.
use super::pattern::{Kind, Phase, Spec};
use crate::api::{Backend, Buffer, How, Opened};
use crate::job::{Outcome, now_ns};
use crate::stamp;
use crate::worker::Teller;
use anyhow::{Context, Result, bail};
use std::time::{Duration, Instant};

/// O_DIRECT wants buffers that begin at a page.
const ALIGN: usize = 4_096;

/// A client.
pub struct Worker {
    /// Its way to the file system.
    pub backend: Backend,
    spec: Spec,
    path: String,
    rank: u32,
    clients: u32,
    buffer: Buffer,
}

impl Worker {
    /// A client of rank `rank`.
    ///
    /// # Errors
    /// When there is no memory for its buffer.
    pub fn new(
        mut backend: Backend,
        spec: Spec,
        path: String,
        rank: u32,
        clients: u32,
    ) -> Result<Worker> {
        let mut buffer = backend.buffer(spec.transfer as usize + ALIGN)?;
        stamp::fill(stamp::tag(spec.seed, 0, rank), 0, &mut buffer);
        Ok(Worker { backend, spec, path, rank, clients, buffer })
    }

    /// Does one phase.
    ///
    /// # Errors
    /// The file system's. Damage is none: it is told in the outcome.
    pub fn phase(&mut self, phase: &Phase) -> Result<Outcome> {
        match phase.kind {
            Kind::Remove => self.remove(),
            Kind::Write => self.transfers(phase, self.rank, true),
            Kind::Read | Kind::Check => {
                let rank = self.spec.read_rank(self.rank, self.clients);
                self.transfers(phase, rank, false)
            }
        }
    }

    fn remove(&mut self) -> Result<Outcome> {
        if self.spec.file_per_proc || self.rank == 0 {
            self.backend.unlink(&self.spec.file(&self.path, self.rank), true)?;
        }
        Ok(Outcome::default())
    }

    /// All transfers of `rank`'s data.
    fn transfers(&mut self, phase: &Phase, rank: u32, write: bool) -> Result<Outcome> {
        let spec = self.spec.clone();
        let order = spec.order(rank);
        let mut outcome = Outcome { begin_ns: now_ns(), ..Outcome::default() };
        let began = Instant::now();
        let file_name = spec.file(&self.path, rank);
        let how = How { create: write && !spec.existing, write, direct: spec.direct };
        let file = self.backend.open(&file_name, how)?;
        outcome.open_s = began.elapsed().as_secs_f64();
        let access = Instant::now();
        let mut run = Run { phase, rank, file: &file, file_name: &file_name, write };
        self.pattern(&mut run, &order, &mut outcome)?;
        if write && spec.fsync {
            self.backend.fsync(&file)?;
        }
        outcome.access_s = access.elapsed().as_secs_f64();
        let closing = Instant::now();
        self.backend.close(file).with_context(|| file_name.clone())?;
        outcome.close_s = closing.elapsed().as_secs_f64();
        outcome.end_ns = now_ns();
        Ok(outcome)
    }

    fn pattern(
        &mut self,
        run: &mut Run<'_>,
        order: &super::pattern::Order,
        outcome: &mut Outcome,
    ) -> Result<()> {
        let (spec, began) = (self.spec.clone(), Instant::now());
        let written = run.phase.written.get(run.rank as usize).copied();
        let once = written.filter(|_| !run.write).unwrap_or(u64::MAX).min(spec.transfers());
        let seconds = |s: Option<f64>| s.map(Duration::from_secs_f64);
        let (deadline, duration) = (seconds(spec.deadline_s), seconds(spec.duration_s));
        let mut teller = Teller::new();
        let mut at = 0;
        // One look at the clock a transfer: its end is the next one's beginning, unless bytes are
        // stamped or compared between them.
        let mut begin = Instant::now();
        while once > 0 && (at < once || duration.is_some()) {
            let elapsed = begin.duration_since(began);
            if deadline.or(duration).is_some_and(|d| elapsed >= d) && at > 0 {
                break;
            }
            let index = order.index(at % once);
            let end = self.transfer(run, index, &mut begin, outcome)?;
            outcome.hist.add(end.duration_since(begin).as_nanos() as u64);
            outcome.ops += 1;
            outcome.bytes += spec.transfer;
            teller.add(spec.transfer, end);
            begin = end;
            at += 1;
        }
        Ok(())
    }

    /// One transfer; when it ended. Moves `begin` past what is no part of it.
    fn transfer(
        &mut self,
        run: &mut Run<'_>,
        index: u64,
        begin: &mut Instant,
        outcome: &mut Outcome,
    ) -> Result<Instant> {
        let spec = &self.spec;
        let logical_offset = spec.logical_offset(index, run.rank, self.clients);
        let file_number = if spec.file_per_proc { run.rank } else { 0 };
        let tag = stamp::tag(spec.seed, run.phase.stamp, file_number);
        let shift = self.buffer.as_ptr().align_offset(ALIGN).min(ALIGN);
        let buf = &mut self.buffer[shift..shift + spec.transfer as usize];
        if run.write {
            if spec.stamped {
                stamp::fill(tag, logical_offset, buf);
                *begin = Instant::now();
            }
            let written = self.backend.write(run.file, logical_offset, buf);
            written.with_context(|| run.file_name.to_owned())?;
            if spec.fsync_per_write {
                self.backend.fsync(run.file)?;
            }
            return Ok(Instant::now());
        }
        let got = self.backend.read(run.file, logical_offset, buf);
        let got = got.with_context(|| run.file_name.to_owned())?;
        let end = Instant::now();
        if got < buf.len() {
            bail!(
                "{} ends at {}, inside a transfer at {logical_offset}; was it written with the same \
                 -b, -t, -s, -N and -F?",
                run.file_name,
                logical_offset + got as u64
            );
        }
        if run.phase.kind == Kind::Check
            && let Some(damage) = stamp::check(tag, logical_offset, buf)
        {
            outcome.damaged += 1;
            outcome.damage.get_or_insert_with(|| {
                format!(
                    "{}: {} bytes of the transfer at {logical_offset} are wrong, the first at {}: \
                     {:#04x} where {:#04x} belongs (written by client {})",
                    run.file_name,
                    damage.bytes,
                    damage.logical_offset,
                    damage.found,
                    damage.expected,
                    run.rank
                )
            });
        }
        if run.phase.kind == Kind::Check {
            // Comparing belongs to no transfer.
            let spent = end.duration_since(*begin);
            let now = Instant::now();
            *begin = now.checked_sub(spent).unwrap_or(*begin);
            return Ok(now);
        }
        Ok(end)
    }
}

/// What one pass over the pattern is about.
struct Run<'a> {
    phase: &'a Phase,
    rank: u32,
    file: &'a Opened,
    file_name: &'a str,
    write: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Backend;
    use std::os::unix::fs::FileExt;

    fn spec() -> Spec {
        Spec { block: 94_016, transfer: 47_008, segments: 2, stamped: true, ..Spec::default() }
    }

    fn worker(spec: Spec, path: &std::path::Path, rank: u32) -> Worker {
        let path = path.to_string_lossy().into_owned();
        Worker::new(Backend::Posix, spec, path, rank, 2).unwrap()
    }

    fn phase(kind: Kind) -> Phase {
        Phase { kind, stamp: 0, written: Vec::new() }
    }

    #[test]
    fn what_was_written_is_found_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        for random in [false, true] {
            let spec = Spec { random, shift: 1, fsync: true, ..spec() };
            for rank in 0..2 {
                let mut worker = worker(spec.clone(), &path, rank);
                let out = worker.phase(&phase(Kind::Write)).unwrap();
                assert_eq!((out.ops, out.bytes, out.hist.count()), (4, 4 * 47_008, 4));
                assert!(out.end_ns >= out.begin_ns);
            }
            assert_eq!(std::fs::metadata(&path).unwrap().len(), 8 * 47_008);
            for rank in 0..2 {
                let out = worker(spec.clone(), &path, rank).phase(&phase(Kind::Check)).unwrap();
                assert_eq!((out.damaged, out.damage), (0, None));
            }
            // A byte of rank 1's second block, which rank 0 reads.
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            let place = 3 * 94_016 + 50_000;
            file.write_all_at(b"\x00\x00\x00", place).unwrap();
            let out = worker(spec.clone(), &path, 0).phase(&phase(Kind::Check)).unwrap();
            assert_eq!(out.damaged, 1);
            let words = out.damage.unwrap();
            assert!(words.contains("client 1") && words.contains("0x00"), "{words}");
            let out = worker(spec.clone(), &path, 1).phase(&phase(Kind::Check)).unwrap();
            assert_eq!(out.damaged, 0);
            // Another repetition's bytes are damage as well.
            let stale = Phase { stamp: 1, ..phase(Kind::Check) };
            assert_eq!(worker(spec.clone(), &path, 1).phase(&stale).unwrap().damaged, 4);
            worker(spec, &path, 0).phase(&phase(Kind::Remove)).unwrap();
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_deadline_ends_a_phase_and_readers_take_what_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let spec = Spec {
            block: 4_096,
            transfer: 4_096,
            segments: 1 << 30,
            file_per_proc: true,
            deadline_s: Some(0.02),
            ..spec()
        };
        let out = worker(spec.clone(), &path, 0).phase(&phase(Kind::Write)).unwrap();
        assert!(out.ops > 0 && out.ops < 1 << 29);
        let check = Phase { written: vec![out.ops.min(3), 0], ..phase(Kind::Check) };
        let read = worker(Spec { deadline_s: None, ..spec }, &path, 0).phase(&check).unwrap();
        assert_eq!((read.ops, read.damaged), (out.ops.min(3), 0));
    }

    #[test]
    fn a_duration_goes_round_and_a_short_file_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let spec = Spec { duration_s: Some(0.05), ..spec() };
        let out = worker(spec.clone(), &path, 1).phase(&phase(Kind::Write)).unwrap();
        assert!(out.ops > 4 && out.access_s >= 0.05, "{} in {}", out.ops, out.access_s);
        std::fs::File::options().write(true).open(&path).unwrap().set_len(100_000).unwrap();
        let e = worker(spec, &path, 1).phase(&phase(Kind::Read)).unwrap_err();
        assert!(format!("{e:#}").contains("ends at"), "{e:#}");
    }
}
