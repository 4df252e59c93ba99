//! The subcommands, one file each. [`run`] starts logging and hands over.
use crate::args::{Cli, Command};
use crate::output::start_logging;

pub mod bench;
pub mod cp;
pub mod fsck;
pub mod genconfig;
pub mod ls;
pub mod mkfs;
pub mod mount;
pub mod perf_mon;
pub mod perror;
pub mod ping;
pub mod quickstart;
pub mod quota;
pub mod server;
pub mod stat;
pub mod statfs;
pub mod sync;
pub mod sync_admin;
pub mod sync_args;
pub mod sync_vault;
pub mod umount;
pub mod viewdist;

/// Runs what the command line asks for.
///
/// # Errors
/// The subcommand's, with a sentence that says what to do.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    let long_lived =
        matches!(cli.command, Command::Server(_) | Command::Mount(_) | Command::Quickstart(_));
    let quiet = matches!(&cli.command, Command::Quickstart(_)) && !crate::daemon::is_detached();
    start_logging(cli.log_level.as_deref(), if long_lived && !quiet { "info" } else { "warn" });
    match cli.command {
        Command::Quickstart(args) => quickstart::run(args),
        Command::Genconfig(args) => genconfig::run(args),
        Command::Mkfs(args) => mkfs::run(args),
        Command::Server(args) => server::run(args),
        Command::Mount(args) => mount::run(args),
        Command::Umount(args) => umount::run(args),
        Command::Ping(args) => ping::run(args),
        Command::Quota(args) => quota::run(args),
        Command::Statfs(args) => statfs::run(args),
        Command::Viewdist(args) => viewdist::run(args),
        Command::Stat(args) => stat::run(args),
        Command::Ls(args) => ls::run(args),
        Command::Cp(args) => cp::run(args),
        Command::Perror(args) => perror::run(args),
        Command::Fsck(args) => fsck::run(args),
        Command::PerfMon(args) => perf_mon::run(args),
        Command::Sync(args) => sync::run(args),
        Command::Bench(args) => bench::run(args),
    }
}

/// Parses bytes with an optional suffix K, M, G for clap.
///
/// # Errors
/// The sentence to correct it.
pub fn size_arg(text: &str) -> Result<u64, String> {
    pvfs2_proto::dist::parse_size(text).map_err(|e| e.detail.into_owned())
}
