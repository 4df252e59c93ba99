//! Which files are named with which read, and which never, by the rule alone and without servers.
use super::*;
use bytes::Bytes;
use pvfs2_proto::dist::Dist;
use pvfs2_proto::{FileLayout, HandleRange, ServerEntry};
use std::collections::{BTreeMap, BTreeSet};

const SERVERS: u64 = 4;
/// Reads that go on until an order is believed.
const FIRST: u64 = (BELIEVED / GAIN) as u64;
const DIR: Handle = Handle(7);

struct Listed(Vec<Dirent>);

impl Entries for Listed {
    fn entries(&self) -> &[Dirent] {
        &self.0
    }
}

fn map() -> ClusterMap {
    let server = |i: u64| ServerEntry {
        io_range: Some(HandleRange { first: (i + 1) << 32, last: ((i + 2) << 32) - 1 }),
        ..Default::default()
    };
    ClusterMap { servers: (0..SERVERS).map(server).collect(), ..Default::default() }
}

/// Datahandle of file `n` on server `s`.
fn datahandle(s: u64, n: u64) -> u64 {
    ((s + 1) << 32) + n
}

/// File `n`, whose bytes begin on server `n % SERVERS`.
fn file(n: u64, size: u64, name: String, cursor: u64) -> Dirent {
    let datahandles = (0..SERVERS).map(|i| datahandle((n + i) % SERVERS, n)).collect();
    let layout = FileLayout { dist: Dist::simple_stripe(65_536), datahandles };
    let attr = Attr { handle: 100 + n, size, layout: Some(layout), ..Default::default() };
    let name = Bytes::from(name);
    Dirent { name, handle: 100 + n, kind: 0, cursor, attr: Some(attr) }
}

/// Files `0..count` of `size` bytes, listed in the order of `n * step % count`.
fn listed(count: u64, size: u64, step: u64) -> Arc<Listed> {
    let of = |at: u64| at * step % count;
    let entry = |at: u64| file(of(at), size, format!("{:06}", of(at)), at + 1);
    Arc::new(Listed((0..count).map(entry).collect()))
}

fn on(page: Arc<Listed>) -> Fileahead {
    let ahead = Fileahead::new(true);
    ahead.listed(DIR, page);
    ahead
}

/// Reads file `n`: what the servers are told, as (server, file, bytes).
fn read(ahead: &Fileahead, n: u64, size: u64) -> Vec<(u64, u64, u64)> {
    let parts = size.div_ceil(65_536).min(SERVERS);
    let servers: Vec<u64> = (0..parts).map(|i| (n + i) % SERVERS).collect();
    let told = ahead.reads(&map(), Handle(100 + n), servers.iter().map(|s| *s as ServerId));
    let of = |s: u64, a: &Ahead| (s, a.datahandle - datahandle(s, 0), a.len);
    servers.iter().zip(&told).flat_map(|(s, list)| list.iter().map(|a| of(*s, a))).collect()
}

/// Reads the files in turn; each must be told of once at most, before it is read and not too early.
fn run(ahead: &Fileahead, order: &[u64], size: u64) -> (BTreeSet<u64>, usize) {
    let place: BTreeMap<u64, usize> = order.iter().enumerate().map(|(i, n)| (*n, i)).collect();
    let (mut told, mut requests) = (BTreeSet::new(), 0);
    for (at, n) in order.iter().enumerate() {
        let now = read(ahead, *n, size);
        requests += usize::from(!now.is_empty());
        for (server, n, len) in now {
            assert_eq!((server, len), (n % SERVERS, size), "where its bytes lie, and how many");
            assert!(told.insert(n), "{n} was told before");
            assert!((at + 1..=at + FILES_FAR).contains(&place[&n]), "{n} at {at}");
        }
    }
    (told, requests)
}

#[test]
fn files_read_in_the_order_of_their_making_are_named_once_each() {
    let order: Vec<u64> = (0..400).collect();
    let (told, requests) = run(&on(listed(400, 65_536, 37)), &order, 65_536);
    let first = FIRST + 1;
    let missed: Vec<u64> = (first..400).filter(|n| !told.contains(n)).collect();
    assert!(missed.len() <= SERVERS as usize, "the first of each server may be missed: {missed:?}");
    assert!(requests <= 400 / 4 + 2 * SERVERS as usize, "several at a time: {requests}");
}

