//! What must hold between the parts of a cluster file. Every complaint names the field and the
//! remedy; the caller adds the line.
use crate::model::{
    Cluster, META_MEMORY_BYTES_MIN, META_RANGE_HANDLES, META_SERVERS_MAX, SERVERS_MAX, Server,
};
use pvfs2_proto::layout::Layout;
use pvfs2_proto::{Handle, HandleRange};

/// Where a complaint belongs, so that `parse` can find the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A field of the table `filesystem`, `defaults`, `timeouts`, `security` or `durability`.
    Field(&'static str, &'static str),
    /// A field of the server at this position.
    Server(usize, &'static str),
}

/// One complaint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Where.
    pub place: Place,
    /// What is wrong.
    pub problem: String,
    /// What to write instead.
    pub remedy: String,
}

fn complain(place: Place, problem: impl Into<String>, remedy: impl Into<String>) -> Complaint {
    Complaint { place, problem: problem.into(), remedy: remedy.into() }
}

/// Checks everything; the first complaint wins.
///
/// # Errors
/// The complaint.
pub fn validate(cluster: &Cluster) -> Result<(), Complaint> {
    check_name(cluster)?;
    check_servers(&cluster.servers)?;
    check_ranges(&cluster.servers)?;
    check_security(cluster)?;
    check_defaults(cluster)?;
    check_timeouts(cluster)
}

fn check_name(cluster: &Cluster) -> Result<(), Complaint> {
    let place = |f| Place::Field("filesystem", f);
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if cluster.fs_name.is_empty() || !cluster.fs_name.chars().all(good) {
        return Err(complain(
            place("name"),
            format!("'{}' cannot stand in a mount spec", cluster.fs_name),
            "use letters, digits, '-', '_' and '.', for example pvfs2-fs",
        ));
    }
    if cluster.fs_id == 0 {
        return Err(complain(
            place("id"),
            "0 means 'any file system'",
            "draw a random number, as `pvfs2 genconfig` does",
        ));
    }
    Ok(())
}

fn check_servers(servers: &[Server]) -> Result<(), Complaint> {
    if servers.is_empty() {
        return Err(complain(
            Place::Field("servers", "servers"),
            "there is no server",
            "add at least one [[servers]] with roles = [\"meta\", \"io\"]",
        ));
    }
    if servers.len() > SERVERS_MAX {
        return Err(complain(
            Place::Field("servers", "servers"),
            format!("{} servers are more than {SERVERS_MAX}", servers.len()),
            "split the cluster",
        ));
    }
    for (i, s) in servers.iter().enumerate() {
        check_server(i, s, &servers[..i])?;
    }
    let metas = servers.iter().filter(|s| s.meta_range.is_some()).count();
    if metas == 0 {
        return Err(complain(
            Place::Field("servers", "servers"),
            "no server is a metadata server",
            "give one of them roles = [\"meta\"] and a meta_range that begins at 1",
        ));
    }
    if metas > META_SERVERS_MAX {
        return Err(complain(
            Place::Field("servers", "servers"),
            format!("{metas} metadata servers are more than {META_SERVERS_MAX}"),
            "make some of them I/O servers",
        ));
    }
    if servers.iter().all(|s| s.io_range.is_none()) {
        return Err(complain(
            Place::Field("servers", "servers"),
            "no server is an I/O server",
            "give one of them roles = [\"io\"] and an io_range",
        ));
    }
    Ok(())
}

fn check_server(i: usize, s: &Server, before: &[Server]) -> Result<(), Complaint> {
    let at = |f| Place::Server(i, f);
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if s.alias.is_empty() || !s.alias.chars().all(good) || s.alias.starts_with('.') {
        return Err(complain(
            at("alias"),
            format!("'{}' is no alias", s.alias),
            "use letters, digits, '-', '_' and '.', for example io1",
        ));
    }
    if before.iter().any(|b| b.alias == s.alias) {
        return Err(complain(
            at("alias"),
            format!("two servers are called '{}'", s.alias),
            "give each server its own alias",
        ));
    }
    if s.meta_range.is_none() && s.io_range.is_none() {
        return Err(complain(
            at("roles"),
            "the server has no role",
            "write roles = [\"meta\"], [\"io\"] or [\"meta\", \"io\"]",
        ));
    }
    if s.addresses.is_empty() {
        return Err(complain(
            at("addresses"),
            "the server has no address",
            "write addresses = [\"tcp://HOST:PORT\"]",
        ));
    }
    for a in &s.addresses {
        check_address(a).map_err(|problem| {
            complain(
                at("addresses"),
                format!("'{a}': {problem}"),
                "write tcp://HOST:PORT or unix:///ABSOLUTE/PATH.sock",
            )
        })?;
        if let Some(b) = before.iter().find(|b| b.addresses.contains(a)) {
            return Err(complain(
                at("addresses"),
                format!("'{a}' is already the address of {}", b.alias),
                "give each server its own port or socket",
            ));
        }
    }
    if let Some(b) = before.iter().find(|b| b.storage == s.storage) {
        return Err(complain(
            at("storage"),
            format!(
                "{} is already the storage of {} (on one host they would collide)",
                s.storage.display(),
                b.alias
            ),
            "give each server a folder of its own, for example one that ends in its alias",
        ));
    }
    if s.meta_memory_bytes < META_MEMORY_BYTES_MIN {
        return Err(complain(
            at("meta_memory_bytes"),
            format!("{} bytes are too few to work with", s.meta_memory_bytes),
            format!("give at least {META_MEMORY_BYTES_MIN}, or remove it for the default"),
        ));
    }
    if let Some(m) = &s.management {
        let rest = m.strip_prefix("http://").ok_or("it does not begin with http://".to_owned());
        rest.and_then(check_host_port).map_err(|problem| {
            complain(at("management"), format!("'{m}': {problem}"), "write http://HOST:PORT")
        })?;
    }
    Ok(())
}

