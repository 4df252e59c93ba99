//! `pvfs2 cp`: copies without going through a mount, several MiB at once over all servers.
//!
//! Here: arguments, and the walk over what shall be copied. The bytes are moved by
//! [`crate::transfer`].
use crate::args::FsArgs;
use crate::cmd::ls::read_dir;
use crate::cmd::size_arg;
use crate::fsclient::{Fs, at};
use crate::output::{self, human_bytes};
use crate::target::{FilePath, Target, resolve};
use crate::transfer::{End, Progress, Transfer};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use pvfs2_client::sys::{Create, Fsync, Mkdir, Open, Readlink, Release, Setattr, Symlink};
use pvfs2_proto::{Attr, ErrorCode, Handle, PvfsError, SetAttr, TimeSpec};
use serde::Serialize;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Arguments of `pvfs2 cp`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  pvfs2 cp /dev/shm/big pvfs2:/big
  pvfs2 cp pvfs2:/a pvfs2:/b .              several sources into a directory
  pvfs2 cp -rp src /mnt/pvfs2/backup        a tree, with modes, owners and times
A path is in PVFS2 when it begins with pvfs2: or lies below a mount; the copy never goes through
the mount.")]
pub struct CpArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub fs: FsArgs,
    /// Directories with all that is in them
    #[arg(short, long)]
    pub recursive: bool,
    /// Keep mode, times and, as root, owner
    #[arg(short, long)]
    pub preserve: bool,
    /// Wait until every file is safe against loss of power
    #[arg(long)]
    pub sync: bool,
    /// Bytes that one worker moves at once
    #[arg(long, default_value = "4M", value_name = "BYTES", value_parser = size_arg)]
    pub buffer_size: u64,
    /// Workers [default: one per core, at most 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: Option<u32>,
    /// No progress bar (there is none anyway where stderr is no terminal)
    #[arg(short, long)]
    pub quiet: bool,
    /// Sources, then the destination
    #[arg(required = true, num_args = 2.., value_name = "PATH")]
    pub paths: Vec<OsString>,
}

#[derive(Serialize, Default)]
struct Summary {
    files: u64,
    directories: u64,
    symlinks: u64,
    bytes: u64,
    seconds: f64,
    bytes_per_second: u64,
}

/// A source or destination with the name that it has.
#[derive(Clone)]
enum Place {
    Local(PathBuf),
    Remote(Vec<u8>),
}

impl Place {
    fn name(&self) -> Vec<u8> {
        match self {
            Place::Local(p) => p.file_name().map_or(Vec::new(), |n| n.as_bytes().to_vec()),
            Place::Remote(p) => p.rsplit(|b| *b == b'/').next().unwrap_or(&[]).to_vec(),
        }
    }
    fn join(&self, name: &[u8]) -> Place {
        match self {
            Place::Local(p) => Place::Local(p.join(OsStr::from_bytes(name))),
            Place::Remote(p) if p.is_empty() => Place::Remote(name.to_vec()),
            Place::Remote(p) => Place::Remote([p.as_slice(), b"/", name].concat()),
        }
    }
    fn show(&self) -> String {
        match self {
            Place::Local(p) => p.display().to_string(),
            Place::Remote(p) => format!("pvfs2:/{}", String::from_utf8_lossy(p)),
        }
    }
}

/// What stands at a place.
struct Found {
    kind: Kind,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    atime_ns: i64,
    mtime_ns: i64,
    /// In PVFS2.
    handle: Handle,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Dir,
    Symlink,
    Other,
}

/// Runs it.
///
/// # Errors
/// The first thing that cannot be copied.
pub fn run(args: CpArgs) -> Result<()> {
    let mut targets: Vec<Target> = Vec::new();
    let mut places = Vec::new();
    for text in &args.paths {
        let (path, target) = resolve(&args.fs, text)?;
        targets.extend(target);
        places.push(match path {
            FilePath::Local(p) => Place::Local(p),
            FilePath::Remote(p) => Place::Remote(p),
        });
    }
    let Some(target) = targets.first() else {
        bail!(
            "none of these paths is in PVFS2; use cp, or name one as pvfs2:/PATH or below a mount"
        );
    };
    let fs = Fs::open(&args.fs, target)?;
    let checked = same_file_system(&args.fs, &fs, &targets);
    let copied = checked.and_then(|()| copy_all(&fs, &args, &places));
    fs.end();
    let summary = copied?;
    if args.fs.json {
        output::json(&summary)?;
    }
    Ok(())
}

