//! A client of the fake cluster at work, with a short word for each common operation.
use super::{Cluster, FakeNet, ROOT, name};
use bytes::Bytes;
use pvfs2_client::machine::{Machine, OpState, run};
use pvfs2_client::sys::*;
use pvfs2_client::{Client, OpenFile};
use pvfs2_proto::{Attr, ErrorCode, Handle, Result, SetAttr};
use std::rc::Rc;
use std::sync::Arc;

/// A client at work; everything runs on a paused runtime.
pub struct Mount {
    pub client: Arc<Client>,
    pub net: Rc<FakeNet>,
    pub rt: Rc<tokio::runtime::Runtime>,
}

impl Mount {
    pub fn new(cluster: &Rc<Cluster>, cache_ms: u64) -> Mount {
        let (client, net) = cluster.client(cache_ms);
        Mount { client, net, rt: Rc::new(runtime()) }
    }
    pub fn op(&self) -> OpState {
        OpState::own(&self.client)
    }
    /// Runs to the end, going on after every stall as the background would.
    pub fn run<M: Machine>(&self, mut machine: M) -> Result<M::Out> {
        let mut op = self.op();
        let result = self.rt.block_on(async {
            loop {
                match run(&mut machine, &mut op, &self.client, &*self.net).await {
                    Err(e) if e.code == ErrorCode::Stalled => {}
                    result => break result,
                }
            }
        });
        assert_eq!(self.net.tickets_out(), 0, "{} kept a ticket", M::NAME);
        result
    }
    pub fn create(&self, text: &str) -> Arc<OpenFile> {
        let m = Create::open(ROOT, name(text), 0o644, (true, true), false, false);
        self.run(m).unwrap().file.unwrap()
    }
    pub fn write(&self, f: &Arc<OpenFile>, at: u64, data: &[u8]) {
        let m = Write::new(f.clone(), at, Bytes::copy_from_slice(data), false);
        assert_eq!(self.run(m).unwrap(), data.len());
    }
    pub fn read(&self, f: &Arc<OpenFile>, at: u64, len: usize) -> Vec<u8> {
        self.run(Read::new(f.clone(), at, len)).unwrap()
    }
    pub fn close(&self, f: Arc<OpenFile>) {
        self.run(Release::new(f)).unwrap();
    }
    pub fn stat(&self, h: Handle) -> Attr {
        self.run(Getattr::new(h)).unwrap()
    }
    pub fn truncate(&self, h: Handle, size: u64) -> Attr {
        self.run(Setattr::new(h, SetAttr { size: Some(size), ..Default::default() })).unwrap()
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}
