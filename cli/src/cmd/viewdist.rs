//! `pvfs2 viewdist`: where the strips of a file lie, server by server, also as a small map.
use crate::args::FsArgs;
use crate::fsclient::Fs;
use crate::output::{self, human_bytes};
use crate::target::resolve_remote;
use anyhow::{Result, bail};
use pvfs2_proto::{Attr, AttrFlags, ClusterMap, Dist, Handle};
use serde::Serialize;
use std::ffi::OsString;

/// Most strips that the map shows.
const MAP_STRIPS_MAX: usize = 64;
/// Strips per line of the map where the distribution has no rounds that fit.
const MAP_COLUMNS_MAX: usize = 16;

/// Arguments of `pvfs2 viewdist`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  pvfs2 viewdist /mnt/pvfs2/big
  pvfs2 viewdist --fs tcp://localhost:3334/pvfs2-fs pvfs2:/big --json
A datafile lies on its server as STORAGE/bstreams/XX/DATAHANDLE, XX being the handle's last two
digits.")]
pub struct ViewdistArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub fs: FsArgs,
    /// A regular file below a mount, or pvfs2:/PATH
    #[arg(value_name = "FILE")]
    pub file: OsString,
}

#[derive(Serialize)]
struct Shown {
    path: String,
    metahandle: String,
    metadata_server: String,
    size: u64,
    stuffed: bool,
    distribution: Option<String>,
    params: Option<String>,
    datafiles: Vec<Datafile>,
}

#[derive(Serialize)]
struct Datafile {
    index: usize,
    server: String,
    datahandle: String,
    bytes: u64,
    strips: u64,
}

/// One strip of the file: which datafile holds it, from where to where.
#[derive(Debug, PartialEq, Eq)]
struct Strip {
    logical_offset: u64,
    len: u64,
    datafile: u32,
}

/// Runs it.
///
/// # Errors
/// When the file is missing or no regular file.
pub fn run(args: ViewdistArgs) -> Result<()> {
    let (path, target) = resolve_remote(&args.fs, &args.file)?;
    let fs = Fs::open(&args.fs, &target)?;
    let (found, map) = (fs.lookup(&path, true), fs.map().clone());
    fs.end();
    let attr = found?;
    if !attr.is_file() {
        bail!("{} is no regular file: only those have a distribution", args.file.to_string_lossy());
    }
    let shown = show(&path, &attr, &map);
    if args.fs.json {
        return output::json(&shown);
    }
    print(&shown, &attr)
}

fn show(path: &[u8], attr: &Attr, map: &ClusterMap) -> Shown {
    let layout = attr.layout.as_ref();
    let server_of = |h: u64| map.io_server_of(Handle(h)).map_or("?", |s| map.alias(s)).to_owned();
    let datafiles = layout.map_or(Vec::new(), |l| {
        let n = l.datahandles.len() as u32;
        let row = |(i, h): (usize, &u64)| {
            let bytes = l.dist.physical_size(n, i as u32, attr.size);
            Datafile {
                index: i,
                server: server_of(*h),
                datahandle: Handle(*h).to_string(),
                bytes,
                strips: strips_of(&l.dist, n, i as u32, bytes),
            }
        };
        l.datahandles.iter().enumerate().map(row).collect()
    });
    Shown {
        path: format!("/{}", String::from_utf8_lossy(path)),
        metahandle: attr.handle().to_string(),
        metadata_server: map.meta_server_of(attr.handle()).map_or("?", |s| map.alias(s)).to_owned(),
        size: attr.size,
        stuffed: attr.has(AttrFlags::STUFFED),
        distribution: layout.map(|l| l.dist.name().to_owned()),
        params: layout.map(|l| l.dist.params()),
        datafiles,
    }
}

/// Strips of one datafile that hold bytes. Counted by rule where the strips are equal, walked where
/// they are not.
fn strips_of(dist: &Dist, num_datafiles: u32, datafile: u32, bytes: u64) -> u64 {
    use pvfs2_proto::dist::DistKind;
    if bytes == 0 {
        return 0;
    }
    match dist.kind() {
        DistKind::Basic => 1,
        DistKind::SimpleStripe | DistKind::TwodStripe => bytes.div_ceil(dist.strip_size.max(1)),
        DistKind::Varstrip => {
            let sizes: Vec<u64> =
                dist.strips.iter().filter(|s| s.datafile == datafile).map(|s| s.size).collect();
            let round: u64 = sizes.iter().sum();
            if round == 0 || datafile >= num_datafiles {
                return 0;
            }
            let mut rest = bytes % round;
            let mut strips = bytes / round * sizes.len() as u64;
            for size in sizes {
                if rest == 0 {
                    break;
                }
                strips += 1;
                rest -= rest.min(size);
            }
            strips
        }
    }
}

