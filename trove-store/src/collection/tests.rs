//! The collection's suite, run over both kinds of storage space: what is committed is seen, survives
//! crashes and checkpoints at any point, and equals a plain map.
use super::*;
use crate::format::FormatInfo;
use crate::space::{MemSpace, StorageSpace, TroveOptions};
use proptest::prelude::*;
use pvfs2_proto::ErrorCode;
use std::collections::BTreeMap;

/// A storage space that outlives its openings.
pub(crate) enum Fixture {
    Disk(tempfile::TempDir, KeyvalMethod),
    Memory(MemSpace),
}

/// The keyval methods that this build has.
pub(crate) fn methods() -> Vec<KeyvalMethod> {
    let has = |m: &KeyvalMethod| *m != KeyvalMethod::Fjall || cfg!(feature = "fjall");
    KeyvalMethod::ALL.into_iter().filter(has).collect()
}

pub(crate) fn info() -> FormatInfo {
    FormatInfo { fs_id: 7, server_alias: "s0".into(), server_id: 0, keyval: KeyvalMethod::Sled }
}

pub(crate) fn options() -> TroveOptions {
    let mut o = TroveOptions::default();
    o.collection.reserve_bytes = 0;
    o.collection.segment_bytes = 4096;
    o.bstreams.open_max = 16;
    o
}

/// Memory where there is some: these tests sync thousands of times.
pub(crate) fn quick_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

impl Fixture {
    pub fn both() -> [Fixture; 2] {
        [Fixture::disk(), Fixture::Memory(MemSpace::new())]
    }
    /// Memory, and disk by every method.
    pub fn all() -> Vec<Fixture> {
        let disks = methods().into_iter().map(Fixture::disk_by);
        disks.chain([Fixture::Memory(MemSpace::new())]).collect()
    }
    pub fn disk() -> Fixture {
        Fixture::disk_by(KeyvalMethod::Sled)
    }
    pub fn disk_by(keyval: KeyvalMethod) -> Fixture {
        let dir = quick_dir();
        let info = FormatInfo { keyval, ..info() };
        StorageSpace::format(&dir.path().join("s"), &info).unwrap();
        Fixture::Disk(dir, keyval)
    }
    pub fn open_with(&self, options: TroveOptions) -> StorageSpace {
        match self {
            Fixture::Disk(dir, keyval) => {
                let info = FormatInfo { keyval: *keyval, ..info() };
                StorageSpace::open(&dir.path().join("s"), &info, options, Env::real()).unwrap()
            }
            Fixture::Memory(space) => space.open(Env::real()).unwrap(),
        }
    }
    pub fn open(&self) -> StorageSpace {
        self.open_with(options())
    }
    /// Ends an opening without a clean stop.
    pub fn crash(&self, space: StorageSpace) {
        drop(space);
        if let Fixture::Memory(m) = self {
            m.crash();
        }
    }
}

fn put(c: &Collection, key: &str, value: &str) -> u64 {
    let mut t = Txn::new();
    t.put(key.to_string(), value.to_string());
    c.commit(t).unwrap()
}

fn get(c: &Collection, key: &str) -> Option<String> {
    c.get(key.as_bytes()).unwrap().map(|v| String::from_utf8(v.to_vec()).unwrap())
}

fn keys(c: &Collection, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
    let found = c.scan(prefix.as_bytes(), after.map(str::as_bytes), limit).unwrap();
    found.into_iter().map(|(k, _)| String::from_utf8(k.to_vec()).unwrap()).collect()
}

#[test]
fn commits_are_seen_in_order_before_and_after_the_move() {
    for f in Fixture::all() {
        let s = f.open();
        let c = &s.collection;
        assert_eq!(put(c, "a1", "x"), 1);
        assert_eq!(put(c, "a2", "y"), 2);
        put(c, "b1", "z");
        c.step().unwrap();
        put(c, "a15", "new");
        let mut t = Txn::new();
        t.delete("a2");
        t.put("a1", "x2");
        c.commit(t).unwrap();
        for moved in [false, true] {
            if moved {
                c.step().unwrap();
            }
            assert_eq!(get(c, "a1").as_deref(), Some("x2"));
            assert_eq!(get(c, "a2"), None);
            assert_eq!(keys(c, "a", None, 9), ["a1", "a15"]);
            assert_eq!(keys(c, "a", Some("a1"), 9), ["a15"]);
            assert_eq!(keys(c, "", None, 2), ["a1", "a15"]);
            assert_eq!(keys(c, "b", Some("zz"), 2), [""; 0]);
            assert_eq!(keys(c, "a", None, 0), [""; 0]);
        }
        s.close().unwrap();
        assert_eq!(c.get(b"a1").unwrap_err().code, ErrorCode::Io);
        let s = f.open();
        assert!(s.clean_stop);
        assert_eq!(keys(&s.collection, "", None, 9), ["a1", "a15", "b1"]);
        assert_eq!(put(&s.collection, "n", "1"), 6);
    }
}

