//! Directories that split over several servers: who holds what, listings meanwhile, faults and kills
//! at every step.
use super::fsck::faults_of;
use super::harness::*;
use pvfs2_proto::dirmap::{HASH_END, position};
use pvfs2_proto::op::*;
use pvfs2_proto::{Attr, AttrFlags, DirMap, ErrorCode, PvfsError, SetAttr};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// A directory below the root that splits with `entries` names over `servers` servers.
pub async fn dir_with(u: &User, name: &str, servers: u32, entries: u64) -> u64 {
    let dir = u.mkdir(1, name).await.unwrap();
    for (name, value) in [("dir_servers_max", u64::from(servers)), ("dir_split_entries", entries)] {
        set(u, dir, name, &value.to_string()).await.unwrap();
    }
    dir
}

async fn set(u: &User, dir: u64, name: &str, value: &str) -> Result<(), PvfsError> {
    let r = SetxattrRequest {
        handle: dir,
        name: format!("user.pvfs2.{name}").into(),
        value: value.to_owned().into(),
        ..Default::default()
    };
    u.ask(u.cluster.owner(dir), r).await.map(|_| ())
}

pub async fn map_of(u: &User, dir: u64) -> Option<DirMap> {
    u.getattr(dir).await.unwrap().dir_map.map(|map| *map)
}

/// The home or the part that holds a name.
async fn at(u: &User, dir: u64, name: &str) -> u64 {
    map_of(u, dir).await.map_or(dir, |m| m.owner_of(name.as_bytes()).0)
}

/// An operation on a name, asked again where the name lies by now.
async fn on<T>(
    u: &User,
    dir: u64,
    name: &str,
    mut op: impl AsyncFnMut(u64) -> Result<T, PvfsError>,
) -> Result<T, PvfsError> {
    loop {
        match op(at(u, dir, name).await).await {
            Err(e) if matches!(e.code, ErrorCode::Moved | ErrorCode::Busy) => settle().await,
            result => return result,
        }
    }
}

/// A listing in the middle, as a client goes on with it.
struct Listing {
    dir: u64,
    cursor: u64,
    names: Vec<String>,
    map: Option<DirMap>,
}

impl Listing {
    fn new(dir: u64) -> Listing {
        Listing { dir, cursor: 0, names: Vec::new(), map: None }
    }

    /// Reads up to `max` names; `true`: that was all.
    async fn page(&mut self, u: &User, max: u32) -> bool {
        let from = position(self.cursor);
        let holder = self.map.as_ref().map_or(self.dir, |m| m.owner(from).0);
        let r = ReaddirRequest { dir: holder, cursor: self.cursor, max, ..Default::default() };
        let mut answer = match u.ask(u.cluster.owner(holder), r).await {
            Err(e) if e.code == ErrorCode::Moved => {
                self.map = map_of(u, self.dir).await;
                return false;
            }
            other => other.unwrap(),
        };
        if holder == self.dir {
            self.map = answer.map.take();
        }
        let end = self.map.as_ref().map_or(HASH_END, |m| m.share_end(from));
        let mut ended = answer.end;
        for e in answer.entries {
            if e.cursor >= end {
                ended = true;
                break;
            }
            assert!(e.cursor > self.cursor);
            self.cursor = e.cursor;
            self.names.push(String::from_utf8(e.name.to_vec()).unwrap());
        }
        if ended && end < HASH_END {
            self.cursor = end - 1;
        }
        ended && end >= HASH_END
    }

    async fn all(dir: u64, u: &User) -> BTreeSet<String> {
        let mut listing = Listing::new(dir);
        while !listing.page(u, 29).await {}
        listing.once()
    }

    fn once(&self) -> BTreeSet<String> {
        let set: BTreeSet<String> = self.names.iter().cloned().collect();
        assert_eq!(set.len(), self.names.len(), "a name twice");
        set
    }
}

/// What stat shows: the home's and the parts' together.
async fn whole(u: &User, dir: u64) -> Attr {
    let mut sum = u.getattr(dir).await.unwrap();
    for part in sum.dir_map.take().map(|m| m.parts).unwrap_or_default() {
        let attr = u.getattr(part).await.unwrap();
        assert!(attr.has(AttrFlags::DIR_PART) && attr.home() == dir);
        sum.size += attr.size;
        sum.nlink += attr.nlink - 2;
    }
    sum
}

