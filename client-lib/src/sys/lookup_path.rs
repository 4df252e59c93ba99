//! lookup_path: a whole path to the attributes of its object, for tools and the user library.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | walk (lookup of all names up to the next "..", to one server) | walk (another server goes on); read_link; ask_attr; done | error; look (an object of another server that is no directory) |
//! | look (getattr: is it a symlink?) | read_link | `NotDirectory` |
//! | read_link (readlink) | walk | error |
//! | ask_attr (getattr to the last object's server) | done; ask_sizes | error |
//! | ask_sizes (df_stat to all I/O servers at once) | done | error |
//!
//! Costs one request per change of server, symlink and "..". Changes nothing; does not read the
//! ncache (a tool asks once), but fills the acache. A symlink's absolute target begins at the root
//! of the file system. Errors: `NotFound`, `NotDirectory`, `Access`, `Loop`, `NameTooLong`.
use crate::attrs::AttrFlow;
use crate::machine::{Cx, Machine, Step};
use crate::sys::keep;
use bytes::Bytes;
use pvfs2_bmi::call::Net;
use pvfs2_proto::limits::{NAME_MAX, PATH_MAX};
use pvfs2_proto::op::{LookupRequest, ReadlinkRequest};
use pvfs2_proto::{Attr, ErrorCode, Handle, PvfsError, Result};
use std::collections::VecDeque;

/// Most symlinks that one path may lead through, as in Linux.
const LINKS_MAX: u32 = 40;

enum State {
    Walk,
    Look(AttrFlow),
    ReadLink(Handle),
    Flow(AttrFlow),
}

/// See the head of the file.
pub struct LookupPath {
    dirs: Vec<Handle>,
    todo: VecDeque<Bytes>,
    follow: bool,
    links: u32,
    /// The innermost directory was entered without its attributes: it may be a symlink.
    unsure: bool,
    state: State,
}

impl LookupPath {
    /// What `path` below `dir` names; "" and "/" are `dir` itself. `follow`: through a symlink at
    /// the end too.
    pub fn new(dir: Handle, path: &[u8], follow: bool) -> LookupPath {
        LookupPath {
            dirs: vec![dir],
            todo: components(path).collect(),
            follow,
            links: 0,
            unsure: false,
            state: State::Walk,
        }
    }

    fn dir(&self) -> Handle {
        self.dirs.last().copied().unwrap_or(Handle::ROOT)
    }

    fn error(&self, code: ErrorCode, name: &Bytes) -> PvfsError {
        let name = name.escape_ascii();
        PvfsError::new(code, format!("'{name}' in directory {}", self.dir()))
    }

    async fn walk<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<Attr>> {
        while self.todo.front().is_some_and(|n| n.as_ref() == b"..") {
            if self.dirs.len() > 1 {
                self.dirs.pop();
            }
            self.unsure = false;
            self.todo.pop_front();
        }
        if self.todo.is_empty() {
            self.state = State::Flow(AttrFlow::Ask(self.dir()));
            return Ok(Step::Next);
        }
        let path: Vec<Bytes> =
            self.todo.iter().take_while(|n| n.as_ref() != b"..").cloned().collect();
        let bytes: usize = self.todo.iter().map(|n| n.len() + 1).sum();
        if bytes > PATH_MAX || path.iter().any(|n| n.len() > NAME_MAX) {
            return Err(PvfsError::new(ErrorCode::NameTooLong, "the path or a name is too long"));
        }
        let at = cx.part_of(self.dir(), &self.todo[0]);
        let server = cx.meta_server(at)?;
        let request = LookupRequest { dir: at.0, path, want_bytes: false, ..Default::default() };
        let steps = match cx.ask(server, request).await {
            Err(e) if e.code == ErrorCode::NotDirectory && self.unsure => {
                self.state = State::Look(AttrFlow::Ask(self.dir()));
                return Ok(Step::Next);
            }
            other => other?.steps,
        };
        if steps.is_empty() {
            return Err(PvfsError::new(ErrorCode::Protocol, "lookup answered no step"));
        }
        for step in steps {
            let Some(name) = self.todo.pop_front() else {
                return Err(PvfsError::new(ErrorCode::Protocol, "lookup answered too many steps"));
            };
            if step.handle == 0 {
                return Err(self.error(ErrorCode::NotFound, &name));
            }
            if let Some(found) = self.arrived(cx, Handle(step.handle), step.attr, &name)? {
                return Ok(found);
            }
        }
        Ok(Step::Next)
    }

