//! create: makes a regular file and opens it, in one request.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | ask (create to the directory's server) | done; ask_sizes when an existing file's size is dynamic | error |
//! | ask_sizes (df_stat to all I/O servers at once) | done | error |
//!
//! Durable when done: object and name survive kill -9 of every server; no I/O server was asked.
//! Errors: `Exists` (exclusive), `NotFound`, `NotDirectory`, `IsDirectory`, `Access`, `NameTooLong`,
//! `NoSpace`, `ReadOnly`.
use crate::attrs::AttrFlow;
use crate::machine::{Cx, Machine, Step};
use crate::open_table::OpenFile;
use crate::sys::{name_failed, named};
use crate::tickets::need;
use bytes::Bytes;
use pvfs2_bmi::call::Net;
use pvfs2_proto::op::CreateRequest;
use pvfs2_proto::{Attr, ErrorCode, Handle, Result};
use std::sync::Arc;

/// See the head of the file.
pub struct Create {
    request: CreateRequest,
    flow: Option<(AttrFlow, Created)>,
}

/// What was made.
#[derive(Clone)]
pub struct Created {
    /// The file's attributes.
    pub attr: Attr,
    /// The open file; none with `no_open`.
    pub file: Option<Arc<OpenFile>>,
    /// Whether it was made (false: it was there).
    pub created: bool,
}

impl Create {
    /// As the request says; see [`CreateRequest`].
    pub fn new(request: CreateRequest) -> Create {
        Create { request, flow: None }
    }

    /// Makes `name` in `dir` with O_CREAT | O_EXCL where `exclusive`, opened for `(read, write)`.
    pub fn open(
        dir: Handle,
        name: Bytes,
        mode: u32,
        (read, write): (bool, bool),
        exclusive: bool,
        truncate: bool,
    ) -> Create {
        Create::new(CreateRequest {
            dir: dir.0,
            name,
            mode,
            exclusive,
            truncate,
            read,
            write,
            ..CreateRequest::default()
        })
    }

    /// With the umask of whoever asks; the mode is then from before it.
    pub fn umask(mut self, umask: u32) -> Create {
        self.request.umask = umask;
        self
    }

    async fn ask<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<Created>> {
        let (client, r) = (cx.client, &self.request);
        let dir = Handle(r.dir);
        let at = cx.part_of(dir, &r.name);
        let server = cx.meta_server(at)?;
        let want_right = r.write && !r.no_open && client.joins().is_on();
        let cuts = client.joins().cuts();
        let request = CreateRequest { dir: at.0, want_right, ..r.clone() };
        let answer = match cx.ask(server, request).await {
            Err(e) => {
                // The name exists all the same: a negative entry would deny it.
                name_failed(client, dir, &r.name, &e);
                if e.code == ErrorCode::Exists {
                    client.acache().drop_handle(dir);
                }
                return Err(e);
            }
            Ok(answer) => answer,
        };
        let mut attr = need(answer.attr, "create answered without attributes")?;
        let mode = (r.read || client.config().kernel_writes_back, r.write);
        let file = (!r.no_open).then(|| OpenFile::new(client.opens(), attr.clone(), mode, None));
        if let Some(file) = file.as_ref().filter(|_| want_right) {
            client.joins().opened(&file.state, server, answer.right, cuts);
        }
        if let Some(file) = client.opens().get(attr.handle())
            && r.truncate
            && !answer.created
        {
            file.truncated(0);
        }
        let exact = named(client, dir, &r.name, &mut attr, answer.dir_attr);
        let created = answer.created;
        if exact {
            return Ok(Step::Done(Created { attr, file, created }));
        }
        let done = Created { attr: attr.clone(), file, created };
        self.flow = Some((AttrFlow::Sizes(Box::new(attr)), done));
        Ok(Step::Next)
    }
}

impl Machine for Create {
    type Out = Created;
    const NAME: &'static str = "create";
    fn state(&self) -> &'static str {
        self.flow.as_ref().map_or("ask", |f| f.0.state())
    }
    fn adds(&self) -> Option<(Handle, &[u8])> {
        Some((Handle(self.request.dir), &self.request.name))
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<Created>> {
        let Some((flow, done)) = &mut self.flow else { return self.ask(cx).await };
        Ok(match flow.step(cx).await? {
            Some(attr) => Step::Done(Created { attr, ..done.clone() }),
            None => Step::Next,
        })
    }
}
