//! `pvfs2 ls`: lists directories without a mount.
use crate::args::FsArgs;
use crate::fsclient::{Fs, at};
use crate::output::{self, human_bytes, mode_text, time_text};
use crate::target::resolve_remote;
use anyhow::Result;
use bytes::Bytes;
use pvfs2_client::sys::{DirHandle, Getattr, Readdir, Readlink};
use pvfs2_proto::{Attr, Handle};
use serde::Serialize;
use std::ffi::OsString;

/// Arguments of `pvfs2 ls`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  pvfs2 ls -l pvfs2:/            the root of the file system
  pvfs2 ls /mnt/pvfs2/dir
Names come sorted; names that begin with a dot only with -a.")]
pub struct LsArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub fs: FsArgs,
    /// Attributes too
    #[arg(short, long)]
    pub long: bool,
    /// Names that begin with a dot too
    #[arg(short, long)]
    pub all: bool,
    /// Sizes for people, with -l
    #[arg(short = 'H', long)]
    pub human: bool,
    /// Paths below a mount, or pvfs2:/PATH [default: pvfs2:/]
    #[arg(value_name = "DIR")]
    pub dirs: Vec<OsString>,
}

#[derive(Serialize)]
struct Entry {
    name: String,
    handle: String,
    mode: String,
    nlink: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

/// Runs it.
///
/// # Errors
/// The first directory that cannot be listed.
pub fn run(mut args: LsArgs) -> Result<()> {
    if args.dirs.is_empty() {
        args.dirs.push("pvfs2:/".into());
    }
    let several = args.dirs.len() > 1;
    for dir in &args.dirs {
        let (path, target) = resolve_remote(&args.fs, dir)?;
        let fs = Fs::open(&args.fs, &target)?;
        let entries = list(&fs, &path, &args);
        fs.end();
        let entries = entries?;
        if args.fs.json {
            output::json(&entries)?;
            continue;
        }
        if several {
            output::line(format!("{}:", dir.to_string_lossy()))?;
        }
        print(&entries, &args)?;
    }
    Ok(())
}

fn list(fs: &Fs, path: &[u8], args: &LsArgs) -> Result<Vec<Entry>> {
    let attr = fs.lookup(path, true)?;
    if !attr.is_dir() {
        let name = path.rsplit(|b| *b == b'/').next().unwrap_or(path);
        return Ok(vec![entry(fs, name, &attr)]);
    }
    let detail = args.long || args.fs.json;
    let mut out = Vec::new();
    for (name, handle, attr) in read_dir(fs, attr.handle()).map_err(|e| at(path, e))? {
        if name.starts_with(b".") && !args.all {
            continue;
        }
        let attr = match attr {
            Some(attr) => attr,
            None if detail => match fs.run(Getattr::new(handle)) {
                Ok(attr) => attr,
                // Removed between the listing and now.
                Err(_) => continue,
            },
            None => Attr::default(),
        };
        out.push(entry(fs, &name, &attr));
    }
    out.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(out)
}

fn entry(fs: &Fs, name: &[u8], attr: &Attr) -> Entry {
    let target = attr.is_symlink().then(|| fs.run(Readlink::new(attr.handle())).ok()).flatten();
    Entry {
        name: String::from_utf8_lossy(name).into_owned(),
        handle: Handle(attr.handle).to_string(),
        mode: mode_text(attr.mode),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        size: attr.size,
        mtime: time_text(attr.mtime_ns),
        target: target.map(|t| String::from_utf8_lossy(&t).into_owned()),
    }
}

fn print(entries: &[Entry], args: &LsArgs) -> Result<()> {
    for e in entries {
        if !args.long {
            output::line(&e.name)?;
            continue;
        }
        let size = if args.human { human_bytes(e.size) } else { e.size.to_string() };
        let arrow = e.target.as_ref().map_or(String::new(), |t| format!(" -> {t}"));
        let time = e.mtime.get(..16).unwrap_or(&e.mtime);
        output::line(format!(
            "{} {:>3} {:>6} {:>6} {:>12} {time} {}{arrow}",
            e.mode, e.nlink, e.uid, e.gid, size, e.name
        ))?;
    }
    Ok(())
}

/// A directory's entries: name, handle, and the attributes where its server holds them.
pub type Listed = Vec<(Bytes, Handle, Option<Attr>)>;

/// All entries of a directory.
///
/// # Errors
/// The operation's.
pub fn read_dir(fs: &Fs, dir: Handle) -> Result<Listed, pvfs2_proto::PvfsError> {
    let (dir, mut cursor, mut out) = (DirHandle::new(dir), 0, Vec::new());
    loop {
        let page = fs.run(Readdir::new(dir.clone(), cursor, true, false))?;
        for e in page.entries() {
            cursor = e.cursor;
            out.push((e.name.clone(), Handle(e.handle), e.attr.clone()));
        }
        if page.is_end() || page.entries().is_empty() {
            return Ok(out);
        }
    }
}
