//! Random operations of one or two clients on one file against a plain vector of bytes, with and
//! without caches, with requests that stall before or after the server did them. Every failure is
//! replayed by proptest's seed.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers are not #[test] functions"
)]
mod fake;

use bytes::Bytes;
use fake::{Cluster, FakeNet, Fault, ROOT, Shape, name};
use proptest::prelude::*;
use pvfs2_client::machine::{Machine, OpState, run};
use pvfs2_client::sys::*;
use pvfs2_client::{Client, OpenFile};
use pvfs2_proto::op::Op;
use pvfs2_proto::{ErrorCode, Result, SetAttr};
use std::rc::Rc;
use std::sync::Arc;

const LEN_MAX: u64 = 400;

#[derive(Clone, Debug)]
enum Act {
    Write(u64, usize),
    Read(u64, usize),
    Append(usize),
    Truncate(u64),
    Stat,
    Data(u64),
    Hole(u64),
    Fsync,
    Reopen { truncate: bool },
    Fault(u8, bool),
}

fn act() -> impl Strategy<Value = Act> {
    let at = || 0..LEN_MAX;
    prop_oneof![
        4 => (at(), 1usize..120).prop_map(|(o, n)| Act::Write(o, n)),
        4 => (at(), 1usize..300).prop_map(|(o, n)| Act::Read(o, n)),
        2 => (1usize..60).prop_map(Act::Append),
        2 => (0..LEN_MAX).prop_map(Act::Truncate),
        3 => Just(Act::Stat),
        1 => at().prop_map(Act::Data),
        1 => at().prop_map(Act::Hole),
        1 => Just(Act::Fsync),
        2 => prop::bool::weighted(0.3).prop_map(|truncate| Act::Reopen { truncate }),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(op, after)| Act::Fault(op, after)),
    ]
}

struct Side {
    client: Arc<Client>,
    net: Rc<FakeNet>,
    file: Arc<OpenFile>,
}

async fn go<M: Machine>(client: &Client, net: &FakeNet, mut machine: M) -> Result<M::Out> {
    let mut op = OpState::own(client);
    loop {
        match run(&mut machine, &mut op, client, net).await {
            Err(e) if e.code == ErrorCode::Stalled => {}
            result => {
                assert_eq!(net.tickets_out(), 0);
                return result;
            }
        }
    }
}

impl Side {
    async fn go<M: Machine>(&self, machine: M) -> Result<M::Out> {
        go(&self.client, &self.net, machine).await
    }
}

const FAULTED: [Op; 12] = [
    Op::IoWrite,
    Op::IoRead,
    Op::WriteSmall,
    Op::ReadSmall,
    Op::Unstuff,
    Op::Append,
    Op::Setattr,
    Op::Getattr,
    Op::DfStat,
    Op::Open,
    Op::Release,
    Op::Report,
];