/// All paths must lie in one file system.
fn same_file_system(args: &FsArgs, fs: &Fs, targets: &[Target]) -> Result<()> {
    let mut seen: Vec<&Target> = targets.first().into_iter().collect();
    let key = crate::fsclient::key(args)?;
    for other in targets {
        if seen.contains(&other) {
            continue;
        }
        let map = crate::fsclient::runtime()?
            .block_on(crate::fsclient::fetch_map(other, key.as_ref()))?;
        if map.fs_id != fs.map().fs_id {
            bail!(
                "the paths lie in two file systems ({} and {}); copy in two steps",
                fs.map().fs_name,
                map.fs_name
            );
        }
        seen.push(other);
    }
    Ok(())
}

fn copy_all(fs: &Fs, args: &CpArgs, places: &[Place]) -> Result<Summary> {
    let Some((to, sources)) = places.split_last() else {
        bail!("cp needs a source and a destination")
    };
    let into_dir = look(fs, to, true)?.is_some_and(|f| f.kind == Kind::Dir);
    if sources.len() > 1 && !into_dir {
        bail!("{} is no directory; several sources need one", to.show());
    }
    let progress = Progress::start(!args.quiet);
    let mut job = Job {
        fs,
        args,
        transfer: Transfer::new(fs, args.threads, args.buffer_size, &progress),
        summary: Summary::default(),
        made: HashSet::new(),
    };
    for from in sources {
        let to = if into_dir { to.join(&from.name()) } else { to.clone() };
        job.copy(from, &to, !args.recursive)?;
    }
    let mut summary = job.summary;
    (summary.bytes, summary.seconds) = progress.end();
    summary.bytes_per_second = (summary.bytes as f64 / summary.seconds.max(1e-9)) as u64;
    if !args.quiet && !args.fs.json && progress.is_shown() {
        eprintln!(
            "{} files, {} in {:.2} s ({}/s)",
            summary.files,
            human_bytes(summary.bytes),
            summary.seconds,
            human_bytes(summary.bytes_per_second)
        );
    }
    Ok(summary)
}

struct Job<'a> {
    fs: &'a Fs,
    args: &'a CpArgs,
    transfer: Transfer<'a>,
    summary: Summary,
    /// Directories that this copy made, to notice a copy into itself.
    made: HashSet<Handle>,
}

