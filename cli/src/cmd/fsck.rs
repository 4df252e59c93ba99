//! `pvfs2 fsck`: whether what all servers keep fits together, while they serve.
//!
//! It checks only. What is wrong is told with object, server, path and remedy; see
//! `pvfs2_server_core::fsck` for what it looks at and why a busy cluster raises no false alarm.
use crate::args::FsArgs;
use crate::fsclient::Fs;
use crate::{output, target};
use anyhow::{Result, bail};
use pvfs2_server_core::fsck::{self, Options, Report};
use pvfs2_server_core::peer::NetPeers;
use std::time::Duration;

/// Exit code when problems are left, as fsck(8) has it.
const PROBLEMS_LEFT: i32 = 4;
/// Exit code when it could not be checked, as fsck(8) has it.
const NOT_CHECKED: i32 = 8;

/// Arguments of `pvfs2 fsck`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  pvfs2 fsck --check
  pvfs2 fsck --check --fs tcp://localhost:3334/pvfs2-fs --json
Checks names, link counts, directory counts and parents, objects without names, cycles, handles,
datafiles without metafiles, and operations over several servers that do not come to an end. The
servers serve on meanwhile; what is in use is looked at again before anything is said of it. All
servers must be up. It repairs nothing: each problem is told with its remedy. A datafile that is
missing is not found, because one that was never written does not exist either.
Exit code: 0 all is well, 4 problems are left, 8 it could not be checked.")]
pub struct FsckArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub fs: FsArgs,
    /// Check only (there is no repair yet, so this must be given)
    #[arg(long, required = true)]
    pub check: bool,
    /// Report operations over several servers that are under way for longer than this
    #[arg(long, value_name = "SECS", default_value_t = 90)]
    pub pending: u64,
    /// Pause before a suspicion is looked at again
    #[arg(long, value_name = "MS", default_value_t = 1_000)]
    pub pause: u64,
}

/// Runs it; ends the program with fsck(8)'s codes.
///
/// # Errors
/// The output's.
pub fn run(args: FsckArgs) -> Result<()> {
    let report = match look(&args) {
        Ok(report) => report,
        Err(e) => {
            output::finish(Err(e));
            std::process::exit(NOT_CHECKED);
        }
    };
    if args.fs.json {
        output::json(&report)?;
    } else {
        tell(&report)?;
    }
    if !report.problems.is_empty() {
        std::process::exit(PROBLEMS_LEFT);
    }
    Ok(())
}

fn look(args: &FsckArgs) -> Result<Report> {
    let target = target::find(&args.fs)?;
    let fs = Fs::open(&args.fs, &target)?;
    let options = Options {
        pause: Duration::from_millis(args.pause),
        pending_max: Duration::from_secs(args.pending),
    };
    let (map, cred) = (fs.map().clone(), fs.op().cx.cred);
    let report = fs.background.wait(move |worker| async move {
        let peers = NetPeers::new(worker.net().clone());
        Ok(fsck::check(&peers, &cred, &map, options).await)
    });
    fs.end();
    let report = report??;
    if report.objects == 0 {
        bail!("no metadata server has a root directory: is this the right file system?");
    }
    Ok(report)
}

fn tell(report: &Report) -> Result<()> {
    for problem in &report.problems {
        output::line(problem.to_string())?;
    }
    if report.unsettled > 0 {
        output::line(format!(
            "{} suspicions could not be settled, because the objects are in constant use: check again",
            report.unsettled
        ))?;
    }
    output::line(format!(
        "{} objects, {} names, {} datafiles: {}",
        report.objects,
        report.names,
        report.datafiles,
        match report.problems.len() {
            0 => "clean".to_owned(),
            1 => "1 problem".to_owned(),
            n => format!("{n} problems"),
        }
    ))?;
    Ok(())
}
