//! The system interface against a cluster in memory: what operations answer, what they cost, and
//! that caches, stops and repeats keep them right.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers are not #[test] functions"
)]
mod fake;

use bytes::Bytes;
use fake::mount::{Mount, runtime};
use fake::{Cluster, Fault, ROOT, Shape, bytes, counts, name};
use pvfs2_client::background::Worker;
use pvfs2_client::machine::{HookAction, Machine, OpState, Transition, run};
use pvfs2_client::sys::*;
use pvfs2_proto::op::{CreateRequest, Cred, Op};
use pvfs2_proto::{ErrorCode, Result, SetAttr, TimeSpec};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

#[test]
fn operations_cost_what_the_design_says() {
    let c = Cluster::new(Shape::default());
    let m = Mount::new(&c, 1_000);
    let f = m.create("a");
    assert_eq!(counts(&c), [("create", 1)]);
    m.write(&f, 0, &bytes(4096, 1));
    m.close(f);
    assert_eq!(counts(&c), [("release", 1), ("write_small", 1)]);
    let h = m.run(Lookup::new(ROOT, name("a"))).unwrap().handle();
    assert_eq!(m.stat(h).size, 4096);
    assert_eq!(counts(&c), []);
    let f = m.run(Open::new(h, (true, false), false)).unwrap();
    assert_eq!(m.read(&f, 0, 8192), bytes(4096, 1));
    m.close(f);
    assert_eq!(counts(&c), [("open", 1), ("release", 1)]);

    let big = m.create("big");
    m.write(&big, 0, &bytes(1 << 20, 2));
    assert_eq!(counts(&c), [("create", 1), ("io_write", 4), ("unstuff", 1)]);
    m.write(&big, 1 << 20, &bytes(1 << 20, 3));
    let mut seen: Vec<u32> = c.io_requests.borrow().iter().map(|r| r.0).collect();
    seen.sort_unstable();
    assert_eq!(seen, [1, 2, 3, 4]);
    assert_eq!(counts(&c), [("io_write", 4)]);
    assert_eq!(m.read(&big, 1 << 20, 1 << 20), bytes(1 << 20, 3));
    assert_eq!(counts(&c), [("io_read", 4)]);
    c.advance_ms(2_000);
    assert_eq!(m.stat(big.handle).size, 2 << 20);
    assert_eq!(counts(&c), [("getattr", 1)], "the sole writer knows the size");
    m.run(Fsync::file(big.clone())).unwrap();
    assert_eq!(counts(&c), [("df_sync", 4), ("report", 1)]);
    m.close(big);
    c.take_counts();

    let d = m.run(Mkdir::new(ROOT, name("d"), 0o755)).unwrap().handle();
    m.run(Mkdir::new(d, name("e"), 0o755)).unwrap();
    c.take_counts();
    assert!(m.run(LookupPath::new(ROOT, b"/d/./e", true)).unwrap().is_dir());
    assert_eq!(counts(&c), [("lookup", 1)]);
}

#[test]
fn many_files_are_synced_at_the_price_of_few() {
    let c = Cluster::new(Shape::default());
    let m = Mount::new(&c, 60_000);
    let mut all = vec![ROOT];
    for n in 0..100 {
        let f = m.create(&format!("small{n}"));
        m.write(&f, 0, &bytes(4096, 1));
        all.push(f.handle);
        m.close(f);
    }
    let (open, closed) = (m.create("open"), m.create("closed"));
    m.write(&open, 0, &bytes(1 << 20, 2));
    m.write(&closed, 0, &bytes(1 << 20, 3));
    all.extend([open.handle, closed.handle]);
    m.close(closed);
    c.take_counts();
    m.run(FsyncMany::new(all.clone())).unwrap();
    // What is open is reported first; the datafiles of both go in one request to each server.
    let asked: BTreeMap<_, _> = counts(&c).into_iter().collect();
    assert_eq!((asked["df_sync"], asked["fsync"], asked["report"]), (4, 103, 1), "{asked:?}");
    assert!(asked.get("getattr").is_none_or(|n| *n <= 3), "{asked:?}");
    // Without caches each is asked for.
    Mount::new(&c, 0).run(FsyncMany::new(all.clone())).unwrap();
    let asked: BTreeMap<_, _> = counts(&c).into_iter().collect();
    assert_eq!((asked["df_sync"], asked["fsync"], asked["getattr"]), (4, 103, 103), "{asked:?}");
    // One that is gone: nothing is promised.
    m.run(Unlink::new(ROOT, name("small7"))).unwrap();
    assert_eq!(m.run(FsyncMany::new(all)).unwrap_err().code, ErrorCode::Stale);
}

