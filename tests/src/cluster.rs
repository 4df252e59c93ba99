//! A cluster of real server processes in a temporary folder.
//!
//! Invariants: every process was started here and is ended by its id on drop; ports are free ones of
//! loopback; a server dies with the thread that started it (`PR_SET_PDEATHSIG`), so start and restart
//! from the test's own thread, never from a helper that ends earlier.
use crate::metrics::Counters;
use crate::mount::Mount;
use crate::wait::{exit_within, secs, until};
use pvfs2_config::{Cluster as File, Generate, NewServer};
use pvfs2_proto::{Dist, Handle, HandleRange};
use rustix::process::{Pid, Signal, kill_process};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// What cluster a test wants.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Metadata servers.
    pub meta: usize,
    /// I/O servers.
    pub io: usize,
    /// Strips of new files.
    pub strip_size_bytes: u64,
    /// Files up to this size live with their metafile.
    pub small_file_bytes: u64,
    /// Names with which a directory splits.
    pub dir_split_entries: u64,
    /// Unix sockets in the temporary folder besides TCP.
    pub unix: bool,
    /// Lease of a session.
    pub lease_ms: u32,
    /// Pause between a client's retries.
    pub retry_delay_ms: u32,
    /// Bytes that all servers together have room for (a tmpfs of their own; needs root); 0: the disk.
    pub space_bytes: u64,
}

impl Default for Spec {
    fn default() -> Self {
        Spec {
            meta: 1,
            io: 4,
            strip_size_bytes: 65_536,
            small_file_bytes: 8_192,
            dir_split_entries: pvfs2_config::Defaults::default().dir_split_entries,
            unix: false,
            lease_ms: 5_000,
            retry_delay_ms: 200,
            space_bytes: 0,
        }
    }
}

/// The `pvfs2` program: `PVFS2_BIN`, or the one of this build, built if it is missing.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(path) = std::env::var_os("PVFS2_BIN") {
            return path.into();
        }
        // target/<profile>/deps/<this test> -> target/<profile>/pvfs2
        let me = std::env::current_exe().expect("own path");
        let profile = me.parent().and_then(Path::parent).expect("a profile's folder");
        // A test binary does not depend on the program, so build it: at once when it is fresh.
        let mut cargo = Command::new(option_env!("CARGO").unwrap_or("cargo"));
        cargo.args(["build", "--quiet", "-p", "pvfs2", "--bin", "pvfs2"]);
        cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        let status = cargo.status().expect("run cargo to build the program");
        assert!(status.success(), "building the program failed: {status}");
        profile.join("pvfs2")
    })
}

/// One server.
pub struct Server {
    /// Its alias.
    pub alias: String,
    /// `host:port` of its TCP address.
    pub tcp: String,
    /// Its storage space.
    pub storage: PathBuf,
    /// Its datahandles, if it is an I/O server.
    pub io_range: Option<HandleRange>,
    management: String,
    child: Option<Child>,
}

impl Server {
    /// Its process, while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }
}

fn server_of(file: &File, s: &pvfs2_config::Server) -> Server {
    Server {
        alias: s.alias.clone(),
        tcp: s.addresses.iter().find_map(|a| a.strip_prefix("tcp://")).expect("tcp").into(),
        storage: file.storage_of(s),
        io_range: s.io_range,
        management: s.management.clone().expect("management"),
        child: None,
    }
}

/// The servers.
pub struct Cluster {
    /// Metadata servers first.
    pub servers: Vec<Server>,
    /// The cluster file, parsed.
    pub file: File,
    spec: Spec,
    _space: Option<Space>,
    dir: tempfile::TempDir,
}

/// A tmpfs that ends when it is dropped.
struct Space(PathBuf);

impl Space {
    fn new(dir: &Path, bytes: u64) -> Space {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]).arg(dir);
        assert!(mount.status().expect("run mount").success(), "mount a tmpfs (needs root)");
        Space(dir.into())
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // Lazily: whatever is still open below ends with who has it open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

