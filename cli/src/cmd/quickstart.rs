//! `pvfs2 quickstart`: a whole file system on this machine with one command.
//!
//! The work is in [`crate::quickstart`]; here are the flags, `--detach` and `--stop`.
use crate::cmd::size_arg;
use crate::daemon;
use crate::quickstart::{Wish, run_here, stop};
use crate::state::DataDir;
use anyhow::Result;
use std::path::PathBuf;

/// Arguments of `pvfs2 quickstart`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  pvfs2 quickstart                                  data in ./pvfs2-data, mounted on /mnt/pvfs2
  pvfs2 quickstart --data ~/pv --mount ~/mnt        without root (through fusermount3)
  pvfs2 quickstart --detach                         in the background ...
  pvfs2 quickstart --stop                           ... and its end
  pvfs2 quickstart --io 8 --strip-size 1M --mount2 /mnt/b
                                                    eight I/O servers, mounted twice
Ctrl-C, SIGTERM and --stop write out, unmount and stop the servers. The files stay in the data
directory; the next start finds them. Remove the data directory to begin anew.")]
pub struct QuickstartArgs {
    /// Where everything is kept; made and formatted on the first start
    #[arg(long, default_value = "./pvfs2-data", value_name = "DIR")]
    pub data: PathBuf,
    /// Mount point, made if it is missing
    #[arg(long, default_value = "/mnt/pvfs2", value_name = "DIR")]
    pub mount: PathBuf,
    /// A second, independent mount of the same file system
    #[arg(long, value_name = "DIR")]
    pub mount2: Option<PathBuf>,
    /// Metadata servers [first start: 1]; a larger number than there are adds some
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub meta: Option<u32>,
    /// I/O servers [first start: 4]; a larger number than there are adds some
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub io: Option<u32>,
    /// Bytes of a strip of new files, as 65536 or 64K [first start: 64K]
    #[arg(long, value_name = "BYTES", value_parser = size_arg)]
    pub strip_size: Option<u64>,
    /// Each server a process of its own (default: all in this one)
    #[arg(long)]
    pub processes: bool,
    /// Return when the mount is ready and go on in the background
    #[arg(long, conflicts_with = "stop")]
    pub detach: bool,
    /// End the quickstart that runs on this data directory
    #[arg(long)]
    pub stop: bool,
    /// Mount options, for both mounts; `pvfs2 mount --help` lists them
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub options: Vec<String>,
}

/// Runs it.
///
/// # Errors
/// Whatever keeps it from starting or stopping, with the remedy.
pub fn run(args: QuickstartArgs) -> Result<()> {
    let data = DataDir::new(&args.data)?;
    if args.stop {
        return stop(&data);
    }
    if args.detach && !daemon::is_detached() {
        // Checked here as well, so that a refusal leaves no log behind.
        crate::quickstart::check_before_start(&data)?;
        return daemon::detach(&data.log_file("quickstart"));
    }
    daemon::become_daemon();
    let mut mounts = vec![args.mount];
    mounts.extend(args.mount2);
    run_here(
        &data,
        Wish {
            meta: args.meta,
            io: args.io,
            strip_size_bytes: args.strip_size,
            processes: args.processes,
            mounts,
            options: args.options.join(","),
        },
    )
}
