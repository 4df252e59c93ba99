//! The cluster file of a quickstart's data directory: made with storage spaces on the first start,
//! read and refreshed (ports, sockets) on later ones.
//!
//! Invariant: `cluster.toml` appears, by a rename, only after every storage space is formatted; so
//! a first start that was cut short begins again, and storage without a cluster file is never
//! formatted over.
use super::Wish;
use crate::growth;
use crate::launch;
use crate::state::{DataDir, write_atomically};
use anyhow::{Context, Result, bail};
use pvfs2_config::model::DEFAULT_PORT;
use pvfs2_config::model::Server;
use pvfs2_config::validate::UNIX_PATH_MAX;
use pvfs2_config::{Cluster, Defaults, Generate, NewServer, Timeouts, generate};
use pvfs2_proto::Dist;
use pvfs2_proto::dist::DistKind;
use pvfs2_proto::env::Env;
use std::collections::HashSet;
use std::net::TcpListener;
use std::path::PathBuf;

/// Refuses a directory that holds something else.
///
/// # Errors
/// When it is a file, or neither empty nor a quickstart's.
pub fn check_directory(data: &DataDir) -> Result<()> {
    let root = &data.root;
    if data.cluster_file().is_file() || data.new_cluster_file().is_file() {
        return Ok(());
    }
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => {
            bail!("{} is no directory; choose another with --data", root.display())
        }
        Err(e) => return Err(e).with_context(|| format!("cannot look into {}", root.display())),
    };
    let run = data.run();
    let mut others = entries.filter_map(|e| e.ok()).filter(|e| e.path() != run);
    if others.next().is_some() {
        bail!(
            "{} is not empty and has no cluster.toml of a quickstart; choose an empty directory with --data",
            root.display()
        );
    }
    Ok(())
}

/// The cluster of this data directory, formatted, with addresses that are free now; and lines that
/// tell the user what was done. Needs the lock.
///
/// # Errors
/// Flags that do not fit what is there, a disk that refuses, a file that cannot be read.
pub fn prepare(data: &DataDir, wish: &Wish) -> Result<(Cluster, Vec<String>)> {
    if data.cluster_file().is_file() {
        let cluster = Cluster::load(&data.cluster_file())?;
        return refresh(data, cluster, wish);
    }
    if data.new_cluster_file().is_file() && data.storage().is_dir() {
        // No server ever ran on these: cluster.toml would be there.
        std::fs::remove_dir_all(data.storage())
            .with_context(|| format!("cannot remove {}", data.storage().display()))?;
    }
    let cluster = first(data, wish)?;
    let text = cluster.to_toml();
    write_atomically(&data.new_cluster_file(), text.as_bytes())?;
    for server in &cluster.servers {
        launch::format(&cluster, &server.alias)?;
    }
    std::fs::rename(data.new_cluster_file(), data.cluster_file())
        .with_context(|| format!("cannot write {}", data.cluster_file().display()))?;
    let line = format!(
        "first start: formatted {} storage spaces in {}",
        cluster.servers.len(),
        data.root.display()
    );
    Ok((cluster, vec![line]))
}

fn first(data: &DataDir, wish: &Wish) -> Result<Cluster> {
    let env = Env::real();
    let mut ports = Ports::default();
    let fs_id = env.rand_u64().max(1);
    let metas = (0..wish.meta.unwrap_or(1)).map(|i| (format!("meta{i}"), true));
    let ios = (0..wish.io.unwrap_or(4)).map(|i| (format!("io{i}"), false));
    let mut servers = Vec::new();
    for (preferred, (alias, is_meta)) in (DEFAULT_PORT..).zip(metas.chain(ios)) {
        let port = ports.take(preferred)?;
        let management = ports.take(preferred + 1000)?;
        servers.push(NewServer {
            meta: is_meta,
            io: !is_meta,
            addresses: addresses(data, fs_id, &alias, port),
            storage: PathBuf::from("storage").join(&alias),
            management: Some(format!("http://127.0.0.1:{management}")),
            alias,
        });
    }
    let strip = wish.strip_size_bytes.unwrap_or(pvfs2_proto::limits::STRIP_SIZE_BYTES);
    Ok(Generate {
        fs_name: "pvfs2-fs".into(),
        fs_id,
        servers,
        defaults: Defaults { dist: Dist::simple_stripe(strip), ..Default::default() },
        timeouts: Timeouts::default(),
        key_file: None,
        sync_meta: false,
        dir: data.root.clone(),
    }
    .build()?)
}

/// A unix socket in the data directory (in a temporary one when its path would be too long) and a
/// port of loopback.
fn addresses(data: &DataDir, fs_id: u64, alias: &str, port: u16) -> Vec<String> {
    let mut out = Vec::new();
    let near = data.run().join(format!("{alias}.sock"));
    let far =
        std::env::temp_dir().join(format!("pvfs2-{fs_id:016x}")).join(format!("{alias}.sock"));
    let fits = |p: &PathBuf| p.to_str().is_some_and(|s| s.len() <= UNIX_PATH_MAX);
    if let Some(socket) = [near, far].into_iter().find(fits) {
        out.push(format!("unix://{}", socket.display()));
    }
    out.push(format!("tcp://127.0.0.1:{port}"));
    out
}

