//! A client of the file system for tools, and a mount with all that belongs to it.
//!
//! [`Fs`] runs the machines of `client-lib` one after the other for a tool; [`Mounted`] is the last
//! room but one of the mount walk: configuration from a server, client, background thread, FUSE.
use crate::args::FsArgs;
use crate::target::Target;
use anyhow::{Context, Result, anyhow, bail};
use pvfs2_bmi::addr::Address;
use pvfs2_bmi::auth::ClusterKey;
use pvfs2_client::sys::LookupPath;
use pvfs2_client::{Background, Client, ClientConfig, Machine, OpState};
use pvfs2_config::MountSpec;
use pvfs2_fuse::mount::{MountHandle, mount};
use pvfs2_fuse::options::{MountOptions, WRITEBACK_NOTICE};
use pvfs2_proto::env::Env;
use pvfs2_proto::op::Cred;
use pvfs2_proto::{Attr, ClusterMap, DirMap, ErrorCode, Handle, PvfsError};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// How long one address may take to hand out the configuration.
const FETCH_PATIENCE: Duration = Duration::from_secs(5);

/// A runtime for a tool.
///
/// # Errors
/// When the system gives none.
pub fn runtime() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("cannot start a runtime")
}

/// The key that a tool was given.
///
/// # Errors
/// When the file cannot be read or holds no key.
pub fn key(args: &FsArgs) -> Result<Option<ClusterKey>> {
    let from_env = || std::env::var_os("PVFS2_KEY_FILE").map(PathBuf::from);
    read_key(args.key_file.clone().or_else(from_env).as_deref())
}

fn read_key(path: Option<&Path>) -> Result<Option<ClusterKey>> {
    Ok(path.map(ClusterKey::from_file).transpose()?)
}

/// The configuration, from the first spec whose server answers.
///
/// # Errors
/// When none answers, with what the last one said.
pub async fn fetch_map(target: &Target, key: Option<&ClusterKey>) -> Result<ClusterMap> {
    let mut last = anyhow!("no server is known");
    for spec in &target.specs {
        match fetch_one(spec, key).await {
            Ok(map) => return Ok(map),
            Err(e) => last = e,
        }
    }
    Err(last)
}

async fn fetch_one(spec: &MountSpec, key: Option<&ClusterKey>) -> Result<ClusterMap> {
    let address: Address = spec.address.parse()?;
    let asked = pvfs2_bmi::client::fetch_map(&address, &spec.fs_name, key.cloned());
    match tokio::time::timeout(FETCH_PATIENCE, asked).await {
        Ok(Ok(map)) => Ok(map),
        Ok(Err(e)) if e.code == ErrorCode::Unreachable => Err(anyhow!(
            "no server answers at {} ({}); is it running? `pvfs2 server` or `pvfs2 quickstart` starts one",
            spec.address,
            e.detail
        )),
        Ok(Err(e)) => Err(e.into()),
        Err(_) => Err(anyhow!(
            "no answer from {} within {} s; check the address and the network",
            spec.address,
            FETCH_PATIENCE.as_secs()
        )),
    }
}

/// For messages at the servers: host, program, pid.
fn client_name(what: &str) -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host} {what} pid {}", std::process::id())
}

/// The credentials of this process.
pub fn my_cred() -> Cred {
    let groups = rustix::process::getgroups().unwrap_or_default();
    Cred {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        groups: groups.iter().map(|g| g.as_raw()).collect(),
        groups_known: true,
    }
}

/// A client for tools.
pub struct Fs {
    /// The client.
    pub client: Arc<Client>,
    /// What runs its operations, renews its sessions and sends its closes.
    pub background: Arc<Background>,
    cred: Cred,
}

impl Fs {
    /// Connects to the file system that `target` names.
    ///
    /// # Errors
    /// When no server answers.
    pub fn open(args: &FsArgs, target: &Target) -> Result<Fs> {
        Fs::open_with(args, target, |_| ())
    }

    /// As [`Fs::open`], with a configuration of its own.
    ///
    /// # Errors
    /// When no server answers.
    pub fn open_with(
        args: &FsArgs,
        target: &Target,
        configure: impl FnOnce(&mut ClientConfig),
    ) -> Result<Fs> {
        let key = key(args)?;
        let map = runtime()?.block_on(fetch_map(target, key.as_ref()))?;
        let mut config = ClientConfig::new(Arc::new(map), Env::real());
        config.key = key;
        config.name = client_name("pvfs2 tool");
        configure(&mut config);
        let client = Client::new(config);
        let background = Background::start(client.clone())?;
        Ok(Fs { client, background, cred: my_cred() })
    }

