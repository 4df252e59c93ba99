//! Clusters that grow: new servers join at the end of the cluster file, and nothing else about
//! the old ones may change their place, alias or handle ranges, because handles, ids and datahandles
//! on disk follow from these.
//!
//! A server notes in its storage folder (`SERVERS`: one line each, in order) whom it has served
//! with, and refuses a cluster file in which one of them is missing or has moved.
use crate::launch;
use crate::state::write_atomically;
use anyhow::{Context, Result, bail};
use pvfs2_config::Cluster;
use pvfs2_proto::HandleRange;
use std::path::Path;

/// The note's name in a storage folder.
const NOTE: &str = "SERVERS";

/// A server as the note has it.
fn line(alias: &str, meta: Option<HandleRange>, io: Option<HandleRange>) -> String {
    let range =
        |r: Option<HandleRange>| r.map_or("-".into(), |r| format!("{:x}-{:x}", r.first, r.last));
    format!("{alias} meta {} io {}", range(meta), range(io))
}

fn lines(cluster: &Cluster) -> Vec<String> {
    cluster.servers.iter().map(|s| line(&s.alias, s.meta_range, s.io_range)).collect()
}

/// Compares the cluster file with what this storage folder was last served with, and notes it.
///
/// # Errors
/// When a server is missing, has another place or other ranges, with the remedy; the disk's.
pub fn check_and_note(cluster: &Cluster, storage: &Path) -> Result<()> {
    let path = storage.join(NOTE);
    let now = lines(cluster);
    let known = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
    };
    for (place, old) in known.lines().enumerate() {
        if now.get(place).is_some_and(|l| l == old) {
            continue;
        }
        let alias = old.split(' ').next().unwrap_or("?");
        let problem = match cluster.servers.iter().position(|s| s.alias == alias) {
            None => format!("the cluster file has no server '{alias}' any more"),
            Some(other) if other != place => format!(
                "server '{alias}' is number {other} in the cluster file, it was number {place}"
            ),
            Some(_) => format!("server '{alias}' has other handle ranges than before ({old})"),
        };
        bail!(
            "{problem}; give the old servers back as they were, in their order, and add new ones at \
             the end (docs/CONFIG.md, \"Adding a server\")"
        );
    }
    let text = now.join("\n") + "\n";
    if text != known {
        write_atomically(&path, text.as_bytes())?;
    }
    Ok(())
}

/// Makes the storage of servers that joined a quickstart's cluster file. What an attempt that was
/// cut short left there is moved aside first (no server has noted that it ran on it).
///
/// # Errors
/// The disk's.
pub fn format_new(cluster: &Cluster, from: usize) -> Result<()> {
    for server in cluster.servers.iter().skip(from) {
        let dir = cluster.storage_of(server);
        if dir.is_dir() && !dir.join(NOTE).exists() {
            let aside = dir.with_extension(format!("left-{}", std::process::id()));
            std::fs::rename(&dir, &aside)
                .with_context(|| format!("cannot move {} aside", dir.display()))?;
        }
        launch::format(cluster, &server.alias)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pvfs2_config::{Defaults, Generate, NewServer, Timeouts};

    fn cluster(aliases: &[(&str, bool)]) -> Cluster {
        let server = |(i, (alias, meta)): (usize, &(&str, bool))| NewServer {
            alias: (*alias).to_owned(),
            meta: *meta,
            io: !meta,
            addresses: vec![format!("tcp://127.0.0.1:{}", 4_000 + i)],
            storage: format!("storage/{alias}").into(),
            management: None,
        };
        Generate {
            fs_name: "fs".into(),
            fs_id: 7,
            servers: aliases.iter().enumerate().map(server).collect(),
            defaults: Defaults::default(),
            timeouts: Timeouts::default(),
            key_file: None,
            sync_meta: false,
            dir: "/tmp".into(),
        }
        .build()
        .unwrap()
    }

    #[test]
    fn servers_join_at_the_end_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let check = |aliases: &[(&str, bool)]| {
            check_and_note(&cluster(aliases), dir.path()).map_err(|e| e.to_string())
        };
        check(&[("m0", true), ("i0", false), ("i1", false)]).unwrap();
        check(&[("m0", true), ("i0", false), ("i1", false)]).unwrap();
        check(&[("m0", true), ("i0", false), ("i1", false), ("m1", true), ("i2", false)]).unwrap();
        for (wrong, words) in [
            (&[("m0", true), ("i0", false), ("i1", false), ("m1", true)][..], "no server 'i2'"),
            (
                &[("m0", true), ("i1", false), ("i0", false), ("m1", true), ("i2", false)],
                "'i0' is number 2",
            ),
            (
                &[
                    ("m0", true),
                    ("i0", false),
                    ("new", false),
                    ("i1", false),
                    ("m1", true),
                    ("i2", false),
                ],
                "'i1' is number 3",
            ),
        ] {
            let e = check(wrong).unwrap_err();
            assert!(e.contains(words) && e.contains("at the end"), "{e}");
        }
    }
}
