//! Delta transfer over files in memory: a crash at any call leaves nothing that is not whole.
use crate::memory::{Device, Direct};
use pvfs2_sync::error::SyncError;
use pvfs2_sync::rng::Rng;

/// A device sends a change, another fetches it; one of the three is cut off at the `n`th call. True: it
/// was.
fn cut_off_at(n: u64, whose: usize) -> bool {
    let (mut s, mut a, mut b) = (Direct::new(), Device::new("a"), Device::new("b"));
    let old = Rng::new(1).bytes(700_000);
    a.mem.user_write("f", &old, None);
    a.pass(&mut s).unwrap();
    b.pass(&mut s).unwrap();
    let mut new = old.clone();
    new.splice(300_000..300_010, Rng::new(2).bytes(5_000));
    a.mem.user_write("f", &new, None);
    let mems = [a.mem.clone(), b.mem.clone(), s.mem.clone()];
    mems[whose].crash_after(Some(n));
    let mut crashed = false;
    for d in [&mut a, &mut b] {
        if let Err(e) = d.pass(&mut s) {
            assert!(matches!(e, SyncError::Crash), "{e}");
            crashed = true;
        }
        if crashed {
            mems[whose].crash_after(None);
            mems[whose].lose_power();
            s.restart();
        }
        let here = d.mem.snapshot().remove("f").unwrap().unwrap();
        assert!(here == old || here == new, "cut off at {n} of {whose}: neither old nor new");
    }
    mems[whose].crash_after(None);
    for _ in 0..2 {
        a.pass(&mut s).unwrap();
        b.pass(&mut s).unwrap();
    }
    for mem in &mems {
        assert_eq!(mem.snapshot().len(), 1, "no conflict: {:?}", mem.snapshot().keys());
        assert!(mem.snapshot()["f"].as_ref() == Some(&new), "cut off at {n} of {whose}");
    }
    crashed
}

#[test]
fn a_delta_that_is_cut_off_anywhere_is_whole_in_the_end() {
    for whose in 0..3 {
        let mut cuts = 0;
        while cut_off_at(cuts, whose) {
            cuts += 1;
        }
        assert!(cuts > 20, "{cuts} calls of {whose}");
        println!("{cuts} calls of {}", ["the sender", "the receiver", "the server"][whose]);
    }
}
