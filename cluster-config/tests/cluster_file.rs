//! The cluster file as its users meet it: it comes back as it went out, and every fault is named
//! with its line, its field and a remedy.
#![allow(clippy::unwrap_used)]
use pvfs2_config::generate::{io_range, meta_range};
use pvfs2_config::{Cluster, ConfigError, Defaults, Generate, NewServer, Timeouts};
use pvfs2_proto::handle::datahandle;
use pvfs2_proto::{Dist, Handle, KeyvalMethod};
use std::path::Path;

fn new_server(alias: &str, meta: bool, io: bool, port: u16) -> NewServer {
    NewServer {
        alias: alias.into(),
        meta,
        io,
        addresses: vec![
            format!("unix:///run/pvfs2/{alias}.sock"),
            format!("tcp://127.0.0.1:{port}"),
        ],
        storage: format!("storage/{alias}").into(),
        management: Some(format!("http://127.0.0.1:{}", port + 1000)),
    }
}

fn sample() -> Cluster {
    Generate {
        fs_name: "pvfs2-fs".into(),
        fs_id: 0xfeed_0000_0000_0001,
        servers: vec![
            new_server("meta1", true, false, 3334),
            new_server("meta2", true, true, 3335),
            new_server("io2", false, true, 3336),
        ],
        defaults: Defaults {
            dist: Dist::simple_stripe(1 << 20),
            num_datafiles: 2,
            ..Default::default()
        },
        timeouts: Timeouts { retry_limit: 7, ..Default::default() },
        key_file: Some("key".into()),
        sync_meta: true,
        dir: "/etc/pvfs2".into(),
    }
    .build()
    .unwrap()
}

fn parse(text: &str) -> Result<Cluster, ConfigError> {
    Cluster::parse(text, "cluster.toml", Path::new("/etc/pvfs2"))
}

#[test]
fn a_generated_file_parses_to_the_same_cluster() {
    let mut cluster = sample();
    assert_eq!(parse(&cluster.to_toml()).unwrap(), cluster);
    cluster.servers[0].keyval = KeyvalMethod::Fjall;
    cluster.servers[0].meta_memory_bytes = 1 << 30;
    assert_eq!(parse(&cluster.to_toml()).unwrap(), cluster);
    assert_eq!(cluster.key_path().unwrap(), Path::new("/etc/pvfs2/key"));
    assert_eq!(cluster.storage_of(&cluster.servers[2]), Path::new("/etc/pvfs2/storage/io2"));
}

#[test]
fn a_servers_keyval_is_checked() {
    let with = |line: &str| {
        let text = sample().to_toml();
        parse(&text.replacen("alias = \"meta1\"", &format!("alias = \"meta1\"\n{line}"), 1))
    };
    let cluster = with("keyval = \"fjall\"\nmeta_memory_bytes = 134217728").unwrap();
    let first = &cluster.servers[0];
    assert_eq!((first.keyval, first.meta_memory_bytes), (KeyvalMethod::Fjall, 128 << 20));
    assert_eq!(cluster.servers[1].keyval, KeyvalMethod::Sled);
    let e = with("keyval = \"bdb\"").unwrap_err().to_string();
    assert!(e.contains("servers.meta1.keyval") && e.contains("sled, fjall"), "{e}");
    let e = with("meta_memory_bytes = 1000").unwrap_err().to_string();
    assert!(e.contains("servers.meta1.meta_memory_bytes") && e.contains("at least"), "{e}");
}

#[test]
fn defaults_may_be_left_out() {
    let text = r#"
version = 1
filesystem = { name = "fs", id = "1" }
[[servers]]
alias = "all"
roles = ["meta", "io"]
addresses = ["tcp://localhost:3334"]
storage = "/srv/pvfs2"
meta_range = "1-1000"
io_range = "0x1_0000_0000-0xffff_ffff_ffff"
"#;
    let c = parse(text).unwrap();
    assert_eq!((c.timeouts, c.defaults.clone()), (Timeouts::default(), Defaults::default()));
    assert_eq!((c.key_file.clone(), c.sync_meta), (None, false));
    assert_eq!(c.storage_of(&c.servers[0]), Path::new("/srv/pvfs2"));
    assert_eq!(c.specs(), ["tcp://localhost:3334/fs"]);
}

