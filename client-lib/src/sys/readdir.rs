//! readdir: entries of a directory, with attributes if asked (readdirplus).
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | page (entries kept from the last request) | done; ask | - |
//! | ask (readdir to the server of the directory or of the part that goes on after the cursor, up to READDIR_MAX entries) | ask (the next part, while there is room); done; attrs when missing ones are wanted | error |
//! | attrs (listattr of entries that other servers hold, one request per server) | sizes | entries gone meanwhile stay without |
//! | sizes (df_stat of files that others write, one request per I/O server) | done | error |
//!
//! Changes nothing; with attributes it fills ncache and acache. A page is kept by the directory's
//! handle and used for the next call that goes on where the last one ended; reading from the start
//! always asks. Without `missing`, entries whose attributes would cost further requests have none.
//! Errors: `Access`, `NotDirectory`, `Stale`.
use crate::attrs::{merge_own, resolve_sizes};
use crate::fileahead::Entries;
use crate::machine::{Cx, Machine, Step};
use crate::ncache::Cached;
use crate::sys::object_failed;
use crate::tickets::take;
use parking_lot::Mutex;
use pvfs2_bmi::call::{Call, Net};
use pvfs2_proto::dirmap::{HASH_END, position};
use pvfs2_proto::limits::READDIR_MAX;
use pvfs2_proto::op::{Dirent, ListattrRequest, OpMessage, ReaddirRequest};
use pvfs2_proto::{Attr, Handle, Result, ServerId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// An open directory.
pub struct DirHandle {
    /// The directory.
    pub dir: Handle,
    page: Mutex<Option<Arc<Page>>>,
}

struct Page {
    after: u64,
    plus: bool,
    missing: bool,
    entries: Vec<Dirent>,
    end: bool,
    parent: u64,
    /// When it was asked for.
    asked_ns: i64,
}

impl Entries for Page {
    fn entries(&self) -> &[Dirent] {
        &self.entries
    }
}

impl DirHandle {
    /// Opens a directory; costs no request.
    pub fn new(dir: Handle) -> Arc<DirHandle> {
        Arc::new(DirHandle { dir, page: Mutex::new(None) })
    }
}

/// Entries after the cursor that was asked for.
#[derive(Clone)]
pub struct ReaddirPage {
    page: Arc<Page>,
    from: usize,
}

impl ReaddirPage {
    /// The entries, in cursor order, without "." and "..".
    pub fn entries(&self) -> &[Dirent] {
        &self.page.entries[self.from..]
    }
    /// When the server was asked for them; what they say can be as old as that.
    pub fn asked_ns(&self) -> i64 {
        self.page.asked_ns
    }
    /// Nothing follows these entries.
    pub fn is_end(&self) -> bool {
        self.page.end
    }
    /// The directory's parent, for "..".
    pub fn parent(&self) -> Handle {
        Handle(self.page.parent)
    }
}

enum State {
    Page,
    Ask,
    Attrs(Page),
    Sizes(Page),
}

/// See the head of the file.
pub struct Readdir {
    dir: Arc<DirHandle>,
    cursor: u64,
    plus: bool,
    missing: bool,
    state: State,
    /// Where the next question begins, and what the ones before brought.
    at: u64,
    gathered: Vec<Dirent>,
    parent: u64,
    /// When the first of them was asked.
    asked_ns: i64,
    /// The moments of ncache and acache, and closes, when the question was sent.
    moments: (u64, u64),
    closes: u64,
}

impl Readdir {
    /// Entries after `cursor` (0: from the start). `plus`: with attributes; `missing`: also those
    /// that cost further requests.
    pub fn new(dir: Arc<DirHandle>, cursor: u64, plus: bool, missing: bool) -> Readdir {
        Readdir {
            dir,
            cursor,
            plus,
            missing,
            state: State::Page,
            at: cursor,
            gathered: Vec::new(),
            parent: 0,
            asked_ns: 0,
            moments: (0, 0),
            closes: 0,
        }
    }

    fn kept(&self) -> Option<ReaddirPage> {
        let page = self.dir.page.lock().clone()?;
        let rich = (page.plus || !self.plus) && (page.missing || !self.missing);
        if self.cursor == 0 || !rich || self.cursor < page.after {
            return None;
        }
        let from = page.entries.partition_point(|e| e.cursor <= self.cursor);
        let known = self.cursor == page.after || from > 0;
        (known && (from < page.entries.len() || page.end)).then_some(ReaddirPage { page, from })
    }

    async fn ask<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<ReaddirPage>> {
        let (client, dir) = (cx.client, self.dir.dir);
        let map = client.dirmaps().get(dir);
        let from = position(self.at);
        let holder = map.as_ref().map_or(dir, |m| m.owner(from));
        let server = cx.meta_server(holder)?;
        cx.asks_part_of(dir);
        if self.gathered.is_empty() {
            self.moments = (client.ncache().moment(), client.acache().moment());
            self.closes = client.opens().closes();
            self.asked_ns = cx.now_ns();
        }
        let max = READDIR_MAX - self.gathered.len() as u32;
        let request = ReaddirRequest {
            dir: holder.0,
            cursor: self.at,
            max,
            plus: self.plus,
            no_recall: !self.missing,
        };
        let mut answer =
            cx.ask(server, request).await.inspect_err(|e| object_failed(client, dir, e))?;
        if let Some(map) = &answer.map {
            client.dirmaps().learn(map);
        }
        // As the holder's share was when it answered (a home), or when it was chosen (a part, which
        // may have been given more since: that is for the next question).
        let map = if holder == dir { answer.map.as_ref() } else { map.as_deref() };
        let share_end = map.map_or(HASH_END, |m| m.share_end(from));
        let mine = answer.entries.partition_point(|e| e.cursor < share_end);
        let ended = answer.end || mine < answer.entries.len();
        answer.entries.truncate(mine);
        self.gathered.append(&mut answer.entries);
        if holder == dir {
            self.parent = answer.parent;
        }
        if ended && share_end < HASH_END && self.gathered.len() < READDIR_MAX as usize {
            self.at = share_end - 1;
            return Ok(Step::Next);
        }
        let mut page = Page {
            after: self.cursor,
            plus: self.plus,
            missing: self.missing,
            entries: std::mem::take(&mut self.gathered),
            end: ended && share_end >= HASH_END,
            parent: self.parent,
            asked_ns: self.asked_ns,
        };
        if !self.plus || !self.missing {
            for e in &mut page.entries {
                e.attr = e
                    .attr
                    .take()
                    .and_then(|mut a| merge_own(client, self.closes, &mut a).then_some(a));
            }
            return Ok(self.done(cx, page));
        }
        self.state = State::Attrs(page);
        Ok(Step::Next)
    }

    fn done<N: Net>(&self, cx: &Cx<'_, N>, page: Page) -> Step<ReaddirPage> {
        let (client, now_ns) = (cx.client, cx.now_ns());
        for entry in page.entries.iter().filter(|_| self.plus) {
            let what = Cached::Handle(Handle(entry.handle));
            client.ncache().fill_since(self.moments.0, self.dir.dir, &entry.name, what, now_ns);
            if let Some(attr) = &entry.attr {
                client.acache().fill_since(self.moments.1, attr, now_ns);
            }
        }
        let page = Arc::new(page);
        if self.plus {
            client.fileahead().listed(self.dir.dir, page.clone());
        }
        *self.dir.page.lock() = Some(page.clone());
        Step::Done(ReaddirPage { page, from: 0 })
    }
}

/// Asks for the attributes that the directory's servers do not hold.
async fn ask_missing<N: Net>(cx: &mut Cx<'_, N>, page: &mut Page) -> Result<()> {
    let mut wanted: BTreeMap<ServerId, Vec<usize>> = BTreeMap::new();
    for (i, entry) in page.entries.iter().enumerate().filter(|(_, e)| e.attr.is_none()) {
        wanted.entry(cx.meta_server(Handle(entry.handle))?).or_default().push(i);
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let ask = |(server, places): (&ServerId, &Vec<usize>)| {
        let handles = places.iter().map(|i| page.entries[*i].handle).collect();
        Call::new(*server, ListattrRequest { handles }.into_request())
    };
    let mut calls: Vec<Call<'_>> = wanted.iter().map(ask).collect();
    cx.exchange(&mut calls).await?;
    for (places, call) in wanted.into_values().zip(calls) {
        let attrs = match take(call.result) {
            Ok(reply) => ListattrRequest::take_response(reply.op)?.attrs,
            Err(e) if cx.op.will_retry(cx.client, &e) => return Err(e),
            Err(_) => continue,
        };
        for (i, attr) in places.into_iter().zip(attrs) {
            page.entries[i].attr = Some(attr).filter(|a| a.handle == page.entries[i].handle);
        }
    }
    Ok(())
}

/// Makes dynamic sizes exact.
async fn ask_sizes<N: Net>(cx: &mut Cx<'_, N>, closes: u64, page: &mut Page) -> Result<()> {
    let client = cx.client;
    let mut open: Vec<(usize, Box<Attr>)> = Vec::new();
    for (i, entry) in page.entries.iter_mut().enumerate() {
        if let Some(attr) = &mut entry.attr
            && !merge_own(client, closes, attr)
        {
            open.push((i, Box::new(attr.clone())));
        }
    }
    if !open.is_empty() {
        let mut attrs: Vec<&mut Box<Attr>> = open.iter_mut().map(|(_, a)| a).collect();
        resolve_sizes(cx, &mut attrs).await?;
    }
    for (i, attr) in open {
        page.entries[i].attr = Some(*attr);
    }
    Ok(())
}

impl Machine for Readdir {
    type Out = ReaddirPage;
    const NAME: &'static str = "readdir";
    fn state(&self) -> &'static str {
        match self.state {
            State::Page => "page",
            State::Ask => "ask",
            State::Attrs(_) => "attrs",
            State::Sizes(_) => "sizes",
        }
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<ReaddirPage>> {
        match &mut self.state {
            State::Page => {
                if let Some(page) = self.kept() {
                    return Ok(Step::Done(page));
                }
                self.state = State::Ask;
                Ok(Step::Next)
            }
            State::Ask => self.ask(cx).await,
            State::Attrs(page) => {
                ask_missing(cx, page).await?;
                if let State::Attrs(page) = std::mem::replace(&mut self.state, State::Ask) {
                    self.state = State::Sizes(page);
                }
                Ok(Step::Next)
            }
            State::Sizes(page) => {
                ask_sizes(cx, self.closes, page).await?;
                match std::mem::replace(&mut self.state, State::Ask) {
                    State::Sizes(page) => Ok(self.done(cx, page)),
                    _ => Ok(Step::Next),
                }
            }
        }
    }
}