/// Checks an address: `tcp://host:port`, `unix:///path`, `mem://name`.
///
/// # Errors
/// What is wrong with it.
pub fn check_address(address: &str) -> Result<(), String> {
    if let Some(rest) = address.strip_prefix("tcp://") {
        check_host_port(rest)
    } else if let Some(path) = address.strip_prefix("unix://") {
        // sun_path holds 108 bytes with its final zero.
        if !path.starts_with('/') {
            Err("the path of a unix socket must be absolute".into())
        } else if path.len() > UNIX_PATH_MAX {
            Err(format!(
                "a unix socket's path may have {UNIX_PATH_MAX} bytes, this one has {}",
                path.len()
            ))
        } else {
            Ok(())
        }
    } else if let Some(name) = address.strip_prefix("mem://") {
        if name.is_empty() { Err("the name is missing".into()) } else { Ok(()) }
    } else {
        Err("the method is unknown".into())
    }
}

/// Longest path of a unix socket in bytes: `sun_path` has 108 with its final zero.
pub const UNIX_PATH_MAX: usize = 107;

fn check_host_port(text: &str) -> Result<(), String> {
    let (host, port) = text.rsplit_once(':').ok_or("the port is missing")?;
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() || host.contains('/') {
        return Err("the host is missing".into());
    }
    if host == "0.0.0.0" || host == "::" {
        return Err("clients cannot connect to a wildcard; name the host as they see it".into());
    }
    match port.parse::<u16>() {
        Ok(0) | Err(_) => Err(format!("the port '{port}' is not a number from 1 to 65535")),
        Ok(_) => Ok(()),
    }
}

