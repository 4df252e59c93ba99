//! `pvfs2 quota`: limits on what users, groups and directory trees take, and what they take.
use crate::args::FsArgs;
use crate::cmd::ls::read_dir;
use crate::fsclient::{Fs, at};
use crate::output::{self, human_bytes};
use crate::target;
use anyhow::{Context, Result, bail};
use pvfs2_client::sys::{QuotaGet, QuotaMark, QuotaSet};
use pvfs2_proto::attr::mode::{S_IFDIR, S_IFMT};
use pvfs2_proto::op::{QuotaAmount, QuotaGetResponse, QuotaKind};
use pvfs2_proto::{ErrorCode, Handle};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ffi::OsString;

/// Arguments of `pvfs2 quota`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  pvfs2 quota set --user alice --bytes 10G --files 100000
  pvfs2 quota set --dir /mnt/pvfs2/project --bytes 1T
  pvfs2 quota set --user alice --bytes 0 --files 0      (no limit any more)
  pvfs2 quota get --user alice
  pvfs2 quota report --json
Bytes are the sizes of regular files (holes count), files are objects of every kind. Growth beyond a
limit fails with EDQUOT (`Disk quota exceeded`). A directory's quota counts everything below it;
names do not move in or out by rename or link (EXDEV: mv copies instead).")]
pub struct QuotaArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Set limits (root only)
    Set(SetArgs),
    /// Show limits and usage of one user, group or directory
    Get(GetArgs),
    /// Show limits and usage of all
    Report(ReportArgs),
}

#[derive(clap::Args, Debug)]
#[group(required = true, multiple = false)]
struct Whose {
    /// A user: name or number
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// A group: name or number
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// A directory and all below: a path below a mount, or pvfs2:/PATH
    #[arg(long, value_name = "PATH")]
    dir: Option<OsString>,
}

#[derive(clap::Args, Debug)]
struct SetArgs {
    #[command(flatten)]
    fs: FsArgs,
    #[command(flatten)]
    whose: Whose,
    /// Limit of bytes, as 500M, 10G, 1T (powers of 1024); 0: none
    #[arg(long, value_name = "N", value_parser = parse_bytes)]
    bytes: Option<u64>,
    /// Limit of files; 0: none
    #[arg(long, value_name = "N")]
    files: Option<u64>,
}

#[derive(clap::Args, Debug)]
struct GetArgs {
    #[command(flatten)]
    fs: FsArgs,
    #[command(flatten)]
    whose: Whose,
}

#[derive(clap::Args, Debug)]
struct ReportArgs {
    #[command(flatten)]
    fs: FsArgs,
    /// Count anew from the objects themselves, on every server (root only)
    #[arg(long)]
    recount: bool,
}

#[derive(Serialize)]
struct Row {
    kind: &'static str,
    id: u64,
    name: Option<String>,
    bytes_used: u64,
    bytes_limit: Option<u64>,
    files_used: u64,
    files_limit: Option<u64>,
}

/// Runs it.
///
/// # Errors
/// When the first metadata server does not answer, or refuses.
pub fn run(args: QuotaArgs) -> Result<()> {
    match args.what {
        What::Set(args) => set(&args),
        What::Get(args) => {
            let (fs, id, _) = open(&args.fs, &args.whose)?;
            let got = fs.run(QuotaGet::new(false));
            let mut rows = rows(&got.inspect_err(|_| ()).map_err(words)?);
            fs.end();
            rows.retain(|r| (r.kind, r.id) == (kind_name(id.0), id.1));
            if rows.is_empty() {
                rows.push(row(id, QuotaAmount::default(), QuotaAmount::default()));
            }
            show(&args.fs, &rows)
        }
        What::Report(args) => {
            let fs = Fs::open(&args.fs, &target::find(&args.fs)?)?;
            let got = fs.run(QuotaGet::new(args.recount)).map_err(words)?;
            for server in &got.silent {
                tracing::warn!("{} does not answer: its part is missing", fs.map().alias(*server));
            }
            if got.corrected > 0 {
                tracing::warn!("{} counts were wrong and are right now", got.corrected);
            }
            fs.end();
            show(&args.fs, &rows(&got))
        }
    }
}

