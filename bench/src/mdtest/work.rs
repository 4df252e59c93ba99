//! A client's side of mdtest: one step over all its items.
use super::tree::{Phase, Spec, Step};
use crate::api::{Backend, How};
use crate::job::{Outcome, now_ns};
use crate::worker::Teller;
use anyhow::{Result, bail};
use std::time::Instant;

/// A client.
pub struct Worker {
    /// Its way to the file system.
    pub backend: Backend,
    spec: Spec,
    base: String,
    rank: u32,
    clients: u32,
    buffer: Vec<u8>,
}

impl Worker {
    /// A client of rank `rank` that works below `base`.
    pub fn new(backend: Backend, spec: Spec, base: String, rank: u32, clients: u32) -> Worker {
        let mut buffer = vec![0; spec.write_bytes.max(spec.read_bytes) as usize];
        crate::stamp::fill(u64::from(rank), 0, &mut buffer);
        let base = base.trim_end_matches('/').to_owned();
        Worker { backend, spec, base, rank, clients, buffer }
    }

    /// Does one phase.
    ///
    /// # Errors
    /// The file system's.
    pub fn phase(&mut self, phase: &Phase) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        match phase.step {
            Step::TreeCreate | Step::TreeRemove => self.tree(phase, &mut outcome)?,
            _ => self.items(phase, &mut outcome)?,
        }
        Ok(outcome)
    }

    fn tree(&mut self, phase: &Phase, outcome: &mut Outcome) -> Result<()> {
        let owner = self.spec.owner(self.rank);
        if owner != self.rank {
            return Ok(());
        }
        let top = self.spec.top(&self.base, owner, phase.iter);
        let names: Vec<String> =
            (0..self.spec.dirs()).map(|k| self.spec.dir(&top, owner, k)).collect();
        let create = phase.step == Step::TreeCreate;
        if create {
            if !self.base.is_empty() {
                self.backend.mkdir(&self.base, true)?;
            }
            self.backend.mkdir(&top, true)?;
        }
        let order: Box<dyn Iterator<Item = &String>> =
            if create { Box::new(names.iter()) } else { Box::new(names.iter().rev()) };
        let mut clock = Clock::start(outcome);
        for name in order {
            match create {
                true => self.backend.mkdir(name, false)?,
                false => self.backend.rmdir(name, false)?,
            }
            clock.op(outcome, 0);
        }
        clock.stop(outcome);
        if !create {
            self.backend.rmdir(&top, true)?;
        }
        Ok(())
    }

    fn items(&mut self, phase: &Phase, outcome: &mut Outcome) -> Result<()> {
        // Who asks takes another's items; who makes or removes, its own.
        let shifted = matches!(phase.step, Step::DirStat | Step::FileStat | Step::FileRead);
        let stride = if shifted { self.spec.stride } else { 0 };
        let rank = (self.rank + stride) % self.clients.max(1);
        let owner = self.spec.owner(rank);
        let top = self.spec.top(&self.base, owner, phase.iter);
        let kind = match phase.step {
            Step::DirCreate | Step::DirStat | Step::DirRemove => "dir",
            _ => "file",
        };
        let mut names = Vec::with_capacity(self.spec.items() as usize);
        for k in self.spec.item_dirs() {
            let dir = self.spec.dir(&top, owner, k);
            let of_dir = k * self.spec.per_dir..(k + 1) * self.spec.per_dir;
            names.extend(of_dir.map(|i| format!("{dir}/{kind}.mdtest.{rank}.{i}")));
        }
        let mut clock = Clock::start(outcome);
        for name in &names {
            let bytes = self.item(phase.step, name)?;
            clock.op(outcome, bytes);
        }
        clock.stop(outcome);
        Ok(())
    }

    /// One operation; the bytes that it moved.
    fn item(&mut self, step: Step, name: &str) -> Result<u64> {
        match step {
            Step::DirCreate => self.backend.mkdir(name, false)?,
            Step::DirStat | Step::FileStat => {
                let size = self.backend.stat(name)?;
                if step == Step::FileStat && size < self.spec.write_bytes {
                    bail!("{name} has {size} bytes; {} were written", self.spec.write_bytes);
                }
            }
            Step::DirRemove => self.backend.rmdir(name, false)?,
            Step::FileCreate => return self.create(name),
            Step::FileRead => return self.read(name),
            Step::FileRemove => self.backend.unlink(name, false)?,
            Step::TreeCreate | Step::TreeRemove => bail!("a tree is no item"),
        }
        Ok(0)
    }

    fn create(&mut self, name: &str) -> Result<u64> {
        let file = self.backend.open(name, How { create: true, write: true, direct: false })?;
        let bytes = self.spec.write_bytes;
        if bytes > 0 {
            self.backend.write(&file, 0, &self.buffer[..bytes as usize])?;
            if self.spec.fsync {
                self.backend.fsync(&file)?;
            }
        }
        self.backend.close(file)?;
        Ok(bytes)
    }

    fn read(&mut self, name: &str) -> Result<u64> {
        let file = self.backend.open(name, How::default())?;
        let bytes = self.spec.read_bytes as usize;
        if bytes > 0 {
            let got = self.backend.read(&file, 0, &mut self.buffer[..bytes])?;
            if got < bytes {
                bail!("{name} has only {got} of the {bytes} bytes that -e asks for");
            }
        }
        self.backend.close(file)?;
        Ok(bytes as u64)
    }
}

