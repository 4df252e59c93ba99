//! What fsck would say of all metadata servers of a test together.
use super::harness::Cluster;
use crate::keys;
use pvfs2_proto::Attr;
use std::collections::HashMap;

/// What fsck would say of all metadata servers together; empty: all is well. To be called when
/// nothing is under way and nothing open.
pub fn faults_of(c: &Cluster) -> Vec<String> {
    let mut faults = Vec::new();
    let mut attrs: HashMap<u64, Attr> = HashMap::new();
    let (mut names, mut parents) = (Vec::new(), HashMap::new());
    for id in 0..c.backings.len() as u32 {
        let meta = c.meta(id);
        let mut left = |what: &str, prefix: &[u8]| {
            let n = meta.store.first(prefix, 1_000).unwrap().len();
            if n > 0 {
                faults.push(format!("server {id}: {n} {what} left"));
            }
        };
        left("intents", &keys::intents());
        left("marks", &keys::steps());
        left("orphans", &keys::orphans());
        left("reap entries", &keys::reaps());
        meta.store
            .scan(&keys::attrs(), |_, value| {
                let attr = <Attr as prost::Message>::decode(value.as_ref()).unwrap();
                if !meta.owns(attr.handle()) {
                    faults.push(format!("object {} is on the wrong server", attr.handle));
                }
                attrs.insert(attr.handle, attr);
                Ok(())
            })
            .unwrap();
    }
    for attr in attrs.values().filter(|a| a.is_dir()) {
        let meta = c.meta(c.owner(attr.handle));
        parents.insert(attr.handle, meta.store.parent(attr.handle()).unwrap().0);
        let (entries, _) = meta.store.list(attr.handle(), 0, 100_000).unwrap();
        let subdirs = entries.iter().filter(|e| e.kind == 0o040000).count() as u32;
        if (attr.size, attr.nlink) != (entries.len() as u64, 2 + subdirs) {
            faults.push(format!("directory {} miscounts: {attr:?}", attr.handle));
        }
        names.extend(entries.into_iter().map(|e| (attr.handle, e)));
    }
    let mut counts: HashMap<u64, u32> = HashMap::new();
    for (dir, e) in &names {
        *counts.entry(e.handle).or_default() += 1;
        match attrs.get(&e.handle) {
            None => faults.push(format!("{:?} in {dir} names nothing", e.name)),
            Some(a) if a.kind() != e.kind => faults.push(format!("{:?}: wrong kind", e.name)),
            Some(a) if a.is_dir() && parents[&a.handle] != *dir => {
                faults.push(format!("directory {} does not know its parent {dir}", a.handle));
            }
            Some(_) => {}
        }
    }
    for a in attrs.values().filter(|a| a.handle != 1) {
        let names = counts.get(&a.handle).copied().unwrap_or(0);
        let right = if a.is_dir() { names == 1 } else { names == a.nlink && names > 0 };
        if !right {
            faults.push(format!("object {} has {names} names: {a:?}", a.handle));
        }
    }
    faults
}
