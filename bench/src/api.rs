//! The two ways to a file system that are measured: POSIX calls (through a mount, or into any local
//! directory) and PVFS2's own client library, without a mount.
//!
//! A [`Backend`] belongs to one worker and one thread. A native operation runs on this thread by a
//! blocking carrier, as a mount's do; when an answer is late it moves to the client's background
//! thread, and this one waits for it.
use crate::host::{Connected, FsChoice, Host};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use pvfs2_bmi::client::BlockingNet;
use pvfs2_bmi::region::SharedBuf;
use pvfs2_client::sys::{
    Create, Fsync, Lent, LookupPath, Mkdir, Open, Release, Rmdir, Unlink, read_into, write_from,
};
use pvfs2_client::{Machine, OpState, OpenFile, drive_now, run};
use pvfs2_proto::{ErrorCode, Handle, PvfsError};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Api {
    /// System calls: whatever file system the path lies on
    #[value(name = "POSIX", alias = "posix")]
    #[serde(rename = "POSIX")]
    Posix,
    /// PVFS2's client library, without a mount
    #[value(name = "PVFS2", alias = "pvfs2")]
    #[serde(rename = "PVFS2")]
    Pvfs2,
}

impl Api {
    /// As IOR prints it.
    pub fn name(self) -> &'static str {
        match self {
            Api::Posix => "POSIX",
            Api::Pvfs2 => "PVFS2",
        }
    }
}

/// An open file.
pub enum Opened {
    /// By system calls.
    Posix(File),
    /// By the client library.
    Native(Arc<OpenFile>),
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct How {
    /// Make it where it is missing.
    pub create: bool,
    /// For writing (and reading); else for reading alone.
    pub write: bool,
    /// O_DIRECT (POSIX only).
    pub direct: bool,
}

/// One worker's way to the file system.
pub enum Backend {
    /// System calls.
    Posix,
    /// The client library.
    Native(Box<Native>),
}

/// A client with what its operations need.
pub struct Native {
    connected: Connected,
    net: BlockingNet,
    dirs: HashMap<String, Handle>,
}

/// Memory to write from.
pub enum Buffer {
    /// Of system calls.
    Own(Vec<u8>),
    /// Of the client library: it shares it with servers of the same machine.
    Shared(SharedBuf),
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Buffer::Own(buf) => buf,
            Buffer::Shared(buf) => buf,
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Buffer::Own(buf) => buf,
            Buffer::Shared(buf) => buf,
        }
    }
}

impl Backend {
    /// The one buffer of this worker, zeroed.
    ///
    /// # Errors
    /// The system's, when it has no memory.
    pub fn buffer(&mut self, len: usize) -> Result<Buffer> {
        let Backend::Native(native) = self else { return Ok(Buffer::Own(vec![0; len])) };
        let buf = SharedBuf::new(len).context("no memory for a buffer")?;
        native.net.share(buf.region().clone());
        Ok(Buffer::Shared(buf))
    }

    /// Opens the way; and what `path` is called on it.
    ///
    /// # Errors
    /// When the file system cannot be found or no server answers.
    pub fn new(
        api: Api,
        host: &dyn Host,
        choice: &FsChoice,
        path: &str,
    ) -> Result<(Backend, String)> {
        match api {
            Api::Posix => Ok((Backend::Posix, path.to_owned())),
            Api::Pvfs2 => {
                let (connected, path) = host.connect(choice, path)?;
                let net = BlockingNet::new(connected.client.shared().clone());
                let native = Native { connected, net, dirs: HashMap::new() };
                Ok((Backend::Native(Box::new(native)), path))
            }
        }
    }

    /// Opens a file.
    ///
    /// # Errors
    /// The file system's, with the path.
    pub fn open(&mut self, path: &str, how: How) -> Result<Opened> {
        match self {
            Backend::Posix => {
                let mut options = File::options();
                options.read(true).write(how.write).create(how.create && how.write);
                if how.direct {
                    options.custom_flags(libc::O_DIRECT);
                }
                Ok(Opened::Posix(options.open(path).with_context(|| format!("open {path}"))?))
            }
            Backend::Native(native) => native.open(path, how).map(Opened::Native),
        }
    }