impl Job<'_> {
    fn copy(&mut self, from: &Place, to: &Place, follow: bool) -> Result<()> {
        let Some(found) = look(self.fs, from, follow)? else {
            bail!("{} does not exist", from.show());
        };
        match found.kind {
            Kind::Dir if !self.args.recursive => {
                bail!("{} is a directory; use -r to copy it with all that is in it", from.show())
            }
            Kind::Dir => self.copy_dir(from, to, &found),
            Kind::Symlink => self.copy_symlink(from, to, &found),
            Kind::File => self.copy_file(from, to, &found),
            Kind::Other if follow => self.copy_file(from, to, &found),
            Kind::Other => {
                eprintln!("pvfs2: {} is a special file: left out", from.show());
                Ok(())
            }
        }
    }

    fn copy_dir(&mut self, from: &Place, to: &Place, found: &Found) -> Result<()> {
        if found.handle != Handle::NULL && self.made.contains(&found.handle) {
            bail!(
                "{} was made by this copy: a directory cannot be copied into itself",
                from.show()
            );
        }
        match look(self.fs, to, true)? {
            Some(there) if there.kind == Kind::Dir => {}
            Some(_) => bail!("{} is there and no directory", to.show()),
            None => self.make_dir(to, found)?,
        }
        let names = names(self.fs, from, found)?;
        for name in names {
            self.copy(&from.join(&name), &to.join(&name), false)?;
        }
        self.summary.directories += 1;
        // Only now: entries have changed its times, and its mode may forbid to make them.
        self.keep_attributes(to, found)
    }

    fn make_dir(&mut self, to: &Place, found: &Found) -> Result<()> {
        let mode = found.mode & 0o7777 & !umask();
        match to {
            Place::Local(p) => {
                std::fs::create_dir(p).with_context(|| format!("cannot make {}", p.display()))?;
                let permissions = std::fs::Permissions::from_mode(mode | 0o700);
                std::fs::set_permissions(p, permissions).with_context(|| p.display().to_string())
            }
            Place::Remote(p) => {
                let (dir, name) = self.parent(p)?;
                let made =
                    self.fs.run(Mkdir::new(dir, name, mode | 0o700)).map_err(|e| at(p, e))?;
                self.made.insert(made.handle());
                Ok(())
            }
        }
    }

    fn copy_symlink(&mut self, from: &Place, to: &Place, found: &Found) -> Result<()> {
        let target = match from {
            Place::Local(p) => std::fs::read_link(p)
                .with_context(|| format!("cannot read the symlink {}", p.display()))?
                .into_os_string()
                .into_vec(),
            Place::Remote(p) => {
                self.fs.run(Readlink::new(found.handle)).map_err(|e| at(p, e))?.to_vec()
            }
        };
        match to {
            Place::Local(p) => std::os::unix::fs::symlink(OsStr::from_bytes(&target), p)
                .with_context(|| format!("cannot make the symlink {}", p.display()))?,
            Place::Remote(p) => {
                let (dir, name) = self.parent(p)?;
                self.fs.run(Symlink::new(dir, name, target.into())).map_err(|e| at(p, e))?;
            }
        }
        self.summary.symlinks += 1;
        Ok(())
    }

    fn copy_file(&mut self, from: &Place, to: &Place, found: &Found) -> Result<()> {
        if found.handle != Handle::NULL
            && look(self.fs, to, true)?.is_some_and(|there| there.handle == found.handle)
        {
            // Opening the destination would cut the source to nothing.
            bail!("{} and {} are the same file", from.show(), to.show());
        }
        let source = self.open_source(from, found)?;
        let sink = match self.open_sink(to, found) {
            Ok(sink) => sink,
            Err(e) => {
                self.close(source)?;
                return Err(e);
            }
        };
        let size = (found.kind == Kind::File).then_some(found.size);
        let moved = self
            .transfer
            .run(&source, &sink, size)
            .with_context(|| format!("copying {} to {}", from.show(), to.show()));
        let synced = if self.args.sync { self.sync(&sink, to) } else { Ok(()) };
        // A close carries size and time of what was written: it belongs to the copy.
        let closed = self.close(sink).with_context(|| to.show());
        self.close(source)?;
        moved.and(synced).and(closed)?;
        self.summary.files += 1;
        self.keep_attributes(to, found)
    }

    fn open_source(&self, from: &Place, found: &Found) -> Result<End> {
        match from {
            Place::Local(p) => {
                let file = File::open(p).with_context(|| format!("cannot open {}", p.display()))?;
                Ok(End::Local(file))
            }
            Place::Remote(p) => {
                let open = Open::new(found.handle, (true, false), false);
                Ok(End::Remote(self.fs.run(open).map_err(|e| at(p, e))?))
            }
        }
    }

    fn open_sink(&self, to: &Place, found: &Found) -> Result<End> {
        let mode = found.mode & 0o777;
        match to {
            Place::Local(p) => {
                let mut options = File::options();
                let file = options.write(true).create(true).truncate(true).mode(mode).open(p);
                Ok(End::Local(file.with_context(|| format!("cannot make {}", p.display()))?))
            }
            Place::Remote(p) => {
                let (dir, name) = self.parent(p)?;
                let create =
                    Create::open(dir, name, mode, (false, true), false, true).umask(umask());
                let made = self.fs.run(create).map_err(|e| at(p, e))?;
                made.file
                    .map(End::Remote)
                    .with_context(|| format!("{} was made but not opened", to.show()))
            }
        }
    }

    fn sync(&self, sink: &End, to: &Place) -> Result<()> {
        match sink {
            End::Local(file) => file.sync_all().with_context(|| to.show()),
            End::Remote(file) => self
                .fs
                .run(Fsync::file(file.clone()))
                .map(drop)
                .map_err(|e| anyhow::Error::from(e).context(to.show())),
        }
    }

    fn close(&self, end: End) -> Result<()> {
        match end {
            End::Local(_) => Ok(()),
            End::Remote(file) => Ok(self.fs.run(Release::new(file))?),
        }
    }

    fn keep_attributes(&self, to: &Place, found: &Found) -> Result<()> {
        if !self.args.preserve {
            return match (to, found.kind) {
                // A directory was made writable for its entries.
                (Place::Remote(p), Kind::Dir) => self.set(p, found.mode & 0o7777 & !umask(), None),
                (Place::Local(p), Kind::Dir) => {
                    let mode = found.mode & 0o7777 & !umask();
                    std::fs::set_permissions(p, std::fs::Permissions::from_mode(mode))
                        .with_context(|| p.display().to_string())
                }
                _ => Ok(()),
            };
        }
        match to {
            Place::Remote(p) => self.set(p, found.mode & 0o7777, Some(found)),
            Place::Local(p) => {
                keep_local(p, found).with_context(|| format!("attributes of {}", p.display()))
            }
        }
    }

    fn set(&self, path: &[u8], mode: u32, all: Option<&Found>) -> Result<()> {
        let attr = self.fs.lookup(path, true)?;
        let mut set = SetAttr { mode: Some(mode), ..Default::default() };
        if let Some(found) = all {
            set.atime = Some(TimeSpec { now: false, ns: found.atime_ns });
            set.mtime = Some(TimeSpec { now: false, ns: found.mtime_ns });
            if rustix::process::geteuid().is_root() {
                (set.uid, set.gid) = (Some(found.uid), Some(found.gid));
            }
        }
        self.fs.run(Setattr::new(attr.handle(), set)).map(drop).map_err(|e| at(path, e))
    }

    /// The directory that holds (or shall hold) `path`, and the name in it.
    fn parent(&self, path: &[u8]) -> Result<(Handle, Bytes)> {
        let (dir, name) = match path.iter().rposition(|b| *b == b'/') {
            Some(i) => (&path[..i], &path[i + 1..]),
            None => (&[][..], path),
        };
        if name.is_empty() {
            bail!("pvfs2:/ is a directory and cannot be written over");
        }
        Ok((self.fs.lookup(dir, true)?.handle(), Bytes::copy_from_slice(name)))
    }
}