    /// The servers.
    pub fn map(&self) -> &Arc<ClusterMap> {
        self.client.map()
    }

    /// A new operation on behalf of this process.
    pub fn op(&self) -> OpState {
        OpState::new(&self.client, self.cred.clone(), 0)
    }

    /// Runs one operation to its end.
    ///
    /// # Errors
    /// The operation's.
    pub fn run<M>(&self, machine: M) -> Result<M::Out, PvfsError>
    where
        M: Machine + 'static,
        M::Out: 'static,
    {
        self.background.run_op(machine, self.op())
    }

    /// The attributes of a path below the root.
    ///
    /// # Errors
    /// The operation's, naming the path.
    pub fn lookup(&self, path: &[u8], follow: bool) -> Result<Attr> {
        self.run(LookupPath::new(Handle::ROOT, path, follow)).map_err(|e| at(path, e))
    }

    /// The map of a directory that was looked up, if it is split.
    pub fn dir_map(&self, dir: Handle) -> Option<Arc<DirMap>> {
        self.client.dirmaps().get(dir)
    }

    /// Sends what is held back, ends the sessions.
    pub fn end(self) {
        self.background.shutdown();
    }
}

/// An error with the path that it is about.
pub fn at(path: &[u8], e: PvfsError) -> anyhow::Error {
    let path = String::from_utf8_lossy(path);
    let words = match e.detail.is_empty() {
        true => crate::cmd::perror::words(e.code).to_owned(),
        false => e.detail.to_string(),
    };
    anyhow!("pvfs2:/{path}: {words}")
}

/// What to mount where.
pub struct MountRequest {
    /// What.
    pub spec: MountSpec,
    /// Where.
    pub dir: PathBuf,
    /// How.
    pub options: MountOptions,
    /// The configuration, where it is known already.
    pub map: Option<ClusterMap>,
    /// The cluster's key.
    pub key_file: Option<PathBuf>,
}

/// A mount with its client.
pub struct Mounted {
    handle: MountHandle,
    background: Arc<Background>,
}

impl Mounted {
    /// Mounts.
    ///
    /// # Errors
    /// When no server answers, the subdirectory is missing or the system refuses.
    pub fn new(request: MountRequest) -> Result<Mounted> {
        let key = read_key(request.key_file.as_deref())?;
        let map = match request.map {
            Some(map) => map,
            None => {
                let target = Target { specs: vec![request.spec.clone()] };
                runtime()?.block_on(fetch_map(&target, key.as_ref()))?
            }
        };
        let (options, spec) = (&request.options, &request.spec);
        if options.writeback {
            tracing::warn!("{}: {WRITEBACK_NOTICE}", request.dir.display());
        }
        let mut config = ClientConfig::new(Arc::new(map), Env::real());
        config.key = key;
        config.name = client_name(&format!("mount {}", request.dir.display()));
        options.configure(&mut config);
        let client = Client::new(config);
        let background = Background::start(client.clone())?;
        let source = spec.to_string();
        let mounted = find_root(&client, &background, spec, options).and_then(|root| {
            let mounted = mount(client, background.clone(), root, &request.dir, &source, options);
            mounted.map_err(anyhow::Error::from)
        });
        match mounted {
            Ok(handle) => Ok(Mounted { handle, background }),
            Err(e) => {
                background.shutdown();
                Err(e)
            }
        }
    }

    /// What was put right before mounting.
    pub fn mended(&self) -> Option<&str> {
        self.handle.mended.as_deref()
    }

    /// Whether it is unmounted.
    pub fn has_ended(&self) -> bool {
        self.handle.has_ended()
    }

    /// Unmounts, writes out, ends the sessions.
    pub fn end(self) {
        self.handle.unmount();
        self.background.shutdown();
    }
}

/// The directory to mount: the root, or what the spec's path and the option `subdir` name.
fn find_root(
    client: &Arc<Client>,
    background: &Background,
    spec: &MountSpec,
    options: &MountOptions,
) -> Result<Handle> {
    let below = Path::new(&spec.subdir).join(
        options.subdir.as_deref().map_or(Path::new(""), |s| s.strip_prefix("/").unwrap_or(s)),
    );
    // Asking for the root too shows, before anything is mounted, whether its server answers.
    let path = below.as_os_str().as_bytes();
    let lookup = LookupPath::new(Handle::ROOT, path, true);
    let attr = background.run_op(lookup, OpState::own(client)).map_err(|e| at(path, e))?;
    if !attr.is_dir() {
        bail!("{} in {} is no directory", below.display(), spec);
    }
    Ok(attr.handle())
}