#[test]
fn data_and_holes_are_found_over_all_datafiles() {
    let c = Cluster::new(Shape { strip: 10, small: 5, ..Default::default() });
    let m = Mount::new(&c, 0);
    let f = m.create("f");
    m.write(&f, 0, b"1234");
    let seek = |at, w| m.run(Lseek::new(&f, at, w));
    assert_eq!(seek(2, Whence::Data), Ok(2));
    assert_eq!(seek(2, Whence::Hole), Ok(4));
    for at in [45, 125, 127, 129] {
        m.write(&f, at, b"x");
    }
    m.truncate(f.handle, 400);
    assert_eq!(seek(4, Whence::Data), Ok(45));
    assert_eq!(seek(45, Whence::Hole), Ok(46));
    assert_eq!(seek(46, Whence::Data), Ok(125));
    assert_eq!(seek(129, Whence::Data), Ok(129));
    assert_eq!(seek(129, Whence::Hole), Ok(130));
    assert_eq!(seek(130, Whence::Data).unwrap_err().code, ErrorCode::NoData);
    assert_eq!(seek(130, Whence::Hole), Ok(130));
    assert_eq!(seek(400, Whence::Hole).unwrap_err().code, ErrorCode::NoData);
}

#[test]
fn caches_are_right_after_changes_and_off_at_zero() {
    for cache_ms in [1_000, 0] {
        let c = Cluster::new(Shape::default());
        let m = Mount::new(&c, cache_ms);
        let look = |text: &str| m.run(Lookup::new(ROOT, name(text))).map(|a| a.handle());
        let absent = |text: &str| assert_eq!(look(text).unwrap_err().code, ErrorCode::NotFound);
        absent("a");
        c.take_counts();
        absent("a");
        assert_eq!(c.take_counts().is_empty(), cache_ms > 0, "negative entries");
        let f = m.create("a");
        assert_eq!(look("a"), Ok(f.handle));
        m.run(Rename::new((ROOT, name("a")), (ROOT, name("b")), false, false)).unwrap();
        absent("a");
        assert_eq!(look("b"), Ok(f.handle));
        let g = m.create("g");
        m.run(Rename::new((ROOT, name("b")), (ROOT, name("g")), false, true)).unwrap();
        assert_eq!((look("b"), look("g")), (Ok(g.handle), Ok(f.handle)));
        assert_eq!(m.run(Link::new(f.handle, ROOT, name("l"))).unwrap().nlink, 2);
        assert_eq!(m.stat(f.handle).nlink, 2);
        m.run(Unlink::new(ROOT, name("g"))).unwrap();
        absent("g");
        assert_eq!(m.stat(f.handle).nlink, 1);
        m.run(Unlink::new(ROOT, name("l"))).unwrap();
        assert_eq!(m.run(Getattr::new(f.handle)).unwrap_err().code, ErrorCode::Stale);
        let d = m.run(Mkdir::new(ROOT, name("d"), 0o755)).unwrap();
        m.run(Rmdir::new(ROOT, name("d"))).unwrap();
        absent("d");
        assert_eq!(m.run(Getattr::new(d.handle())).unwrap_err().code, ErrorCode::Stale);
        let no = m.run(Getxattr::new(g.handle, name("user.x"))).unwrap_err();
        assert_eq!(no.code, ErrorCode::NoAttribute);
        m.stat(g.handle);
        c.take_counts();
        let _ = m.run(Getxattr::new(g.handle, name("user.x")));
        let _ = m.run(Getxattr::new(g.handle, name("user.pvfs2.dist_name")));
        assert_eq!(c.take_counts()["getxattr"], 1 + u64::from(cache_ms == 0));
        m.run(Setxattr::new(g.handle, name("user.x"), name("v"), false, false)).unwrap();
        assert_eq!(m.run(Getxattr::new(g.handle, name("user.x"))).unwrap(), name("v"));
        assert_eq!(m.run(Listxattr::new(g.handle)).unwrap(), [name("user.x")]);
        m.run(Removexattr::new(g.handle, name("user.x"))).unwrap();
        let mode = SetAttr { mode: Some(0o600), ..Default::default() };
        m.run(Setattr::new(g.handle, mode)).unwrap();
        assert_eq!(m.stat(g.handle).mode & 0o777, 0o600);
        if cache_ms == 0 {
            assert_eq!((m.client.ncache().len(), m.client.acache().len()), (0, 0));
        }
    }
}

