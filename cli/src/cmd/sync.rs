//! `pvfs2 sync`: the thin sync service. Its server, and the daemon and tools of a device; all of them
//! are in the crate `pvfs2-sync`, this file is their command line.
use super::sync_admin::{self, BackupCommand, RootArgs};
use super::sync_args::{IgnoreArgs, LimitArgs, ScheduleArgs, SelectArgs};
use super::sync_vault::{self, FolderArgs, OpenArgs};
use crate::output;
use crate::signals::StopSignals;
use anyhow::{Context, Result, bail};
use clap::Subcommand;
use pvfs2_sync::api::{CODE_NEEDED, Login, LoginWithCode};
use pvfs2_sync::device::config::Config;
use pvfs2_sync::device::daemon::{self, Status, Working};
use pvfs2_sync::device::engine::Report;
use pvfs2_sync::device::page;
use pvfs2_sync::device::settings::{self, Settings};
use pvfs2_sync::error::SyncError;
use pvfs2_sync::secret::Secret;
use pvfs2_sync::server::root::{self, Begin, Known};
use pvfs2_sync::server::running::{Kept, Options, Running};
use pvfs2_sync::server::serve::Identity;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Arguments of `pvfs2 sync`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  pvfs2 sync quickstart --root /mnt/pvfs2/user
  pvfs2 sync setup --server https://host:8443 --ca cert.pem --user ann --folder ~/Cloud
  pvfs2 sync daemon
  pvfs2 sync encrypt Private      # a folder that the server cannot read
  pvfs2 sync unlock Private       # on another device
  pvfs2 sync status")]
pub struct SyncArgs {
    #[command(subcommand)]
    #[allow(missing_docs)]
    pub what: What,
}

/// The parts of it.
#[derive(Subcommand, Debug)]
pub enum What {
    /// Start the service with a certificate and an administrator made at the first start
    Quickstart(QuickstartArgs),
    /// Start the service
    Serve(ServeArgs),
    /// Make, list, check and load backups, with the server stopped
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Let every device begin anew (nothing is deleted), after an older state of the root was put back
    NewEpoch(RootArgs),
    /// Sign this device in and choose its folder
    Setup(SetupArgs),
    /// Keep the folder in step until stopped
    Daemon(DaemonArgs),
    /// Bring the folder in step once, now
    Now(NowArgs),
    /// Tell how the folder stands
    Status(StateArgs),
    /// List the conflict copies in the folder
    Conflicts(StateArgs),
    /// Do nothing until `resume`
    Pause(StateArgs),
    /// Go on after `pause`
    Resume(StateArgs),
    /// Show or set when the folder is brought in step
    Schedule(ScheduleArgs),
    /// Show or set how fast bytes may travel
    Limit(LimitArgs),
    /// Show, add or remove patterns of what is left out on this device
    Ignore(IgnoreArgs),
    /// Show or choose the folders that are synchronised on this device
    Select(SelectArgs),
    /// Tell the address of this device's settings page
    Page(StateArgs),
    /// Make a new folder that is encrypted end to end
    Encrypt(FolderArgs),
    /// Open an encrypted folder on this device with its passphrase
    Unlock(OpenArgs),
    /// Forget the key of an encrypted folder on this device
    Lock(FolderArgs),
    /// Change the passphrase of an encrypted folder
    Passphrase(OpenArgs),
}

/// Arguments of `pvfs2 sync quickstart`.
#[derive(clap::Args, Debug)]
pub struct QuickstartArgs {
    /// The folder for the users' folders; made if it is missing
    #[arg(long, value_name = "DIR", default_value = "./pvfs2-sync-data")]
    pub root: PathBuf,
    /// Address and port to listen on
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8443")]
    pub listen: SocketAddr,
    /// Another name or address of this host, for the certificate; may be repeated
    #[arg(long, value_name = "NAME")]
    pub host: Vec<String>,
    /// Begin a new, empty store where there was one (or take another one that is there)
    #[arg(long)]
    pub init: bool,
}

