//! `pvfs2 stat`: attributes of files, with handle and distribution.
use crate::args::FsArgs;
use crate::fsclient::Fs;
use crate::output::{self, human_bytes, mode_text, time_text};
use crate::target::resolve_remote;
use anyhow::Result;
use pvfs2_proto::{Attr, AttrFlags, ClusterMap, Handle};
use serde::Serialize;
use std::ffi::OsString;

/// Arguments of `pvfs2 stat`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  pvfs2 stat /mnt/pvfs2/file
  pvfs2 stat --fs tcp://localhost:3334/pvfs2-fs pvfs2:/dir/file --json
A symlink is shown itself, not what it points to.")]
pub struct StatArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub fs: FsArgs,
    /// Paths below a mount, or pvfs2:/PATH
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<OsString>,
}

/// Attributes as tools print them.
#[derive(Serialize)]
pub struct Shown {
    path: String,
    handle: String,
    kind: &'static str,
    mode: String,
    uid: u32,
    gid: u32,
    nlink: u32,
    size: u64,
    atime: String,
    mtime: String,
    ctime: String,
    birth: String,
    stuffed: bool,
    metadata_server: String,
    distribution: Option<String>,
    datafiles: usize,
    /// Servers that hold a split directory's names; empty: only `metadata_server`.
    directory_servers: Vec<String>,
}

/// Runs it.
///
/// # Errors
/// The first file that cannot be looked up.
pub fn run(args: StatArgs) -> Result<()> {
    let mut shown = Vec::new();
    for file in &args.files {
        let (path, target) = resolve_remote(&args.fs, file)?;
        let fs = Fs::open(&args.fs, &target)?;
        let found = fs.lookup(&path, false).map(|attr| {
            let mut shown = show(&path, &attr, fs.map());
            if let Some(map) = fs.dir_map(attr.handle()) {
                let alias =
                    |h: &u64| fs.map().meta_server_of(Handle(*h)).map(|s| fs.map().alias(s));
                let holders = std::iter::once(&map.home).chain(&map.parts);
                shown.directory_servers =
                    holders.map(|h| alias(h).unwrap_or("?").to_owned()).collect();
            }
            shown
        });
        fs.end();
        shown.push(found?);
    }
    if args.fs.json {
        return output::json(&shown);
    }
    for s in &shown {
        print(s)?;
    }
    Ok(())
}

fn kind(attr: &Attr) -> &'static str {
    use pvfs2_proto::attr::mode::*;
    match attr.kind() {
        S_IFDIR => "directory",
        S_IFLNK => "symlink",
        S_IFCHR => "character device",
        S_IFBLK => "block device",
        S_IFIFO => "fifo",
        S_IFSOCK => "socket",
        _ => "regular file",
    }
}

fn show(path: &[u8], attr: &Attr, map: &ClusterMap) -> Shown {
    let server = map.meta_server_of(attr.handle());
    Shown {
        path: format!("/{}", String::from_utf8_lossy(path)),
        handle: Handle(attr.handle).to_string(),
        kind: kind(attr),
        mode: mode_text(attr.mode),
        uid: attr.uid,
        gid: attr.gid,
        nlink: attr.nlink,
        size: attr.size,
        atime: time_text(attr.atime_ns),
        mtime: time_text(attr.mtime_ns),
        ctime: time_text(attr.ctime_ns),
        birth: time_text(attr.crtime_ns),
        stuffed: attr.has(AttrFlags::STUFFED),
        metadata_server: server.map_or("?", |s| map.alias(s)).to_owned(),
        distribution: attr
            .layout
            .as_ref()
            .map(|l| format!("{} {}", l.dist.name(), l.dist.params())),
        datafiles: attr.layout.as_ref().map_or(0, |l| l.datahandles.len()),
        directory_servers: Vec::new(),
    }
}

fn print(s: &Shown) -> Result<()> {
    output::line(format!("  file: {}", s.path))?;
    output::line(format!(
        "  {}, {} bytes ({}), {} link(s)",
        s.kind,
        s.size,
        human_bytes(s.size),
        s.nlink
    ))?;
    output::line(format!("  {}  uid {}  gid {}", s.mode, s.uid, s.gid))?;
    output::line(format!("  handle {} on {}", s.handle, s.metadata_server))?;
    if !s.directory_servers.is_empty() {
        output::line(format!("  names over {}", s.directory_servers.join(", ")))?;
    }
    match &s.distribution {
        Some(d) => output::line(format!("  {d} over {} datafiles", s.datafiles))?,
        None if s.stuffed => output::line("  stuffed: its bytes live with its metafile")?,
        None => {}
    }
    for (name, time) in
        [("access", &s.atime), ("modify", &s.mtime), ("change", &s.ctime), ("birth", &s.birth)]
    {
        output::line(format!("  {name}: {time} UTC"))?;
    }
    Ok(())
}