#[test]
fn files_read_as_they_are_listed_or_by_name_are_named_too() {
    let order: Vec<u64> = (0..400u64).map(|at| at * 37 % 400).collect();
    let (told, _) = run(&on(listed(400, 65_536, 37)), &order, 65_536);
    assert!(told.len() >= 390, "{}", told.len());
    // In a small directory all are near each other, in any order.
    let order: Vec<u64> = (0..40u64).map(|at| at * 37 % 40).collect();
    let (told, _) = run(&on(listed(40, 65_536, 37)), &order, 65_536);
    assert!(told.len() >= 30, "{told:?}");
    let order: Vec<u64> = (0..400u64).map(|at| at * 37 % 400).collect();
    // By name: neither made nor listed so.
    let of = |n: u64| file(n * 37 % 400, 65_536, format!("{n:06}"), n * 53 % 400 + 1);
    let mut page: Vec<Dirent> = (0..400).map(of).collect();
    page.sort_by_key(|e| e.cursor);
    let (told, _) = run(&on(Arc::new(Listed(page))), &order, 65_536);
    assert!(told.len() >= 390, "{}", told.len());
}

#[test]
fn files_read_here_and_there_are_not() {
    let order: Vec<u64> = (0..1_000u64).map(|at| at * 387 % 1_000).collect();
    let page = listed(1_000, 65_536, 211);
    assert!((0..3).all(|_| run(&on(page.clone()), &order, 65_536).0.is_empty()));
    // After leaving an order, it must be found again first.
    let ahead = on(page);
    (0..10).for_each(|n| drop(read(&ahead, n, 65_536)));
    assert!(read(&ahead, 500, 65_536).is_empty());
    (501..500 + FIRST).for_each(|n| assert!(read(&ahead, n, 65_536).is_empty()));
    assert!(!read(&ahead, 500 + FIRST, 65_536).is_empty());
}

#[test]
fn several_programs_share_an_order() {
    // Two read every second file, one of them some files behind the other.
    let mut order = Vec::new();
    for at in 0..200u64 {
        order.push(2 * at);
        if at >= 5 {
            order.push(2 * (at - 5) + 1);
        }
    }
    let ahead = on(listed(400, 65_536, 37));
    let told: BTreeSet<u64> =
        order.iter().flat_map(|n| read(&ahead, *n, 65_536)).map(|(_, n, _)| n).collect();
    assert!(told.len() >= 380, "{}", told.len());
}

#[test]
fn reads_before_the_listing_count() {
    let ahead = Fileahead::new(true);
    (0..8).for_each(|n| assert!(read(&ahead, n, 65_536).is_empty()));
    ahead.listed(DIR, listed(400, 65_536, 37));
    let now = read(&ahead, 8, 65_536);
    assert_eq!(now.len(), FILES_NEAR / SERVERS as usize, "{now:?}");
    // Listed again, what was known of it is gone with the page, and found again at once.
    ahead.listed(DIR, listed(400, 65_536, 37));
    assert_eq!(ahead.len(), 1);
    assert!(!read(&ahead, 9, 65_536).is_empty());
}

#[test]
fn large_files_are_fewer_and_only_their_beginning() {
    let size = 4 << 20;
    let ahead = on(listed(100, size, 37));
    let mut all = 0;
    for n in 0..10 {
        let now = read(&ahead, n, size);
        assert!(now.iter().all(|(_, _, len)| *len == AHEAD_BYTES_MAX / SERVERS), "{now:?}");
        assert!(now.iter().all(|(_, m, _)| *m <= n + BYTES_AHEAD_MAX / AHEAD_BYTES_MAX));
        all += now.len() as u64;
    }
    assert!(all >= SERVERS * 10, "{all}");
}

#[test]
fn what_has_no_datafiles_is_passed_over_and_off_is_off() {
    let mut page = Vec::new();
    for n in 0..90 {
        let mut entry = file(n, 65_536, format!("{n:06}"), n + 1);
        match (n % 3, &mut entry.attr) {
            (1, attr) => *attr = None,
            (2, Some(attr)) => attr.set(AttrFlags::STUFFED, true),
            _ => {}
        }
        page.push(entry);
    }
    let page = Arc::new(Listed(page));
    let ahead = on(page.clone());
    let told: Vec<_> = (0..20).flat_map(|n| read(&ahead, 3 * n, 65_536)).collect();
    assert!(!told.is_empty() && told.iter().all(|(_, n, _)| n % 3 == 0), "{told:?}");
    let off = Fileahead::new(false);
    off.listed(DIR, page);
    assert!(off.is_empty() && (0..20).all(|n| read(&off, 3 * n, 65_536).is_empty()));
}

#[test]
fn only_so_many_pages() {
    let ahead = Fileahead::new(true);
    for dir in 0..2 * SHEETS_MAX as u64 {
        ahead.listed(Handle(dir), listed(3, 65_536, 1));
    }
    assert_eq!(ahead.len(), SHEETS_MAX);
    ahead.listed(DIR, Arc::new(Listed(Vec::new())));
    assert_eq!(ahead.len(), SHEETS_MAX, "a page without files is not kept");
}