#[test]
fn a_crash_loses_nothing_committed() {
    for f in Fixture::all() {
        for round in 0..6 {
            let s = f.open();
            assert_eq!(s.clean_stop, round == 0);
            for i in 0..50 {
                put(&s.collection, &format!("k{round}-{i:02}"), &"v".repeat(200));
            }
            if round % 2 == 1 {
                s.collection.step().unwrap();
                put(&s.collection, &format!("k{round}-99"), "after the checkpoint");
            }
            f.crash(s);
        }
        let s = f.open();
        assert_eq!(keys(&s.collection, "k", None, 1000).len(), 6 * 50 + 3);
    }
}

#[test]
fn empty_and_impossible_transactions() {
    for f in Fixture::all() {
        let s = f.open();
        assert_eq!(s.collection.commit(Txn::new()).unwrap(), 0);
        let mut t = Txn::new();
        t.put("", "x");
        assert_eq!(s.collection.commit(t).unwrap_err().code, ErrorCode::Invalid);
        let mut t = Txn::new();
        t.put("big", vec![0; record::RECORD_BYTES_MAX]);
        assert_eq!(s.collection.commit(t).unwrap_err().code, ErrorCode::Invalid);
        assert_eq!(put(&s.collection, "a", "b"), 1);
        let mut t = Txn::new();
        t.put("a", "1");
        t.delete("a");
        assert_eq!(t.get(b"a"), Some(None));
        s.collection.commit(t).unwrap();
        assert_eq!(get(&s.collection, "a"), None);
    }
}

#[test]
fn sync_is_shared_by_many_waiters() {
    for f in Fixture::all() {
        let s = f.open();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let c = &s.collection;
        runtime.block_on(async {
            let mut waits = Vec::new();
            for i in 0..100 {
                let c = c.clone();
                let index = put(&c, &format!("{i}"), "v");
                waits.push(tokio::spawn(async move {
                    c.sync(index).await.unwrap();
                    assert!(c.durable_index() >= index);
                }));
            }
            for w in waits {
                w.await.unwrap();
            }
        });
        assert_eq!(c.durable_index(), 100);
    }
}

#[test]
fn the_background_syncs_and_moves_by_itself() {
    methods().into_iter().for_each(syncs_and_moves_by_itself);
}