#[test]
fn a_stale_name_is_looked_up_again() {
    let c = Cluster::new(Shape::default());
    let (a, b) = (Mount::new(&c, 1_000), Mount::new(&c, 0));
    a.create("x");
    b.run(Unlink::new(ROOT, name("x"))).unwrap();
    let new = b.create("x").handle;
    a.client.acache().clear();
    assert_eq!(a.run(Lookup::new(ROOT, name("x"))).unwrap().handle(), new);
    b.run(Unlink::new(ROOT, name("x"))).unwrap();
    a.client.acache().clear();
    let gone = a.run(Lookup::new(ROOT, name("x"))).unwrap_err();
    assert_eq!(gone.code, ErrorCode::NotFound);
}

#[test]
fn paths_lead_over_servers_symlinks_and_dotdot() {
    let c = Cluster::new(Shape { metas: 2, ..Default::default() });
    c.meta.borrow_mut().spread = true;
    let m = Mount::new(&c, 0);
    let d = m.run(Mkdir::new(ROOT, name("d"), 0o755)).unwrap().handle();
    let e = m.run(Mkdir::new(d, name("e"), 0o755)).unwrap().handle();
    let made = Create::open(e, name("f"), 0o644, (true, true), true, false);
    let f = m.run(made).unwrap().attr.handle();
    m.run(Symlink::new(e, name("up"), name("../e/f"))).unwrap();
    m.run(Symlink::new(ROOT, name("abs"), name("/d/e"))).unwrap();
    m.run(Symlink::new(ROOT, name("loop"), name("loop"))).unwrap();
    let path = |p: &str| m.run(LookupPath::new(ROOT, p.as_bytes(), true)).map(|a| a.handle());
    c.take_counts();
    assert_eq!(path("d/e/f"), Ok(f));
    assert_eq!(c.take_counts()["lookup"], 3);
    assert_eq!(path("d/e/up"), Ok(f));
    assert_eq!(path("abs/up"), Ok(f));
    assert_eq!(path("d"), Ok(d));
    assert_eq!(path("/"), Ok(ROOT));
    assert_eq!(path("d/e/../../d/e/.."), Ok(d));
    assert_eq!(path("loop").unwrap_err().code, ErrorCode::Loop);
    assert_eq!(path("d/e/f/g").unwrap_err().code, ErrorCode::NotDirectory);
    assert_eq!(path("d/nix/g").unwrap_err().code, ErrorCode::NotFound);
    let link = m.run(LookupPath::new(ROOT, b"abs", false)).unwrap();
    assert!(link.is_symlink());
    assert_eq!(m.run(Readlink::new(link.handle())).unwrap(), name("/d/e"));
    assert!(m.run(Lookup::new(ROOT, name("d"))).unwrap().is_dir(), "attributes elsewhere");
}

