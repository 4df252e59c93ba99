//! `pvfs2 genconfig`: writes a new cluster file.
use crate::cmd::size_arg;
use crate::output;
use anyhow::{Context, Result, bail};
use pvfs2_bmi::auth::ClusterKey;
use pvfs2_config::model::DEFAULT_PORT;
use pvfs2_config::{Cluster, Defaults, Generate, NewServer, Timeouts};
use pvfs2_proto::{Dist, KeyvalMethod, env::Env};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Arguments of `pvfs2 genconfig`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  pvfs2 genconfig --meta m1 --io d1 --io d2 --key-file /etc/pvfs2/key -O /etc/pvfs2/cluster.toml
      one metadata server and two I/O servers on three hosts, port 3334; the key file is made if it
      is missing and must then be copied to every host
  pvfs2 genconfig --meta localhost --io localhost --io localhost
      three servers on this machine, ports 3334 to 3336
  pvfs2 genconfig --meta a:3334 --io a:3334 --io b:3334 --key-file key
      the server on a has both roles (the same address given twice)")]
pub struct GenconfigArgs {
    /// The file system's name, as in tcp://HOST:PORT/NAME
    #[arg(long, default_value = "pvfs2-fs", value_name = "NAME")]
    pub name: String,
    /// A metadata server: HOST, HOST:PORT, tcp://HOST:PORT or unix:///PATH.sock; repeat for more
    #[arg(long, required = true, value_name = "ADDRESS")]
    pub meta: Vec<String>,
    /// An I/O server; repeat for more
    #[arg(long, required = true, value_name = "ADDRESS")]
    pub io: Vec<String>,
    /// Folder in which every server has its storage space, named after its alias
    #[arg(long, default_value = "/var/lib/pvfs2", value_name = "DIR")]
    pub storage: PathBuf,
    /// Bytes of a strip of new files
    #[arg(long, default_value = "64K", value_name = "BYTES", value_parser = size_arg)]
    pub strip_size: u64,
    /// Datafiles of a new file; 0: one on every I/O server
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub num_datafiles: u32,
    /// Files up to this size live with their metafile
    #[arg(long, value_name = "BYTES", value_parser = size_arg)]
    pub small_file_bytes: Option<u64>,
    /// What holds the metadata servers' keys and values: sled or fjall
    #[arg(long, default_value_t, value_name = "METHOD")]
    pub keyval: KeyvalMethod,
    /// File with the cluster's key, made if it is missing; needed for hosts other than localhost
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Every metadata reply waits for the disk (PVFS2's TroveSyncMeta)
    #[arg(long)]
    pub sync_meta: bool,
    /// The management service's port is the server's port plus this; 0: no management service
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub management_offset: u16,
    /// Write to this file (never over an existing one) instead of stdout
    #[arg(short = 'O', long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Runs it.
///
/// # Errors
/// Arguments that give no cluster, or a file that cannot be written.
pub fn run(args: GenconfigArgs) -> Result<()> {
    let cluster = build(&args)?;
    let text = cluster.to_toml();
    match &args.output {
        None => output::line(text.trim_end())?,
        Some(path) => {
            if path.exists() {
                bail!("{} exists already; move it away or choose another name", path.display());
            }
            crate::state::write_atomically(path, text.as_bytes())?;
            eprintln!("wrote {}: servers {}", path.display(), cluster.aliases());
            eprintln!(
                "next, on each server's host: pvfs2 mkfs --config {0} --alias ALIAS; pvfs2 server --config {0} --alias ALIAS",
                path.display()
            );
        }
    }
    if let Some(key) = cluster.key_path() {
        make_key(&key)?;
    }
    Ok(())
}

fn make_key(path: &Path) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt;
    let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = match made {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            ClusterKey::from_file(path)?;
            return Ok(());
        }
        Err(e) => {
            return Err(e).with_context(|| format!("cannot make the key file {}", path.display()));
        }
    };
    writeln!(file, "{}", ClusterKey::generate().to_hex())
        .with_context(|| format!("cannot write the key file {}", path.display()))?;
    eprintln!(
        "made the key {}: copy it to every host, readable by the servers and by root only",
        path.display()
    );
    Ok(())
}

