//! Many files in one directory on one metadata server: creates, lists with attributes, removes, and
//! prints a Markdown table with a row per 100,000: rate, the server's CPU, memory and bytes written.
//!
//! `cargo build --release && cargo run --release -p pvfs2-bench --example million -- [OPTIONS]`
//!
//! | option | default | meaning |
//! |---|---|---|
//! | `--files N` | 1000000 | files |
//! | `--threads N` | 4 | requests in flight while creating and removing |
//! | `--keyval METHOD` | sled | `sled` or `fjall` |
//! | `--memory BYTES` | the cluster file's default | `meta_memory_bytes` |
//! | `--data DIR` | a temporary folder | where the server stores; must not exist |
//!
//! The server is a process of its own (`pvfs2 server`, beside this program in the build folder), the
//! client is native, over a unix socket: no FUSE. After the creates the server is killed with -9,
//! later stopped cleanly, and both restarts are timed. Its memory is `VmRSS` and `VmHWM`, and of
//! that the part which is no page of a file, `RssAnon`.
#![allow(clippy::unwrap_used, clippy::expect_used)]
use bytes::Bytes;
use pvfs2_bmi::client::BlockingNet;
use pvfs2_client::sys::{Create, DirHandle, Mkdir, Readdir, Rmdir, Unlink};
use pvfs2_client::{Background, Client, ClientConfig, Machine, OpState, drive_now, run};
use pvfs2_config::model::META_MEMORY_BYTES;
use pvfs2_config::{Cluster, Defaults, Generate, NewServer, Timeouts};
use pvfs2_proto::env::Env;
use pvfs2_proto::op::CreateRequest;
use pvfs2_proto::{Handle, KeyvalMethod, Result};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

const ROW: u64 = 100_000;
/// Longer than any pause of a server that works.
const STALL_MS: u32 = 120_000;

struct Options {
    files: u64,
    threads: u64,
    keyval: KeyvalMethod,
    memory: Option<u64>,
    data: Option<PathBuf>,
}

fn options() -> Options {
    let mut o = Options {
        files: 1_000_000,
        threads: 4,
        keyval: KeyvalMethod::Sled,
        memory: None,
        data: None,
    };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next().unwrap_or_else(|| panic!("{name} needs a value"));
        let number = || value.parse().unwrap_or_else(|_| panic!("{name}: {value} is no number"));
        match name.as_str() {
            "--files" => o.files = number(),
            "--threads" => o.threads = number(),
            "--keyval" => o.keyval = value.parse().unwrap_or_else(|e| panic!("{e}")),
            "--memory" => o.memory = Some(number()),
            "--data" => o.data = Some(value.into()),
            _ => panic!("unknown option {name}; the head of bench/benches/million.rs lists them"),
        }
    }
    o
}

/// The program, beside this one's folder.
fn program() -> PathBuf {
    let me = std::env::current_exe().unwrap();
    let path = me.parent().and_then(Path::parent).unwrap().join("pvfs2");
    assert!(path.exists(), "{} is missing: cargo build --release", path.display());
    path
}

struct Server {
    dir: PathBuf,
    socket: PathBuf,
    child: Child,
}

