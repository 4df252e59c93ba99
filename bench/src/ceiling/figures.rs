//! Measures the figures of a [`Ceiling`] one after the other: sockets, checksums and copies by threads
//! of this process, file systems by the same clients, phases and clocks as `ior` and `mdtest` have.
use super::limits::{Ceiling, Figure, Resource, Unit};
use super::{memfs, net};
use crate::args::{ClientArgs, seconds_arg, size_arg};
use crate::fleet::Hosts;
use crate::ior::{self, IorArgs};
use crate::mdtest::{self, MdtestArgs};
use crate::progress::Progress;
use crate::table;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;

const MIB: f64 = 1_048_576.0;

/// Arguments of `pvfs2 bench ceiling`.
#[derive(clap::Args, Debug, Clone)]
#[command(after_help = "\
Examples:
  pvfs2 bench ceiling -o ceiling.json
  pvfs2 bench ceiling --hold /mnt/memory &                         until umount /mnt/memory
  pvfs2 bench ior -o /mnt/pvfs2/f -t 1m -b 64m --ceiling ceiling.json
  pvfs2 bench ior -o /mnt/pvfs2/f -t 1m -b 64m --ceiling run       measured after it, in its terms")]
pub struct CeilingArgs {
    /// Bytes of a message and a transfer
    #[arg(short = 't', long, default_value = "4k,64k,1m", value_name = "BYTES,...",
          value_delimiter = ',', value_parser = size_arg)]
    pub sizes: Vec<u64>,
    /// Threads, connections, clients at once
    #[arg(short = 'N', long, default_value = "1,4", value_name = "N,...", value_delimiter = ',')]
    pub streams: Vec<u32>,
    /// Bytes that each client writes and reads
    #[arg(short = 'b', long, default_value = "64m", value_name = "BYTES", value_parser = size_arg)]
    pub bytes: u64,
    /// Files and directories of each client
    #[arg(short = 'n', long, default_value_t = 500, value_name = "N")]
    pub items: u64,
    /// Repetitions on file systems; medians are taken
    #[arg(short = 'i', long, default_value_t = 3, value_name = "N")]
    pub repetitions: u32,
    /// Seconds for each figure of sockets and memory
    #[arg(long, default_value = "0.5", value_name = "SECONDS", value_parser = seconds_arg)]
    pub seconds: f64,
    /// A directory of the local file system
    #[arg(short = 'd', long, default_value = ".", value_name = "DIR")]
    pub dir: PathBuf,
    /// A directory of a tmpfs
    #[arg(long, default_value = "/dev/shm", value_name = "DIR")]
    pub tmpfs: PathBuf,
    /// Where to keep the figures, as JSON
    #[arg(short = 'o', long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Only what needs no file system: sockets, checksums, memory copies
    #[arg(long)]
    pub network: bool,
    /// Measure nothing: mount the in-memory FUSE file system on DIR until it is unmounted, for others to
    /// measure
    #[arg(long, value_name = "DIR")]
    pub hold: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// No live line
    #[arg(long)]
    pub quiet: bool,
}

/// `pvfs2 bench ceiling`.
///
/// # Errors
/// A directory that cannot be written; no sockets.
pub fn run(args: CeilingArgs) -> Result<()> {
    if let Some(dir) = &args.hold {
        let threads = args.streams.iter().copied().max().unwrap_or(1).max(4);
        let session = memfs::mount(dir, threads as usize)
            .with_context(|| format!("cannot mount on {}", dir.display()))?;
        return session.join().context("the in-memory file system ended");
    }
    let ceiling = measure(&args, true, true)?;
    let mut json = serde_json::to_vec_pretty(&ceiling)?;
    json.push(b'\n');
    if let Some(path) = &args.output {
        table::write(path, &json)?;
    }
    match args.json {
        true => print!("{}", String::from_utf8_lossy(&json)),
        false => print!("{}", show(&ceiling)),
    }
    Ok(())
}

/// The figures in the terms of an IOR run, or those of a file.
///
/// # Errors
/// As [`run`].
pub fn for_ior(choice: &str, args: &IorArgs) -> Result<Ceiling> {
    if choice != "run" {
        return Ceiling::read(Path::new(choice));
    }
    let wanted = args.block_size.saturating_mul(args.segment_count);
    let bytes = wanted.clamp(args.transfer_size, (256u64 << 20).max(args.transfer_size));
    let own = CeilingArgs { bytes, ..in_terms(args.transfer_size, &args.clients) };
    measure(&own, true, false)
}