fn syncs_and_moves_by_itself(method: KeyvalMethod) {
    let f = Fixture::disk_by(method);
    let mut o = options();
    o.collection.sync_within_ms = 20;
    o.collection.overlay_age_ms = 40;
    let s = f.open_with(o);
    put(&s.collection, "k", "v");
    let Fixture::Disk(dir, _) = &f else { unreachable!() };
    let journal = dir.path().join("s/journal");
    let moved = || {
        // The checkpoint comes first, then the old segments go.
        segment::read_checkpoint(&journal).unwrap() == 1
            && segment::list(&journal).unwrap().is_empty()
    };
    for _ in 0..500 {
        if s.collection.durable_index() == 1 && moved() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(s.collection.durable_index(), 1);
    assert!(moved());
}

#[test]
fn a_full_overlay_waits_for_the_move_and_loses_nothing() {
    methods().into_iter().for_each(full_overlay_waits_for_the_move);
}

fn full_overlay_waits_for_the_move(method: KeyvalMethod) {
    let f = Fixture::disk_by(method);
    let mut o = options();
    o.collection.overlay_entries = 40;
    o.collection.segment_bytes = 64 << 10;
    let s = f.open_with(o);
    for i in 0..1000 {
        put(&s.collection, &format!("{i:04}"), "v");
        // One generation of up to twice the size on its way, and one that takes new changes.
        assert!(s.collection.stats().overlay_entries <= 3 * 40);
    }
    assert_eq!(keys(&s.collection, "", None, 2000).len(), 1000);
    s.close().unwrap();
    assert_eq!(keys(&f.open().collection, "", None, 2000).len(), 1000);
}

#[test]
fn a_failed_sync_poisons() {
    let m = MemSpace::new();
    let s = m.open(Env::real()).unwrap();
    let index = put(&s.collection, "a", "b");
    m.collection.log().lock().fail_sync = true;
    assert_eq!(s.collection.sync_now(index).unwrap_err().code, ErrorCode::Io);
    let mut t = Txn::new();
    t.put("c", "d");
    let e = s.collection.commit(t).unwrap_err();
    assert!(e.code == ErrorCode::Io && e.detail.contains("sync failed"), "{e}");
    assert_eq!(s.collection.sync_now(index).unwrap_err().code, ErrorCode::Io);
    m.crash();
    assert_eq!(get(&m.open(Env::real()).unwrap().collection, "a").as_deref(), Some("b"));
}

#[test]
fn sizes_follow_from_the_memory() {
    for memory_bytes in [96 << 20, 512 << 20, 4 << 30] {
        let o = CollectionOptions::within(memory_bytes);
        let most = o.cache_bytes + 3 * o.overlay_bytes as u64;
        assert!(most <= memory_bytes / 2, "{most} of {memory_bytes}");
        // Whatever the changes' size, a generation holds thousands of them.
        assert!(o.overlay_entries >= 8 << 10 && o.overlay_bytes >= 8 << 20);
    }
    let (o, default) = (CollectionOptions::within(512 << 20), CollectionOptions::default());
    assert_eq!((o.cache_bytes, o.overlay_bytes), (default.cache_bytes, default.overlay_bytes));
}

#[test]
fn a_full_disk_refuses_and_changes_nothing() {
    let m = MemSpace::new();
    let s = m.open(Env::real()).unwrap();
    put(&s.collection, "a", "b");
    m.collection.log().lock().space_left_bytes = Some(10);
    let mut t = Txn::new();
    t.put("c", "d");
    assert_eq!(s.collection.commit(t.clone()).unwrap_err().code, ErrorCode::NoSpace);
    assert_eq!(get(&s.collection, "c"), None);
    m.collection.log().lock().space_left_bytes = None;
    assert_eq!(s.collection.commit(t).unwrap(), 2);
}

#[test]
fn an_instance_from_before_a_crash_is_dead() {
    let m = MemSpace::new();
    let old = m.open(Env::real()).unwrap();
    put(&old.collection, "a", "b");
    m.crash();
    let mut t = Txn::new();
    t.put("a", "late");
    assert!(old.collection.commit(t).is_err());
    assert!(old.collection.step().is_err());
    assert_eq!(get(&m.open(Env::real()).unwrap().collection, "a").as_deref(), Some("b"));
}

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<(u8, Option<u8>)>),
    Move,
    Sync,
    Crash,
    Close,
    LosePower(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let change = (0u8..40, prop::option::weighted(0.7, any::<u8>()));
    let step = prop_oneof![
        10 => prop::collection::vec(change, 1..6).prop_map(Step::Commit),
        1 => Just(Step::Move),
        1 => Just(Step::Sync),
        1 => Just(Step::Crash),
        1 => Just(Step::Close),
        1 => (0u64..4).prop_map(Step::LosePower),
    ];
    prop::collection::vec(step, 1..60)
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn same(c: &Collection, model: &Model) -> Result<(), TestCaseError> {
    let all: Vec<_> = c.scan(b"k", None, usize::MAX).unwrap();
    let all: Model = all.into_iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
    prop_assert_eq!(&all, model);
    for k in 0u8..40 {
        let got = c.get(&[b'k', k]).unwrap().map(|v| v.to_vec());
        prop_assert_eq!(got.as_ref(), model.get(&[b'k', k][..]));
    }
    Ok(())
}

fn run(f: &Fixture, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut space = f.open();
    // The state after every transaction.
    let mut history: Vec<Model> = vec![Model::new()];
    for step in steps {
        let c = space.collection.clone();
        match step {
            Step::Commit(changes) => {
                let mut t = Txn::new();
                let mut model = history.last().unwrap().clone();
                for (k, v) in changes {
                    let key = vec![b'k', k];
                    match v {
                        Some(v) => {
                            t.put(key.clone(), vec![v; v as usize]);
                            model.insert(key, vec![v; v as usize]);
                        }
                        None => {
                            t.delete(key.clone());
                            model.remove(&key);
                        }
                    }
                }
                prop_assert_eq!(c.commit(t).unwrap(), history.len() as u64);
                history.push(model);
            }
            Step::Move => c.step().unwrap(),
            Step::Sync => c.sync_now(c.last_index()).unwrap(),
            Step::Crash => {
                drop(c);
                f.crash(space);
                space = f.open();
            }
            Step::Close => {
                space.close().unwrap();
                drop((c, space));
                space = f.open();
                prop_assert!(space.clean_stop);
            }
            Step::LosePower(keep) => {
                // Only memory can; on disk it is a crash.
                let durable = c.durable_index();
                drop(c);
                match f {
                    Fixture::Memory(m) => {
                        drop(space);
                        m.lose_power(keep);
                        let now = history.len() as u64 - 1;
                        history.truncate((durable + keep).min(now) as usize + 1);
                    }
                    Fixture::Disk(..) => f.crash(space),
                }
                space = f.open();
                prop_assert!(!space.clean_stop);
            }
        }
        same(&space.collection, history.last().unwrap())?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn equals_a_map_in_memory(steps in steps()) {
        run(&Fixture::Memory(MemSpace::new()), steps)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn equals_a_map_on_disk(steps in steps()) {
        for method in methods() {
            run(&Fixture::disk_by(method), steps.clone())?;
        }
    }
}