pub async fn until_split(u: &User, dir: u64) -> DirMap {
    for _ in 0..2_000 {
        match map_of(u, dir).await {
            Some(map) if !map.is_moving() => return map,
            _ => settle().await,
        }
    }
    panic!("the directory does not split");
}

fn name(i: usize) -> String {
    format!("f{i}")
}

#[test]
fn a_directory_splits_when_it_grows_and_everything_works_on() {
    with_cluster(3, |c| async move {
        let u = c.root();
        let dir = dir_with(&u, "d", 4, 40).await;
        for i in 0..39 {
            u.create(dir, &name(i)).await.unwrap();
        }
        settle().await;
        assert_eq!(map_of(&u, dir).await, None, "not yet");
        u.create(dir, &name(39)).await.unwrap();
        let map = until_split(&u, dir).await;
        assert_eq!(map.parts.len(), 2, "home and two others: there are three servers");
        for i in 40..200 {
            let kind = at(&u, dir, &name(i)).await;
            if i % 10 == 0 {
                u.mkdir(kind, &name(i)).await.unwrap();
            } else {
                let f = u.create(kind, &name(i)).await.unwrap();
                assert_eq!(c.owner(f), c.owner(kind), "a new file lies beside its dirent");
            }
        }
        let all: BTreeSet<String> = (0..200).map(name).collect();
        assert_eq!(Listing::all(dir, &u).await, all);
        let attr = whole(&u, dir).await;
        assert_eq!((attr.size, attr.nlink), (200, 2 + 16));
        for i in 0..200 {
            let holder = at(&u, dir, &name(i)).await;
            u.lookup(holder, &name(i)).await.unwrap();
            let elsewhere = map.parts.iter().chain([&dir]).find(|h| **h != holder).unwrap();
            if *elsewhere == dir {
                assert_eq!(code(u.lookup(dir, &name(i)).await), ErrorCode::Moved);
                assert_eq!(code(u.create(dir, &name(i)).await), ErrorCode::Moved);
            }
        }
        // A directory made in a part knows its parent.
        let sub = u.lookup(at(&u, dir, "f50").await, "f50").await.unwrap();
        let r = ReaddirRequest { dir: sub, max: 1, ..Default::default() };
        assert_eq!(u.ask(c.owner(sub), r).await.unwrap().parent, dir);
        assert_eq!(code(u.rmdir(1, "d").await), ErrorCode::NotEmpty);
        for i in 0..200 {
            let holder = at(&u, dir, &name(i)).await;
            match i >= 40 && i % 10 == 0 {
                true => drop(u.rmdir(holder, &name(i)).await.unwrap()),
                false => drop(u.unlink(holder, &name(i)).await.unwrap()),
            }
        }
        u.rmdir(1, "d").await.unwrap();
        assert_eq!(code(u.lookup(1, "d").await), ErrorCode::NotFound);
        long_rest().await;
        assert_eq!(faults_of(&c).await, Vec::<String>::new());
    });
}