#[test]
fn directories_are_read_in_pages_that_fill_the_caches() {
    let c = Cluster::new(Shape { metas: 2, small: 0, ..Default::default() });
    let (m, other) = (Mount::new(&c, 1_000), Mount::new(&c, 0));
    for i in 0..1_500 {
        let request = CreateRequest {
            dir: 1,
            name: name(&format!("f{i}")),
            no_open: true,
            ..Default::default()
        };
        other.run(Create::new(request)).unwrap();
    }
    c.meta.borrow_mut().spread = true;
    let far = other.run(Mkdir::new(ROOT, name("far"), 0o755)).unwrap().handle();
    let busy = other.create("busy");
    other.write(&busy, 0, b"12345");
    c.take_counts();
    let dir = DirHandle::new(ROOT);
    let mut all = Vec::new();
    let mut cursor = 0;
    loop {
        let page = m.run(Readdir::new(dir.clone(), cursor, true, true)).unwrap();
        // As the kernel does: less than a page at a time.
        let taken = page.entries().len().min(100);
        all.extend_from_slice(&page.entries()[..taken]);
        if taken == 0 {
            assert!(page.is_end());
            break;
        }
        cursor = all.last().unwrap().cursor;
    }
    assert_eq!(all.len(), 1_502);
    let find = |text: &str| all.iter().find(|e| e.name == name(text)).unwrap();
    assert!(find("far").attr.as_ref().unwrap().is_dir());
    assert_eq!(find("busy").attr.as_ref().unwrap().size, 5);
    assert_eq!(counts(&c), [("df_stat", 4), ("listattr", 1), ("readdir", 2)]);
    assert_eq!(m.run(Lookup::new(ROOT, name("far"))).unwrap().handle(), far);
    assert!(counts(&c).is_empty());
    let page = m.run(Readdir::new(DirHandle::new(ROOT), 1_000, true, false)).unwrap();
    assert!(page.entries().iter().find(|e| e.handle == far.0).unwrap().attr.is_none());
    assert_eq!(counts(&c), [("readdir", 1)]);
}

#[test]
fn groups_are_looked_up_once_after_a_refusal() {
    let c = Cluster::new(Shape::default());
    c.meta.borrow_mut().group_wanted = Some(77);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    let (client, net) = c.client_with(0, |config| {
        config.groups_of = Some(Arc::new(move |tid| {
            seen.lock().unwrap().push(tid);
            (tid != 9).then(|| vec![5, 77])
        }));
    });
    let try_as = |tid| {
        let mut op = OpState::new(&client, Cred { uid: 1, gid: 1, ..Default::default() }, tid);
        runtime().block_on(run(&mut Getattr::new(ROOT), &mut op, &client, &*net))
    };
    assert!(try_as(42).is_ok());
    assert_eq!(net.creds.borrow().last().unwrap().groups, [5, 77]);
    assert_eq!(try_as(9).unwrap_err().code, ErrorCode::Access);
    c.meta.borrow_mut().group_wanted = Some(78);
    assert_eq!(try_as(43).unwrap_err().code, ErrorCode::Access);
    assert_eq!(*asked.lock().unwrap(), [42, 9, 43]);
}

/// Every machine that changes something, from a file system in a known state.
fn scenario(m: &Mount, hook: &dyn Fn() -> Option<pvfs2_client::machine::Hook>) -> Result<()> {
    fn go<M: Machine>(
        m: &Mount,
        mut machine: M,
        hook: Option<pvfs2_client::machine::Hook>,
    ) -> Result<M::Out> {
        let mut op = m.op();
        op.hook = hook;
        m.rt.block_on(async {
            loop {
                match run(&mut machine, &mut op, &m.client, &*m.net).await {
                    Err(e) if e.code == ErrorCode::Stalled => assert!(op.attempts < 100),
                    result => break result,
                }
            }
        })
    }
    let created = go(m, Create::open(ROOT, name("f"), 0o4755, (true, true), true, false), hook())?;
    let f = created.file.unwrap();
    let data = Bytes::from(bytes(100, 5));
    go(m, Write::new(f.clone(), 0, data.slice(..10), false), hook())?;
    go(m, Write::new(f.clone(), 10, data.slice(10..), true), hook())?;
    go(m, Append::new(f.clone(), Bytes::from_static(b"end"), false), hook())?;
    go(m, Setattr::new(f.handle, SetAttr { size: Some(101), ..Default::default() }), hook())?;
    go(m, Fsync::file(f.clone()), hook())?;
    assert_eq!(go(m, Read::new(f.clone(), 95, 50), hook())?, [&data[95..], b"e"].concat());
    go(m, Link::new(f.handle, ROOT, name("g")), hook())?;
    go(m, Rename::new((ROOT, name("g")), (ROOT, name("h")), true, false), hook())?;
    go(m, Unlink::new(ROOT, name("h")), hook())?;
    assert_eq!(go(m, Lookup::new(ROOT, name("f")), hook())?.nlink, 1);
    let page = go(m, Readdir::new(DirHandle::new(ROOT), 0, true, true), hook())?;
    assert_eq!(page.entries().len(), 1);
    go(m, Release::new(f), hook())?;
    assert_eq!(m.stat(created.attr.handle()).size, 101);
    Ok(())
}