fn build(args: &GenconfigArgs) -> Result<Cluster> {
    let mut servers: Vec<NewServer> = Vec::new();
    let mut ports = HashMap::new();
    for (list, is_meta) in [(&args.meta, true), (&args.io, false)] {
        for (k, text) in list.iter().enumerate() {
            let address = full_address(text, &mut ports);
            let same =
                servers.iter_mut().find(|s| s.addresses.contains(&address) && s.meta && !is_meta);
            if let Some(both) = same {
                both.io = true;
                continue;
            }
            let alias = format!("{}{}", if is_meta { "meta" } else { "io" }, k);
            servers.push(NewServer {
                meta: is_meta,
                io: !is_meta,
                storage: args.storage.join(&alias),
                management: management(&address, args.management_offset),
                addresses: vec![address],
                alias,
            });
        }
    }
    let defaults = Defaults {
        dist: Dist::simple_stripe(args.strip_size),
        num_datafiles: args.num_datafiles,
        small_file_bytes: args.small_file_bytes.unwrap_or(Defaults::default().small_file_bytes),
        ..Default::default()
    };
    let key_file = args.key_file.as_deref().map(std::path::absolute).transpose()?;
    let mut cluster = Generate {
        fs_name: args.name.clone(),
        fs_id: Env::real().rand_u64().max(1),
        servers,
        defaults,
        timeouts: Timeouts::default(),
        key_file,
        sync_meta: args.sync_meta,
        dir: std::env::current_dir().unwrap_or_default(),
    }
    .build()?;
    for server in cluster.servers.iter_mut().filter(|s| s.meta_range.is_some()) {
        server.keyval = args.keyval;
    }
    Ok(cluster)
}

/// A full address; a host without a port gets the next one of that host, from 3334 on.
fn full_address(text: &str, ports: &mut HashMap<String, u16>) -> String {
    if text.starts_with("unix://") {
        return text.to_owned();
    }
    let place = text.strip_prefix("tcp://").unwrap_or(text);
    let has_port = place.rsplit_once(':').is_some_and(|(host, port)| {
        port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']'))
    });
    if has_port {
        return format!("tcp://{place}");
    }
    let next = ports.entry(place.to_owned()).or_insert(DEFAULT_PORT);
    *next += 1;
    format!("tcp://{place}:{}", *next - 1)
}

fn management(address: &str, offset: u16) -> Option<String> {
    let (host, port) = address.strip_prefix("tcp://")?.rsplit_once(':')?;
    let port = port.parse::<u16>().ok()?.checked_add(offset)?;
    (offset > 0).then(|| format!("http://{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Wrap {
        #[command(flatten)]
        args: GenconfigArgs,
    }
    fn build_words(words: &str) -> Result<Cluster> {
        build(&Wrap::try_parse_from(format!("x {words}").split_whitespace())?.args)
    }

    #[test]
    fn metadata_servers_get_the_keyval_method() {
        let c = build_words("--meta localhost --io localhost --keyval fjall").unwrap();
        let methods: Vec<KeyvalMethod> = c.servers.iter().map(|s| s.keyval).collect();
        assert_eq!(methods, [KeyvalMethod::Fjall, KeyvalMethod::Sled]);
        let e = build_words("--meta localhost --io localhost --keyval bdb").unwrap_err();
        assert!(e.to_string().contains("sled, fjall"), "{e}");
    }

    #[test]
    fn ports_and_roles_follow_from_the_addresses() {
        let c = build_words("--meta localhost --io localhost --io localhost --strip-size 128K")
            .unwrap();
        let addresses: Vec<&str> = c.servers.iter().map(|s| s.addresses[0].as_str()).collect();
        assert_eq!(
            addresses,
            ["tcp://localhost:3334", "tcp://localhost:3335", "tcp://localhost:3336"]
        );
        assert_eq!(c.servers[2].management.as_deref(), Some("http://localhost:4336"));
        assert_eq!(
            (c.aliases().as_str(), c.defaults.dist.strip_size),
            ("meta0, io0, io1", 131_072)
        );

        let c =
            build_words("--meta localhost:9 --io localhost:9 --io [::1]:8 --management-offset 0")
                .unwrap();
        assert_eq!((c.servers[0].roles(), c.servers[1].roles()), ("meta,io", "io"));
        assert_eq!((c.servers.len(), c.servers[0].management.clone()), (2, None));
        let again = Cluster::parse(&c.to_toml(), "t", &c.dir).unwrap();
        assert_eq!(again, c);
    }

    #[test]
    fn hosts_need_a_key() {
        let e = build_words("--meta a --io b").unwrap_err().to_string();
        assert!(e.contains("no key"), "{e}");
        assert!(build_words("--meta a --io b --key-file k").is_ok());
    }
}
