//! The command line: what `pvfs2` understands, and the other face that it shows to mount(8).
use crate::cmd;
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// PVFS2: a parallel file system. Files are striped over I/O servers, names and attributes live on
/// metadata servers, and programs see one POSIX tree.
#[derive(Parser, Debug)]
#[command(name = "pvfs2", version, about, long_about = None, after_help = "\
Start here:
  pvfs2 quickstart                 one metadata and four I/O servers on this machine, mounted
  pvfs2 quickstart --detach        the same in the background; end it with --stop
A cluster:
  pvfs2 genconfig --meta a:3334 --io b:3334 --io c:3334 > cluster.toml
  pvfs2 mkfs   --config cluster.toml --alias io0      (once, on the server's host)
  pvfs2 server --config cluster.toml --alias io0
  pvfs2 mount tcp://a:3334/pvfs2-fs /mnt/pvfs2

Tools find the file system by --fs SPEC, by $PVFS2_FS, by a path below a mount, by the only mount
there is, or by the first pvfs2 line of /etc/pvfs2tab or /etc/fstab.")]
pub struct Cli {
    /// What to log: error, warn, info, debug, trace, or a filter as in RUST_LOG
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Start a whole file system on this machine and mount it
    Quickstart(cmd::quickstart::QuickstartArgs),
    /// Write a new cluster file
    Genconfig(cmd::genconfig::GenconfigArgs),
    /// Make the storage space of one server (PVFS2's mkspace)
    Mkfs(cmd::mkfs::MkfsArgs),
    /// Run one server
    Server(cmd::server::ServerArgs),
    /// Mount a file system
    Mount(cmd::mount::MountArgs),
    /// Unmount a file system
    Umount(cmd::umount::UmountArgs),
    /// Ask every server whether it is there
    Ping(cmd::ping::PingArgs),
    /// Show free space, as a whole and server by server
    Statfs(cmd::statfs::StatfsArgs),
    /// Limit and report what users, groups and directory trees take
    Quota(cmd::quota::QuotaArgs),
    /// Show where the strips of a file lie
    Viewdist(cmd::viewdist::ViewdistArgs),
    /// Show the attributes of a file
    Stat(cmd::stat::StatArgs),
    /// List a directory
    Ls(cmd::ls::LsArgs),
    /// Copy files to, from or within the file system without going through a mount
    Cp(cmd::cp::CpArgs),
    /// Explain an error number
    Perror(cmd::perror::PerrorArgs),
    /// Check whether what all servers keep fits together (checks only)
    Fsck(cmd::fsck::FsckArgs),
    /// Show the servers' counters and latencies
    PerfMon(cmd::perf_mon::PerfMonArgs),
    /// The sync service: a folder per user, kept in step on every device
    Sync(cmd::sync::SyncArgs),
    /// Measure: bandwidth, metadata rates, this machine's limits
    Bench(pvfs2_bench::BenchArgs),
}

/// Which file system a tool talks to.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct FsArgs {
    /// The file system: tcp://HOST:PORT/NAME, a mount point, or a cluster file
    #[arg(long, value_name = "SPEC")]
    pub fs: Option<String>,
    /// File with the cluster's key (default: $PVFS2_KEY_FILE)
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Parses the command line; the name it was called by decides which face it has.
///
/// # Errors
/// clap's message, also for --help and --version.
pub fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut argv: Vec<OsString> = argv.into_iter().collect();
    let name = argv.first().map(|a| Path::new(a).file_name().unwrap_or_default().to_owned());
    if let Some(name) = name.as_ref().and_then(|n| n.to_str())
        && matches!(name, "mount.pvfs2" | "mount.fuse.pvfs2")
    {
        argv = helper_to_mount(argv);
    }
    Cli::try_parse_from(argv)
}

