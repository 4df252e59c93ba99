//! Both ends of a region: what is seen, what is refused, what is left behind.
use super::*;
use std::fs::File;

fn piece(offset: u64, len: u64) -> SharedPiece {
    SharedPiece { offset, len }
}

fn refusal(file: &OwnedFd, len: u64) -> String {
    Mapping::new(file, len).map(|_| ()).unwrap_err()
}

#[test]
fn a_server_sees_what_a_client_writes() {
    let mut buf = SharedBuf::new(200_000).unwrap();
    let (file, len) = buf.region().file().unwrap();
    let mapping = Arc::new(Mapping::new(&file, len).unwrap());
    buf[100_000..100_005].copy_from_slice(b"hello");
    let body = SharedBody::new(Some(&mapping), &[piece(100_003, 2), piece(100_000, 3)]).unwrap();
    drop(mapping);
    assert_eq!(body.slices().concat(), b"lohel");
    assert_eq!((body.len(), body.is_empty()), (5, false));
}

/// A buffer whose region was given up by `give_up`: the bytes stay where they are, and what is written
/// then is not seen by a server that has the old one.
fn given_up(give_up: impl FnOnce(&Region)) -> SharedBuf {
    let mut buf = SharedBuf::new(70_000).unwrap();
    buf.fill(1);
    let (old, len) = buf.region().file().unwrap();
    let mapping = Arc::new(Mapping::new(&old, len).unwrap());
    let body = SharedBody::new(Some(&mapping), &[piece(0, len)]).unwrap();
    let at = buf.as_ptr();
    give_up(buf.region());
    assert!(buf.as_ptr() == at && buf.iter().all(|b| *b == 1), "the bytes are where they were");
    buf.fill(2);
    assert!(body.slices().concat().iter().all(|b| *b == 1), "the server sees the new ones");
    buf
}

#[test]
fn what_is_given_up_is_never_written_again() {
    let buf = given_up(Region::renew);
    let (new, len) = buf.region().file().unwrap();
    let mapping = Arc::new(Mapping::new(&new, len).unwrap());
    let body = SharedBody::new(Some(&mapping), &[piece(69_999, 1)]).unwrap();
    assert_eq!(body.slices().concat(), [2]);
}

#[test]
fn what_is_left_without_a_new_file_is_not_written_again_either() {
    given_up(Region::leave);
}

#[test]
fn only_sealed_memory_of_the_said_size_is_mapped() {
    let plain = rustix::fs::memfd_create(c"x", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&plain, 4096).unwrap();
    assert!(refusal(&plain, 4096).contains("not sealed"));
    let half = rustix::fs::memfd_create(c"x", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&half, 4096).unwrap();
    rustix::fs::fcntl_add_seals(&half, SealFlags::GROW).unwrap();
    assert!(refusal(&half, 4096).contains("not sealed"));
    let disk = OwnedFd::from(tempfile::tempfile().unwrap());
    rustix::fs::ftruncate(&disk, 4096).unwrap();
    assert!(refusal(&disk, 4096).contains("no memfd") || refusal(&disk, 4096).contains("sealed"));
    let good = memory_file(4096).unwrap();
    assert!(refusal(&good, 4097).contains("4096"));
    assert!(refusal(&memory_file(0).unwrap(), 0).contains("0 bytes"));
    let large = memory_file(REGION_BYTES_MAX + 1).unwrap();
    assert!(refusal(&large, REGION_BYTES_MAX as u64 + 1).contains("most"));
    assert!(Mapping::new(&good, 4096).is_ok());
    // And it keeps its size.
    let file = File::from(good);
    assert!(file.set_len(0).is_err() && file.set_len(8192).is_err());
}

#[test]
fn pieces_outside_the_region_are_refused() {
    let mapping = Arc::new(Mapping::new(&memory_file(10_000).unwrap(), 10_000).unwrap());
    let body = |pieces: &[SharedPiece]| SharedBody::new(Some(&mapping), pieces);
    assert_eq!(body(&[piece(0, 10_000), piece(9_999, 1)]).unwrap().len(), 10_001);
    for bad in [piece(0, 10_001), piece(10_000, 1), piece(u64::MAX, 2), piece(1, u64::MAX)] {
        let e = body(&[piece(0, 1), bad]).err().unwrap();
        assert_eq!(e.code, ErrorCode::Invalid);
        assert!(e.detail.contains("10000"), "{}", e.detail);
    }
    assert!(body(&[piece(5, 0)]).is_err());
    assert!(body(&[piece(0, 1); PIECES_MAX + 1]).is_err());
    assert!(SharedBody::new(None, &[piece(0, 1)]).is_err());
}