/// Checks the flags against what is there, moves sockets after a move of the directory, replaces
/// ports that somebody else has taken meanwhile (every client of this data directory reads the
/// cluster file or was started by this program, so nobody depends on the old ones).
fn refresh(data: &DataDir, mut cluster: Cluster, wish: &Wish) -> Result<(Cluster, Vec<String>)> {
    let metas = cluster.servers.iter().filter(|s| s.meta_range.is_some()).count() as u32;
    let ios = cluster.servers.iter().filter(|s| s.io_range.is_some()).count() as u32;
    for (flag, wanted, there) in [("--meta", wish.meta, metas), ("--io", wish.io, ios)] {
        if wanted.is_some_and(|n| n < there) {
            bail!(
                "{} has {flag} {there}, and servers cannot be taken away (files lie on them); leave {flag} out, or choose another --data",
                data.root.display()
            );
        }
    }
    let before = cluster.clone();
    let mut news = Vec::new();
    if let Some(strip) = wish.strip_size_bytes {
        if cluster.defaults.dist.kind() == DistKind::SimpleStripe {
            cluster.defaults.dist.strip_size = strip;
        } else {
            cluster.defaults.dist = Dist::simple_stripe(strip);
        }
    }
    let fs_id = cluster.fs_id;
    let mut ports = Ports::default();
    for server in &mut cluster.servers {
        let old = server.addresses.iter().find_map(|a| port_of(a)).unwrap_or(DEFAULT_PORT);
        let port = ports.take(old)?;
        if port != old {
            news.push(format!(
                "port {old} is taken: {} listens on {port} from now on",
                server.alias
            ));
        }
        server.addresses = addresses(data, fs_id, &server.alias, port);
        if let Some(old) = server.management.as_deref().and_then(port_of) {
            server.management = Some(format!("http://127.0.0.1:{}", ports.take(old)?));
        }
    }
    let (old, joined) = (cluster.servers.len(), (metas, ios));
    grow(data, &mut cluster, wish, joined, &mut ports)?;
    if cluster.servers.len() > old {
        cluster.check(&data.cluster_file().display().to_string())?;
        growth::format_new(&cluster, old)?;
        let names: Vec<&str> = cluster.servers[old..].iter().map(|s| s.alias.as_str()).collect();
        news.push(format!(
            "{} joined: new files and directories use them too, old ones stay where they are",
            names.join(", ")
        ));
    }
    if cluster != before {
        cluster.check(&data.cluster_file().display().to_string())?;
        write_atomically(&data.cluster_file(), cluster.to_toml().as_bytes())?;
    }
    Ok((cluster, news))
}

/// Adds the servers that the flags ask for, at the end: ids and ranges of the others stay.
fn grow(
    data: &DataDir,
    cluster: &mut Cluster,
    wish: &Wish,
    (metas, ios): (u32, u32),
    ports: &mut Ports,
) -> Result<()> {
    let new_metas = (metas..wish.meta.unwrap_or(metas)).map(|i| ("meta", i, true));
    let new_ios = (ios..wish.io.unwrap_or(ios)).map(|i| ("io", i, false));
    for (role, i, is_meta) in new_metas.chain(new_ios) {
        let taken = |alias: &str| cluster.servers.iter().any(|s| s.alias == alias);
        let alias = (i..).map(|n| format!("{role}{n}")).find(|a| !taken(a)).unwrap_or_default();
        let preferred = DEFAULT_PORT.saturating_add(cluster.servers.len() as u16);
        let port = ports.take(preferred)?;
        let management = ports.take(preferred.saturating_add(1000))?;
        let index = u64::from(i);
        // As the first server has it, so that all are of one kind.
        let (keyval, meta_memory_bytes) = cluster
            .servers
            .first()
            .map_or((Default::default(), pvfs2_config::META_MEMORY_BYTES), |s| {
                (s.keyval, s.meta_memory_bytes)
            });
        cluster.servers.push(Server {
            meta_range: is_meta.then(|| generate::meta_range(index)),
            io_range: (!is_meta).then(|| generate::io_range(index)),
            addresses: addresses(data, cluster.fs_id, &alias, port),
            storage: PathBuf::from("storage").join(&alias),
            management: Some(format!("http://127.0.0.1:{management}")),
            keyval,
            meta_memory_bytes,
            alias,
        });
    }
    Ok(())
}

fn port_of(address: &str) -> Option<u16> {
    let place = address.strip_prefix("tcp://").or_else(|| address.strip_prefix("http://"))?;
    place.rsplit_once(':')?.1.parse().ok()
}

/// Free ports of loopback; each is held until all are chosen, so that none is given twice.
#[derive(Default)]
struct Ports {
    held: Vec<TcpListener>,
    given: HashSet<u16>,
}