#[test]
fn every_state_can_be_stopped_failed_and_repeated() {
    let shape = || Shape { strip: 16, small: 32, ..Default::default() };
    let seen: Rc<RefCell<Vec<Transition>>> = Rc::default();
    let all = Arc::new(Mutex::new(Vec::new()));
    // Stop once at every transition: the outcome is the same and nothing is done twice.
    let c = Cluster::new(shape());
    let m = Mount::new(&c, 0);
    scenario(&m, &|| {
        let mut stopped: Vec<Transition> = Vec::new();
        let all = all.clone();
        Some(Box::new(move |t| {
            all.lock().unwrap().push(t);
            if stopped.contains(&t) {
                return HookAction::Continue;
            }
            stopped.push(t);
            HookAction::Stop
        }))
    })
    .unwrap();
    assert_eq!((m.net.tickets_out(), m.client.opens().len(), c.meta.borrow().opens()), (0, 0, 0));
    seen.borrow_mut().extend(all.lock().unwrap().iter());
    for (machine, state) in
        [("write", "unstuff"), ("write", "kill"), ("write", "io"), ("fsync", "meta")]
    {
        let met = seen.borrow().iter().any(|t| t.machine == machine && t.to == state);
        assert!(met, "{machine} never came to {state}");
    }
    // Fail at the n-th transition: the error comes out and no ticket stays behind.
    let total = all.lock().unwrap().len();
    let mut failed = 0;
    for n in 0..total {
        let c = Cluster::new(shape());
        let m = Mount::new(&c, 0);
        let left = Arc::new(Mutex::new(n));
        let result = scenario(&m, &|| {
            let left = left.clone();
            Some(Box::new(move |_| {
                let mut left = left.lock().unwrap();
                if *left == 0 {
                    *left = usize::MAX;
                    return HookAction::Fail(ErrorCode::NoSpace.into());
                }
                *left -= 1;
                HookAction::Continue
            }))
        });
        failed += usize::from(result.is_err());
        assert_eq!(m.net.tickets_out(), 0);
    }
    assert!(failed > 20, "only {failed} of {total} transitions were failed");
}

#[test]
fn a_stalled_request_is_repeated_with_its_ticket() {
    for fault in [Fault::StallBefore, Fault::StallAfter] {
        let c = Cluster::new(Shape { strip: 16, small: 32, ..Default::default() });
        let m = Mount::new(&c, 0);
        for op in
            [Op::Create, Op::Unstuff, Op::IoWrite, Op::IoWrite, Op::Append, Op::Unlink, Op::Release]
        {
            c.fault(op, fault.clone());
        }
        let f = m.create("a");
        m.write(&f, 0, &bytes(64, 1));
        let (n, at) = m.run(Append::new(f.clone(), Bytes::from_static(b"tail"), false)).unwrap();
        assert_eq!((n, at), (4, 64));
        assert_eq!(m.read(&f, 0, 100), [bytes(64, 1), b"tail".to_vec()].concat());
        // A part that was answered is not sent again: four parts, two of them twice.
        assert_eq!(c.take_counts()["io_write"], 6);
        m.run(Unlink::new(ROOT, name("a"))).unwrap();
    }
}