/// Turns the arguments that mount(8) gives its helper (`SPEC DIR [-sfnvw] [-N ns] [-t type]
/// [-o options]`) into those of `pvfs2 mount`. A spec may come as `pvfs2#SPEC`.
fn helper_to_mount(argv: Vec<OsString>) -> Vec<OsString> {
    let mut out: Vec<OsString> = vec!["pvfs2".into(), "mount".into()];
    let mut rest = argv.into_iter().skip(1);
    let mut first = true;
    while let Some(arg) = rest.next() {
        let text = arg.to_string_lossy().into_owned();
        match text.as_str() {
            "-o" => out.extend(["-o".into(), rest.next().unwrap_or_default()]),
            "-t" | "-N" => drop(rest.next()),
            "-h" | "--help" | "-V" | "--version" => out.push(arg),
            "-w" => out.extend(["-o".into(), "rw".into()]),
            "-r" => out.extend(["-o".into(), "ro".into()]),
            flags if flags.len() > 1 && flags.starts_with('-') && !flags.starts_with("-o") => {
                if flags.starts_with("--") {
                    out.push(arg);
                    continue;
                }
                for f in flags.chars().skip(1) {
                    match f {
                        's' => out.push("--sloppy".into()),
                        'f' => out.push("--fake".into()),
                        'v' => out.push("--verbose".into()),
                        'n' => {}
                        other => out.push(format!("-{other}").into()),
                    }
                }
            }
            _ if first && !text.starts_with('-') => {
                first = false;
                out.push(text.strip_prefix("pvfs2#").unwrap_or(&text).to_owned().into());
            }
            _ => out.push(arg),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse_words(words: &str) -> Result<Cli, clap::Error> {
        parse(words.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_definition_holds() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_subcommand_explains_itself() {
        for sub in Cli::command().get_subcommands() {
            assert!(sub.get_about().is_some(), "{} has no help", sub.get_name());
            for arg in sub.get_arguments().filter(|a| !a.is_hide_set()) {
                assert!(
                    arg.get_help().is_some(),
                    "{} {} has no help",
                    sub.get_name(),
                    arg.get_id()
                );
            }
        }
    }

    #[test]
    fn mount_helpers_take_what_mount_8_gives() {
        for words in [
            "/sbin/mount.pvfs2 tcp://h:3334/fs /mnt/x -o rw,noatime -n",
            "/sbin/mount.pvfs2 tcp://h:3334/fs /mnt/x -n -o rw,noatime",
            "mount.fuse.pvfs2 pvfs2#tcp://h:3334/fs /mnt/x -orw,noatime",
            "mount.fuse.pvfs2 tcp://h:3334/fs /mnt/x -sv -t fuse.pvfs2 -o rw -o noatime",
        ] {
            let cli = parse_words(words).unwrap_or_else(|e| panic!("{words}: {e}"));
            let Command::Mount(m) = cli.command else { panic!("{words} is no mount") };
            assert_eq!(
                (m.spec.as_str(), m.dir.as_path()),
                ("tcp://h:3334/fs", Path::new("/mnt/x"))
            );
            let joined = m.options.join(",");
            assert_eq!(joined, "rw,noatime", "{words}");
            assert_eq!((m.sloppy, m.verbose), (words.contains("-sv"), words.contains("-sv")));
            assert!(!m.fake && !m.foreground);
        }
        let Command::Mount(m) = parse_words("mount.pvfs2 tcp://h:1/f /d -f").unwrap().command
        else {
            panic!("no mount")
        };
        assert!(m.fake, "-f of a mount helper means fake, not foreground");
    }

    #[test]
    fn quickstart_flags_are_those_of_the_manual() {
        let words = "pvfs2 quickstart --data d --mount m --meta 2 --io 3 --strip-size 64K \
                     --processes --detach --mount2 m2 -o ro,acache-ms=0 -o allow_other";
        let Command::Quickstart(q) = parse_words(words).unwrap().command else { panic!() };
        assert_eq!((q.meta, q.io, q.strip_size), (Some(2), Some(3), Some(65_536)));
        assert!(q.processes && q.detach && !q.stop);
        assert_eq!(q.options.join(","), "ro,acache-ms=0,allow_other");
        let Command::Quickstart(q) = parse_words("pvfs2 quickstart").unwrap().command else {
            panic!()
        };
        assert_eq!(
            (q.data.as_path(), q.mount.as_path()),
            (Path::new("./pvfs2-data"), Path::new("/mnt/pvfs2"))
        );
        for bad in ["--io 0", "--strip-size x", "--detach --stop", "--meta 300"] {
            assert!(parse_words(&format!("pvfs2 quickstart {bad}")).is_err(), "{bad}");
        }
    }
}