/// The figures in the terms of an mdtest run, or those of a file.
///
/// # Errors
/// As [`run`].
pub fn for_mdtest(choice: &str, args: &MdtestArgs) -> Result<Ceiling> {
    if choice != "run" {
        return Ceiling::read(Path::new(choice));
    }
    let items = args.spec()?.items().clamp(1, 2_000);
    measure(&CeilingArgs { items, ..in_terms(4_096, &args.clients) }, false, true)
}

fn in_terms(size: u64, clients: &ClientArgs) -> CeilingArgs {
    CeilingArgs {
        sizes: vec![size],
        streams: vec![clients.clients],
        bytes: 64 << 20,
        items: 500,
        repetitions: 3,
        seconds: 0.5,
        dir: std::env::temp_dir(),
        tmpfs: "/dev/shm".into(),
        output: None,
        network: false,
        hold: None,
        json: false,
        quiet: clients.quiet,
    }
}

fn measure(args: &CeilingArgs, data: bool, names: bool) -> Result<Ceiling> {
    let uname = rustix::system::uname();
    let cores = std::thread::available_parallelism().map_or(0, |n| n.get());
    let mut ceiling = Ceiling {
        machine: format!(
            "{} {}, {cores} cores",
            uname.sysname().to_string_lossy(),
            uname.release().to_string_lossy()
        ),
        figures: Vec::new(),
    };
    let mut progress = Progress::new(args.quiet);
    for &streams in &args.streams {
        sockets(args, streams, data, &mut ceiling.figures)?;
    }
    if args.network {
        return Ok(ceiling);
    }
    let scratch = Scratch::new(args)?;
    for (resource, dir) in &scratch.dirs {
        for &streams in &args.streams {
            for &size in args.sizes.iter().filter(|_| data) {
                disk(args, *resource, dir, size, streams, &mut progress, &mut ceiling.figures)?;
            }
            if names {
                metadata(args, *resource, dir, streams, &mut progress, &mut ceiling.figures)?;
            }
        }
    }
    Ok(ceiling)
}

fn sockets(args: &CeilingArgs, streams: u32, data: bool, out: &mut Vec<Figure>) -> Result<()> {
    let time = Duration::from_secs_f64(args.seconds);
    let mut add = |resource, access: &str, size, rate, unit| {
        out.push(Figure { resource, access: access.into(), size, streams, rate, unit });
    };
    for (socket, resource) in
        [(net::Socket::Tcp, Resource::Tcp), (net::Socket::Unix, Resource::Unix)]
    {
        let trips = net::round_trips(socket, (net::SMALL, net::SMALL), streams, time)?;
        add(resource, "round trip", 0, trips, Unit::OpsPerSecond);
        for &size in args.sizes.iter().filter(|_| data) {
            let rate = net::bandwidth(socket, size as usize, streams, time)? / MIB;
            add(resource, "bandwidth", size, rate, Unit::MibPerSecond);
            let trips = net::round_trips(socket, (net::SMALL, size as usize), streams, time)?;
            add(resource, "read trip", size, trips, Unit::OpsPerSecond);
        }
    }
    for &size in args.sizes.iter().filter(|_| data) {
        let crc = net::crc(size as usize, streams, time) / MIB;
        add(Resource::Crc, "hash", size, crc, Unit::MibPerSecond);
        let copy = net::copy(size as usize, streams, time) / MIB;
        add(Resource::MemoryCopy, "copy", size, copy, Unit::MibPerSecond);
    }
    Ok(())
}