fn words(e: pvfs2_proto::PvfsError) -> anyhow::Error {
    at(b"", e)
}

fn open(args: &FsArgs, whose: &Whose) -> Result<(Fs, (QuotaKind, u64), Vec<u8>)> {
    if let Some(dir) = &whose.dir {
        let (path, target) = target::resolve_remote(args, dir)?;
        let fs = Fs::open(args, &target)?;
        let attr = fs.lookup(&path, true)?;
        if !attr.is_dir() {
            bail!("'{}' is no directory", dir.to_string_lossy());
        }
        return Ok((fs, (QuotaKind::Dir, attr.handle), path));
    }
    let id = match (&whose.user, &whose.group) {
        (Some(user), _) => (QuotaKind::User, number("/etc/passwd", "user", user)?),
        (_, Some(group)) => (QuotaKind::Group, number("/etc/group", "group", group)?),
        _ => bail!("whose quota? Give --user, --group or --dir"),
    };
    Ok((Fs::open(args, &target::find(args)?)?, id, Vec::new()))
}

fn set(args: &SetArgs) -> Result<()> {
    if args.bytes.is_none() && args.files.is_none() {
        bail!("set what? Give --bytes, --files or both");
    }
    let (fs, id, path) = open(&args.fs, &args.whose)?;
    let done = set_on(&fs, args, id, &path);
    fs.end();
    done
}

fn set_on(fs: &Fs, args: &SetArgs, id: (QuotaKind, u64), path: &[u8]) -> Result<()> {
    let old = fs.run(QuotaGet::new(false)).map_err(words)?;
    let old = old.limits.iter().find(|l| (l.kind, l.id) == (id.0 as i32, id.1));
    let old = old.copied().unwrap_or_default();
    let limit = QuotaAmount {
        kind: id.0 as i32,
        id: id.1,
        bytes: args.bytes.unwrap_or(old.bytes),
        files: args.files.unwrap_or(old.files),
    };
    let ends = limit.bytes == 0 && limit.files == 0;
    if id.0 != QuotaKind::Dir {
        return fs.run(QuotaSet::new(limit)).map_err(words);
    }
    // From the top, so that what is made meanwhile is in the tree from its beginning; and marked
    // before it is limited, so that a tree inside another is refused first.
    let marked = mark(fs, Handle(id.1), path, if ends { 0 } else { id.1 });
    let objects =
        marked.with_context(|| "the tree could not be walked to its end: set it again")?;
    fs.run(QuotaSet::new(limit)).map_err(words)?;
    if !args.fs.json {
        output::line(format!("{objects} objects in the tree"))?;
    }
    Ok(())
}

/// Puts everything below a directory into its tree, or out of it; how many objects it was.
fn mark(fs: &Fs, dir: Handle, path: &[u8], tree: u64) -> Result<u64> {
    fs.run(QuotaMark::new(dir, tree)).map_err(|e| at(path, e))?;
    let (mut objects, mut todo) = (1, vec![dir]);
    while let Some(dir) = todo.pop() {
        let entries = match read_dir(fs, dir) {
            Err(e) if is_gone(e.code) => continue,
            other => other.map_err(|e| at(path, e))?,
        };
        for (name, handle, attr) in entries {
            match fs.run(QuotaMark::new(handle, tree)) {
                Ok(()) => objects += 1,
                Err(e) if is_gone(e.code) => continue,
                Err(e) => return Err(at(&name, e)),
            }
            let is_dir = match attr {
                Some(attr) => attr.mode & S_IFMT == S_IFDIR,
                None => fs.run(pvfs2_client::sys::Getattr::new(handle)).is_ok_and(|a| a.is_dir()),
            };
            if is_dir {
                todo.push(handle);
            }
        }
    }
    Ok(objects)
}

/// Removed while the tree was walked.
fn is_gone(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::Stale | ErrorCode::NotFound)
}

fn rows(got: &QuotaGetResponse) -> Vec<Row> {
    let mut all: BTreeMap<(i32, u64), (QuotaAmount, QuotaAmount)> = BTreeMap::new();
    got.used.iter().for_each(|a| all.entry((a.kind, a.id)).or_default().0 = *a);
    got.limits.iter().for_each(|a| all.entry((a.kind, a.id)).or_default().1 = *a);
    let known = |(kind, id)| QuotaKind::try_from(kind).ok().map(|kind| (kind, id));
    all.into_iter().filter_map(|(id, (used, limit))| Some(row(known(id)?, used, limit))).collect()
}