impl Cluster {
    /// Formats and starts a cluster; returns when every server accepts connections.
    ///
    /// # Panics
    /// When that fails, with the server's log.
    pub fn start(spec: Spec) -> Cluster {
        let dir = tempfile::Builder::new().prefix("pvfs2-test.").tempdir().expect("temp dir");
        let space = (spec.space_bytes > 0).then(|| Space::new(dir.path(), spec.space_bytes));
        let file = generate(&spec, dir.path());
        std::fs::write(dir.path().join("cluster.toml"), file.to_toml()).expect("cluster file");
        let servers = file.servers.iter().map(|s| server_of(&file, s)).collect();
        let mut cluster = Cluster { servers, file, spec, _space: space, dir };
        for i in 0..cluster.servers.len() {
            let alias = cluster.servers[i].alias.clone();
            let out = cluster.command("mkfs").args(["--alias", &alias]).output().expect("run mkfs");
            assert!(out.status.success(), "mkfs {alias}: {}", String::from_utf8_lossy(&out.stderr));
            cluster.spawn(i);
        }
        (0..cluster.servers.len()).for_each(|i| cluster.await_ready(i));
        cluster
    }

    /// `pvfs2 SUBCOMMAND --config FILE`.
    pub fn command(&self, subcommand: &str) -> Command {
        let mut c = Command::new(program());
        c.arg(subcommand).arg("--config").arg(self.config());
        c
    }

    /// The cluster file.
    pub fn config(&self) -> PathBuf {
        self.dir.path().join("cluster.toml")
    }

    /// The temporary folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Adds servers at the end of the cluster file, as docs/CONFIG.md says: makes their storage, starts
    /// them, restarts the others.
    ///
    /// # Panics
    /// When a step fails.
    pub fn add_servers(&mut self, meta: usize, io: usize) {
        let file = &mut self.file;
        let count = |f: &File, meta: bool| {
            let has = |s: &&pvfs2_config::Server| {
                if meta { s.meta_range.is_some() } else { s.io_range.is_some() }
            };
            f.servers.iter().filter(has).count() as u64
        };
        let before = file.servers.len();
        for (is_meta, n) in [(true, meta), (false, io)] {
            for _ in 0..n {
                let index = count(file, is_meta);
                let alias = format!("{}{index}", if is_meta { "meta" } else { "io" });
                let ports = free_ports(2);
                file.servers.push(pvfs2_config::Server {
                    meta_range: is_meta.then(|| pvfs2_config::generate::meta_range(index)),
                    io_range: (!is_meta).then(|| pvfs2_config::generate::io_range(index)),
                    addresses: vec![format!("tcp://127.0.0.1:{}", ports[0])],
                    storage: self.dir.path().join(&alias),
                    management: Some(format!("http://127.0.0.1:{}", ports[1])),
                    keyval: pvfs2_proto::KeyvalMethod::default(),
                    meta_memory_bytes: pvfs2_config::META_MEMORY_BYTES,
                    alias,
                });
            }
        }
        std::fs::write(self.config(), self.file.to_toml()).expect("cluster file");
        for i in before..self.file.servers.len() {
            let server = server_of(&self.file, &self.file.servers[i]);
            let out = self.command("mkfs").args(["--alias", &server.alias]).output();
            let out = out.expect("run mkfs");
            assert!(out.status.success(), "mkfs: {}", String::from_utf8_lossy(&out.stderr));
            self.servers.push(server);
            self.restart(i);
        }
        for i in 0..before {
            self.terminate(i);
            self.restart(i);
        }
    }