fn disk(
    args: &CeilingArgs,
    resource: Resource,
    dir: &Path,
    size: u64,
    streams: u32,
    progress: &mut Progress,
    out: &mut Vec<Figure>,
) -> Result<()> {
    let blocks = (args.bytes / size.max(1)).max(1);
    let plain = IorArgs {
        block_size: blocks * size,
        transfer_size: size,
        file_per_proc: true,
        repetitions: args.repetitions,
        file: dir.join("ior").to_string_lossy().into_owned(),
        clients: ClientArgs { clients: streams, quiet: args.quiet, ..ClientArgs::default() },
        ..IorArgs::default()
    };
    let mut variants = vec![(plain.clone(), [("write", "write"), ("read", "read")])];
    match resource {
        Resource::LocalFs => {
            let fsync = IorArgs { fsync: true, write: true, ..plain };
            variants.push((fsync, [("write", "write-fsync"), ("", "")]));
        }
        Resource::Fuse if size.is_multiple_of(4_096) => {
            let direct = IorArgs { direct: true, ..plain };
            variants.push((direct, [("write", "write-direct"), ("read", "read-direct")]));
        }
        _ => {}
    }
    for (args, names) in variants {
        let results = ior::measure(&args, &Hosts::default(), progress, |_| ())?;
        for (operation, access) in names {
            for s in results.summary.iter().filter(|s| s.operation == operation) {
                let (access, rate) = (access.to_owned(), s.bw_mib.median);
                let unit = Unit::MibPerSecond;
                out.push(Figure { resource, access, size, streams, rate, unit });
            }
        }
    }
    Ok(())
}

fn metadata(
    args: &CeilingArgs,
    resource: Resource,
    dir: &Path,
    streams: u32,
    progress: &mut Progress,
    out: &mut Vec<Figure>,
) -> Result<()> {
    let own = MdtestArgs {
        items: Some(args.items),
        unique_dir: true,
        iterations: args.repetitions,
        dir: dir.join("md").to_string_lossy().into_owned(),
        clients: ClientArgs { clients: streams, quiet: args.quiet, ..ClientArgs::default() },
        ..MdtestArgs::default()
    };
    let results = mdtest::measure(&own, &Hosts::default(), progress)?;
    for s in &results.summary {
        let (access, rate) = (s.operation.to_owned(), s.rate.median);
        out.push(Figure { resource, access, size: 0, streams, rate, unit: Unit::OpsPerSecond });
    }
    Ok(())
}

/// The three file systems' directories; gone on drop.
struct Scratch {
    dirs: Vec<(Resource, PathBuf)>,
    mount: Option<(fuser::BackgroundSession, PathBuf)>,
}

impl Scratch {
    fn new(args: &CeilingArgs) -> Result<Scratch> {
        let name = format!("pvfs2-bench-{}", std::process::id());
        let mut scratch = Scratch { dirs: Vec::new(), mount: None };
        let mut places = vec![(Resource::LocalFs, args.dir.join(&name))];
        if args.tmpfs.is_dir() {
            places.push((Resource::Tmpfs, args.tmpfs.join(&name)));
        }
        for (resource, dir) in places {
            std::fs::create_dir(&dir).with_context(|| {
                format!("cannot make {}; name another place with -d or --tmpfs", dir.display())
            })?;
            scratch.dirs.push((resource, dir));
        }
        let point = std::env::temp_dir().join(format!("{name}-fuse"));
        std::fs::create_dir(&point).with_context(|| format!("cannot make {}", point.display()))?;
        let threads = std::thread::available_parallelism().map_or(2, |n| n.get()).max(2);
        match memfs::mount(&point, threads) {
            Ok(session) => {
                scratch.mount = Some((session, point.clone()));
                scratch.dirs.push((Resource::Fuse, point));
            }
            Err(e) => {
                let _ = std::fs::remove_dir(&point);
                eprintln!("no figures of FUSE: it cannot be mounted here ({e}); root can");
            }
        }
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for (_, dir) in self.dirs.iter().filter(|(r, _)| *r != Resource::Fuse) {
            // What cannot be removed lies in a place for such things.
            let _ = std::fs::remove_dir_all(dir);
        }
        if let Some((session, point)) = self.mount.take() {
            if let Err(e) = session.umount_and_join() {
                eprintln!("{} could not be unmounted: {e}", point.display());
            }
            let _ = std::fs::remove_dir(&point);
        }
    }
}

fn show(ceiling: &Ceiling) -> String {
    let mut out = format!(
        "This machine's limits ({})\n{:<24} {:<20} {:>9} {:>8} {:>14} unit\n",
        ceiling.machine, "resource", "access", "size", "streams", "rate"
    );
    for f in &ceiling.figures {
        let unit = match f.unit {
            Unit::MibPerSecond => "MiB/s",
            Unit::OpsPerSecond => "/s",
        };
        let size = if f.size == 0 { "-".into() } else { f.size.to_string() };
        out += &format!(
            "{:<24} {:<20} {size:>9} {:>8} {:>14.1} {unit}\n",
            f.resource.name(),
            f.access,
            f.streams,
            f.rate
        );
    }
    out
}
