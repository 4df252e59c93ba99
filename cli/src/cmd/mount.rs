//! `pvfs2 mount`, also as `mount.pvfs2` and `mount.fuse.pvfs2` for mount(8).
use crate::fsclient::{MountRequest, Mounted};
use crate::signals::StopSignals;
use crate::{daemon, mounts, output};
use anyhow::{Context, Result};
use pvfs2_config::MountSpec;
use pvfs2_fuse::options::{KNOWN, MountOptions, WRITEBACK_NOTICE};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Arguments of `pvfs2 mount`.
#[derive(clap::Args, Debug)]
#[command(after_help = after_help())]
pub struct MountArgs {
    /// tcp://HOST:PORT/NAME[/DIR] or unix:///PATH.sock/NAME[/DIR]: any server of the cluster
    #[arg(value_name = "SPEC")]
    pub spec: String,
    /// Mount point
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Mount options, comma-separated; may be repeated
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub options: Vec<String>,
    /// Stay in the foreground, log to stderr, unmount on SIGINT and SIGTERM
    #[arg(short, long)]
    pub foreground: bool,
    /// Log of the background process [default: below $XDG_RUNTIME_DIR or /run]
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// Overlook unknown options (mount -s)
    #[arg(long)]
    pub sloppy: bool,
    /// Check everything, mount nothing (mount -f)
    #[arg(long)]
    pub fake: bool,
    /// Tell what is done
    #[arg(short, long)]
    pub verbose: bool,
}

fn after_help() -> String {
    format!(
        "Mount options:\n  {}\n\nExamples:\n  \
         pvfs2 mount tcp://localhost:3334/pvfs2-fs /mnt/pvfs2\n  \
         pvfs2 mount tcp://m1:3334/pvfs2-fs/home /home -o noatime,hard,keyfile=/etc/pvfs2/key\n  \
         mount -o remount,ro /mnt/pvfs2\n\
         /etc/fstab (with this program linked as /sbin/mount.pvfs2):\n  \
         tcp://m1:3334/pvfs2-fs  /mnt/pvfs2  pvfs2  _netdev,noatime,keyfile=/etc/pvfs2/key  0 0\n\n\
         Unmount with umount(8), `pvfs2 umount`, or fusermount3 -u.",
        KNOWN.split_whitespace().collect::<Vec<_>>().join(" ")
    )
}

/// Runs it.
///
/// # Errors
/// Whatever keeps it from mounting, with the remedy.
pub fn run(args: MountArgs) -> Result<()> {
    let options = parse_options(&args)?;
    if options.remount {
        pvfs2_fuse::mount::remount(&args.dir, &options)?;
        return tell(&args, "remounted");
    }
    let spec: MountSpec = args.spec.parse()?;
    if args.fake {
        return tell(&args, "would be mounted");
    }
    if !args.foreground && !daemon::is_detached() {
        if options.writeback {
            tracing::warn!("{WRITEBACK_NOTICE}");
        }
        let log = args.log_file.clone().unwrap_or_else(|| default_log(&args.dir));
        daemon::detach(&log)?;
        return tell(&args, "mounted");
    }
    daemon::become_daemon();
    let mut signals = StopSignals::catch()?;
    let key_file = options.keyfile.clone();
    let request = MountRequest { spec, dir: args.dir.clone(), options, map: None, key_file };
    let mounted = Mounted::new(request)?;
    if let Some(line) = mounted.mended() {
        output::line(line)?;
    }
    if args.foreground {
        tracing::info!("mounted {} on {}", args.spec, args.dir.display());
    }
    daemon::ready()?;
    let why = loop {
        if let Some(name) = signals.wait(Duration::from_millis(300)) {
            break name;
        }
        if mounted.has_ended() {
            break "unmounted";
        }
    };
    tracing::info!("{why}: ending the mount on {}", args.dir.display());
    mounted.end();
    Ok(())
}

fn parse_options(args: &MountArgs) -> Result<MountOptions> {
    let mut options = MountOptions::default();
    for text in &args.options {
        if !args.sloppy {
            options.apply(text).context("-o")?;
            continue;
        }
        for one in text.split(',') {
            if let Err(e) = options.apply(one) {
                tracing::warn!("overlooked: {e}");
            }
        }
    }
    Ok(options)
}

fn tell(args: &MountArgs, what: &str) -> Result<()> {
    if args.verbose {
        output::line(format!("{} {what} on {}", args.spec, args.dir.display()))?;
    }
    Ok(())
}

/// A log per mount point that this user may write: `/run/pvfs2/mount-mnt-pvfs2.log`.
fn default_log(dir: &Path) -> PathBuf {
    let dir = mounts::lexical(dir).unwrap_or_else(|_| dir.to_owned());
    let name = dir.to_string_lossy().trim_matches('/').replace('/', "-");
    let base = match std::env::var_os("XDG_RUNTIME_DIR") {
        _ if rustix::process::geteuid().is_root() => PathBuf::from("/run/pvfs2"),
        Some(runtime) => PathBuf::from(runtime).join("pvfs2"),
        None => std::env::temp_dir().join(format!("pvfs2-{}", rustix::process::geteuid().as_raw())),
    };
    base.join(format!("mount-{name}.log"))
}