#[test]
fn errors_that_pass_are_waited_for_and_others_are_not() {
    let c = Cluster::new(Shape::default());
    let m = Mount::new(&c, 0);
    for _ in 0..20 {
        c.fault(Op::Getattr, Fault::Error(ErrorCode::Busy));
    }
    c.fault(Op::Getattr, Fault::Error(ErrorCode::BadSession));
    assert!(m.stat(ROOT).is_dir());
    assert_eq!(c.take_counts()["getattr"], 22);
    c.fault(Op::Getattr, Fault::Error(ErrorCode::Unreachable));
    assert_eq!(m.run(Getattr::new(ROOT)).unwrap_err().code, ErrorCode::Unreachable);
    let f = m.create("a");
    c.fault(Op::Release, Fault::Error(ErrorCode::Unreachable));
    assert!(m.run(Release::new(f)).is_err());
    assert!(m.client.opens().is_empty(), "a close that cannot be told is given up");
    let mut op = m.op();
    op.deadline_ns = 1;
    let late = m.rt.block_on(run(&mut Getattr::new(ROOT), &mut op, &m.client, &*m.net));
    assert_eq!(late.unwrap_err().code, ErrorCode::Interrupted);
}

#[test]
fn lent_memory_is_used_in_place_and_left_when_stalled() {
    let c = Cluster::new(Shape { strip: 16, small: 32, ..Default::default() });
    let m = Mount::new(&c, 0);
    let f = m.create("a");
    let data = bytes(100, 3);
    m.rt.block_on(async {
        let (client, net) = (&*m.client, &*m.net);
        let mut op = m.op();
        c.fault(Op::IoWrite, Fault::StallAfter);
        let lent = write_from(client, net, &mut op, &f, 0, &data, false).await.unwrap();
        let Lent::Stalled(mut rest) = lent else { panic!("it did not stall") };
        assert_eq!(m.net.tickets_out(), 1, "the ticket stays with the operation");
        assert_eq!(run(&mut rest, &mut op, client, net).await, Ok(100));
        assert_eq!(m.net.tickets_out(), 0);
        let mut buf = [9u8; 120];
        let lent = read_into(client, net, &mut m.op(), &f, 0, &mut buf).await.unwrap();
        assert!(matches!(lent, Lent::Done(100)));
        assert_eq!(buf[..100], data[..]);
        c.fault(Op::IoRead, Fault::StallBefore);
        let mut op = m.op();
        let lent = read_into(client, net, &mut op, &f, 50, &mut buf[..20]).await.unwrap();
        let Lent::Stalled(mut rest) = lent else { panic!("it did not stall") };
        assert_eq!(run(&mut rest, &mut op, client, net).await.unwrap(), data[50..70]);
    });
}

#[test]
fn times_set_by_hand_survive_the_release() {
    let c = Cluster::new(Shape { strip: 16, small: 32, ..Default::default() });
    let m = Mount::new(&c, 0);
    let f = m.create("a");
    m.write(&f, 0, &bytes(64, 1));
    let written = m.stat(f.handle).mtime_ns;
    let past = TimeSpec { now: false, ns: 5_000 };
    let set = SetAttr { mtime: Some(past), ..Default::default() };
    assert_eq!(m.run(Setattr::new(f.handle, set)).unwrap().mtime_ns, 5_000);
    let h = f.handle;
    m.close(f);
    assert_eq!(m.stat(h).mtime_ns, 5_000);
    let item = c.meta.borrow().released.last().unwrap()[0].clone();
    assert_eq!((item.wrote, item.end, item.mtime_ns), (true, 64, 0));
    let f = m.run(Open::new(h, (true, true), false)).unwrap();
    m.write(&f, 0, b"x");
    assert!(m.stat(h).mtime_ns > written, "a write after utimes counts again");
}