impl Server {
    fn start(dir: &Path) -> Server {
        let log = std::fs::File::options().append(true).create(true).open(dir.join("log")).unwrap();
        let child = Command::new(program())
            .args(["server", "--alias", "meta0", "--config"])
            .arg(dir.join("cluster.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let socket = dir.join("meta0.sock");
        let mut server = Server { dir: dir.to_path_buf(), socket, child };
        while UnixStream::connect(&server.socket).is_err() {
            if let Some(status) = server.child.try_wait().unwrap() {
                let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
                panic!("the server ended with {status}:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        server
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap_or_default()
    }

    /// A field of `/proc/PID/status` or `io`: the first number after its name.
    fn field(&self, file: &str, name: &str) -> u64 {
        let text = self.proc(file);
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }

    fn mib(&self, name: &str) -> u64 {
        self.field("status", name) / 1024
    }

    /// CPU microseconds so far.
    fn cpu_us(&self) -> u64 {
        let stat = self.proc("stat");
        let fields = stat.rsplit(") ").next().unwrap_or("").split(' ');
        let ticks: u64 = fields.skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
        ticks * 10_000
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; how long the clean stop takes.
    fn stop(&mut self) -> Duration {
        let start = Instant::now();
        let pid = self.child.id().to_string();
        Command::new("kill").arg(pid).status().unwrap();
        self.child.wait().unwrap();
        start.elapsed()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn cluster(o: &Options, dir: &Path) -> Cluster {
    let server = |alias: &str, meta: bool| NewServer {
        alias: alias.into(),
        meta,
        io: !meta,
        addresses: vec![format!("unix://{}/{alias}.sock", dir.display())],
        storage: alias.into(),
        management: None,
    };
    let cluster = Generate {
        fs_name: "million".into(),
        fs_id: 1_000_000,
        servers: vec![server("meta0", true), server("io0", false)],
        defaults: Defaults::default(),
        timeouts: Timeouts::default(),
        key_file: None,
        sync_meta: false,
        dir: dir.to_path_buf(),
    };
    let mut cluster = cluster.build().unwrap();
    cluster.servers[0].keyval = o.keyval;
    cluster.servers[0].meta_memory_bytes = o.memory.unwrap_or(META_MEMORY_BYTES);
    std::fs::write(dir.join("cluster.toml"), cluster.to_toml()).unwrap();
    let made = Command::new(program())
        .args(["mkfs", "--alias", "meta0", "--config"])
        .arg(dir.join("cluster.toml"))
        .stdout(Stdio::null())
        .status();
    assert!(made.unwrap().success(), "mkfs failed");
    cluster
}

/// One thread's way to the server.
struct Caller {
    client: Arc<Client>,
    net: BlockingNet,
}

impl Caller {
    fn new(client: &Arc<Client>) -> Caller {
        Caller { client: client.clone(), net: BlockingNet::new(client.shared().clone()) }
    }
    fn run<M: Machine>(&self, mut machine: M) -> Result<M::Out> {
        let mut op = OpState::own(&self.client);
        drive_now(run(&mut machine, &mut op, &self.client, &self.net))
    }
}

/// Prints a row whenever another [`ROW`] operations are done.
struct Rows<'a> {
    server: &'a Server,
    phase: &'static str,
    done: u64,
    since: Instant,
    cpu_us: u64,
    written: u64,
    rates: Vec<f64>,
}

impl<'a> Rows<'a> {
    fn new(server: &'a Server, phase: &'static str) -> Rows<'a> {
        let (cpu_us, written) = (server.cpu_us(), server.field("io", "write_bytes"));
        Rows { server, phase, done: 0, since: Instant::now(), cpu_us, written, rates: Vec::new() }
    }

    fn add(&mut self, n: u64) {
        self.done += n;
        if self.done / ROW == (self.done - n) / ROW {
            return;
        }
        let s = self.server;
        let (cpu_us, written) = (s.cpu_us(), s.field("io", "write_bytes"));
        let rate = ROW as f64 / self.since.elapsed().as_secs_f64();
        println!(
            "| {} | {} | {rate:.0} | {:.1} | {} | {} | {} | {} |",
            self.phase,
            self.done / ROW * ROW,
            (cpu_us - self.cpu_us) as f64 / ROW as f64,
            (written - self.written) / ROW,
            s.mib("VmRSS"),
            s.mib("RssAnon"),
            s.mib("VmHWM"),
        );
        (self.since, self.cpu_us, self.written) = (Instant::now(), cpu_us, written);
        self.rates.push(rate);
    }

    fn end(self, summary: &mut Vec<String>) {
        if let (Some(first), Some(last)) = (self.rates.first(), self.rates.last()) {
            let peak = self.server.mib("VmHWM");
            let ratio = last / first;
            summary.push(format!("| {} | {ratio:.2} | {peak} |", self.phase));
        }
    }
}

/// Runs `each` for everything that `next` gives, on `threads` threads; counts into `rows`.
fn spread<T: Send>(
    client: &Arc<Client>,
    threads: u64,
    rows: &mut Rows<'_>,
    next: impl Fn() -> Option<T> + Sync,
    each: impl Fn(&Caller, T) -> Result<()> + Sync,
) {
    let (tell, told) = mpsc::sync_channel::<u64>(64);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (tell, next, each) = (tell.clone(), &next, &each);
            scope.spawn(move || {
                let caller = Caller::new(client);
                while let Some(item) = next() {
                    each(&caller, item).expect("an operation failed");
                    tell.send(1).unwrap();
                }
            });
        }
        drop(tell);
        told.iter().for_each(|n| rows.add(n));
    });
}

fn list(caller: &Caller, dir: Handle, mut each: impl FnMut(&[pvfs2_proto::op::Dirent])) {
    let open = DirHandle::new(dir);
    let mut cursor = 0;
    loop {
        let page = caller.run(Readdir::new(open.clone(), cursor, true, true)).expect("readdir");
        each(page.entries());
        match page.entries().last() {
            Some(last) if !page.is_end() => cursor = last.cursor,
            _ => return,
        }
    }
}

fn folder_mib(dir: &Path) -> u64 {
    let out = Command::new("du").arg("-sm").arg(dir).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn own_peak_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn main() {
    let o = options();
    let temporary = tempfile::Builder::new().prefix("pvfs2-million.").tempdir().unwrap();
    let dir = o.data.clone().unwrap_or_else(|| temporary.path().to_path_buf());
    std::fs::create_dir_all(&dir).unwrap();
    let map = cluster(&o, &dir).to_map();
    let mut server = Server::start(&dir);
    let mut config = ClientConfig::new(Arc::new(map), Env::real());
    config.name = "million".into();
    config.stall_ms = Some(STALL_MS);
    let client = Client::new(config);
    let background = Background::start(client.clone()).unwrap();
    let caller = Caller::new(&client);
    let made = caller.run(Mkdir::new(Handle::ROOT, Bytes::from_static(b"d"), 0o755)).unwrap();
    let home = Handle(made.handle);
    let mut summary = Vec::new();
    println!(
        "| phase | done | ops/s | server CPU us/op | written B/op | RSS MiB | anon MiB | peak MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|");

    let mut rows = Rows::new(&server, "create");
    let count = AtomicU64::new(0);
    let next = || Some(count.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < o.files);
    spread(&client, o.threads, &mut rows, next, |caller, n| {
        let name = format!("file-{n:07}").into();
        let r = CreateRequest {
            dir: home.0,
            name,
            mode: 0o644,
            exclusive: true,
            no_open: true,
            ..Default::default()
        };
        caller.run(Create::new(r)).map(drop)
    });
    rows.end(&mut summary);
    let used = folder_mib(&server.dir.join("meta0"));

    server.kill();
    let start = Instant::now();
    server = Server::start(&dir);
    let after_kill = start.elapsed();
    let peak = server.mib("VmHWM");

    let caller = Caller::new(&client);
    let mut rows = Rows::new(&server, "list");
    let mut found = 0;
    list(&caller, home, |entries| {
        assert!(entries.iter().all(|e| e.attr.is_some()), "an entry without attributes");
        found += entries.len() as u64;
        rows.add(entries.len() as u64);
    });
    assert_eq!(found, o.files, "entries after a kill");
    rows.end(&mut summary);

    let stop = server.stop();
    let start = Instant::now();
    server = Server::start(&dir);
    let after_stop = start.elapsed();

    let mut rows = Rows::new(&server, "remove");
    let (names, queue) = mpsc::sync_channel::<Bytes>(4096);
    let queue = Mutex::new(queue);
    std::thread::scope(|scope| {
        let client = &client;
        scope.spawn(move || {
            list(&Caller::new(client), home, |entries| {
                entries.iter().for_each(|e| names.send(e.name.clone()).unwrap());
            });
        });
        spread(
            client,
            o.threads,
            &mut rows,
            || queue.lock().unwrap().recv().ok(),
            |caller, name| caller.run(Unlink::new(home, name)).map(drop),
        );
    });
    rows.end(&mut summary);
    let start = Instant::now();
    let caller = Caller::new(&client);
    caller.run(Rmdir::new(Handle::ROOT, Bytes::from_static(b"d"))).expect("an empty directory");
    let rmdir = start.elapsed();

    println!("\n| phase | last rate / first | server's peak MiB |\n|---|---|---|");
    summary.iter().for_each(|line| println!("{line}"));
    println!("\n| what | |\n|---|---|");
    println!("| storage space with {} files | {used} MiB |", o.files);
    println!("| start after kill -9 | {:.2} s, peak {peak} MiB |", after_kill.as_secs_f64());
    println!(
        "| clean stop, start after it | {:.2} s, {:.2} s |",
        stop.as_secs_f64(),
        after_stop.as_secs_f64()
    );
    println!("| rmdir of the emptied directory | {:.3} s |", rmdir.as_secs_f64());
    println!("| client's peak | {} MiB |", own_peak_mib());
    drop(background);
    server.stop();
}