fn keep_local(path: &Path, found: &Found) -> std::io::Result<()> {
    use std::time::{Duration, SystemTime};
    let time = |ns: i64| match u64::try_from(ns) {
        Ok(after) => SystemTime::UNIX_EPOCH + Duration::from_nanos(after),
        Err(_) => SystemTime::UNIX_EPOCH - Duration::from_nanos(ns.unsigned_abs()),
    };
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(path, Some(found.uid), Some(found.gid))?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(found.mode & 0o7777))?;
    let times = std::fs::FileTimes::new()
        .set_accessed(time(found.atime_ns))
        .set_modified(time(found.mtime_ns));
    File::open(path)?.set_times(times)
}

/// What stands at a place; `None`: nothing.
fn look(fs: &Fs, place: &Place, follow: bool) -> Result<Option<Found>> {
    match place {
        Place::Local(p) => {
            let meta = if follow { std::fs::metadata(p) } else { std::fs::symlink_metadata(p) };
            match meta {
                Ok(m) => Ok(Some(local_found(&m))),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(e).with_context(|| format!("cannot look at {}", p.display())),
            }
        }
        Place::Remote(p) => {
            let lookup = pvfs2_client::sys::LookupPath::new(Handle::ROOT, p, follow);
            match fs.run(lookup) {
                Ok(attr) => Ok(Some(remote_found(&attr))),
                Err(PvfsError { code: ErrorCode::NotFound, .. }) => Ok(None),
                Err(e) => Err(at(p, e)),
            }
        }
    }
}

fn local_found(m: &std::fs::Metadata) -> Found {
    let kind = match m.file_type() {
        t if t.is_file() => Kind::File,
        t if t.is_dir() => Kind::Dir,
        t if t.is_symlink() => Kind::Symlink,
        _ => Kind::Other,
    };
    let ns = |s: i64, n: i64| s.saturating_mul(1_000_000_000).saturating_add(n);
    Found {
        kind,
        mode: m.mode(),
        uid: m.uid(),
        gid: m.gid(),
        size: m.len(),
        atime_ns: ns(m.atime(), m.atime_nsec()),
        mtime_ns: ns(m.mtime(), m.mtime_nsec()),
        handle: Handle::NULL,
    }
}

fn remote_found(attr: &Attr) -> Found {
    let kind = match attr {
        a if a.is_file() => Kind::File,
        a if a.is_dir() => Kind::Dir,
        a if a.is_symlink() => Kind::Symlink,
        _ => Kind::Other,
    };
    Found {
        kind,
        mode: attr.mode,
        uid: attr.uid,
        gid: attr.gid,
        size: attr.size,
        atime_ns: attr.atime_ns,
        mtime_ns: attr.mtime_ns,
        handle: attr.handle(),
    }
}

fn names(fs: &Fs, dir: &Place, found: &Found) -> Result<Vec<Vec<u8>>> {
    match dir {
        Place::Local(p) => {
            let mut names = Vec::new();
            for entry in
                std::fs::read_dir(p).with_context(|| format!("cannot list {}", p.display()))?
            {
                names.push(entry.with_context(|| p.display().to_string())?.file_name().into_vec());
            }
            names.sort();
            Ok(names)
        }
        Place::Remote(p) => {
            let listed = read_dir(fs, found.handle).map_err(|e| at(p, e))?;
            Ok(listed.into_iter().map(|(name, ..)| name.to_vec()).collect())
        }
    }
}

/// This process's umask, which can only be read by setting it.
fn umask() -> u32 {
    static UMASK: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *UMASK.get_or_init(|| {
        let old = rustix::process::umask(rustix::fs::Mode::from_bits_retain(0o077));
        rustix::process::umask(old);
        old.bits()
    })
}

/// Keeps the type of shared open files in one place.
pub type RemoteFile = Arc<pvfs2_client::OpenFile>;
