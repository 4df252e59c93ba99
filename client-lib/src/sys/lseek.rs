//! lseek: the next data or the next hole of a file.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | ask_attr, ask_sizes (getattr, df_stat) | done (stuffed: all is data); map | error |
//! | map (df_map to all I/O servers whose datafile is not decided yet, at once) | done; map (a datafile has more extents) | error |
//!
//! Every datafile gives a candidate: the first place at or after the offset where it has data (or a
//! hole). The least of them in the file's order is the answer; the end of the file is a hole.
//! Changes nothing. Errors: `NoData` (offset at or beyond the end, or no data follows), `Stale`.
use crate::attrs::AttrFlow;
use crate::io_plan::io_server;
use crate::machine::{Cx, Machine, Step};
use crate::open_table::OpenFile;
use crate::tickets::take;
use pvfs2_bmi::call::{Call, Net};
use pvfs2_proto::op::{DfMapRequest, DfMapResponse, OpMessage};
use pvfs2_proto::{Attr, AttrFlags, ErrorCode, FileLayout, Handle, PvfsError, Result};
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;

/// Extents asked for at a time.
const EXTENTS_MAX: u32 = 256;

/// What is sought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whence {
    /// SEEK_DATA.
    Data,
    /// SEEK_HOLE.
    Hole,
}

/// One datafile on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Look from this physical offset on.
    From(u64),
    /// The first match, as logical offset.
    Found(u64),
    /// No match on this datafile.
    None,
}

enum State {
    Flow(AttrFlow),
    Map { size: u64, layout: Box<FileLayout>, places: Vec<Place> },
}

/// See the head of the file. Results in the logical offset.
pub struct Lseek {
    handle: Handle,
    logical_offset: u64,
    whence: Whence,
    state: State,
}

impl Lseek {
    /// Seeks from `logical_offset`.
    pub fn new(file: &Arc<OpenFile>, logical_offset: u64, whence: Whence) -> Lseek {
        let state = State::Flow(AttrFlow::Ask(file.handle));
        Lseek { handle: file.handle, logical_offset, whence, state }
    }

    fn no_data(&self) -> PvfsError {
        PvfsError::new(ErrorCode::NoData, format!("no data at or beyond {}", self.logical_offset))
    }

    fn attr_came(&mut self, attr: Attr) -> Result<Step<u64>> {
        if self.logical_offset >= attr.size {
            return Err(self.no_data());
        }
        let layout = attr.layout.filter(|_| attr.flags & AttrFlags::STUFFED == 0);
        let Some(layout) = layout.filter(|l| !l.datahandles.is_empty()) else {
            return Ok(Step::Done(match self.whence {
                Whence::Data => self.logical_offset,
                Whence::Hole => attr.size,
            }));
        };
        let n = layout.datahandles.len() as u32;
        layout.dist.check(n)?;
        let from = |d| Place::From(layout.dist.physical_size(n, d, self.logical_offset));
        let places = (0..n).map(from).collect();
        self.state = State::Map { size: attr.size, layout: Box::new(layout), places };
        Ok(Step::Next)
    }