    /// Writes all of `data`.
    ///
    /// # Errors
    /// The file system's; a short write.
    pub fn write(&mut self, file: &Opened, logical_offset: u64, data: &[u8]) -> Result<()> {
        match (self, file) {
            (Backend::Native(native), Opened::Native(file)) => {
                native.write(file, logical_offset, data)
            }
            (_, Opened::Posix(file)) => file
                .write_all_at(data, logical_offset)
                .with_context(|| format!("write of {} bytes at {logical_offset}", data.len())),
            (Backend::Posix, Opened::Native(_)) => mixed(),
        }
    }

    /// Reads until `buf` is full or the file ends; the number of bytes.
    ///
    /// # Errors
    /// The file system's.
    pub fn read(&mut self, file: &Opened, logical_offset: u64, buf: &mut [u8]) -> Result<usize> {
        match (self, file) {
            (Backend::Native(native), Opened::Native(file)) => {
                native.read(file, logical_offset, buf)
            }
            (_, Opened::Posix(file)) => {
                let mut got = 0;
                while got < buf.len() {
                    let n = file
                        .read_at(&mut buf[got..], logical_offset + got as u64)
                        .with_context(|| format!("read at {logical_offset}"))?;
                    if n == 0 {
                        break;
                    }
                    got += n;
                }
                Ok(got)
            }
            (Backend::Posix, Opened::Native(_)) => mixed(),
        }
    }

    /// Makes what was written safe against loss of power.
    ///
    /// # Errors
    /// The file system's.
    pub fn fsync(&mut self, file: &Opened) -> Result<()> {
        match (self, file) {
            (Backend::Native(native), Opened::Native(file)) => {
                native.run(Fsync::file(file.clone())).context("fsync")
            }
            (_, Opened::Posix(file)) => file.sync_all().context("fsync"),
            (Backend::Posix, Opened::Native(_)) => mixed(),
        }
    }

    /// Closes; what was written is known to the metadata server afterwards.
    ///
    /// # Errors
    /// The file system's.
    pub fn close(&mut self, file: Opened) -> Result<()> {
        match (self, file) {
            (Backend::Native(native), Opened::Native(file)) if file.write => {
                native.run(Release::new(file)).context("close")
            }
            (Backend::Native(native), Opened::Native(file)) => {
                // As a mount does: nobody waits for the close of a file that was only read.
                native.connected.background.release(file);
                Ok(())
            }
            (_, Opened::Posix(file)) => {
                use std::os::fd::IntoRawFd;
                // SAFETY: the descriptor was taken out of its owner, so this is its only close.
                match unsafe { libc::close(file.into_raw_fd()) } {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()).context("close"),
                }
            }
            (Backend::Posix, Opened::Native(_)) => mixed(),
        }
    }

    /// Removes a file; one that is not there is no error where `missing_ok`.
    ///
    /// # Errors
    /// The file system's, with the path.
    pub fn unlink(&mut self, path: &str, missing_ok: bool) -> Result<()> {
        match self {
            Backend::Posix => match std::fs::remove_file(path) {
                Err(e) if missing_ok && e.kind() == std::io::ErrorKind::NotFound => Ok(()),
                other => other.with_context(|| format!("unlink {path}")),
            },
            Backend::Native(native) => {
                let (dir, name) = native.parent(path)?;
                match native.run(Unlink::new(dir, name)) {
                    Err(e) if missing_ok && e.code == ErrorCode::NotFound => Ok(()),
                    other => other.map(drop).map_err(|e| at("unlink", path, e)),
                }
            }
        }
    }

    /// Makes a directory; one that is there already is no error where `exists_ok`.
    ///
    /// # Errors
    /// The file system's, with the path.
    pub fn mkdir(&mut self, path: &str, exists_ok: bool) -> Result<()> {
        match self {
            Backend::Posix => match std::fs::create_dir(path) {
                Err(e) if exists_ok && e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
                other => other.with_context(|| format!("mkdir {path}")),
            },
            Backend::Native(native) => {
                let (dir, name) = native.parent(path)?;
                match native.run(Mkdir::new(dir, name, 0o755)) {
                    Err(e) if exists_ok && e.code == ErrorCode::Exists => Ok(()),
                    other => other.map(drop).map_err(|e| at("mkdir", path, e)),
                }
            }
        }
    }

    /// Removes an empty directory; one that is not there is no error where `missing_ok`.
    ///
    /// # Errors
    /// The file system's, with the path.
    pub fn rmdir(&mut self, path: &str, missing_ok: bool) -> Result<()> {
        match self {
            Backend::Posix => match std::fs::remove_dir(path) {
                Err(e) if missing_ok && e.kind() == std::io::ErrorKind::NotFound => Ok(()),
                other => other.with_context(|| format!("rmdir {path}")),
            },
            Backend::Native(native) => {
                let (dir, name) = native.parent(path)?;
                native.dirs.remove(path);
                match native.run(Rmdir::new(dir, name)) {
                    Err(e) if missing_ok && e.code == ErrorCode::NotFound => Ok(()),
                    other => other.map(drop).map_err(|e| at("rmdir", path, e)),
                }
            }
        }
    }

    /// Asks for an object's attributes; its size.
    ///
    /// # Errors
    /// The file system's, with the path.
    pub fn stat(&mut self, path: &str) -> Result<u64> {
        match self {
            Backend::Posix => {
                let found = std::fs::symlink_metadata(path);
                Ok(found.with_context(|| format!("stat {path}"))?.len())
            }
            Backend::Native(native) => {
                let (dir, name) = native.parent(path)?;
                let found = native.run(LookupPath::new(dir, &name, false));
                Ok(found.map_err(|e| at("stat", path, e))?.size)
            }
        }
    }

    /// Ends it: what is pending is sent, sessions are closed.
    pub fn end(self) {
        if let Backend::Native(native) = self {
            native.connected.background.shutdown();
        }
    }
}

