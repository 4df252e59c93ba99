//! Directories that are listed because their names are looked up one after another.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers are not #[test] functions"
)]
mod fake;

use fake::mount::{Mount, runtime};
use fake::{Cluster, Fault, ROOT, Shape, bytes, name};
use pvfs2_client::sys::{Lookup, Open, Unlink};
use pvfs2_proto::ErrorCode;
use pvfs2_proto::op::Op;

#[test]
fn names_looked_up_one_after_another_are_listed() {
    const FILES: u64 = 60;
    let error = |code| Some(Fault::Error(code));
    for (fault, lookups, readdirs) in [
        (None, 4, 1),
        (Some(Fault::StallBefore), 4, 2),
        (Some(Fault::StallAfter), 4, 2),
        (error(ErrorCode::Busy), 4, 2),
        (error(ErrorCode::Access), 8, 2),
    ] {
        let c = Cluster::new(Shape::default());
        let (m, other) = (Mount::new(&c, 1_000), Mount::new(&c, 1_000));
        (0..FILES).for_each(|i| m.close(m.create(&format!("f{i}"))));
        c.advance_ms(2_000);
        m.stat(ROOT);
        c.take_counts();
        if let Some(fault) = fault.clone() {
            c.fault(Op::Readdir, fault);
        }
        let look = |m: &Mount, i: u64| m.run(Lookup::new(ROOT, name(&format!("f{i}"))));
        (0..FILES).for_each(|i| assert!(look(&m, i).is_ok(), "{i}"));
        let counts = c.take_counts();
        let of = |op| counts.get(op).copied().unwrap_or(0);
        assert_eq!((of("lookup"), of("readdir")), (lookups, readdirs), "{fault:?}");
        assert_eq!(m.net.tickets_out(), 0);
        // Believed no longer than any other answer.
        other.run(Unlink::new(ROOT, name("f40"))).unwrap();
        assert!(look(&m, 40).is_ok());
        c.advance_ms(1_000);
        assert_eq!(look(&m, 40).unwrap_err().code, ErrorCode::NotFound);
    }
}

#[test]
fn known_names_whose_attributes_are_asked_for_are_listed_too() {
    const FILES: u64 = 60;
    let c = Cluster::new(Shape::default());
    let (client, net) = c.client_with(1_000, |config| config.ncache_ms = 60_000);
    let m = Mount { client, net, rt: std::rc::Rc::new(runtime()) };
    (0..FILES).for_each(|i| m.close(m.create(&format!("f{i}"))));
    c.advance_ms(2_000);
    m.stat(ROOT);
    c.take_counts();
    for i in 0..FILES {
        assert!(m.run(Lookup::new(ROOT, name(&format!("f{i}")))).is_ok());
    }
    let counts = c.take_counts();
    let of = |op| counts.get(op).copied().unwrap_or(0);
    assert_eq!((of("lookup"), of("getattr"), of("readdir")), (0, 4, 1), "{counts:?}");
}

#[test]
fn servers_are_told_which_files_are_read_next() {
    const FILES: u64 = 60;
    let data = bytes(100_000, 3);
    for told in [true, false] {
        let c = Cluster::new(Shape::default());
        let writer = Mount::new(&c, 1_000);
        for i in 0..FILES {
            let f = writer.create(&format!("f{i}"));
            writer.write(&f, 0, &data);
            writer.close(f);
        }
        c.advance_ms(2_000);
        let (client, net) = c.client_with(1_000, |config| config.fileahead = told);
        let m = Mount { client, net, rt: std::rc::Rc::new(runtime()) };
        m.stat(ROOT);
        c.take_counts();
        let mut read = std::collections::HashSet::new();
        let mut named = 0;
        for i in 0..FILES {
            let attr = m.run(Lookup::new(ROOT, name(&format!("f{i}")))).unwrap();
            let f = m.run(Open::new(attr.handle(), (true, false), false)).unwrap();
            assert!(m.read(&f, 0, data.len()) == data);
            m.close(f);
            read.extend(attr.layout.unwrap().datahandles);
            for (server, ahead) in c.ahead.borrow_mut().drain(..) {
                assert_eq!(c.map.io_server_of(ahead.datahandle.into()), Some(server));
                assert!(!read.contains(&ahead.datahandle), "it was read before");
                let size = c.datafiles.borrow()[&ahead.datahandle].bytes.len() as u64;
                assert_eq!(ahead.len, size, "all of it");
                named += 1;
            }
        }
        // Two datafiles each, of which the first files' are not named.
        assert!(if told { named >= 2 * (FILES - 10) } else { named == 0 }, "{named}");
        assert_eq!(c.take_counts()["io_read"], 2 * FILES, "no request is made for it");
    }
}