/// Arguments of `pvfs2 sync serve`.
#[derive(clap::Args, Debug)]
pub struct ServeArgs {
    /// The folder for the users' folders, such as /mnt/pvfs2/user; must be there
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Address and port to listen on
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:8443")]
    pub listen: SocketAddr,
    /// Certificate chain, PEM (default: one that is made, signed by itself)
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Another name or address of this host, for the certificate that is made; may be repeated
    #[arg(long, value_name = "NAME")]
    pub host: Vec<String>,
    /// Let anybody make an account
    #[arg(long)]
    pub signup: bool,
    /// Quota of accounts that people make themselves, with a suffix K, M, G
    #[arg(long, value_name = "BYTES", value_parser = super::size_arg, default_value = "10G")]
    pub signup_quota: u64,
    /// Begin a new store in this root, which must be empty; say it once, not in a unit file
    #[arg(long)]
    pub init: bool,
    /// Keep the accounts in MariaDB: a file (mode 0600) with mysql://USER:PASSWORD@HOST:PORT/NAME
    #[arg(long, value_name = "FILE")]
    pub accounts: Option<PathBuf>,
}

/// Where a device keeps its state.
#[derive(clap::Args, Debug, Clone)]
pub struct StateArgs {
    /// The device's state directory (default: $XDG_STATE_HOME/pvfs2-sync)
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `pvfs2 sync setup`.
#[derive(clap::Args, Debug)]
pub struct SetupArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub state: StateArgs,
    /// The server, https://HOST:PORT
    #[arg(long, value_name = "URL")]
    pub server: String,
    /// Certificate to trust, PEM; needed for one that a server signed itself
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// User name; the password is asked for, or read from standard input
    #[arg(long, value_name = "NAME")]
    pub user: String,
    /// The folder to keep in step; made if it is missing
    #[arg(long, value_name = "DIR")]
    pub folder: PathBuf,
    /// What this device calls itself (default: the host's name)
    #[arg(long, value_name = "NAME")]
    pub device: Option<String>,
}

/// Arguments of `pvfs2 sync daemon`.
#[derive(clap::Args, Debug)]
pub struct DaemonArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub state: StateArgs,
    /// A full scan at least so often
    #[arg(long, value_name = "SECONDS", default_value_t = 300,
          value_parser = clap::value_parser!(u64).range(1..=86_400 * 7))]
    pub every: u64,
    /// Only at those times, not whenever something changes
    #[arg(long)]
    pub no_watch: bool,
}

/// Arguments of `pvfs2 sync now`.
#[derive(clap::Args, Debug)]
pub struct NowArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub state: StateArgs,
    /// Carry out deletions even if they are many
    #[arg(long)]
    pub allow_deletes: bool,
}

/// Runs it.
///
/// # Errors
/// The service's, with what to do.
pub fn run(args: SyncArgs) -> Result<()> {
    match args.what {
        What::Quickstart(a) => quickstart(a),
        What::Serve(a) => serve(a),
        What::Backup(a) => sync_admin::backup(a),
        What::NewEpoch(a) => sync_admin::new_epoch(a),
        What::Setup(a) => setup(a),
        What::Daemon(a) => run_daemon(a),
        What::Now(a) => now(&a),
        What::Status(a) => status(a),
        What::Conflicts(a) => conflicts(a),
        What::Pause(a) => set(&a, |s| s.paused = true),
        What::Resume(a) => set(&a, |s| s.paused = false),
        What::Schedule(a) if a.when.is_empty() => show(&a.state),
        What::Schedule(a) => {
            let schedule = a.when.join(" ").parse()?;
            set(&a.state, |s| s.schedule = schedule)
        }
        What::Limit(a) => {
            let up = a.up.as_deref().map(settings::rate).transpose()?;
            let down = a.down.as_deref().map(settings::rate).transpose()?;
            set(&a.state, |s| (s.up, s.down) = (up.unwrap_or(s.up), down.unwrap_or(s.down)))
        }
        What::Ignore(a) => set(&a.state, |s| {
            s.ignore.retain(|p| !a.patterns.contains(p));
            if !a.remove {
                s.ignore.extend(a.patterns);
            }
        }),
        What::Select(a) if a.folders.is_empty() && !a.all => show(&a.state),
        What::Select(a) => set(&a.state, |s| s.only = a.folders),
        What::Page(a) => page(&a),
        What::Encrypt(a) => sync_vault::encrypt(&a),
        What::Unlock(a) => sync_vault::unlock(&a),
        What::Lock(a) => sync_vault::lock(&a),
        What::Passphrase(a) => sync_vault::passphrase(&a),
    }
}