/// Whether an address cannot be reached from another host.
pub fn is_local(address: &str) -> bool {
    let Some(rest) = address.strip_prefix("tcp://") else { return true };
    let host = rest.rsplit_once(':').map_or(rest, |(h, _)| h);
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn check_ranges(servers: &[Server]) -> Result<(), Complaint> {
    let mut seen: Vec<(usize, HandleRange)> = Vec::new();
    for (i, s) in servers.iter().enumerate() {
        for (field, range) in [("meta_range", s.meta_range), ("io_range", s.io_range)] {
            let Some(range) = range else { continue };
            if range.first == 0 || range.first > range.last {
                return Err(complain(
                    Place::Server(i, field),
                    format!("{} is empty or contains 0", show_range(&range)),
                    "write it as \"FIRST-LAST\", both from 1 on, FIRST not above LAST",
                ));
            }
            if let Some((j, other)) = seen.iter().find(|(_, r)| r.overlaps(&range)) {
                return Err(complain(
                    Place::Server(i, field),
                    format!(
                        "{} overlaps {} of {}",
                        show_range(&range),
                        show_range(other),
                        servers[*j].alias
                    ),
                    "give every server a range of its own (`pvfs2 genconfig` makes them)",
                ));
            }
            seen.push((i, range));
        }
    }
    let first_meta = servers.iter().enumerate().find(|(_, s)| s.meta_range.is_some());
    if let Some((i, s)) = first_meta
        && !s.meta_range.is_some_and(|r| r.contains(Handle::ROOT))
    {
        return Err(complain(
            Place::Server(i, "meta_range"),
            format!(
                "the root directory (handle 1) is not in the range of {}, the first metadata server",
                s.alias
            ),
            "let its meta_range begin at 1",
        ));
    }
    check_range_sizes(servers)
}

fn check_range_sizes(servers: &[Server]) -> Result<(), Complaint> {
    let metas = servers.iter().filter(|s| s.meta_range.is_some()).count() as u64;
    // The longest range decides how much of each I/O server's range can be named.
    let longest =
        servers.iter().filter_map(|s| s.meta_range).map(|r| r.last - r.first).max().unwrap_or(0);
    for (i, s) in servers.iter().enumerate() {
        if s.meta_range.is_some_and(|r| r.last - r.first >= META_RANGE_HANDLES) {
            return Err(complain(
                Place::Server(i, "meta_range"),
                format!("it has more than {META_RANGE_HANDLES} (2^40) handles"),
                "shorten it",
            ));
        }
        let Some(io) = s.io_range else { continue };
        // A range that is too long itself is the complaint of its own server, which may come later.
        let needed = ((metas - 1) * META_RANGE_HANDLES).saturating_add(longest);
        if io.last - io.first < needed {
            return Err(complain(
                Place::Server(i, "io_range"),
                format!(
                    "{} is too short for the datahandles of {metas} metadata servers",
                    show_range(&io)
                ),
                format!("give it at least {} handles (2^48 is usual)", needed.saturating_add(1)),
            ));
        }
    }
    Ok(())
}

fn check_security(cluster: &Cluster) -> Result<(), Complaint> {
    if cluster.key_file.is_some() {
        return Ok(());
    }
    for (i, s) in cluster.servers.iter().enumerate() {
        if let Some(a) = s.addresses.iter().find(|a| !is_local(a)) {
            return Err(complain(
                Place::Server(i, "addresses"),
                format!("{a} can be reached from other hosts, and the cluster has no key"),
                "write key_file = \"/etc/pvfs2/key\" under [security] and make the key with \
                 `head -c 32 /dev/urandom > /etc/pvfs2/key; chmod 600 /etc/pvfs2/key` (the same file on every host)",
            ));
        }
    }
    Ok(())
}

fn check_defaults(cluster: &Cluster) -> Result<(), Complaint> {
    let at = |f| Place::Field("defaults", f);
    let d = &cluster.defaults;
    let io = cluster.servers.iter().filter(|s| s.io_range.is_some()).count() as u32;
    if d.num_datafiles > io {
        return Err(complain(
            at("num_datafiles"),
            format!("{} datafiles do not fit {io} I/O servers", d.num_datafiles),
            format!("write a number up to {io}, or 0 for one on every I/O server"),
        ));
    }
    let n = if d.num_datafiles == 0 { io } else { d.num_datafiles };
    d.dist.check(n).map_err(|e| {
        complain(at("distribution_params"), e.detail.to_string(), "correct the parameters")
    })?;
    if d.layout == "list" {
        return Err(complain(
            at("layout"),
            "'list' cannot be a default: it needs a server list",
            "set it per directory by the xattrs user.pvfs2.layout and user.pvfs2.server_list",
        ));
    }
    Layout::parse(&d.layout, None)
        .map_err(|e| complain(at("layout"), e.detail.to_string(), "correct the name"))?;
    const SMALL_MAX: u64 = 65_536;
    if d.small_file_bytes > SMALL_MAX {
        return Err(complain(
            at("small_file_bytes"),
            format!("{} is above {SMALL_MAX}", d.small_file_bytes),
            format!("write a number up to {SMALL_MAX}; larger files belong on the I/O servers"),
        ));
    }
    if d.dir_servers_max == 0 || d.dir_split_entries == 0 {
        let field = if d.dir_servers_max == 0 { "dir_servers_max" } else { "dir_split_entries" };
        return Err(complain(
            at(field),
            "0 is no number of servers or names".to_owned(),
            "write dir_servers_max = 1 for directories that never split".to_owned(),
        ));
    }
    Ok(())
}

fn check_timeouts(cluster: &Cluster) -> Result<(), Complaint> {
    let t = &cluster.timeouts;
    let at = |f| Place::Field("timeouts", f);
    if !(1_000..=3_600_000).contains(&t.lease_ms) {
        return Err(complain(
            at("lease_ms"),
            format!("{} is not between 1000 (a second) and 3600000 (an hour)", t.lease_ms),
            "write 30000",
        ));
    }
    if t.retry_delay_ms == 0 || t.retry_delay_ms > 600_000 {
        return Err(complain(
            at("retry_delay_ms"),
            format!("{} is not between 1 and 600000 (ten minutes)", t.retry_delay_ms),
            "write 2000",
        ));
    }
    Ok(())
}

/// A range as it stands in the file.
pub fn show_range(range: &HandleRange) -> String {
    format!("{:#x}-{:#x}", range.first, range.last)
}