/// Times operations that follow each other.
struct Clock {
    begin: Instant,
    teller: Teller,
}

impl Clock {
    fn start(outcome: &mut Outcome) -> Clock {
        outcome.begin_ns = now_ns();
        Clock { begin: Instant::now(), teller: Teller::new() }
    }
    fn op(&mut self, outcome: &mut Outcome, bytes: u64) {
        let end = Instant::now();
        let ns = end.duration_since(self.begin).as_nanos() as u64;
        outcome.hist.add(ns);
        outcome.ops += 1;
        outcome.bytes += bytes;
        outcome.access_s += ns as f64 / 1e9;
        self.teller.add(bytes, end);
        self.begin = end;
    }
    fn stop(&mut self, outcome: &mut Outcome) {
        outcome.end_ns = now_ns();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: [Step; 9] = [
        Step::TreeCreate,
        Step::DirCreate,
        Step::DirStat,
        Step::DirRemove,
        Step::FileCreate,
        Step::FileStat,
        Step::FileRead,
        Step::FileRemove,
        Step::TreeRemove,
    ];

    #[test]
    fn all_steps_leave_nothing_behind() {
        for (unique, depth, branch) in [(false, 0, 1), (true, 2, 2)] {
            let dir = tempfile::tempdir().unwrap();
            let base = dir.path().join("md").to_string_lossy().into_owned();
            let spec = Spec {
                per_dir: 3,
                unique,
                write_bytes: 100,
                read_bytes: 100,
                depth,
                branch,
                stride: 1,
                ..Spec::default()
            };
            let mut workers: Vec<Worker> = (0..2)
                .map(|r| Worker::new(Backend::Posix, spec.clone(), base.clone(), r, 2))
                .collect();
            for step in STEPS {
                for worker in &mut workers {
                    let out = worker.phase(&Phase { step, iter: 0 }).unwrap();
                    let wanted = match step {
                        Step::TreeCreate | Step::TreeRemove if unique || worker.rank == 0 => {
                            spec.dirs()
                        }
                        Step::TreeCreate | Step::TreeRemove => 0,
                        _ => spec.items(),
                    };
                    assert_eq!((out.ops, out.hist.count()), (wanted, wanted), "{step:?}");
                }
                if step == Step::FileCreate {
                    let e = workers[0].phase(&Phase { step: Step::DirStat, iter: 0 }).unwrap_err();
                    assert!(e.to_string().contains("stat"), "{e}");
                }
            }
            assert_eq!(std::fs::read_dir(&base).unwrap().count(), 0);
        }
    }

    #[test]
    fn short_files_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().to_string_lossy().into_owned();
        let spec = Spec { per_dir: 1, branch: 1, read_bytes: 8, write_bytes: 4, ..Spec::default() };
        let mut worker = Worker::new(Backend::Posix, spec, base, 0, 1);
        for step in [Step::TreeCreate, Step::FileCreate] {
            worker.phase(&Phase { step, iter: 0 }).unwrap();
        }
        let e = worker.phase(&Phase { step: Step::FileRead, iter: 0 }).unwrap_err().to_string();
        assert!(e.contains("only 4 of the 8"), "{e}");
    }
}
