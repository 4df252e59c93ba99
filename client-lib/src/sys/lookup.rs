//! lookup: one name to the attributes of its object.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | cache (ncache, acache, name rights) | done; statahead; ask_attr when only the name is known; ask_name | `NotFound` when known absent |
//! | statahead (a page of the directory, see `statahead.rs`) | cache | ask_name where the caller may not list |
//! | ask_name (lookup to the directory's server) | done; ask_attr when another server holds the object; ask_sizes | error |
//! | ask_attr (getattr to the object's server) | done; ask_sizes | gone meanwhile: ask_name, once |
//! | ask_sizes (df_stat to all I/O servers at once) | done | error |
//!
//! Changes nothing. Errors: `NotFound`, `NotDirectory`, `Access`, `NameTooLong`, `Stale`.
use crate::attrs::{AttrFlow, cached};
use crate::machine::{Cx, Machine, Step};
use crate::ncache::Cached;
use crate::statahead::Turn;
use crate::sys::{Readdir, asked, keep_since, name_failed};
use bytes::Bytes;
use pvfs2_bmi::call::Net;
use pvfs2_proto::limits::NAME_MAX;
use pvfs2_proto::op::LookupRequest;
use pvfs2_proto::{Attr, ErrorCode, Handle, PvfsError, Result};

enum State {
    Cache,
    Statahead(Turn, Box<Readdir>),
    AskName,
    Flow(AttrFlow),
}

impl State {
    fn listing(turn: Turn) -> State {
        let readdir = Box::new(turn.readdir());
        State::Statahead(turn, readdir)
    }
}

/// See the head of the file.
pub struct Lookup {
    dir: Handle,
    name: Bytes,
    state: State,
    listed: bool,
    asked_again: bool,
}

impl Lookup {
    /// What `name` in `dir` names; neither "." nor "..".
    pub fn new(dir: Handle, name: Bytes) -> Lookup {
        Lookup { dir, name, state: State::Cache, listed: false, asked_again: false }
    }

    fn not_found(&self) -> PvfsError {
        PvfsError::new(
            ErrorCode::NotFound,
            format!("no '{}' in directory {}", self.name.escape_ascii(), self.dir),
        )
    }

    fn look_in_cache<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<Attr>> {
        if self.name.len() > NAME_MAX {
            return Err(PvfsError::new(ErrorCode::NameTooLong, "a name has at most 255 bytes"));
        }
        let known = cx.client.ncache().get(self.dir, &self.name, cx.now_ns());
        if cx.client.ncache().is_on() {
            cx.client.metrics().cache(known.is_some());
        }
        self.state = match known {
            Some(Cached::Absent) => return Err(self.not_found()),
            Some(Cached::Handle(handle)) => match cached(cx.client, handle) {
                Some(attr) => return Ok(Step::Done(attr)),
                // As one that is looked up: whoever wrote many files and reads them knows the names.
                None => match self.turn(cx) {
                    Some(turn) => State::listing(turn),
                    None => {
                        cx.client.statahead().looked_up(self.dir, cx.now_ns());
                        State::Flow(AttrFlow::Ask(handle))
                    }
                },
            },
            None if cx.client.name_rights().is_absent(self.dir, &self.name, cx.now_ns()) => {
                return Err(self.not_found());
            }
            None => match self.turn(cx) {
                Some(turn) => State::listing(turn),
                None => State::AskName,
            },
        };
        Ok(Step::Next)
    }

    fn turn<N: Net>(&mut self, cx: &Cx<'_, N>) -> Option<Turn> {
        if std::mem::replace(&mut self.listed, true) {
            return None;
        }
        let (client, now_ns) = (cx.client, cx.now_ns());
        client.statahead().turn(self.dir, client.acache().size(self.dir, now_ns), now_ns)
    }

    async fn ask_name<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<Attr>> {
        let client = cx.client;
        let moment = client.ncache().moment();
        let asked = asked(client);
        let at = cx.part_of(self.dir, &self.name);
        let server = cx.meta_server(at)?;
        let path = vec![self.name.clone()];
        let asked_ns = cx.now_ns();
        let asking = if at == self.dir { client.name_rights().ask(at, asked_ns) } else { None };
        let want_right = asking.is_some();
        let request = LookupRequest { dir: at.0, path, want_bytes: false, want_right };
        let answer = match cx.ask(server, request).await {
            Err(e) if e.code == ErrorCode::NotFound => None,
            Err(e) => {
                name_failed(client, self.dir, &self.name, &e);
                return Err(e);
            }
            Ok(answer) => {
                client.name_rights().answered(at, asked_ns);
                let lease_ms = client.shared().lease_ms(server);
                if asking.is_some_and(|asking| asking.granted(answer.right, lease_ms)) {
                    client.joins().listen(server);
                }
                answer.steps.into_iter().next().filter(|s| s.handle != 0)
            }
        };
        let what = answer.as_ref().map_or(Cached::Absent, |s| Cached::Handle(Handle(s.handle)));
        client.ncache().fill_since(moment, self.dir, &self.name, what, cx.now_ns());
        let Some(step) = answer else { return Err(self.not_found()) };
        client.statahead().looked_up(self.dir, cx.now_ns());
        let flow = match step.attr {
            Some(mut attr) => {
                if keep_since(client, asked, &mut attr) {
                    return Ok(Step::Done(attr));
                }
                AttrFlow::Sizes(Box::new(attr))
            }
            None => AttrFlow::Ask(Handle(step.handle)),
        };
        self.state = State::Flow(flow);
        Ok(Step::Next)
    }
}

/// The directory cannot be listed, though a name of it might be looked up.
fn is_refusal(e: &PvfsError) -> bool {
    use ErrorCode::{Access, NotDirectory, NotFound, NotPermitted, Stale};
    matches!(e.code, Access | NotDirectory | NotFound | NotPermitted | Stale)
}

impl Machine for Lookup {
    type Out = Attr;
    const NAME: &'static str = "lookup";
    fn state(&self) -> &'static str {
        match &self.state {
            State::Cache => "cache",
            State::Statahead(..) => "statahead",
            State::AskName => "ask_name",
            State::Flow(flow) => flow.state(),
        }
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<Attr>> {
        match &mut self.state {
            State::Cache => self.look_in_cache(cx),
            State::Statahead(_, readdir) => {
                let page = match readdir.step(cx).await {
                    Ok(Step::Next) => return Ok(Step::Next),
                    Ok(Step::Done(page)) => Some(page),
                    Err(e) if cx.op.will_retry(cx.client, &e) || !is_refusal(&e) => return Err(e),
                    Err(_) => None,
                };
                let next = if page.is_some() { State::Cache } else { State::AskName };
                if let State::Statahead(turn, _) = std::mem::replace(&mut self.state, next)
                    && let Some(page) = page
                {
                    turn.done(&page);
                }
                Ok(Step::Next)
            }
            State::AskName => self.ask_name(cx).await,
            State::Flow(flow) => match flow.step(cx).await {
                Ok(attr) => Ok(attr.map_or(Step::Next, Step::Done)),
                Err(e) if matches!(e.code, ErrorCode::Stale | ErrorCode::NotFound) => {
                    cx.client.ncache().drop_name(self.dir, &self.name);
                    if std::mem::replace(&mut self.asked_again, true) {
                        return Err(self.not_found());
                    }
                    self.state = State::AskName;
                    Ok(Step::Next)
                }
                Err(e) => Err(e),
            },
        }
    }
}
