//! Directories that are listed because their names are looked up one after another.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers are not #[test] functions"
)]
mod fake;

use fake::mount::Mount;
use fake::{Cluster, Fault, ROOT, Shape, name};
use pvfs2_client::sys::{Lookup, Unlink};
use pvfs2_proto::ErrorCode;
use pvfs2_proto::op::Op;

#[test]
fn names_looked_up_one_after_another_are_listed() {
    const FILES: u64 = 60;
    let error = |code| Some(Fault::Error(code));
    for (fault, lookups, readdirs) in [
        (None, 8, 1),
        (Some(Fault::StallBefore), 8, 2),
        (Some(Fault::StallAfter), 8, 2),
        (error(ErrorCode::Busy), 8, 2),
        (error(ErrorCode::Access), 16, 2),
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