/// Changes the device's settings and shows them; a daemon that runs takes them in at once.
fn set(args: &StateArgs, f: impl FnOnce(&mut Settings)) -> Result<()> {
    let state = state_dir(args)?;
    Config::load(&state)?;
    Settings::change(&state, f)?;
    show(args)
}

fn show(args: &StateArgs) -> Result<()> {
    let set = Settings::load(&state_dir(args)?)?;
    if args.json {
        return output::json(&set);
    }
    let rate = |bytes: u64| match bytes {
        0 => "no limit".into(),
        n => format!("{} KiB/s", n >> 10),
    };
    let list = |all: &[String], none: &str| match all {
        [] => none.to_owned(),
        some => some.join(", "),
    };
    say(format!("when: {}{}", set.schedule, if set.paused { " (paused)" } else { "" }));
    say(format!("up: {}, down: {}", rate(set.up), rate(set.down)));
    say(format!("left out here: {}", list(&set.ignore, "nothing")));
    say(format!("folders: {}", list(&set.only, "all")));
    Ok(())
}

fn page(args: &StateArgs) -> Result<()> {
    let address = page::Address::load(&state_dir(args)?)?;
    if args.json {
        return output::json(&address);
    }
    say(address.url);
    Ok(())
}

/// Prints a line; a reader that went away is no reason to stop serving.
pub(super) fn say(text: impl AsRef<str>) {
    let _ = output::line(text);
}

/// Names for a certificate that is made here.
fn hosts(listen: SocketAddr, more: Vec<String>) -> Vec<String> {
    let mut all = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if !listen.ip().is_unspecified() {
        all.push(listen.ip().to_string());
    }
    all.push(host_name());
    all.extend(more);
    all.sort();
    all.dedup();
    all
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "host".into() } else { name }
}

fn until_stopped(signals: &mut StopSignals) {
    while signals.wait(Duration::from_secs(3_600)).is_none() {}
}

fn quickstart(args: QuickstartArgs) -> Result<()> {
    let mut signals = StopSignals::catch()?;
    let root = std::path::absolute(&args.root)
        .with_context(|| format!("cannot find {}", args.root.display()))?;
    // Whether a store was there is remembered outside of it: its mount may be gone.
    let known = state_home().ok().map(|base| Known::at(base.join("pvfs2-sync-server/roots")));
    let begin = root::quickstart(&root, known.as_ref(), args.init)?;
    let mut options = Options::new(root, args.listen);
    options.hosts = hosts(args.listen, args.host);
    options.signup = Some(Some(10 << 30));
    options.begin = begin;
    let server = Running::start(&options)?;
    if let Some(known) = &known {
        known.remember(&options.root, server.app.root().id())?;
    }
    let cert = server.cert.canonicalize().unwrap_or_else(|_| server.cert.clone());
    if begin != Begin::Never {
        say(format!("New store in {}", options.root.display()));
    }
    say(format!("The sync service answers at https://{}", server.addr));
    if let Some(password) = server.first_admin()? {
        say(format!("Administrator: admin, password {password} (shown this once)"));
    }
    say(format!("Certificate, for devices: {}", cert.display()));
    say(format!(
        "A device:  pvfs2 sync setup --server https://{} --ca {} --user NAME --folder DIR\n           \
         pvfs2 sync daemon",
        server.addr,
        cert.display()
    ));
    let _kept = Kept::new(server, &options)?;
    until_stopped(&mut signals);
    Ok(())
}