#[test]
fn listings_in_the_middle_stay_right() {
    with_cluster(3, |c| async move {
        let u = c.root();
        let dir = dir_with(&u, "d", 4, 2_000).await;
        let all: BTreeSet<String> = (0..1_999).map(name).collect();
        for n in &all {
            u.create(dir, n).await.unwrap();
        }
        // Readers that stand at different places when the split begins.
        let mut readers: Vec<Listing> = Vec::new();
        for pages in [0, 1, 20, 50, 100, 150, 190, 199] {
            let mut reader = Listing::new(dir);
            for _ in 0..pages {
                assert!(!reader.page(&u, 10).await);
            }
            readers.push(reader);
        }
        u.create(dir, "one more").await.unwrap();
        let mut left: Vec<Listing> = readers;
        let mut done = Vec::new();
        while !left.is_empty() {
            for mut reader in std::mem::take(&mut left) {
                if reader.page(&u, 13).await {
                    done.push(reader)
                } else {
                    left.push(reader)
                }
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(done.len(), 8);
        for reader in done {
            let seen = reader.once();
            assert!(seen.is_superset(&all), "{} missed", all.difference(&seen).count());
        }
        until_split(&u, dir).await;
        assert_eq!(Listing::all(dir, &u).await.len(), 2_000);
        long_rest().await;
        assert_eq!(faults_of(&c).await, Vec::<String>::new());
    });
}

#[test]
fn links_and_renames_between_parts() {
    with_cluster(3, |c| async move {
        let u = c.root();
        let dir = dir_with(&u, "d", 3, 30).await;
        let other = u.mkdir(1, "other").await.unwrap();
        for i in 0..60 {
            on(&u, dir, &name(i), async |d| u.create(d, &name(i)).await).await.unwrap();
        }
        until_split(&u, dir).await;
        for i in 0..20 {
            let (old, new) = (name(i), format!("new{i}"));
            let from = at(&u, dir, &old).await;
            let to = at(&u, dir, &new).await;
            u.rename(from, &old, to, &new).await.unwrap();
            assert_eq!(code(u.lookup(from, &old).await), ErrorCode::NotFound);
            let f = u.lookup(to, &new).await.unwrap();
            let more = format!("link{i}");
            let to = at(&u, dir, &more).await;
            assert_eq!(u.link(f, to, &more).await.unwrap().nlink, 2);
        }
        // Directories: within, out, in, exchanged; their parents follow.
        let parent = async |h: u64| {
            let r = ReaddirRequest { dir: h, max: 0, ..Default::default() };
            u.ask(c.owner(h), r).await.unwrap().parent
        };
        for i in 0..9 {
            let (a, b) = (format!("sub{i}"), format!("moved{i}"));
            let sub = u.mkdir(at(&u, dir, &a).await, &a).await.unwrap();
            u.rename(at(&u, dir, &a).await, &a, at(&u, dir, &b).await, &b).await.unwrap();
            assert_eq!(parent(sub).await, dir);
            u.rename(at(&u, dir, &b).await, &b, other, &a).await.unwrap();
            assert_eq!(parent(sub).await, other);
            let mine = u.mkdir(at(&u, dir, &b).await, &b).await.unwrap();
            u.rename_with(other, &a, at(&u, dir, &b).await, &b, false, true).await.unwrap();
            assert_eq!((parent(sub).await, parent(mine).await), (dir, other));
            assert_eq!(
                code(u.rename(1, "d", sub, "x").await),
                ErrorCode::Invalid,
                "not below itself, also through a part"
            );
        }
        assert_eq!(whole(&u, dir).await.nlink, 2 + 9);
        long_rest().await;
        assert_eq!(faults_of(&c).await, Vec::<String>::new());
    });
}

#[test]
fn an_empty_split_directory_can_be_replaced() {
    with_cluster(3, |c| async move {
        let u = c.root();
        for round in 0..6 {
            let dir = dir_with(&u, "d", 3, 8).await;
            for i in 0..8 {
                u.create(dir, &name(i)).await.unwrap();
            }
            let map = until_split(&u, dir).await;
            u.mkdir(1, &format!("empty{round}")).await.unwrap();
            assert_eq!(
                code(u.rename(1, &format!("empty{round}"), 1, "d").await),
                ErrorCode::NotEmpty
            );
            for i in 0..8 {
                u.unlink(at(&u, dir, &name(i)).await, &name(i)).await.unwrap();
            }
            u.rename(1, &format!("empty{round}"), 1, "d").await.unwrap();
            u.rmdir(1, "d").await.unwrap();
            for part in map.parts {
                assert_eq!(code(u.getattr(part).await), ErrorCode::Stale, "the parts are gone");
            }
        }
        long_rest().await;
        assert_eq!(faults_of(&c).await, Vec::<String>::new());
    });
}

#[test]
fn what_checks_need_reaches_the_parts() {
    with_cluster(3, |c| async move {
        let u = c.root();
        let dir = dir_with(&u, "d", 3, 20).await;
        for i in 0..20 {
            u.create(dir, &name(i)).await.unwrap();
        }
        let map = until_split(&u, dir).await;
        let user = c.user(1_000, 1_000);
        let refused = async |n: &str| code(user.create(at(&u, dir, n).await, n).await);
        for i in 100..120 {
            assert_eq!(refused(&name(i)).await, ErrorCode::Access);
        }
        let set_attr = SetAttr { uid: Some(1_000), mode: Some(0o700), ..Default::default() };
        u.setattr(dir, set_attr).await.unwrap();
        for i in 100..120 {
            user.create(at(&u, dir, &name(i)).await, &name(i)).await.unwrap();
        }
        let stranger = c.user(2_000, 2_000);
        for i in 0..20 {
            let held = at(&u, dir, &name(i)).await;
            assert_eq!(code(stranger.lookup(held, &name(i)).await), ErrorCode::Access);
        }
        set(&u, dir, "num_dfiles", "2").await.unwrap();
        for part in &map.parts {
            let r = GetxattrRequest { handle: *part, name: "user.pvfs2.num_dfiles".into() };
            assert_eq!(u.ask(c.owner(*part), r).await.unwrap().value, "2");
        }
        let r = RemovexattrRequest { handle: dir, name: "user.pvfs2.num_dfiles".into() };
        u.ask(c.owner(dir), r).await.unwrap();
        for part in &map.parts {
            let r = GetxattrRequest { handle: *part, name: "user.pvfs2.num_dfiles".into() };
            assert_eq!(code(u.ask(c.owner(*part), r).await), ErrorCode::NoAttribute);
        }
        let r = GetxattrRequest { handle: dir, name: "user.pvfs2.dir_parts".into() };
        let parts = u.ask(c.owner(dir), r).await.unwrap().value;
        let parts: BTreeSet<&str> = std::str::from_utf8(&parts).unwrap().split(':').collect();
        assert_eq!(parts, BTreeSet::from(["m0", "m1", "m2"]));
        // A part that cannot be reached hears of it before anybody is told or goes on.
        let away = c.owner(map.parts[0]);
        c.down.borrow_mut().insert(away);
        let mode = SetAttr { mode: Some(0o755), ..Default::default() };
        let asker = c.root();
        let asked = tokio::task::spawn_local(async move { asker.setattr(dir, mode).await });
        long_rest().await;
        assert!(!asked.is_finished(), "told before every part knew");
        c.down.borrow_mut().remove(&away);
        long_rest().await;
        assert_eq!(asked.await.unwrap().unwrap().mode & 0o777, 0o755);
        let u = c.root();
        for holder in map.parts.iter().chain([&dir]) {
            assert_eq!(u.getattr(*holder).await.unwrap().mode & 0o777, 0o755);
        }
        assert_eq!(faults_of(&c).await, Vec::<String>::new());
    });
}

/// The home of a split directory is killed when it has committed a change of attributes and a part has
/// not heard of it: sent again, the request is answered and not done again.
#[test]
fn a_change_that_waits_for_a_part_is_done_once() {
    with_cluster(3, |c| async move {
        let u = Rc::new(c.root());
        let dir = dir_with(&u, "d", 3, 20).await;
        for i in 0..20 {
            u.create(dir, &name(i)).await.unwrap();
        }
        let map = until_split(&u, dir).await;
        let (home, away) = (c.owner(dir), c.owner(map.parts[0]));
        c.down.borrow_mut().insert(away);
        let set = SetxattrRequest {
            handle: dir,
            name: "user.x".into(),
            value: "v".into(),
            create: true,
            ..Default::default()
        };
        let seq = Some(u.next_ticket());
        let (asker, request) = (u.clone(), set.clone().into_request());
        let asked =
            tokio::task::spawn_local(
                async move { asker.send(home, seq, request, b"").await.result },
            );
        settle().await;
        assert!(!asked.is_finished());
        c.restart(home);
        asked.abort();
        c.down.borrow_mut().remove(&away);
        u.send(home, seq, set.clone().into_request(), b"").await.result.unwrap();
        let fresh = c.root();
        assert_eq!(code(fresh.ask(home, set).await), ErrorCode::Exists, "it was done");
        long_rest().await;
        assert_eq!(faults_of(&c).await, Vec::<String>::new());
    });
}

#[test]
fn wrong_limits_are_refused_and_right_ones_handed_down() {
    with_cluster(2, |c| async move {
        let u = c.root();
        let dir = dir_with(&u, "d", 2, 10).await;
        for (name, value) in [
            ("dir_servers_max", "0"),
            ("dir_servers_max", "many"),
            ("dir_split_entries", "-1"),
            ("dir_parts", "m0"),
        ] {
            let refused = set(&u, dir, name, value).await.unwrap_err();
            assert_eq!(refused.code, ErrorCode::Invalid, "{name} {value}");
        }
        let f = u.create(dir, "f").await.unwrap();
        assert_eq!(set(&u, f, "dir_servers_max", "2").await.unwrap_err().code, ErrorCode::Invalid);
        let sub = u.mkdir(dir, "sub").await.unwrap();
        for i in 0..10 {
            u.create(sub, &name(i)).await.unwrap();
        }
        until_split(&u, sub).await;
        assert_eq!(map_of(&u, dir).await, None);
        set(&u, dir, "dir_servers_max", "1").await.unwrap();
        for i in 0..30 {
            u.create(dir, &name(i)).await.unwrap();
        }
        settle().await;
        assert_eq!(map_of(&u, dir).await, None, "one server is no split");
    });
}

/// Inner requests refused, or their answers lost, or servers killed, while names come and go: no
/// name is ever missing or double, and afterwards everything is whole.
#[test]
fn faults_and_kills_at_every_step() {
    let mut splits = 0;
    for op in [Op::Crdir, Op::SplitDirent, Op::RmdirPeer] {
        for lose in [false, true] {
            for times in [1, 3] {
                for kill in [None, Some(0), Some(1), Some(2)] {
                    splits += u32::from(fault(op, lose, times, kill));
                }
            }
        }
    }
    assert!(splits > 40, "{splits}");
}

fn fault(op: Op, lose: bool, times: u32, kill: Option<u32>) -> bool {
    with_cluster(3, |c| async move {
        let what = format!("{op:?} lose {lose} x{times}, kill {kill:?}");
        let u = c.root();
        let dir = dir_with(&u, "d", 3, 600).await;
        let mut there = BTreeSet::new();
        for i in 0..599 {
            u.create(dir, &name(i)).await.unwrap();
            there.insert(name(i));
        }
        let faults = if lose { &c.lose } else { &c.refuse };
        faults.borrow_mut().insert(op, times);
        u.create(dir, "the last").await.unwrap();
        there.insert("the last".into());
        for round in 0..12usize {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if let Some(kill) = kill.filter(|_| round % 4 == 2) {
                c.restart(kill);
            }
            let fresh = c.root();
            let (gone, new) = (name(round * 7), format!("new{round}"));
            on(&fresh, dir, &gone, async |d| fresh.unlink(d, &gone).await).await.unwrap();
            there.remove(&gone);
            on(&fresh, dir, &new, async |d| fresh.create(d, &new).await).await.unwrap();
            there.insert(new);
            let seen = Listing::all(dir, &fresh).await;
            assert!(seen == there, "{what}: {:?}", seen.symmetric_difference(&there));
        }
        let u = c.root();
        let split = until_split(&u, dir).await.parts.len() == 2;
        assert_eq!(whole(&u, dir).await.size, there.len() as u64, "{what}");
        long_rest().await;
        let found = faults_of(&c).await;
        assert!(found.is_empty(), "{what}: {found:?}");
        let u = c.root();
        for n in &there {
            on(&u, dir, n, async |d| u.unlink(d, n).await).await.unwrap();
        }
        faults.borrow_mut().insert(op, times);
        for _ in 0..5 {
            let gone = c.root().rmdir(1, "d").await.map(|_| ()).map_err(|e| e.code);
            long_rest().await;
            if matches!(gone, Ok(()) | Err(ErrorCode::NotFound)) {
                break;
            }
        }
        assert_eq!(code(c.root().lookup(1, "d").await), ErrorCode::NotFound, "{what}");
        let found = faults_of(&c).await;
        assert!(found.is_empty(), "{what}: {found:?}");
        split
    })
}

#[test]
fn a_small_directory_asks_nobody() {
    with_cluster(3, |c| async move {
        let u = c.root();
        let dir = u.mkdir(1, "d").await.unwrap();
        for op in [Op::Crdir, Op::SplitDirent, Op::PartAttr, Op::Getattr, Op::Listattr] {
            c.refuse.borrow_mut().insert(op, 1_000);
        }
        for i in 0..500 {
            u.create(dir, &name(i)).await.unwrap();
        }
        u.setattr(dir, SetAttr { mode: Some(0o700), ..Default::default() }).await.unwrap();
        settle().await;
        assert_eq!(map_of(&u, dir).await, None);
        assert!(c.refuse.borrow().values().all(|n| *n == 1_000), "no server asked another");
    });
}