#[test]
fn closes_without_news_travel_together_and_those_with_news_at_once() {
    let c = Cluster::new(Shape { strip: 16, small: 32, ..Default::default() });
    let m = Mount::new(&c, 1_000);
    let files: Vec<_> = (0..150)
        .map(|i| {
            let f = m.create(&format!("f{i}"));
            let r = m.run(Open::new(f.handle, (true, false), false)).unwrap();
            m.close(f);
            r
        })
        .collect();
    let (writer, idle) = (m.create("w"), m.create("idle"));
    m.write(&writer, 0, &bytes(100, 1));
    assert!(writer.has_news() && !idle.has_news());
    c.take_counts();
    c.meta.borrow_mut().released.clear();
    let rt = runtime();
    let (tx, orders) = pvfs2_client::background::orders();
    let worker = Worker::new(m.client.clone(), m.net.clone());
    let local = tokio::task::LocalSet::new();
    local.block_on(&rt, async {
        let serving = tokio::task::spawn_local(worker.serve(orders));
        let twice = files.iter().chain(&files);
        let woken = twice.filter(|f| tx.release((*f).clone())).count();
        assert_eq!(woken, 2, "for the first, and for the 64th");
        drop(files);
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        assert_eq!(c.take_counts()["release"], 2, "two full batches");
        tx.release(idle);
        tx.release(writer);
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        assert_eq!(c.take_counts()["release"], 1, "the writer's at once");
        tokio::time::sleep(std::time::Duration::from_millis(110)).await;
        assert_eq!(c.take_counts()["release"], 1, "the rest after its time");
        drop(tx);
        serving.await.unwrap();
    });
    let sizes: Vec<usize> = c.meta.borrow().released.iter().map(Vec::len).collect();
    assert_eq!(sizes, [64, 64, 1, 23]);
    assert_eq!((c.meta.borrow().opens(), m.client.opens().len()), (0, 0));
}

#[test]
fn a_truncation_never_meets_a_report_under_way() {
    let c = Cluster::new(Shape { strip: 16, small: 32, ..Default::default() });
    let m = Mount::new(&c, 0);
    m.net.yields.set(true);
    let f = m.create("a");
    m.write(&f, 0, &bytes(500, 1));
    let h = f.handle;
    m.rt.block_on(async {
        let mut close_op = m.op();
        let mut trunc_op = m.op();
        let mut close = Release::new(f);
        let mut trunc = Setattr::new(h, SetAttr { size: Some(40), ..Default::default() });
        let (closed, truncated) = tokio::join!(
            run(&mut close, &mut close_op, &m.client, &*m.net),
            run(&mut trunc, &mut trunc_op, &m.client, &*m.net)
        );
        closed.unwrap();
        assert_eq!(truncated.unwrap().size, 40);
    });
    let order: Vec<Op> = c.io_requests.borrow().iter().map(|r| r.1).collect();
    let at = |op| order.iter().position(|o| *o == op).unwrap();
    assert!(at(Op::Release) < at(Op::Setattr), "{order:?}");
    assert_eq!(m.stat(h).size, 40);
}

#[test]
fn statfs_is_the_fullest_server_times_their_number() {
    let c = Cluster::new(Shape { metas: 2, ..Default::default() });
    let m = Mount::new(&c, 0);
    let s = m.run(Statfs::new()).unwrap();
    assert_eq!((s.bytes_free, s.bytes_total), (4_000, 20_000));
    assert_eq!((s.handles_used, s.handles_free, s.datafiles), (6, 20, 8));
    assert_eq!(counts(&c), [("io_statfs", 4), ("statfs", 2)]);
}

#[test]
fn statfs_counts_a_disk_that_servers_share_once() {
    let c = Cluster::new(Shape::default());
    let m = Mount::new(&c, 0);
    let space = || {
        let s = m.run(Statfs::new()).unwrap();
        (s.bytes_free, s.bytes_total)
    };
    for (disks, expected) in [(1, (1_000, 5_000)), (2, (2_000, 10_000)), (4, (4_000, 20_000))] {
        c.disks.set(Some(disks));
        assert_eq!(space(), expected, "{disks} disks");
    }
}

#[test]
fn metrics_count_operations() {
    let c = Cluster::new(Shape::default());
    let m = Mount::new(&c, 1_000);
    let f = m.create("a");
    m.write(&f, 0, b"abc");
    m.read(&f, 0, 10);
    let _ = m.run(Lookup::new(ROOT, name("nix")));
    let all = m.client.metrics().snapshot();
    let of = |n: &str| all.iter().find(|s| s.name == n).map(|s| (s.count, s.errors));
    assert_eq!(
        (of("create"), of("write"), of("lookup")),
        (Some((1, 0)), Some((1, 0)), Some((1, 1)))
    );
    assert!(of("getattr").is_none());
}