fn mixed<T>() -> Result<T> {
    bail!("a file was opened by another API than it is used by; this is a defect of the harness")
}

fn at(what: &str, path: &str, e: PvfsError) -> anyhow::Error {
    anyhow::Error::from(e).context(format!("{what} pvfs2:/{path}"))
}

impl Native {
    fn op(&self) -> OpState {
        OpState::new(&self.connected.client, self.connected.cred.clone(), 0)
    }

    fn run<M>(&self, mut machine: M) -> Result<M::Out, PvfsError>
    where
        M: Machine + 'static,
        M::Out: 'static,
    {
        let mut op = self.op();
        match drive_now(run(&mut machine, &mut op, &self.connected.client, &self.net)) {
            Err(e) if e.code == ErrorCode::Stalled => self.connected.background.run_op(machine, op),
            result => result,
        }
    }

    /// The directory that holds `path`, and the name in it.
    fn parent(&mut self, path: &str) -> Result<(Handle, Bytes)> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let name = Bytes::copy_from_slice(name.as_bytes());
        if let Some(&known) = self.dirs.get(dir) {
            return Ok((known, name));
        }
        let found = self.run(LookupPath::new(Handle::ROOT, dir.as_bytes(), true));
        let handle = found.map_err(|e| at("lookup", dir, e))?.handle();
        self.dirs.insert(dir.to_owned(), handle);
        Ok((handle, name))
    }

    fn open(&mut self, path: &str, how: How) -> Result<Arc<OpenFile>> {
        let (dir, name) = self.parent(path)?;
        if how.create {
            let create = Create::open(dir, name, 0o644, (true, how.write), false, false);
            let made = self.run(create).map_err(|e| at("create", path, e))?;
            return made.file.with_context(|| format!("pvfs2:/{path} was made but not opened"));
        }
        let attr = self.run(LookupPath::new(dir, &name, true)).map_err(|e| at("open", path, e))?;
        let open = Open::new(attr.handle(), (true, how.write), false);
        self.run(open).map_err(|e| at("open", path, e))
    }

    fn write(&self, file: &Arc<OpenFile>, logical_offset: u64, data: &[u8]) -> Result<()> {
        let (client, mut op) = (&self.connected.client, self.op());
        let writing = write_from(client, &self.net, &mut op, file, logical_offset, data, false);
        let written = match drive_now(writing)? {
            Lent::Done(n) => n,
            Lent::Stalled(machine) => self.connected.background.run_op(machine, op)?,
        };
        if written != data.len() {
            bail!("only {written} of {} bytes at {logical_offset} were written", data.len());
        }
        Ok(())
    }

    fn read(&self, file: &Arc<OpenFile>, logical_offset: u64, buf: &mut [u8]) -> Result<usize> {
        let (client, mut op) = (&self.connected.client, self.op());
        match drive_now(read_into(client, &self.net, &mut op, file, logical_offset, buf))? {
            Lent::Done(n) => Ok(n),
            Lent::Stalled(machine) => {
                let bytes = self.connected.background.run_op(machine, op)?;
                let n = bytes.len().min(buf.len());
                buf[..n].copy_from_slice(&bytes[..n]);
                Ok(n)
            }
        }
    }
}
