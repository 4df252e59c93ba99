//! The cluster file: any text parses or is refused, without a panic; what parses, written out and
//! parsed again, is the same cluster. Mount specs likewise.
#![no_main]
use libfuzzer_sys::fuzz_target;
use pvfs2_config::{Cluster, MountSpec};
use std::path::Path;

fuzz_target!(|text: &str| {
    if let Ok(cluster) = Cluster::parse(text, "fuzz", Path::new("/tmp")) {
        let again = Cluster::parse(&cluster.to_toml(), "again", Path::new("/tmp"));
        assert_eq!(again.expect("what was written parses"), cluster);
        let map = cluster.to_map();
        assert_eq!(map.servers.len(), cluster.servers.len());
    }
    if let Ok(spec) = text.parse::<MountSpec>() {
        let again = spec.to_string().parse::<MountSpec>();
        assert_eq!(again.expect("a printed spec parses"), spec);
    }
});