fn serve(args: ServeArgs) -> Result<()> {
    let mut signals = StopSignals::catch()?;
    let mut options = Options::new(args.root, args.listen);
    options.hosts = hosts(args.listen, args.host);
    options.identity = args.cert.zip(args.key).map(|(cert, key)| Identity { cert, key });
    options.signup = args.signup.then_some(Some(args.signup_quota));
    options.accounts = sync_admin::accounts(args.accounts.as_deref())?;
    options.begin = if args.init { Begin::New } else { Begin::Never };
    let server = Running::start(&options)?;
    say(format!("listening on https://{}", server.addr));
    if let Some(password) = server.first_admin()? {
        say(format!("administrator: admin, password {password} (shown this once)"));
    }
    let _kept = Kept::new(server, &options)?;
    until_stopped(&mut signals);
    Ok(())
}

pub(super) fn state_dir(args: &StateArgs) -> Result<PathBuf> {
    if let Some(dir) = &args.state {
        return Ok(dir.clone());
    }
    Ok(state_home()?.join("pvfs2-sync"))
}

fn state_home() -> Result<PathBuf> {
    match std::env::var_os("XDG_STATE_HOME").filter(|d| !d.is_empty()) {
        Some(dir) => Ok(PathBuf::from(dir)),
        None => match std::env::var_os("HOME") {
            Some(home) => Ok(Path::new(&home).join(".local/state")),
            None => bail!("neither $XDG_STATE_HOME nor $HOME is set: say --state DIR"),
        },
    }
}

/// Reads the password; a terminal does not show it.
fn password(user: &str) -> Result<String> {
    asked(&format!("Password of {user}:"))
}

/// Asks for a secret: a line of standard input.
pub(super) fn asked(question: &str) -> Result<String> {
    use std::io::IsTerminal;
    let terminal = std::io::stdin().is_terminal();
    let echo = |on: &str| terminal && Command::new("stty").arg(on).status().is_ok();
    if terminal {
        say(question);
    }
    echo("-echo");
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    echo("echo");
    read.context("cannot read standard input")?;
    let line = line.trim_end_matches(['\r', '\n']).to_owned();
    if line.is_empty() {
        bail!("{question} no answer: type it, or give it as a line of standard input");
    }
    Ok(line)
}

fn setup(args: SetupArgs) -> Result<()> {
    let state = state_dir(&args.state)?;
    let ca = match &args.ca {
        Some(path) => Some(
            std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?,
        ),
        None => None,
    };
    let login = Login {
        password: password(&args.user)?.into(),
        user: args.user,
        device: args.device.unwrap_or_else(host_name),
    };
    let mut login = LoginWithCode { login, code: Secret::default() };
    let set_up =
        |login: &_| Config::set_up_with_code(&state, &args.server, ca.clone(), login, &args.folder);
    let config = match set_up(&login) {
        Err(SyncError::Denied(why)) if why == CODE_NEEDED => {
            login.code = asked("Code of your app, or a recovery code:")?.into();
            set_up(&login)?
        }
        other => other?,
    };
    say(format!(
        "{} is signed in; {} will be in step with {}. Next: pvfs2 sync daemon",
        config.device,
        config.folder.display(),
        config.server
    ));
    Ok(())
}