    /// `pvfs2 fsck --check` finds nothing.
    ///
    /// # Panics
    /// When it does, with what it says.
    pub fn fsck(&self) {
        let spec = self.mount_spec();
        let out = Command::new(program()).args(["fsck", "--check", "--fs", &spec]).output();
        let out = out.expect("run fsck");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let error = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "pvfs2 fsck: {}\n{text}{error}", out.status);
        assert!(text.ends_with(": clean\n"), "{text}");
    }

    /// What to mount: the first metadata server's TCP address.
    pub fn mount_spec(&self) -> String {
        format!("tcp://{}/{}", self.servers[0].tcp, self.file.fs_name)
    }

    /// Mounts it; `options` as after `-o`.
    pub fn mount(&self, options: &str) -> Mount {
        Mount::new(&self.mount_spec(), self.dir(), options)
    }

    /// Indexes of the I/O servers.
    pub fn io_servers(&self) -> std::ops::Range<usize> {
        self.spec.meta..self.spec.meta + self.spec.io
    }

    fn spawn(&mut self, i: usize) {
        let mut command = self.command("server");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log(i));
        let log = log.expect("log file");
        command.args(["--alias", &self.servers[i].alias]);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("log")).stderr(log);
        die_with_parent(&mut command);
        self.servers[i].child = Some(command.spawn().expect("start a server"));
    }

    fn log(&self, i: usize) -> PathBuf {
        self.dir.path().join(format!("{}.log", self.servers[i].alias))
    }

    fn await_ready(&mut self, i: usize) {
        let log = self.log(i);
        let server = &mut self.servers[i];
        let child = server.child.as_mut().expect("a running server");
        until(secs(30), &format!("server {} accepts connections", server.alias), || {
            if let Some(status) = child.try_wait().expect("wait") {
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                panic!("server {} ended with {status}:\n{text}", server.alias);
            }
            TcpStream::connect(&server.tcp).is_ok()
        });
    }

    /// Kills a server with SIGKILL and waits until it is gone.
    pub fn kill(&mut self, i: usize) {
        if let Some(mut child) = self.servers[i].child.take() {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
    }

    /// Ends a server with SIGTERM.
    ///
    /// # Panics
    /// When it does not end well within 20 s.
    pub fn terminate(&mut self, i: usize) {
        let mut child = self.servers[i].child.take().expect("a running server");
        kill_process(pid(&child), Signal::TERM).expect("signal");
        let status = exit_within(&mut child, secs(20));
        if status.is_none() {
            child.kill().expect("kill");
        }
        assert!(status.is_some_and(|s| s.success()), "{}: {status:?}", self.servers[i].alias);
    }

    /// Starts a server again that was killed or ended.
    pub fn restart(&mut self, i: usize) {
        assert!(self.servers[i].child.is_none(), "restart of a running server");
        self.spawn(i);
        self.await_ready(i);
    }

    /// Starts several servers again, all at once.
    pub fn restart_all(&mut self, which: &[usize]) {
        which.iter().for_each(|&i| self.spawn(i));
        which.iter().for_each(|&i| self.await_ready(i));
    }

    /// Stops (SIGSTOP) or continues every server.
    pub fn freeze(&self, frozen: bool) {
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        for child in self.servers.iter().filter_map(|s| s.child.as_ref()) {
            kill_process(pid(child), signal).expect("signal");
        }
    }

    /// The counters of all running servers.
    pub fn counters(&self) -> Counters {
        let mut all = Counters::default();
        self.servers.iter().filter(|s| s.child.is_some()).for_each(|s| all.read(&s.management));
        all
    }

    /// Where I/O server `i` keeps the datafile of the file with inode number `metahandle`, by the rule
    /// of `proto::handle`.
    pub fn datafile(&self, i: usize, metahandle: u64) -> PathBuf {
        let io = self.servers[i].io_range.expect("an I/O server");
        let metas: Vec<HandleRange> =
            self.file.servers.iter().filter_map(|s| s.meta_range).collect();
        let index = metas.iter().position(|r| r.contains(Handle(metahandle))).expect("metahandle");
        let name =
            pvfs2_proto::handle::datahandle(&io, index as u32, &metas[index], Handle(metahandle));
        let raw = name.expect("in range").0;
        self.servers[i].storage.join(format!("bstreams/{:02x}/{raw:016x}", raw & 0xff))
    }

    /// Every datafile beside every server.
    pub fn all_datafiles(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        // Also those that joined later.
        for server in self.servers.iter().filter(|s| s.io_range.is_some()) {
            let root = server.storage.join("bstreams");
            for folder in std::fs::read_dir(root).into_iter().flatten().flatten() {
                let inside = std::fs::read_dir(folder.path()).into_iter().flatten().flatten();
                // A datafile's name is its handle; side files (checksums) have others.
                let is_handle = |p: &PathBuf| {
                    let name = p.file_name().and_then(|n| n.to_str()).unwrap_or("");
                    name.len() == 16 && name.bytes().all(|b| b.is_ascii_hexdigit())
                };
                found.extend(inside.map(|e| e.path()).filter(is_handle));
            }
        }
        found
    }

    /// The servers' logs, for a failed test.
    pub fn logs(&self) -> String {
        let one = |i| {
            let text = std::fs::read_to_string(self.log(i)).unwrap_or_default();
            let tail: Vec<&str> = text.lines().rev().take(15).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            format!("--- {}\n{}\n", self.servers[i].alias, tail.join("\n"))
        };
        (0..self.servers.len()).map(one).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        for server in &mut self.servers {
            if let Some(mut child) = server.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// The process id of a child.
pub fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// Lets the kernel end the child when the thread that started it ends.
pub fn die_with_parent(command: &mut Command) {
    let set =
        || rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into);
    // SAFETY: between fork and exec the closure makes one system call (prctl) and touches no memory
    // that another thread could hold locked.
    unsafe { command.pre_exec(set) };
}

/// Ports that are free now.
fn free_ports(n: usize) -> Vec<u16> {
    // Held until all are chosen, so that no port is given twice.
    let bind = |_| TcpListener::bind("127.0.0.1:0").expect("a free port");
    let held: Vec<TcpListener> = (0..n).map(bind).collect();
    held.iter().map(|l| l.local_addr().expect("address").port()).collect()
}

fn generate(spec: &Spec, dir: &Path) -> File {
    let total = spec.meta + spec.io;
    // Held until all are chosen, so that no port is given twice.
    let held: Vec<TcpListener> =
        (0..2 * total).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    let port = |i: usize| held[i].local_addr().expect("address").port();
    let servers = (0..total)
        .map(|i| {
            let meta = i < spec.meta;
            let alias = if meta { format!("meta{i}") } else { format!("io{}", i - spec.meta) };
            let mut addresses = vec![format!("tcp://127.0.0.1:{}", port(2 * i))];
            if spec.unix {
                addresses.insert(0, format!("unix://{}/{alias}.sock", dir.display()));
            }
            NewServer {
                meta,
                io: !meta,
                addresses,
                storage: PathBuf::from(&alias),
                management: Some(format!("http://127.0.0.1:{}", port(2 * i + 1))),
                alias,
            }
        })
        .collect();
    let mut defaults = pvfs2_config::Defaults {
        small_file_bytes: spec.small_file_bytes,
        dir_split_entries: spec.dir_split_entries,
        ..Default::default()
    };
    defaults.dist = Dist::simple_stripe(spec.strip_size_bytes);
    let timeouts = pvfs2_config::Timeouts {
        lease_ms: spec.lease_ms,
        retry_delay_ms: spec.retry_delay_ms,
        ..Default::default()
    };
    let new = Generate {
        fs_name: "pvfs2-fs".into(),
        fs_id: 0x7e57_7e57,
        servers,
        defaults,
        timeouts,
        key_file: None,
        sync_meta: false,
        dir: dir.into(),
    };
    new.build().expect("a good cluster")
}
