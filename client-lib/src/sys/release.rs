//! release: a program has closed a file.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | report (take end and mtime; wait while size or times are being changed) | ask | - |
//! | ask (release to the file's server) | done | given up: the session's end closes it; logged |
//!
//! One that has nothing to tell but that it closed is not waited for: the background thread sends
//! those in batches ([`ReleaseBatch`]). One that wrote what the metadata server does not know yet is
//! sent at once, with its end and mtime; until it is answered they count as this client's knowledge.
//! Nothing becomes durable that was not.
use crate::client::Client;
use crate::machine::{Cx, Machine, Step};
use crate::open_table::{OpenFile, Report};
use crate::sys::begin_report;
use pvfs2_bmi::call::Net;
use pvfs2_proto::Handle;
use pvfs2_proto::op::{ReleaseItem, ReleaseRequest};
use pvfs2_proto::{PvfsError, Result, ServerId};
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// See the head of the file. A file that was released already is left alone.
pub struct Release {
    file: Arc<OpenFile>,
    report: Option<Option<Report>>,
    first: Option<bool>,
}

impl Release {
    /// Releases `file`.
    pub fn new(file: Arc<OpenFile>) -> Release {
        Release { file, report: None, first: None }
    }

    fn ended(&mut self, client: &Client, ok: bool) {
        if let Some(Some(report)) = self.report.take() {
            let wrote = report.pending.wrote;
            if ok {
                report.answered();
            }
            if wrote {
                client.acache().drop_handle(self.file.handle);
            }
        }
        client.opens().closed(&self.file.state, self.file.write);
    }
}

impl Machine for Release {
    type Out = ();
    const NAME: &'static str = "release";
    fn state(&self) -> &'static str {
        if self.report.is_none() { "report" } else { "ask" }
    }
    fn touches(&self) -> SmallVec<[Handle; 2]> {
        smallvec![self.file.handle]
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<()>> {
        if !*self.first.get_or_insert_with(|| !self.file.mark_released()) {
            return Ok(Step::Done(()));
        }
        let Some(report) = &self.report else {
            self.report = Some(match self.file.write {
                true => Some(begin_report(&self.file.state).await?),
                false => None,
            });
            return Ok(Step::Next);
        };
        let atime_ns = atime_of(cx.client, &self.file);
        let item = match report {
            Some(report) => report.item(true, atime_ns),
            None => ReleaseItem { handle: self.file.handle.0, atime_ns, ..Default::default() },
        };
        let server = cx.meta_server(self.file.handle)?;
        match cx.ask(server, ReleaseRequest { items: vec![item] }).await {
            Ok(_) => {
                self.ended(cx.client, true);
                Ok(Step::Done(()))
            }
            Err(e) if cx.op.will_retry(cx.client, &e) => Err(e),
            Err(e) => {
                log_lost(cx.client, server, &e);
                self.ended(cx.client, false);
                Err(e)
            }
        }
    }
}

/// Many closes that bring no end and no mtime, all of one server.
pub struct ReleaseBatch {
    server: ServerId,
    files: Vec<Arc<OpenFile>>,
}

impl ReleaseBatch {
    /// Releases `files`, all of metadata server `server`, none with anything to report, each marked
    /// as released by the caller.
    pub fn new(server: ServerId, files: Vec<Arc<OpenFile>>) -> ReleaseBatch {
        ReleaseBatch { server, files }
    }
}

impl Machine for ReleaseBatch {
    type Out = ();
    const NAME: &'static str = "release";
    fn state(&self) -> &'static str {
        "ask"
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<()>> {
        let items = self
            .files
            .iter()
            .map(|f| ReleaseItem {
                handle: f.handle.0,
                write: f.write,
                atime_ns: atime_of(cx.client, f),
                ..Default::default()
            })
            .collect();
        let result = cx.ask(self.server, ReleaseRequest { items }).await;
        if let Err(e) = &result {
            if cx.op.will_retry(cx.client, e) {
                return Err(e.clone());
            }
            log_lost(cx.client, self.server, e);
        }
        for file in &self.files {
            cx.client.opens().closed(&file.state, file.write);
        }
        result.map(|_| Step::Done(()))
    }
}

/// When the file was read, if the server shall know: as with Linux's relatime, the first time after
/// a change and then once a day; always with `strictatime`, never with `noatime` or O_NOATIME.
fn atime_of(client: &Client, file: &OpenFile) -> i64 {
    const DAY_NS: i64 = 86_400_000_000_000;
    let (read_ns, attr) = (file.read_at_ns.load(Ordering::Relaxed), &file.attr);
    let is_news = client.config().strict_atime
        || attr.atime_ns <= attr.mtime_ns.max(attr.ctime_ns)
        || read_ns.saturating_sub(attr.atime_ns) >= DAY_NS;
    let kept = client.config().atime && !file.no_atime.load(Ordering::Relaxed);
    if kept && is_news { read_ns } else { 0 }
}

fn log_lost(client: &Client, server: ServerId, e: &PvfsError) {
    tracing::warn!(
        server = client.map().alias(server),
        error = %e,
        "a close could not be told to the metadata server; it ends with this client's session"
    );
}