impl Ports {
    /// `preferred` when it is free, else another.
    fn take(&mut self, preferred: u16) -> Result<u16> {
        let bind = |port: u16| TcpListener::bind(("127.0.0.1", port));
        let listener = bind(preferred).or_else(|_| bind(0)).context(
            "no port of 127.0.0.1 is free; is the loopback interface up (ip link set lo up)?",
        )?;
        let port = listener.local_addr().context("a socket without address")?.port();
        self.held.push(listener);
        self.given.insert(port);
        Ok(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish() -> Wish {
        Wish {
            meta: None,
            io: None,
            strip_size_bytes: None,
            processes: false,
            mounts: vec![],
            options: String::new(),
        }
    }

    #[test]
    fn the_first_start_makes_it_and_the_second_finds_it() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(&dir.path().join("d")).unwrap();
        check_directory(&data).unwrap();
        let _lock = data.lock().unwrap();
        let (made, news) =
            prepare(&data, &Wish { io: Some(2), strip_size_bytes: Some(4096), ..wish() }).unwrap();
        assert_eq!(made.aliases(), "meta0, io0, io1");
        assert_eq!(made.defaults.dist.strip_size, 4096);
        assert!(news[0].contains("formatted 3"), "{news:?}");
        assert!(made.servers.iter().all(|s| made.storage_of(s).join("FORMAT").is_file()));
        check_directory(&data).unwrap();
        let (found, _) = prepare(&data, &wish()).unwrap();
        assert_eq!((found.fs_id, found.servers.len()), (made.fs_id, 3));
        let e = prepare(&data, &Wish { io: Some(1), ..wish() }).unwrap_err().to_string();
        assert!(e.contains("--io 2") && e.contains("--data"), "{e}");
        let (found, _) = prepare(&data, &Wish { strip_size_bytes: Some(8192), ..wish() }).unwrap();
        assert_eq!(Cluster::load(&data.cluster_file()).unwrap().defaults.dist, found.defaults.dist);
    }

    #[test]
    fn larger_numbers_add_servers_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path()).unwrap();
        let (made, _) = prepare(&data, &Wish { io: Some(2), ..wish() }).unwrap();
        // What an attempt that was cut short left: nobody ran on it.
        std::fs::create_dir_all(dir.path().join("storage/io2/bstreams")).unwrap();
        let (grown, news) = prepare(&data, &Wish { meta: Some(2), io: Some(3), ..wish() }).unwrap();
        assert!(news.iter().any(|l| l.starts_with("meta1, io2 joined")), "{news:?}");
        assert_eq!(grown.aliases(), "meta0, io0, io1, meta1, io2");
        for (old, new) in made.servers.iter().zip(&grown.servers) {
            assert_eq!((old.meta_range, old.io_range), (new.meta_range, new.io_range));
        }
        assert!(grown.servers.iter().all(|s| grown.storage_of(s).join("FORMAT").is_file()));
        assert_eq!(Cluster::load(&data.cluster_file()).unwrap(), grown);
        let (again, news) = prepare(&data, &Wish { io: Some(3), ..wish() }).unwrap();
        assert_eq!((again.servers.len(), news.len()), (5, 0), "{news:?}");
    }

    #[test]
    fn a_taken_port_is_replaced_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path()).unwrap();
        let (made, _) = prepare(&data, &Wish { io: Some(1), ..wish() }).unwrap();
        let port = made.servers[1].addresses.iter().find_map(|a| port_of(a)).unwrap();
        let _taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let (found, news) = prepare(&data, &wish()).unwrap();
        assert!(news.iter().any(|l| l.contains(&format!("port {port} is taken: io0"))), "{news:?}");
        assert_ne!(found.servers[1].addresses, made.servers[1].addresses);
        assert_eq!(Cluster::load(&data.cluster_file()).unwrap(), found);
    }

    #[test]
    fn a_first_start_that_was_cut_short_begins_again() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path()).unwrap();
        let (made, _) = prepare(&data, &wish()).unwrap();
        std::fs::rename(data.cluster_file(), data.new_cluster_file()).unwrap();
        let (again, news) = prepare(&data, &wish()).unwrap();
        assert!(news[0].contains("formatted") && again.fs_id != made.fs_id);
    }

    #[test]
    fn other_directories_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        let e = check_directory(&DataDir::new(dir.path()).unwrap()).unwrap_err().to_string();
        assert!(e.contains("not empty") && e.contains("--data"), "{e}");
        let e =
            check_directory(&DataDir::new(&dir.path().join("thesis.tex")).unwrap()).unwrap_err();
        assert!(e.to_string().contains("no directory"), "{e}");
    }

    #[test]
    fn long_paths_get_their_sockets_elsewhere() {
        let data = DataDir::new(&PathBuf::from("/tmp").join("x".repeat(150))).unwrap();
        let a = addresses(&data, 7, "io1", 3334);
        assert!(
            a[0].starts_with("unix://") && a[0].len() < 115 && a[0].contains("0000000000000007"),
            "{a:?}"
        );
        assert_eq!(a[1], "tcp://127.0.0.1:3334");
    }
}
