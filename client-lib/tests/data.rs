//! Bytes over several servers against a cluster in memory: frames, holes and ends, and what is
//! overwritten on its way to the reader.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers are not #[test] functions"
)]
mod fake;

use fake::mount::Mount;
use fake::{Cluster, Fault, Shape, bytes, counts};
use pvfs2_client::sys::*;
use pvfs2_proto::op::Op;

#[test]
fn a_large_write_fits_frames_and_reads_back() {
    let c = Cluster::new(Shape { ios: 2, ..Default::default() });
    let m = Mount::new(&c, 0);
    let f = m.create("a");
    let data = bytes((5 << 20) + 777, 9);
    m.write(&f, 12_345, &data);
    assert_eq!(counts(&c), [("create", 1), ("io_write", 6), ("unstuff", 1)]);
    assert_eq!(m.read(&f, 12_345, data.len() + 5), data);
    assert_eq!(m.read(&f, 0, 12_345), vec![0; 12_345]);
}

#[test]
fn what_was_overwritten_on_the_way_is_read_once_more_and_nothing_else() {
    let c = Cluster::new(Shape::default());
    let m = Mount::new(&c, 0);
    let f = m.create("a");
    let data = bytes(1 << 20, 5);
    m.write(&f, 0, &data);
    counts(&c);
    for faults in 1..=4 {
        (0..faults).for_each(|_| c.fault(Op::IoRead, Fault::Overwritten));
        assert_eq!(m.read(&f, 0, data.len()), data);
        assert_eq!(counts(&c), [("io_read", 4 + faults), ("io_read, not lent", faults)]);
    }
    assert_eq!(m.read(&f, 0, data.len()), data);
    assert_eq!(counts(&c), [("io_read", 4)]);
}

#[test]
fn holes_ends_and_growth() {
    let c = Cluster::new(Shape { strip: 10, small: 20, ..Default::default() });
    let (a, b) = (Mount::new(&c, 0), Mount::new(&c, 0));
    let f = a.create("f");
    a.write(&f, 95, b"xyz");
    assert_eq!(a.stat(f.handle).size, 98);
    assert_eq!(a.read(&f, 90, 100), b"\0\0\0\0\0xyz");
    assert_eq!(a.truncate(f.handle, 200).size, 200);
    assert_eq!(a.read(&f, 150, 100), vec![0; 50]);
    assert_eq!(a.read(&f, 200, 10), b"");
    let g = b.run(Open::new(f.handle, (true, true), false)).unwrap();
    b.write(&g, 210, b"more");
    assert_eq!(a.stat(f.handle).size, 214, "two writers: the I/O servers are asked");
    assert_eq!(a.read(&f, 195, 100)[15..], *b"more");
    assert_eq!(b.truncate(f.handle, 30).size, 30);
    assert_eq!(a.stat(f.handle).size, 30, "a foreign truncation beats our own knowledge");
    a.close(f.clone());
    assert_eq!(b.stat(f.handle).size, 30);
    b.close(g);
    assert_eq!(a.stat(f.handle).size, 30);
}
