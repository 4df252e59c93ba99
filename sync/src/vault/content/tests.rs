//! Sealed contents: round trips, every way to damage one, and vectors from an independent program.
use super::super::FolderKey;
use super::*;
use crate::files::mem::Mem;
use crate::rng::Rng;

fn vault(n: u8) -> Vault {
    Vault::new(&FolderKey::from_bytes([n; 32]))
}

const SIZES: [usize; 8] =
    [0, 1, 100, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, (1 << 20) + PIECE + 7];

#[test]
fn contents_come_back() {
    let v = vault(1);
    for size in SIZES {
        let plain = Rng::new(1).bytes(size);
        let sealed = v.seal(&plain).unwrap();
        assert_eq!(sealed.len() as u64, sealed_size(size as u64));
        assert_eq!(plain_size(sealed.len() as u64), Some(size as u64));
        assert_eq!(sealed, v.seal(&plain).unwrap(), "the same each time");
        assert!(v.open(&sealed).unwrap() == plain, "{size}");
        assert!(vault(2).open(&sealed).is_err(), "another key");
        assert_ne!(vault(2).seal(&plain).unwrap()[24..], sealed[24..]);
        // From file to file, and from any place on.
        let mem = Mem::new(1);
        mem.user_write("f", &plain, None);
        let sealer = v.sealer(blake3::hash(&plain).as_bytes(), size as u64);
        for pos in [0, 1, HEAD, HEAD + 1, sealed.len() / 2, sealed.len() - 1, sealed.len()] {
            let some = sealer.read(&mem, At(Area::Tree, "f"), pos as u64, 70_000).unwrap();
            assert!(some == sealed[pos..sealed.len().min(pos + 70_000)], "{size} from {pos}");
        }
        assert_eq!(
            sealer.hash(&mem, "f", blake3::hash(&plain).as_bytes()).unwrap(),
            *blake3::hash(&sealed).as_bytes()
        );
        assert!(sealer.hash(&mem, "f", &[7; 32]).is_err(), "it holds something else");
        let (own, to) = (At(Area::Own, "tmp/c"), At(Area::Own, "tmp/d"));
        mem.write(own, 0, &sealed).unwrap();
        let opened = v.open_file(&mem, own, to).unwrap();
        assert_eq!(opened, (*blake3::hash(&plain).as_bytes(), size as u64));
        if size > 0 {
            assert!(mem.read(to, 0, size + 1).unwrap() == plain);
        }
    }
}

#[test]
fn sizes_that_no_content_has_are_none() {
    for size in 0..(3 * PIECE as u64) {
        assert_eq!(plain_size(sealed_size(size)), Some(size));
    }
    let mut taken = std::collections::BTreeSet::new();
    taken.extend((0..70_000).map(sealed_size));
    for sealed in 0..69_000 {
        assert_eq!(plain_size(sealed).is_some(), taken.contains(&sealed), "{sealed}");
    }
}

fn refused(v: &Vault, sealed: &[u8], why: &str) {
    assert!(matches!(v.open(sealed), Err(SyncError::Damaged(_))), "{why}");
    let mem = Mem::new(1);
    let own = At(Area::Own, "tmp/c");
    mem.write(own, 0, sealed).unwrap();
    assert!(v.open_file(&mem, own, At(Area::Own, "tmp/d")).is_err(), "{why}, from a file");
}

#[test]
fn every_damage_is_noticed() {
    let v = vault(1);
    let plain = Rng::new(1).bytes(3 * PIECE + 50);
    let sealed = v.seal(&plain).unwrap();
    for at in (0..200).chain((200..sealed.len()).step_by(9_973)).chain([sealed.len() - 1]) {
        let mut other = sealed.clone();
        other[at] ^= 1;
        refused(&v, &other, &format!("byte {at} changed"));
    }
    for len in (0..80).chain((80..sealed.len()).step_by(7_919)).chain([
        HEAD + SEALED,
        HEAD + 2 * SEALED,
        HEAD + 3 * SEALED,
        sealed.len() - 1,
    ]) {
        refused(&v, &sealed[..len], &format!("cut to {len}"));
    }
    let piece = |n: usize| HEAD + n * SEALED..(HEAD + (n + 1) * SEALED).min(sealed.len());
    let built = |order: &[usize]| {
        let mut all = sealed[..HEAD].to_vec();
        order.iter().for_each(|n| all.extend_from_slice(&sealed[piece(*n)]));
        all
    };
    assert!(built(&[0, 1, 2, 3]) == sealed);
    for order in [&[1, 0, 2, 3][..], &[0, 0, 2, 3], &[0, 1, 1, 2, 3], &[0, 2, 3], &[0, 1, 2]] {
        refused(&v, &built(order), &format!("{order:?}"));
    }
    refused(&v, &[&sealed[..], b"x"].concat(), "one byte more");
    refused(&v, &[&sealed[..], &sealed[piece(0)]].concat(), "one piece more");
    // A piece, and a beginning, of another content of the same folder and length.
    let mut twin = plain.clone();
    twin[0] ^= 1;
    let twin = v.seal(&twin).unwrap();
    let mut mixed = sealed.clone();
    mixed[piece(1)].copy_from_slice(&twin[piece(1)]);
    refused(&v, &mixed, "a piece of another file");
    refused(&v, &[&twin[..HEAD], &sealed[HEAD..]].concat(), "the head of another file");
}