/// The first strips of the file.
fn strips(dist: &Dist, num_datafiles: u32, size: u64, max: usize) -> Vec<Strip> {
    let mut out = Vec::new();
    let mut logical_offset = 0;
    while logical_offset < size && out.len() < max {
        let place = dist.locate(num_datafiles, logical_offset);
        let len = place.contiguous_bytes.min(size - logical_offset).max(1);
        out.push(Strip { logical_offset, len, datafile: place.datafile });
        logical_offset += len;
    }
    out
}

fn print(s: &Shown, attr: &Attr) -> Result<()> {
    output::line(format!(
        "{}: {} bytes ({}), metafile {} on {}",
        s.path,
        s.size,
        human_bytes(s.size),
        s.metahandle,
        s.metadata_server
    ))?;
    let Some(layout) = &attr.layout else {
        let why = if s.stuffed {
            "stuffed: its bytes live with its metafile"
        } else {
            "no datafiles yet"
        };
        output::line(format!("{why}; there is nothing on the I/O servers"))?;
        return Ok(());
    };
    output::line(format!("{} {}", layout.dist.name(), layout.dist.params()))?;
    output::line(format!(
        "{:>4}  {:<10} {:<18} {:>14} {:>8}",
        "", "server", "datahandle", "bytes", "strips"
    ))?;
    for d in &s.datafiles {
        output::line(format!(
            "{:>4}  {:<10} {:<18} {:>14} {:>8}",
            d.index, d.server, d.datahandle, d.bytes, d.strips
        ))?;
    }
    for line in map_lines(s, &layout.dist) {
        output::line(line)?;
    }
    Ok(())
}

/// The map: one cell per strip, labelled with the server that holds it.
fn map_lines(s: &Shown, dist: &Dist) -> Vec<String> {
    let n = s.datafiles.len();
    if n == 0 || s.size == 0 {
        return Vec::new();
    }
    let shown = strips(dist, n as u32, s.size, MAP_STRIPS_MAX);
    let columns = if n <= MAP_COLUMNS_MAX { n * (8 / n).max(1) } else { MAP_COLUMNS_MAX };
    let alias = |d: u32| s.datafiles.get(d as usize).map_or("?", |d| d.server.as_str());
    let width = shown.iter().map(|p| alias(p.datafile).len()).max().unwrap_or(3);
    let mut lines = vec!["strips in the order of the file:".to_owned()];
    for row in shown.chunks(columns) {
        let cells: Vec<String> =
            row.iter().map(|p| format!("{:<width$}", alias(p.datafile))).collect();
        let first = row.first().map_or(0, |p| p.logical_offset);
        lines.push(format!("{first:>14} |{}|", cells.join("|")));
    }
    let end = shown.last().map_or(0, |p| p.logical_offset + p.len);
    if end < s.size {
        lines.push(format!("{:>14} and so on up to byte {}", "...", s.size));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use pvfs2_proto::FileLayout;

    fn shown(dist: Dist, n: u64, size: u64) -> (Shown, Dist) {
        let map = ClusterMap::default();
        let layout =
            FileLayout { dist: dist.clone(), datahandles: (0..n).map(|i| (1 << 56) + i).collect() };
        let attr = Attr { size, layout: Some(layout), ..Default::default() };
        (show(b"a/b", &attr, &map), dist)
    }

    #[test]
    fn bytes_and_strips_add_up() {
        for (dist, n) in [
            (Dist::simple_stripe(100), 3),
            (Dist::parse("basic_dist", "").unwrap(), 1),
            (Dist::parse("varstrip_dist", "strips:0:50;1:70;0:30").unwrap(), 2),
            (
                Dist::parse("twod_stripe", "num_groups:2,strip_size:10,group_strip_factor:3")
                    .unwrap(),
                4,
            ),
        ] {
            for size in [0, 1, 99, 100, 101, 1000, 1234] {
                let (s, dist) = shown(dist.clone(), n, size);
                assert_eq!(
                    s.datafiles.iter().map(|d| d.bytes).sum::<u64>(),
                    size,
                    "{}",
                    dist.name()
                );
                let walked = strips(&dist, n as u32, size, usize::MAX);
                for d in &s.datafiles {
                    let count =
                        walked.iter().filter(|p| p.datafile as usize == d.index).count() as u64;
                    assert_eq!(d.strips, count, "{} of {size} on {}", dist.name(), d.index);
                }
            }
        }
    }

    #[test]
    fn the_map_goes_by_rounds() {
        let (s, dist) = shown(Dist::simple_stripe(10), 4, 95);
        let lines = map_lines(&s, &dist);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(
            lines[1].trim_start().starts_with("0 |") && lines[2].trim_start().starts_with("80 |")
        );
        let (s, dist) = shown(Dist::simple_stripe(10), 4, 1 << 20);
        assert!(map_lines(&s, &dist).last().unwrap().contains("up to byte 1048576"));
    }
}