    async fn map<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<u64>> {
        let whence = self.whence;
        let State::Map { size, layout, places } = &mut self.state else { return Ok(Step::Next) };
        let size = *size;
        let mut open = Vec::new();
        let mut calls = Vec::new();
        for (d, place) in places.iter().enumerate() {
            if let Place::From(physical_offset) = *place {
                let datahandle = layout.datahandles[d];
                let server = io_server(cx.client.map(), Handle(datahandle))?;
                let request = DfMapRequest { datahandle, physical_offset, max: EXTENTS_MAX };
                calls.push(Call::new(server, request.into_request()));
                open.push((d, physical_offset));
            }
        }
        cx.exchange(&mut calls).await?;
        for ((d, from), call) in open.into_iter().zip(calls) {
            let answer = DfMapRequest::take_response(take(call.result)?.op)?;
            let place = match whence {
                Whence::Data => first_data(&answer, from),
                Whence::Hole => first_hole(&answer, from),
            };
            let logical = |p| layout.dist.logical_of(layout.datahandles.len() as u32, d as u32, p);
            places[d] = match place {
                Place::Found(p) => {
                    logical(p).filter(|l| *l < size).map_or(Place::None, Place::Found)
                }
                // What lies beyond the file's end need not be looked at.
                Place::From(p) if logical(p).is_none_or(|l| l >= size) => Place::None,
                other => other,
            };
        }
        if places.iter().any(|p| matches!(p, Place::From(_))) {
            return Ok(Step::Next);
        }
        let found = |p: &Place| if let Place::Found(at) = p { Some(*at) } else { None };
        match (places.iter().filter_map(found).min(), whence) {
            (Some(at), _) => Ok(Step::Done(at)),
            (None, Whence::Hole) => Ok(Step::Done(size)),
            (None, Whence::Data) => Err(self.no_data()),
        }
    }
}

impl Machine for Lseek {
    type Out = u64;
    const NAME: &'static str = "lseek";
    fn state(&self) -> &'static str {
        match &self.state {
            State::Flow(flow) => flow.state(),
            State::Map { .. } => "map",
        }
    }
    fn touches(&self) -> SmallVec<[Handle; 2]> {
        smallvec![self.handle]
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<u64>> {
        match &mut self.state {
            State::Flow(flow) => match flow.step(cx).await? {
                Some(attr) => self.attr_came(attr),
                None => Ok(Step::Next),
            },
            State::Map { .. } => self.map(cx).await,
        }
    }
}

/// Physical offset of the first data at or after `from`.
fn first_data(map: &DfMapResponse, from: u64) -> Place {
    for e in &map.data {
        if e.physical_offset.saturating_add(e.len) > from {
            return Place::Found(e.physical_offset.max(from));
        }
    }
    go_on(map, from)
}

/// Physical offset of the first byte at or after `from` that is no data.
fn first_hole(map: &DfMapResponse, from: u64) -> Place {
    let mut at = from;
    for e in &map.data {
        if e.physical_offset > at {
            return Place::Found(at);
        }
        at = at.max(e.physical_offset.saturating_add(e.len));
    }
    if map.more { go_on(map, at) } else { Place::Found(at) }
}

/// Where to look next; nowhere when nothing more follows, or the server would repeat itself.
fn go_on(map: &DfMapResponse, from: u64) -> Place {
    let end = map.data.last().map_or(0, |e| e.physical_offset.saturating_add(e.len));
    if map.more && end > 0 && end >= from { Place::From(end) } else { Place::None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pvfs2_proto::op::PhysicalExtent;

    fn map(extents: &[(u64, u64)], more: bool) -> DfMapResponse {
        let data =
            extents.iter().map(|&(physical_offset, len)| PhysicalExtent { physical_offset, len });
        DfMapResponse { data: data.collect(), size: 1_000, more }
    }

    #[test]
    fn data_and_holes_of_one_datafile() {
        let m = map(&[(10, 10), (30, 10)], false);
        assert_eq!(first_data(&m, 0), Place::Found(10));
        assert_eq!(first_data(&m, 15), Place::Found(15));
        assert_eq!(first_data(&m, 20), Place::Found(30));
        assert_eq!(first_data(&m, 40), Place::None);
        assert_eq!(first_hole(&m, 0), Place::Found(0));
        assert_eq!(first_hole(&m, 10), Place::Found(20));
        assert_eq!(first_hole(&m, 35), Place::Found(40));
        assert_eq!(first_hole(&m, 90), Place::Found(90));
        let more = map(&[(10, 10), (20, 5)], true);
        assert_eq!(first_hole(&more, 12), Place::From(25));
        assert_eq!(first_data(&more, 25), Place::From(25));
    }
}
