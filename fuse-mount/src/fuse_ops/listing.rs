//! readdir and readdirplus.
//!
//! Place in the walks: listing a directory; the pages and their keeping are `client-lib`'s, the
//! offsets and "." and ".." are [`crate::dirs`]'.
use super::{PvfsFs, Shared};
use crate::dirs::{DirHandle, PlainSink, PlusSink, Position, fill};
use crate::dispatch::errno;
use fuser::{ReplyDirectory, ReplyDirectoryPlus, Request};
use pvfs2_client::sys::{Readdir, ReaddirPage};
use pvfs2_proto::Result;
use std::sync::Arc;

/// The kernel's reply, names only or with attributes.
pub(crate) enum Out {
    /// readdir.
    Plain(ReplyDirectory),
    /// readdirplus.
    Plus(ReplyDirectoryPlus),
}

impl PvfsFs {
    pub(super) fn list(&self, req: &Request, dir: Arc<DirHandle>, offset: u64, out: Out) {
        let position = Position::from_offset(offset);
        let plus = matches!(out, Out::Plus(_));
        let pages = dir.pages(plus, self.shared.changes());
        let machine = Readdir::new(pages, position.cursor, plus, plus);
        let shared = self.shared.clone();
        self.dispatch.run(req, machine, move |result| answer(&shared, &dir, position, out, result));
    }
}

fn answer(
    shared: &Shared,
    dir: &DirHandle,
    position: Position,
    out: Out,
    result: Result<ReaddirPage>,
) {
    if let Ok(page) = &result
        && (position.dots, position.cursor) == (0, 0)
    {
        shared.listed.begins(dir, page.asked_ns());
    }
    match (out, result) {
        (Out::Plain(mut reply), Ok(page)) => {
            let mut sink = PlainSink(&mut reply);
            fill(&mut sink, page.entries(), position, (dir.dir, page.parent()), &shared.inodes);
            reply.ok();
        }
        (Out::Plus(mut reply), Ok(page)) => {
            let ttl = shared.page_ttl(page.asked_ns());
            let mut sink = PlusSink { reply: &mut reply, shared, ttl };
            fill(&mut sink, page.entries(), position, (dir.dir, page.parent()), &shared.inodes);
            reply.ok();
        }
        (Out::Plain(reply), Err(e)) => reply.error(errno("readdir", &e)),
        (Out::Plus(reply), Err(e)) => reply.error(errno("readdirplus", &e)),
    }
}