fn run_daemon(args: DaemonArgs) -> Result<()> {
    let state = state_dir(&args.state)?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut signals = StopSignals::catch()?;
    let every = Duration::from_secs(args.every);
    std::thread::scope(|scope| {
        let work = scope.spawn(|| daemon::run(&state, every, !args.no_watch, &stop));
        while !work.is_finished() {
            if signals.wait(Duration::from_millis(200)).is_some() {
                stop.store(true, Ordering::Relaxed);
            }
        }
        match work.join() {
            Ok(result) => Ok(result?),
            Err(_) => bail!("the daemon's worker ended by a panic"),
        }
    })
}

fn tell(report: &Report) {
    say(format!(
        "in step: {} down ({} bytes), {} up ({} bytes)",
        report.down, report.bytes_down, report.up, report.bytes_up
    ));
    let list = |what: &str, all: &[String]| {
        for one in all {
            say(format!("{what}: {one}"));
        }
    };
    list("conflict copy", &report.conflicts);
    list("skipped", &report.skipped);
    list("problem", &report.problems);
}

pub(super) fn now(args: &NowArgs) -> Result<()> {
    let state = state_dir(&args.state)?;
    Config::load(&state)?;
    if let Some(_lock) = Config::lock(&state)? {
        use std::io::IsTerminal;
        let terminal = std::io::stderr().is_terminal();
        let progress = |w: &Working| {
            if terminal && w.of > 0 {
                eprint!("\r{} of {} steps, {} MiB \x1b[K", w.done, w.of, w.bytes >> 20);
            }
        };
        let result = daemon::once_told(&state, args.allow_deletes, &progress);
        if terminal {
            eprint!("\r\x1b[K");
        }
        let report = result?;
        tell(&report);
        if report.problems.is_empty() {
            return Ok(());
        }
        bail!("{} problems", report.problems.len());
    }
    if Settings::load(&state)?.paused {
        bail!("paused: say `pvfs2 sync resume` first");
    }
    let before = Status::load(&state).map_or(0, |s| s.passes);
    daemon::wish(&state, args.allow_deletes)?;
    let end = Instant::now() + Duration::from_secs(3_600);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
        // One pass may have been under way when the wish came.
        match Status::load(&state) {
            Ok(s) if s.passes > before && !state.join("wish").exists() => {
                say(s.state);
                return Ok(());
            }
            _ => {}
        }
    }
    bail!("the daemon has made no pass within an hour")
}

fn status(args: StateArgs) -> Result<()> {
    let state = state_dir(&args)?;
    let (config, status) = (Config::load(&state)?, Status::load(&state)?);
    if args.json {
        return output::json(&status);
    }
    let running = Config::lock(&state)?.is_none();
    say(format!("{} at {}: {}", config.user, config.server, config.folder.display()));
    say(format!("state: {}", status.state));
    if let Some(w) = Working::load(&state).filter(|_| running) {
        say(format!("working: {} of {} steps, {} KiB", w.done, w.of, w.bytes >> 10));
    }
    say(format!(
        "daemon: {}{}",
        if running { "running" } else { "not running" },
        match (running, status.watching) {
            (true, false) => ", the folder is not watched: changes wait for the next full scan",
            _ => "",
        }
    ));
    say(format!("passes: {}, lost hints: {}", status.passes, status.overflows));
    show(&StateArgs { json: false, ..args })?;
    for v in &status.vaults {
        let how = if v.closed.is_empty() { "unlocked" } else { v.closed.as_str() };
        say(format!("encrypted: {}: {how}", v.path));
    }
    for one in &status.skipped {
        say(format!("skipped: {one}"));
    }
    for one in &status.problems {
        say(format!("problem: {one}"));
    }
    Ok(())
}

fn conflicts(args: StateArgs) -> Result<()> {
    let state = state_dir(&args)?;
    let config = Config::load(&state)?;
    let found = pvfs2_sync::device::config::conflicts_in(&config.folder)?;
    if args.json {
        return output::json(&found);
    }
    for path in &found {
        say(path);
    }
    if found.is_empty() {
        say("no conflict copies");
    }
    Ok(())
}