    /// One component was found; `Some` when the walk does not simply go on with the next.
    fn arrived<N: Net>(
        &mut self,
        cx: &mut Cx<'_, N>,
        handle: Handle,
        attr: Option<Attr>,
        name: &Bytes,
    ) -> Result<Option<Step<Attr>>> {
        let last = self.todo.is_empty();
        let Some(mut attr) = attr else {
            self.dirs.push(handle);
            self.unsure = true;
            if last {
                self.state = State::Flow(AttrFlow::Ask(handle));
            }
            return Ok(Some(Step::Next));
        };
        if attr.is_symlink() && (self.follow || !last) {
            self.state = State::ReadLink(handle);
            return Ok(Some(Step::Next));
        }
        if last {
            if keep(cx.client, &mut attr) {
                return Ok(Some(Step::Done(attr)));
            }
            self.state = State::Flow(AttrFlow::Sizes(Box::new(attr)));
            return Ok(Some(Step::Next));
        }
        if !attr.is_dir() {
            return Err(self.error(ErrorCode::NotDirectory, name));
        }
        self.dirs.push(handle);
        self.unsure = false;
        Ok(None)
    }

    async fn read_link<N: Net>(&mut self, cx: &mut Cx<'_, N>, link: Handle) -> Result<Step<Attr>> {
        if self.links >= LINKS_MAX {
            return Err(PvfsError::new(
                ErrorCode::Loop,
                "the path leads through too many symlinks",
            ));
        }
        let server = cx.meta_server(link)?;
        let target = cx.ask(server, ReadlinkRequest { handle: link.0 }).await?.target;
        self.links += 1;
        if target.starts_with(b"/") {
            self.dirs = vec![Handle::ROOT];
        }
        for name in components(&target).collect::<Vec<_>>().into_iter().rev() {
            self.todo.push_front(name);
        }
        self.unsure = false;
        self.state = State::Walk;
        Ok(Step::Next)
    }

    /// An object of another server turned out to be no directory, or is the last.
    fn looked(&mut self, attr: Attr) -> Result<Step<Attr>> {
        if attr.is_symlink() && (self.follow || !self.todo.is_empty()) {
            self.dirs.pop();
            self.state = State::ReadLink(attr.handle());
            return Ok(Step::Next);
        }
        if !self.todo.is_empty() {
            return Err(PvfsError::new(
                ErrorCode::NotDirectory,
                format!("{} in the path is no directory", attr.handle()),
            ));
        }
        Ok(Step::Done(attr))
    }
}

impl Machine for LookupPath {
    type Out = Attr;
    const NAME: &'static str = "lookup_path";
    fn state(&self) -> &'static str {
        match &self.state {
            State::Walk => "walk",
            State::Look(_) => "look",
            State::ReadLink(_) => "read_link",
            State::Flow(flow) => flow.state(),
        }
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<Attr>> {
        match &mut self.state {
            State::Walk => self.walk(cx).await,
            State::ReadLink(link) => {
                let link = *link;
                self.read_link(cx, link).await
            }
            State::Look(flow) | State::Flow(flow) => match flow.step(cx).await? {
                Some(attr) => self.looked(attr),
                None => Ok(Step::Next),
            },
        }
    }
}

/// The names of a path, without empty ones and ".".
pub fn components(path: &[u8]) -> impl Iterator<Item = Bytes> + '_ {
    path.split(|b| *b == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .map(Bytes::copy_from_slice)
}
