//! A client by hand: the operations of the system interface that tests call most.
use bytes::Bytes;
use pvfs2_bmi::client::AsyncNet;
use pvfs2_client::background::Outbox;
use pvfs2_client::machine::Machine;
use pvfs2_client::sys::{self, DirHandle};
use pvfs2_client::{Client, OpState, OpenFile, run};
use pvfs2_proto::op::Cred;
use pvfs2_proto::{Handle, Result};
use pvfs2_server_core::fsck::{self, Options};
use pvfs2_server_core::peer::NetPeers;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::task::JoinHandle;

/// A client with the carrier that drives it.
pub struct Hand {
    client: Arc<Client>,
    net: Rc<AsyncNet>,
    keepalive: JoinHandle<()>,
    /// Its worker, which gives rights back, ends with this.
    _orders: Outbox<AsyncNet>,
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.keepalive.abort();
    }
}

/// Writes that were joined, of all hands.
pub static JOINED: AtomicUsize = AtomicUsize::new(0);

pub fn name(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

impl Hand {
    pub fn new(
        client: Arc<Client>,
        net: Rc<AsyncNet>,
        keepalive: JoinHandle<()>,
        _orders: Outbox<AsyncNet>,
    ) -> Hand {
        Hand { client, net, keepalive, _orders }
    }

    pub async fn run<M: Machine>(&self, mut machine: M) -> Result<M::Out> {
        let mut op = OpState::new(&self.client, Cred::root(), 0);
        run(&mut machine, &mut op, &self.client, &*self.net).await
    }

    pub async fn mkdir(&self, dir: Handle, text: &str) -> Result<Handle> {
        Ok(self.run(sys::Mkdir::new(dir, name(text), 0o755)).await?.handle())
    }

    pub async fn create(&self, dir: Handle, text: &str) -> Result<Arc<OpenFile>> {
        let made =
            self.run(sys::Create::open(dir, name(text), 0o644, (true, true), true, false)).await?;
        Ok(made.file.expect("create opens"))
    }

    /// As a mount writes: joined, where it may be.
    pub async fn write(&self, file: &Arc<OpenFile>, at: u64, data: &Bytes) -> Result<usize> {
        let now_ns = self.client.env().now_ns();
        if self.client.joins().add(file, at, data, false, now_ns)? {
            JOINED.fetch_add(1, Ordering::Relaxed);
            return Ok(data.len());
        }
        self.run(sys::Write::new(file.clone(), at, data.clone(), false)).await
    }

    pub async fn open(&self, handle: Handle) -> Result<Arc<OpenFile>> {
        self.run(sys::Open::new(handle, (true, true), false)).await
    }

    pub async fn close(&self, file: &Arc<OpenFile>) {
        self.run(sys::Release::new(file.clone())).await.expect("release");
    }

    pub async fn list(&self, dir: Handle) -> Result<BTreeMap<String, Handle>> {
        let (open, mut cursor, mut names) = (DirHandle::new(dir), 0, BTreeMap::new());
        loop {
            let page = self.run(sys::Readdir::new(open.clone(), cursor, true, true)).await?;
            for entry in page.entries() {
                let text = String::from_utf8(entry.name.to_vec()).expect("our own names");
                assert!(names.insert(text, Handle(entry.handle)).is_none(), "a name twice");
                cursor = entry.cursor;
            }
            if page.is_end() {
                return Ok(names);
            }
        }
    }

    /// What `pvfs2 fsck` would find, long after everything has come to rest.
    pub async fn assert_sound(&self, label: &str) {
        tokio::time::sleep(std::time::Duration::from_secs(200)).await;
        let peers = NetPeers::new(self.net.clone());
        let options = Options::default();
        let report = fsck::check(&peers, &Cred::root(), self.client.map(), options).await;
        let report = report.unwrap_or_else(|e| panic!("{label}: fsck: {e}"));
        assert!(report.problems.is_empty(), "{label}: {:#?}", report.problems);
        assert_eq!(report.unsettled, 0, "{label}: nothing changes any more");
    }
}