#[test]
fn ranges_hold_the_root_and_every_datahandle() {
    assert!(meta_range(0).contains(Handle::ROOT));
    for m in [0, 1, 255] {
        for (i, n) in [(0, 0), (3, 12345), (200, (1 << 40) - 2)] {
            let meta = meta_range(m);
            let metahandle = Handle(meta.first + n);
            let data = datahandle(&io_range(i), m as u32, &meta, metahandle).unwrap();
            assert!(io_range(i).contains(data));
            assert!((0..256).all(|k| !meta_range(k).contains(data)));
        }
    }
    assert!(!meta_range(0).overlaps(&meta_range(1)) && !io_range(0).overlaps(&io_range(1)));
}

#[test]
fn the_map_says_what_clients_need() {
    let map = sample().to_map();
    assert_eq!(map.meta_servers().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(map.io_servers().collect::<Vec<_>>(), [1, 2]);
    assert_eq!((map.retry_limit, map.default_num_datafiles, map.lease_ms), (7, 2, 30_000));
    assert_eq!(map.by_alias("io2"), Some(2));
    assert_eq!(map.default_dist.unwrap().strip_size, 1 << 20);
}

#[test]
fn a_file_of_a_later_version_is_named_as_such_whatever_else_it_holds() {
    let e = parse("version = 2\n[galaxy]\nsize = 3\n").unwrap_err();
    assert!(matches!(e, ConfigError::Version { found: 2, known: 1, .. }), "{e}");
    assert!(e.to_string().contains("newer pvfs2"));
}

/// Replaces `from` in the sample's text by `to`; the complaint must stand on the line of `to` (where
/// it is still there) and contain all of `parts`.
#[test]
fn every_fault_is_named_with_line_and_remedy() {
    let good = sample().to_toml();
    let cases: &[(&str, &str, &[&str])] = &[
        ("version = 1", "", &["version is missing", "version = 1"]),
        ("version = 1", "version = \"one\"", &["no version"]),
        ("version = 1", "version = = 1", &["line 3"]),
        ("retry_limit", "retry_limt", &["unknown field", "retry_limt", "spelling"]),
        ("retry_limit = 7", "retry_limit = \"x\"", &["invalid type"]),
        (
            "alias = \"io2\"",
            "alias = \"meta1\"",
            &["servers.meta1.alias", "two servers", "own alias"],
        ),
        ("alias = \"io2\"", "alias = \"io/2\"", &["no alias", "letters"]),
        ("roles = [\"io\"]", "roles = [\"disk\"]", &["servers.io2.roles", "'disk' is no role"]),
        ("roles = [\"io\"]", "roles = []", &["has a io_range, but not the role", "add \"io\""]),
        ("roles = [\"meta\"]\n", "roles = [\"meta\", \"io\"]\n", &["no io_range", "genconfig"]),
        (
            "tcp://127.0.0.1:3336",
            "udp://127.0.0.1:3336",
            &["servers.io2.addresses", "method", "tcp://HOST:PORT"],
        ),
        ("tcp://127.0.0.1:3336", "tcp://127.0.0.1", &["port is missing"]),
        ("tcp://127.0.0.1:3336", "tcp://127.0.0.1:99999", &["99999"]),
        ("tcp://127.0.0.1:3336", "tcp://0.0.0.0:3336", &["wildcard"]),
        ("tcp://127.0.0.1:3336", "tcp://127.0.0.1:3335", &["already the address of meta2"]),
        ("unix:///run/pvfs2/io2.sock", "unix://io2.sock", &["absolute"]),
        ("storage/io2", "storage/meta1", &["already the storage of meta1"]),
        ("http://127.0.0.1:4336", "127.0.0.1:4336", &["servers.io2.management", "http://"]),
        (
            "meta_range = \"0x1-",
            "meta_range = \"0x2-",
            &["servers.meta1.meta_range", "root directory", "begin at 1"],
        ),
        ("meta_range = \"0x1-", "meta_range = \"0x0-", &["contains 0"]),
        (
            "meta_range = \"0x1-0xffffffffff\"",
            "meta_range = \"all\"",
            &["no range of handles", "FIRST-LAST"],
        ),
        ("meta_range = \"0x10000000000-", "meta_range = \"0x5-", &["overlaps", "meta1"]),
        (
            "num_datafiles = 2",
            "num_datafiles = 3",
            &["defaults.num_datafiles", "2 I/O servers", "up to 2"],
        ),
        ("strip_size:1048576", "strip_size:0", &["defaults.distribution_params", "strip_size"]),
        ("simple_stripe\"", "spiral\"", &["defaults.distribution", "unknown distribution"]),
        ("layout = \"round_robin\"", "layout = \"list\"", &["defaults.layout", "server list"]),
        ("layout = \"round_robin\"", "layout = \"heap\"", &["unknown layout"]),
        ("small_file_bytes = 16384", "small_file_bytes = 1000000", &["above 65536"]),
        ("lease_ms = 30000", "lease_ms = 10", &["timeouts.lease_ms", "write 30000"]),
        ("name = \"pvfs2-fs\"", "name = \"a/b\"", &["filesystem.name", "mount spec"]),
        ("id = \"0xfeed", "id = \"0xfeedy", &["filesystem.id", "64-bit"]),
        ("key_file = \"key\"", "key = \"key\"", &["unknown field", "key_file"]),
    ];
    for (from, to, parts) in cases {
        assert!(good.contains(from), "the sample has no {from}");
        let at = good.rfind(from).unwrap();
        let text = format!("{}{to}{}", &good[..at], &good[at + from.len()..]);
        let e = parse(&text).expect_err(to).to_string();
        for part in *parts {
            assert!(e.contains(part), "'{to}' gives: {e} (wanted '{part}')");
        }
        assert!(e.contains("cluster.toml: line "), "{e}");
        if !to.is_empty() {
            let line = text[..at].matches('\n').count() + 1;
            assert!(e.contains(&format!("line {line}:")), "'{to}' on line {line} gives: {e}");
        }
    }
}

#[test]
fn an_address_off_loopback_needs_a_key() {
    let text = sample()
        .to_toml()
        .replace("key_file", "# key_file")
        .replace("tcp://127.0.0.1:3336", "tcp://node7:3336");
    let e = parse(&text).unwrap_err().to_string();
    assert!(e.contains("node7") && e.contains("no key") && e.contains("/dev/urandom"), "{e}");
    assert!(parse(&sample().to_toml().replace("tcp://127.0.0.1:3336", "tcp://node7:3336")).is_ok());
}

#[test]
fn clusters_without_a_role_are_refused() {
    let only = |meta, io| Generate {
        fs_name: "fs".into(),
        fs_id: 1,
        servers: vec![new_server("a", meta, io, 3334)],
        defaults: Defaults::default(),
        timeouts: Timeouts::default(),
        key_file: None,
        sync_meta: false,
        dir: "/".into(),
    };
    assert!(only(true, true).build().is_ok());
    assert!(
        only(true, false).build().unwrap_err().to_string().contains("no server is an I/O server")
    );
    assert!(
        only(false, true)
            .build()
            .unwrap_err()
            .to_string()
            .contains("no server is a metadata server")
    );
    assert!(only(false, false).build().unwrap_err().to_string().contains("no role"));
    let none = Generate { servers: vec![], ..only(true, true) };
    assert!(none.build().unwrap_err().to_string().contains("there is no server"));
}

#[test]
fn a_missing_file_says_how_to_make_one() {
    let e = Cluster::load(Path::new("/nonexistent/cluster.toml")).unwrap_err().to_string();
    assert!(e.contains("genconfig"), "{e}");
}

proptest::proptest! {
    /// A damaged file is refused or read, never a panic; what is read can be written and read again.
    #[test]
    fn damaged_files_never_panic(
        at in 0usize..4000,
        cut in 0usize..40,
        insert in "[\\[\\]\"=0-9xaf\\-\\n ,:/#]{0,20}",
    ) {
        let text = sample().to_toml();
        let at = at.min(text.len());
        let end = (at + cut).min(text.len());
        let damaged = format!("{}{insert}{}", &text[..at], &text[end..]);
        if let Ok(cluster) = parse(&damaged) {
            proptest::prop_assert_eq!(parse(&cluster.to_toml()).unwrap(), cluster);
        }
    }

    #[test]
    fn any_ranges_are_judged_without_overflow(first: u64, last: u64, io_first: u64, io_last: u64) {
        let text = sample().to_toml();
        let meta2 = "meta_range = \"0x10000000000-0x1ffffffffff\"";
        let io2 = "io_range = \"0x101000000000000-0x101ffffffffffff\"";
        assert!(text.contains(meta2) && text.contains(io2));
        let text = text
            .replace(meta2, &format!("meta_range = \"{first}-{last}\""))
            .replace(io2, &format!("io_range = \"{io_first:#x}-{io_last:#x}\""));
        let _ = parse(&text);
    }
}
