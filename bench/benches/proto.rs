//! What every request pays before and after the socket: distributions, plans, headers, heads,
//! checksums.
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;
use pvfs2_bench::noise;
use pvfs2_client::io_plan::IoPlan;
use pvfs2_proto::dist::{Dist, DistKind, Strip};
use pvfs2_proto::frame::{HEADER_LEN, Header, Kind};
use pvfs2_proto::op::{
    Cred, IoWriteRequest, LookupRequest, OpMessage, PhysicalExtent, RequestHead,
};
use pvfs2_proto::{ClusterMap, FileLayout, HandleRange, ServerEntry};
use std::hint::black_box;

fn dist(c: &mut Criterion) {
    let varstrip = Dist {
        kind: DistKind::Varstrip as i32,
        strips: (0..8).map(|i| Strip { datafile: i % 4, size: 65_536 }).collect(),
        ..Default::default()
    };
    let twod = Dist {
        kind: DistKind::TwodStripe as i32,
        strip_size: 65_536,
        groups: 2,
        factor: 8,
        ..Default::default()
    };
    let mut group = c.benchmark_group("dist");
    let kinds =
        [("simple_stripe", Dist::simple_stripe(65_536)), ("varstrip", varstrip), ("twod", twod)];
    for (name, dist) in kinds {
        // A request of 1 MiB, strip by strip.
        group.bench_function(format!("{name}/locate_1mib"), |b| {
            b.iter(|| {
                let (mut at, end) = (black_box(12_345_678u64), 12_345_678 + (1 << 20));
                let mut places = 0u64;
                while at < end {
                    let p = dist.locate(4, at);
                    places += p.physical_offset;
                    at += p.contiguous_bytes;
                }
                places
            });
        });
        group.bench_function(format!("{name}/logical_size"), |b| {
            b.iter(|| dist.logical_size(black_box(&[70_000, 65_536, 65_536, 1_000])));
        });
    }
    group.finish();
}

/// A file over `n` servers with strips of 64 KiB.
fn file_over(n: u64) -> (ClusterMap, FileLayout) {
    let server = |i: u64| ServerEntry {
        io_range: Some(HandleRange { first: (i + 1) << 32, last: ((i + 2) << 32) - 1 }),
        ..Default::default()
    };
    let map = ClusterMap { servers: (0..n).map(server).collect(), ..Default::default() };
    let datahandles = (0..n).map(|i| ((i + 1) << 32) + 7).collect();
    (map, FileLayout { dist: Dist::simple_stripe(65_536), datahandles })
}

fn io_plan(c: &mut Criterion) {
    let (map, layout) = file_over(4);
    let mut group = c.benchmark_group("io_plan");
    for (name, at, len) in [
        ("4k_in_one_strip", 1_000_000u64, 4_096usize),
        ("47008_unaligned", 47_008 * 1_001, 47_008),
        ("1m_aligned", 64 << 20, 1 << 20),
        ("16m", 3, 16 << 20),
    ] {
        group.bench_function(format!("{name}/new"), |b| {
            b.iter(|| IoPlan::new(&map, &layout, black_box(at), black_box(len)));
        });
        let data = noise(len);
        if let Ok(plan) = IoPlan::new(&map, &layout, at, len) {
            group.bench_function(format!("{name}/gather"), |b| {
                b.iter(|| plan.gather(black_box(&data)).len());
            });
        }
    }
    group.finish();
}

fn frame(c: &mut Criterion) {
    let head = lookup_head().encode_to_vec();
    let mut group = c.benchmark_group("frame");
    group.bench_function("encode", |b| {
        b.iter(|| Header::new(Kind::Request, 10, 0, black_box(77), &head, 0, 0).encode());
    });
    let bytes: [u8; HEADER_LEN] = Header::new(Kind::Request, 10, 0, 77, &head, 0, 0).encode();
    group.bench_function("decode_and_check", |b| {
        b.iter(|| {
            Header::decode(black_box(&bytes)).is_ok_and(|header| header.check_head(&head).is_ok())
        });
    });
    group.finish();
}

fn lookup_head() -> RequestHead {
    let lookup = LookupRequest {
        dir: 1 << 40,
        path: vec!["readme.txt".into()],
        want_bytes: true,
        ..Default::default()
    };
    RequestHead {
        session: 0x1234_5678_9abc,
        slot: 3,
        seq: 1_000_000,
        op_id: 42,
        cred: Some(Cred::root()),
        op: Some(lookup.into_request()),
    }
}

fn write_head() -> RequestHead {
    let extents =
        (0..16).map(|i| PhysicalExtent { physical_offset: i * 262_144, len: 65_536 }).collect();
    let write = IoWriteRequest { datahandle: 1 << 56, extents, ..Default::default() };
    RequestHead { op: Some(write.into_request()), ..lookup_head() }
}

fn heads(c: &mut Criterion) {
    let mut group = c.benchmark_group("head");
    for (name, head) in [("lookup", lookup_head()), ("io_write_16_extents", write_head())] {
        let bytes = head.encode_to_vec();
        let mut buf = Vec::with_capacity(4096);
        group.bench_function(format!("{name}/encode"), |b| {
            b.iter(|| {
                buf.clear();
                black_box(&head).encode_raw(&mut buf);
                buf.len()
            });
        });
        group.bench_function(format!("{name}/decode"), |b| {
            b.iter(|| RequestHead::decode(black_box(bytes.as_slice())));
        });
    }
    group.finish();
}

fn crc(c: &mut Criterion) {
    let mut group = c.benchmark_group("crc32");
    for len in [64usize, 4 << 10, 64 << 10, 1 << 20] {
        let data = noise(len);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("{len}"), |b| b.iter(|| crc32fast::hash(black_box(&data))));
    }
    group.finish();
}

criterion_group!(benches, dist, io_plan, frame, heads, crc);
criterion_main!(benches);
