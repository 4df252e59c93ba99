//! rename: gives an object another name, atomically, also over an existing one.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | ask (rename to the server of the new name's directory) | done | error |
//!
//! Durable when done: at no moment, and after no kill -9, both names or neither. Errors: `NotFound`,
//! `Exists` (NOREPLACE), `NotEmpty`, `IsDirectory`, `NotDirectory`, `Invalid` (into its own subtree),
//! `Access`, `NotPermitted`, `TooManyLinks`, `ReadOnly`.
use super::{dir_changed, name_failed};
use crate::machine::{Cx, Machine, Step};
use crate::ncache::Cached;
use bytes::Bytes;
use pvfs2_bmi::call::Net;
use pvfs2_proto::op::{RenameRequest, RenameResponse};
use pvfs2_proto::{Handle, Result};

/// See the head of the file.
pub struct Rename {
    old: (Handle, Bytes),
    new: (Handle, Bytes),
    no_replace: bool,
    exchange: bool,
    /// Old name and new name are there afterwards.
    both_stay: bool,
}

impl Rename {
    /// Renames `old` to `new` (each directory and name). `no_replace`: not over an existing name;
    /// `exchange`: both exist and change places.
    pub fn new(
        old: (Handle, Bytes),
        new: (Handle, Bytes),
        no_replace: bool,
        exchange: bool,
    ) -> Rename {
        Rename { old, new, no_replace, exchange, both_stay: exchange }
    }
}

impl Machine for Rename {
    type Out = ();
    const NAME: &'static str = "rename";
    fn state(&self) -> &'static str {
        "ask"
    }
    fn adds(&self) -> Option<(Handle, &[u8])> {
        Some((self.new.0, &self.new.1))
    }
    fn removes(&self) -> Option<(Handle, &[u8])> {
        (!self.both_stay).then_some((self.old.0, &*self.old.1))
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<()>> {
        let from = cx.part_of(self.old.0, &self.old.1);
        let to = cx.part_of(self.new.0, &self.new.1);
        let server = cx.meta_server(to)?;
        let request = RenameRequest {
            dir: from.0,
            name: self.old.1.clone(),
            new_dir: to.0,
            new_name: self.new.1.clone(),
            no_replace: self.no_replace,
            exchange: self.exchange,
        };
        let answer = cx.ask(server, request).await.inspect_err(|e| {
            name_failed(cx.client, self.old.0, &self.old.1, e);
            name_failed(cx.client, self.new.0, &self.new.1, e);
        })?;
        self.renamed(cx, answer);
        Ok(Step::Done(()))
    }
}

impl Rename {
    fn renamed<N: Net>(&mut self, cx: &Cx<'_, N>, answer: RenameResponse) {
        let (client, now_ns) = (cx.client, cx.now_ns());
        // Old name and new name are one when a file is renamed over another link of itself.
        self.both_stay = self.exchange || answer.handle == answer.other;
        if self.both_stay {
            client.ncache().drop_name(self.old.0, &self.old.1);
            client.ncache().drop_name(self.new.0, &self.new.1);
        } else {
            client.ncache().set(self.old.0, &self.old.1, Cached::Absent, now_ns);
            let moved = Cached::Handle(Handle(answer.handle));
            client.ncache().set(self.new.0, &self.new.1, moved, now_ns);
        }
        for handle in [Handle(answer.handle), Handle(answer.other)] {
            client.acache().drop_handle(handle);
        }
        if self.old.0 != self.new.0 {
            dir_changed(client, self.old.0, answer.dir_attr);
        }
        dir_changed(client, self.new.0, answer.new_dir_attr);
    }
}