fn row(id: (QuotaKind, u64), used: QuotaAmount, limit: QuotaAmount) -> Row {
    let some = |n: u64| (n > 0).then_some(n);
    let name = match id.0 {
        QuotaKind::User => name_of("/etc/passwd", id.1),
        QuotaKind::Group => name_of("/etc/group", id.1),
        QuotaKind::Dir => Some(Handle(id.1).to_string()),
    };
    Row {
        kind: kind_name(id.0),
        id: id.1,
        name,
        bytes_used: used.bytes,
        bytes_limit: some(limit.bytes),
        files_used: used.files,
        files_limit: some(limit.files),
    }
}

fn kind_name(kind: QuotaKind) -> &'static str {
    match kind {
        QuotaKind::User => "user",
        QuotaKind::Group => "group",
        QuotaKind::Dir => "dir",
    }
}

fn show(args: &FsArgs, rows: &[Row]) -> Result<()> {
    if args.json {
        return output::json(&rows);
    }
    let none = || "none".to_owned();
    let header = ("kind", "whose", "bytes", "limit", "files", "limit");
    let line = |a: &str, b: &str, c: &str, d: &str, e: &str, f: &str| {
        output::line(format!("{a:<6} {b:<18} {c:>12} {d:>12} {e:>10} {f:>10}"))
    };
    line(header.0, header.1, header.2, header.3, header.4, header.5)?;
    for r in rows {
        line(
            r.kind,
            r.name.as_deref().unwrap_or(&r.id.to_string()),
            &human_bytes(r.bytes_used),
            &r.bytes_limit.map_or_else(none, human_bytes),
            &r.files_used.to_string(),
            &r.files_limit.map_or_else(none, |n| n.to_string()),
        )?;
    }
    Ok(())
}

/// A number, or a name's in a table like /etc/passwd.
fn number(table: &str, what: &str, text: &str) -> Result<u64> {
    if let Ok(id) = text.parse::<u32>() {
        return Ok(id.into());
    }
    let lines = std::fs::read_to_string(table).with_context(|| format!("cannot read {table}"))?;
    find_in(&lines, |name, _| name == text)
        .map(|(_, id)| id)
        .with_context(|| format!("no {what} '{text}' in {table}: give the number"))
}

fn name_of(table: &str, id: u64) -> Option<String> {
    let lines = std::fs::read_to_string(table).ok()?;
    find_in(&lines, |_, n| n == id).map(|(name, _)| name)
}

fn find_in(lines: &str, wanted: impl Fn(&str, u64) -> bool) -> Option<(String, u64)> {
    lines.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?.parse().ok()?);
        wanted(name, id).then(|| (name.to_owned(), id))
    })
}

/// Bytes as `10G`.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let bad = || format!("'{text}' is no amount: say 500M, 10G or a number of bytes");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text[digits.len()..].trim_end_matches(['i', 'B', 'b']).to_ascii_uppercase();
    let shift = match unit.as_str() {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        "P" => 50,
        _ => return Err(bad()),
    };
    let n: u64 = digits.parse().map_err(|_| bad())?;
    n.checked_mul(1 << shift).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts() {
        assert_eq!(parse_bytes("500"), Ok(500));
        assert_eq!(parse_bytes("10G"), Ok(10 << 30));
        assert_eq!(parse_bytes("3MiB"), Ok(3 << 20));
        assert!(parse_bytes("ten").is_err() && parse_bytes("5X").is_err());
        assert!(parse_bytes("999999999T").is_err());
    }

    #[test]
    fn names_and_numbers() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(find_in(passwd, |n, _| n == "ann"), Some(("ann".into(), 1000)));
        assert_eq!(find_in(passwd, |_, id| id == 0), Some(("root".into(), 0)));
        assert_eq!(find_in(passwd, |n, _| n == "bob"), None);
        assert_eq!(number("/nonexistent", "user", "77").unwrap(), 77);
    }
}
