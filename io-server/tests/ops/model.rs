//! Random operations against a `Vec<u8>`, replayable by the seed that a failure prints.
use crate::rig::{FIRST, H, Rig, flow, list, on_both, pattern};
use proptest::prelude::*;
use pvfs2_bmi::buf::PooledBuf;
use pvfs2_bmi::service::Body;
use pvfs2_proto::op::{DfFallocateRequest, IoReadRequest, IoWriteRequest, OpMessage};

/// Offsets beyond this are rare, so that operations meet.
const SPAN: u64 = 400_000;

struct Dice(u64);
impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n.max(1)
    }
    /// Ascending, disjoint, none empty.
    fn extents(&mut self) -> Vec<(u64, u64)> {
        let mut at = self.below(SPAN);
        let count = 1 + self.below(4);
        (0..count)
            .map(|_| {
                let len =
                    1 + if self.below(4) == 0 { self.below(150_000) } else { self.below(3_000) };
                let extent = (at, len);
                at += len + if self.below(2) == 0 { 0 } else { self.below(70_000) };
                extent
            })
            .collect()
    }
}

fn write(model: &mut Vec<u8>, extents: &[(u64, u64)], mut body: &[u8]) {
    for &(at, len) in extents {
        let (at, len) = (at as usize, len as usize);
        if model.len() < at + len {
            model.resize(at + len, 0);
        }
        model[at..at + len].copy_from_slice(&body[..len]);
        body = &body[len..];
    }
}

fn one_step(r: &Rig, dice: &mut Dice, model: &mut Vec<u8>, h: u64) {
    let extents = dice.extents();
    let total: u64 = extents.iter().map(|e| e.1).sum();
    match dice.below(10) {
        0..=3 => {
            let data = pattern(dice.below(1 << 30), total as usize);
            let body = if dice.below(3) == 0 {
                flow(&data, 1 + dice.below(70_000) as usize, None)
            } else {
                Body::Whole(PooledBuf::from_vec(data.clone()))
            };
            r.write_body(h, &extents, body).unwrap();
            write(model, &extents, &data);
        }
        4 => {
            let (size, extend) = (dice.below(SPAN), dice.below(2) == 0);
            r.truncate(h, size, extend).unwrap();
            if (size as usize) < model.len() || extend {
                model.resize(size as usize, 0);
            }
        }
        5 => {
            r.fallocate(h, &extents, true).unwrap();
            for &(at, len) in &extents {
                let (from, to) = (at as usize, (at + len) as usize);
                let (from, to) = (from.min(model.len()), to.min(model.len()));
                model[from..to].fill(0);
            }
        }
        6 if dice.below(4) == 0 => r.sync(vec![h]).unwrap(),
        _ => {
            let (got, body) = r.read(h, &extents).unwrap();
            let mut expected = Vec::new();
            let mut expected_got = Vec::new();
            for &(at, len) in &extents {
                let from = (at as usize).min(model.len());
                let to = ((at + len) as usize).min(model.len());
                expected.extend_from_slice(&model[from..to]);
                expected_got.push((to - from) as u64);
            }
            let whole = expected_got.iter().zip(&extents).all(|(g, e)| *g == e.1);
            assert_eq!(got, if whole { vec![] } else { expected_got });
            assert!(body == expected, "bytes differ at {extents:?}");
        }
    }
    assert_eq!(r.stat(h).size, model.len() as u64);
}

#[test]
fn random_operations_agree_with_a_vector() {
    on_both(|r| {
        for seed in 1..=12u64 {
            let (mut dice, mut model) = (Dice(seed), Vec::new());
            for step in 0..60 {
                let run = std::panic::AssertUnwindSafe(|| {
                    one_step(r, &mut dice, &mut model, H + seed);
                });
                if let Err(e) = std::panic::catch_unwind(run) {
                    eprintln!("{}: seed {seed}, step {step}", r.name);
                    std::panic::resume_unwind(e);
                }
            }
        }
    });
}

#[test]
fn bytes_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut models = Vec::new();
    {
        let r = Rig::disk_at(dir.path());
        for seed in 1..=3u64 {
            let (mut dice, mut model) = (Dice(seed), Vec::new());
            (0..40).for_each(|_| one_step(&r, &mut dice, &mut model, H + seed));
            models.push(model);
        }
        // No shutdown: what was answered is with the kernel.
    }
    let r = Rig::disk_at(dir.path());
    for (model, seed) in models.iter().zip(1..) {
        let (_, body) = r.read(H + seed, &[(0, model.len() as u64 + 1)]).unwrap();
        assert!(body == *model, "seed {seed}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn arbitrary_requests_never_panic(
        low in 0u64..4, wild in any::<bool>(), raw in any::<u64>(), punch in any::<bool>(),
        extents in prop::collection::vec(
            (prop_oneof![0u64..5_000, any::<u64>()], prop_oneof![0u64..5_000, any::<u64>()]), 0..5),
        body in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        thread_local! { static RIG: Rig = Rig::memory(); }
        let h = if wild { raw } else { FIRST + low };
        RIG.with(|r| {
            let read = IoReadRequest { datahandle: h, extents: list(&extents), may_lend: false, ..Default::default() };
            let _ = r.raw(read.into_request(), Body::Empty);
            let write = IoWriteRequest { datahandle: h, extents: list(&extents), ..Default::default() };
            let whole = Body::Whole(PooledBuf::from_vec(body.clone()));
            let _ = r.raw(write.clone().into_request(), whole);
            let _ = r.raw(write.into_request(), flow(&body, 7, None));
            let hole = DfFallocateRequest { datahandle: h, extents: list(&extents), punch };
            let _ = r.raw(hole.into_request(), Body::Empty);
            let _ = r.truncate(h, raw >> 44, punch);
        });
    }
}
