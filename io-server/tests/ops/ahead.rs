//! What a read names as probably read soon is in memory soon after.
use crate::rig::{FIRST, H, Rig, list, pattern};
use pvfs2_bmi::service::Body;
use pvfs2_proto::op::{Ahead, IoReadRequest, OpMessage};
use std::path::Path;
use std::time::{Duration, Instant};

const STRIP: u64 = 65_536;

fn read_with(r: &Rig, h: u64, ahead: &[(u64, u64)]) -> Vec<u8> {
    let request = IoReadRequest {
        datahandle: h,
        extents: list(&[(0, STRIP)]),
        ahead: ahead.iter().map(|&(datahandle, len)| Ahead { datahandle, len }).collect(),
        ..Default::default()
    };
    r.raw(request.into_request(), Body::Empty).unwrap().1
}

/// Drops a datafile's pages.
fn evict(dir: &Path, h: u64) {
    let path = dir.join(format!("bstreams/{:02x}/{h:016x}", h & 0xff));
    let file = std::fs::File::open(path).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

#[test]
fn what_will_be_read_soon_is_in_memory_soon() {
    let dir = tempfile::tempdir().unwrap();
    let r = Rig::disk_at(dir.path());
    let data: Vec<Vec<u8>> = (0..4).map(|i| pattern(i, 3 * STRIP as usize)).collect();
    for (i, data) in (0..4).zip(&data) {
        r.write(H + i, &[(0, data)]).unwrap();
    }
    r.sync((0..4).map(|i| H + i).collect()).unwrap();
    if r.read_lent(H, &[(0, STRIP)]).is_none() {
        return println!("SKIPPED: this system does not tell which pages are in memory");
    }
    (0..4).for_each(|i| evict(dir.path(), H + i));
    if r.read_lent(H + 1, &[(0, STRIP)]).is_some() {
        return println!(
            "SKIPPED: pages of the temporary directory's file system cannot be dropped"
        );
    }
    (0..4).for_each(|i| evict(dir.path(), H + i));
    // What is not there, is another server's, or nothing at all, changes nothing.
    let named = [(H + 9, STRIP), (5, STRIP), (H + 1, 2 * STRIP), (H + 2, 0), (FIRST, 1)];
    assert!(read_with(&r, H, &named) == data[0][..STRIP as usize]);
    let end = Instant::now() + Duration::from_secs(20);
    while r.read_lent(H + 1, &[(0, 2 * STRIP)]).is_none() {
        assert!(Instant::now() < end, "it was named");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(r.read_lent(H + 3, &[(0, STRIP)]).is_none(), "it was not");
    for (i, data) in (0..4).zip(&data) {
        assert!(r.read(H + i, &[(0, 3 * STRIP)]).unwrap().1 == *data);
    }
    assert_eq!(r.list(0, 10).datahandles.len(), 4, "naming makes nothing");
    // More than is allowed, and while as many as are allowed are busy: answered all the same.
    let many = vec![(H + 1, u64::MAX); 10_000];
    assert!((0..20).all(|_| read_with(&r, H, &many).len() == STRIP as usize));
}
