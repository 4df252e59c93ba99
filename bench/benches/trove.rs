//! What every operation pays in Trove: a record of the journal, a journaled transaction, a lookup, a read and a write of a
//! datafile, all on the local disk below the temporary directory.
use criterion::{Criterion, Throughput};
use pvfs2_bench::noise;
use pvfs2_proto::Handle;
use pvfs2_proto::env::Env;
use pvfs2_trove::journal::Journal;
use pvfs2_trove::journal::disk::DiskJournal;
use pvfs2_trove::journal::record::{self, Change};
use pvfs2_trove::journal::segment::SEGMENT_BYTES;
use pvfs2_trove::{FormatInfo, StorageSpace, TroveOptions, Txn};
use std::error::Error;
use std::hint::black_box;
use std::process::ExitCode;

struct Space {
    space: StorageSpace,
    _dir: tempfile::TempDir,
}

fn open() -> Result<Space, Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let info = FormatInfo {
        fs_id: 9,
        server_id: 0,
        server_alias: "bench".into(),
        keyval: Default::default(),
    };
    StorageSpace::format(dir.path(), &info)?;
    let space = StorageSpace::open(dir.path(), &info, TroveOptions::default(), Env::real())?;
    Ok(Space { space, _dir: dir })
}

/// A create: attributes, a dirent, the directory's attributes.
fn create_txn(n: u64) -> Txn {
    let mut txn = Txn::new();
    txn.put([&b"a"[..], &n.to_be_bytes()].concat(), vec![7; 96]);
    txn.put([&b"d"[..], &n.to_be_bytes()].concat(), vec![8; 24]);
    txn.put(&b"a-dir"[..], vec![9; 96]);
    txn
}

/// The journal alone: a record of a create, and of a directory's worth of changes.
fn journal(c: &mut Criterion) -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let journal = DiskJournal::new(dir.path(), 9, 0, SEGMENT_BYTES)?;
    let change = |n: u64, bytes: usize| Change {
        key: n.to_be_bytes().to_vec().into(),
        value: Some(noise(bytes).into()),
    };
    let create = [change(1, 96), change(2, 24), change(3, 96)];
    let many: Vec<Change> = (0..64).map(|n| change(n, 96)).collect();
    let mut group = c.benchmark_group("journal");
    for (name, changes) in [("create", &create[..]), ("64_changes", &many[..])] {
        let mut buf = Vec::new();
        record::encode(&mut buf, 1, 0, changes)?;
        group.throughput(Throughput::Bytes(buf.len() as u64));
        group.bench_function(format!("{name}/encode"), |b| {
            b.iter(|| {
                buf.clear();
                record::encode(&mut buf, 1, 0, black_box(changes)).is_ok()
            });
        });
        group.bench_function(format!("{name}/decode"), |b| {
            b.iter(|| record::decode(black_box(&buf)).is_some());
        });
        group.bench_function(format!("{name}/append"), |b| {
            b.iter(|| {
                // What is written is safe elsewhere, so that segments go again.
                let index = journal.append(black_box(changes))?;
                if index % 65_536 == 0 { journal.checkpoint(index) } else { Ok(()) }
            });
        });
    }
    group.sample_size(20).bench_function("create/append_and_sync", |b| {
        b.iter(|| journal.append(&create).and_then(|_| journal.sync()).is_ok());
    });
    group.finish();
    Ok(())
}

fn keyval(c: &mut Criterion, space: &StorageSpace) {
    let collection = &space.collection;
    let mut group = c.benchmark_group("keyval");
    let mut n = 0u64;
    group.bench_function("commit_create", |b| {
        b.iter(|| {
            n += 1;
            collection.commit(create_txn(n)).is_ok()
        });
    });
    let key = [&b"a"[..], &1u64.to_be_bytes()].concat();
    group.bench_function("get", |b| b.iter(|| collection.get(black_box(&key)).is_ok()));
    group.bench_function("get_missing", |b| b.iter(|| collection.get(b"nothing").is_ok()));
    group.bench_function("scan_100", |b| b.iter(|| collection.scan(b"d", None, 100).is_ok()));
    group.sample_size(20).bench_function("commit_and_sync", |b| {
        b.iter(|| {
            n += 1;
            collection.commit(create_txn(n)).and_then(|i| collection.sync_now(i)).is_ok()
        });
    });
    group.finish();
}

fn bstream(c: &mut Criterion, space: &StorageSpace) {
    let bstreams = &space.bstreams;
    let mut group = c.benchmark_group("bstream");
    for (name, len) in [("4k", 4 << 10), ("64k", 64 << 10), ("256k", 256 << 10)] {
        let (data, mut buf) = (noise(len), vec![0; len]);
        let handle = Handle(len as u64);
        group.throughput(Throughput::Bytes(len as u64));
        let mut at = 0u64;
        group.bench_function(format!("write/{name}"), |b| {
            b.iter(|| {
                at = (at + len as u64) % (64 << 20);
                bstreams.write(handle, at, &[black_box(&data)]).is_ok()
            });
        });
        group.bench_function(format!("read/{name}"), |b| {
            b.iter(|| {
                at = (at + len as u64) % (64 << 20);
                matches!(bstreams.read_nowait(handle, at, &mut buf), Ok(Some(_)))
            });
        });
    }
    group.finish();
}

fn trove(c: &mut Criterion) -> Result<(), Box<dyn Error>> {
    journal(c)?;
    let opened = open()?;
    keyval(c, &opened.space);
    bstream(c, &opened.space);
    Ok(())
}

fn main() -> ExitCode {
    let mut criterion = Criterion::default().configure_from_args();
    match trove(&mut criterion) {
        Ok(()) => {
            criterion.final_summary();
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("cannot open a storage space in the temporary directory: {e}");
            ExitCode::FAILURE
        }
    }
}