async fn play(acts: Vec<(bool, Act)>, cache_ms: u64, two: bool) {
    let cluster = Cluster::new(Shape { strip: 16, small: 48, ios: 3, ..Default::default() });
    let (client, net) = cluster.client(cache_ms);
    let create = Create::open(ROOT, name("f"), 0o644, (true, true), true, false);
    let file = go(&client, &net, create).await.unwrap().file.unwrap();
    let handle = file.handle;
    let mut sides = vec![Side { client, net, file }];
    if two {
        let (client, net) = cluster.client(cache_ms);
        let file = go(&client, &net, Open::new(handle, (true, true), false)).await.unwrap();
        sides.push(Side { client, net, file });
    }
    let mut model: Vec<u8> = Vec::new();
    let mut stamp = 0u8;
    for (second, act) in acts {
        let side = if second && two { 1 } else { 0 };
        let s = &sides[side];
        stamp = stamp.wrapping_add(1).max(1);
        match act.clone() {
            Act::Write(at, n) => {
                let data = vec![stamp; n];
                let write = Write::new(s.file.clone(), at, data.clone().into(), false);
                assert_eq!(s.go(write).await, Ok(n));
                let end = at as usize + n;
                model.resize(model.len().max(end), 0);
                model[at as usize..end].copy_from_slice(&data);
            }
            Act::Read(at, n) => {
                let from = model.len().min(at as usize);
                let to = model.len().min(at as usize + n);
                let got = s.go(Read::new(s.file.clone(), at, n)).await.unwrap();
                assert_eq!(got, model[from..to], "read {n} at {at}");
            }
            Act::Append(n) => {
                let data = Bytes::from(vec![stamp; n]);
                let append = Append::new(s.file.clone(), data.clone(), false);
                assert_eq!(s.go(append).await, Ok((n, model.len() as u64)));
                model.extend_from_slice(&data);
            }
            Act::Truncate(size) => {
                let set = SetAttr { size: Some(size), ..Default::default() };
                assert_eq!(s.go(Setattr::new(handle, set)).await.unwrap().size, size);
                model.resize(size as usize, 0);
            }
            Act::Stat => {
                let size = s.go(Getattr::new(handle)).await.unwrap().size;
                assert_eq!(size, model.len() as u64);
            }
            Act::Data(at) => {
                // The model has no holes: data may begin where the file system knows of a hole.
                match s.go(Lseek::new(&s.file, at, Whence::Data)).await {
                    Ok(found) => {
                        assert!(at <= found && found < model.len() as u64);
                        assert!(model[at as usize..found as usize].iter().all(|b| *b == 0));
                    }
                    Err(e) => {
                        assert_eq!(e.code, ErrorCode::NoData);
                        assert!(model.iter().skip(at as usize).all(|b| *b == 0));
                    }
                }
            }
            Act::Hole(at) => match s.go(Lseek::new(&s.file, at, Whence::Hole)).await {
                Ok(found) => assert!(
                    found == model.len() as u64
                        || (at <= found
                            && found < model.len() as u64
                            && model[found as usize] == 0)
                ),
                Err(e) => {
                    assert_eq!((e.code, at >= model.len() as u64), (ErrorCode::NoData, true));
                }
            },
            Act::Fsync => s.go(Fsync::file(s.file.clone())).await.unwrap(),
            Act::Reopen { truncate } => {
                s.go(Release::new(s.file.clone())).await.unwrap();
                let file = s.go(Open::new(handle, (true, true), truncate)).await.unwrap();
                if truncate {
                    model.clear();
                }
                sides[side].file = file;
            }
            Act::Fault(op, after) => {
                let fault = if after { Fault::StallAfter } else { Fault::StallBefore };
                cluster.fault(FAULTED[op as usize % FAULTED.len()], fault);
            }
        }
    }
    cluster.faults.borrow_mut().clear();
    for side in &sides {
        side.go(Release::new(side.file.clone())).await.unwrap();
        assert!(side.client.opens().is_empty());
    }
    assert_eq!(cluster.meta.borrow().opens(), 0);
    let s = &sides[0];
    s.client.acache().clear();
    assert_eq!(s.go(Getattr::new(handle)).await.unwrap().size, model.len() as u64);
    let file = s.go(Open::new(handle, (true, false), false)).await.unwrap();
    assert_eq!(s.go(Read::new(file, 0, 2 * LEN_MAX as usize + 999)).await.unwrap(), model);
}

fn block_on(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread();
    { runtime }.enable_time().start_paused(true).build().unwrap().block_on(future);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn one_client_with_caches(acts in prop::collection::vec((Just(false), act()), 1..40)) {
        block_on(play(acts, 1_000, false));
    }

    #[test]
    fn one_client_without_caches(acts in prop::collection::vec((Just(false), act()), 1..40)) {
        block_on(play(acts, 0, false));
    }

    #[test]
    fn two_clients_without_caches(acts in prop::collection::vec((any::<bool>(), act()), 1..40)) {
        block_on(play(acts, 0, true));
    }
}
