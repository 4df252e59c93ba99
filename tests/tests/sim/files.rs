//! An actor's operations on bytes.
use super::{Actor, FILE_MAX};
use crate::model::NodeId;
use pvfs2_client::OpenFile;
use pvfs2_client::sys;
use pvfs2_proto::SetAttr;
use pvfs2_proto::op::FallocateKind;
use std::sync::Arc;

impl Actor {
    /// Something with the bytes of a file: one that is open (it may have lost its name), or another.
    pub(super) async fn file_step(&mut self) {
        let held = !self.open.is_empty() && self.rand(2) == 0;
        let (id, file) = if held {
            let (id, turn, file) = self.open[self.rand(self.open.len() as u64) as usize].clone();
            self.turn = turn;
            (id, file)
        } else {
            let Some(id) = self.pick_file() else { return };
            let real = self.hand().open(self.handles[&id]).await;
            self.same(&format!("open node {id}"), &real, Ok(()));
            (id, real.expect("just checked"))
        };
        let what = self.rand(10);
        match what {
            0..4 => self.write(id, &file).await,
            4 => self.append(id, &file).await,
            5 => self.truncate(id).await,
            6 => self.fallocate(id, &file).await,
            7 if self.rand(2) == 0 => {
                let open = self.open.iter().map(|(_, _, file)| file.handle);
                let many: Vec<_> = open.chain([file.handle, self.handles[&0]]).collect();
                let real = self.hand().run(sys::FsyncMany::new(many)).await;
                self.same("fsync of all that is open", &real, Ok(()));
            }
            7 => {
                let real = self.hand().run(sys::Fsync::file(file.clone())).await;
                self.same(&format!("fsync node {id}"), &real, Ok(()));
            }
            _ => {
                self.read(id, &file).await;
                self.getattr(id).await;
            }
        }
        if !held {
            self.hand().close(&file).await;
        }
    }

    pub(super) async fn write(&mut self, id: NodeId, file: &Arc<OpenFile>) {
        let at = self.rand(FILE_MAX / 2);
        // Small ones often, so that files stay stuffed for a while.
        let (at, len) = if self.rand(2) == 0 {
            (at % 300, 1 + self.rand(500))
        } else {
            (at, 1 + self.rand(FILE_MAX / 2))
        };
        // And those that a mount joins: from the beginning, or on where the last one ended.
        let at = match (self.rand(3), self.went_on) {
            (0, _) => 0,
            (1, (last, end)) if last == id && end < FILE_MAX => end,
            _ => at,
        };
        let data = self.bytes(len);
        self.went_on = (id, at + len);
        let real = self.hand().write(file, at, &data).await;
        self.same(&format!("write {len} at {at} of node {id}"), &real, Ok(()));
        assert_eq!(real.expect("just checked"), data.len());
        self.model.write(id, at as usize, &data);
    }

    pub(super) async fn append(&mut self, id: NodeId, file: &Arc<OpenFile>) {
        let data = self.bytes(1 + self.rand(400));
        let real = self.hand().run(sys::Append::new(file.clone(), data.clone(), false)).await;
        self.same(&format!("append {} to node {id}", data.len()), &real, Ok(()));
        let end = self.model.file(id).len();
        let (wrote, at) = real.expect("just checked");
        let place = (wrote, at) == (data.len(), end as u64)
            || (wrote, at) == (data.len(), (end + data.len()) as u64);
        assert!(
            place,
            "{}, step {}: appended {wrote} at {at}, the file has {end}",
            self.label, self.steps
        );
        self.model.write(id, end, &data);
    }

    pub(super) async fn truncate(&mut self, id: NodeId) {
        let size = self.rand(FILE_MAX) % if self.rand(2) == 0 { 900 } else { FILE_MAX };
        let set = SetAttr { size: Some(size), ..Default::default() };
        let real = self.hand().run(sys::Setattr::new(self.handles[&id], set)).await;
        self.same(&format!("truncate node {id} to {size}"), &real, Ok(()));
        assert_eq!(
            real.expect("just checked").size,
            size,
            "{}, step {}: size after truncate",
            self.label,
            self.steps
        );
        self.model.file(id).resize(size as usize, 0);
        self.model.nodes[id].mtime_ns = None;
    }

    pub(super) async fn fallocate(&mut self, id: NodeId, file: &Arc<OpenFile>) {
        use FallocateKind::*;
        let (at, len) = (self.rand(FILE_MAX / 2), 1 + self.rand(3_000));
        let at = if self.rand(2) == 0 { at % 600 } else { at };
        let kind = [PunchHole, PunchHole, Allocate, KeepSize, ZeroRange, ZeroKeepSize]
            [self.rand(6) as usize];
        let real = self.hand().run(sys::Fallocate::new(file.clone(), kind, at, len, false)).await;
        self.same(&format!("{kind:?} {len} at {at} of node {id}"), &real, Ok(()));
        let (from, to) = (at as usize, (at + len) as usize);
        if matches!(kind, Allocate | ZeroRange) && self.model.file(id).len() < to {
            self.model.file(id).resize(to, 0);
        }
        if matches!(kind, PunchHole | ZeroRange | ZeroKeepSize) {
            self.model.punch(id, from, to - from);
        }
        self.model.nodes[id].mtime_ns = None;
    }

    pub(super) async fn read(&mut self, id: NodeId, file: &Arc<OpenFile>) {
        let (at, len) = (self.rand(FILE_MAX / 2), 1 + self.rand(FILE_MAX));
        let (at, len) = if self.rand(2) == 0 { (0, FILE_MAX * 2) } else { (at, len) };
        let real = self.hand().run(sys::Read::new(file.clone(), at, len as usize)).await;
        self.same("read", &real, Ok(()));
        let (label, steps) = (self.label.clone(), self.steps);
        let model = self.model.file(id);
        let from = (at as usize).min(model.len());
        let to = ((at + len) as usize).min(model.len());
        let got = real.expect("just checked");
        let first = got.iter().zip(&model[from..to]).position(|(a, b)| a != b);
        if let Some(at) = first {
            let end = (at + 24).min(got.len());
            let same = (0..got.len().saturating_sub(24))
                .filter(|i| got[*i..*i + 24] == got[at..end])
                .collect::<Vec<_>>();
            let bad: Vec<usize> = (0..got.len()).filter(|i| got[*i] != model[from + i]).collect();
            crate::trace(|| {
                format!(
                    "same bytes at {same:?}, differs in {:?}..{:?} ({})",
                    bad.first(),
                    bad.last(),
                    bad.len()
                )
            });
            crate::trace(|| {
                format!("there {:?}, wanted {:?}", &got[at..end], &model[from + at..from + end])
            });
        }
        assert!(
            got.len() == to - from && first.is_none(),
            "{label}, step {steps}: read {len} at {at} of node {id} ({} bytes): {} bytes, first difference {first:?}",
            model.len(),
            got.len()
        );
    }
}
