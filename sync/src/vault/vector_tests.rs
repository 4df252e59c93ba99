//! What an independent program (`tests/programs/vault_vectors.py`) made of the same words: formats that
//! shipped do not change.
use super::key_file::{By, KeyFile};
use super::{FolderKey, Vault};
use crate::rng::hex;

fn key() -> FolderKey {
    FolderKey::from_bytes(std::array::from_fn(|n| n as u8))
}

#[test]
fn vectors_of_an_independent_program() {
    let v = Vault::new(&key());
    assert_eq!(hex(&v.id()), "14c6346d638f7a5321be741336baa910db3cd1ace228b8e101332c026c41685e");
    for (number, name, sealed) in [
        (
            0,
            "diary.txt",
            "S6NzTGjgNa5mWCaCod63ClbL4uNSUqqpbzHWfojfht6-5QTafowkJrtt9kVWywT9IQ789xc.pv1",
        ),
        (
            42,
            "Résumé",
            "NHTDSPY8RT_t-0vkLUB8mA_S3sT6il4UB8At-BqNcHAAiWyQJSaGDAEkqnon-VcLaS_rMA.pv1",
        ),
    ] {
        assert_eq!(v.seal_name(number, name).unwrap(), sealed);
        assert_eq!(v.open_name(number, sealed).unwrap(), name);
    }
    for (plain, sealed) in [
        (
            &b""[..],
            "707666733276310014c6346d638f7a5321be741336baa91050c5d66796c2137da846c780a0f66b175680a5673c1877105ad789d84a2a35d2995b193f15653cbcfa1a8cd7dcd64422",
        ),
        (
            b"dear diary",
            "707666733276310014c6346d638f7a5321be741336baa910494760ace40d89032f53cdfef3a8a0e5d148bdd72d312cfca2dec00f4d5d2aaab6eb7c7875abeb88f7aa3af2022e254e5b87b86d8c2c78a6648f",
        ),
    ] {
        assert_eq!(hex(&v.seal(plain).unwrap()), sealed);
    }
    let long: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
    let sealed = v.seal(&long).unwrap();
    assert_eq!(
        blake3::hash(&sealed).to_hex().as_str(),
        "6704208f568da680a0d7ddd85cd4a276ebada1ba0854413b5703a548849ccfe1"
    );
}

#[test]
fn a_key_file_of_an_independent_program_opens() {
    let text = serde_json::json!({
        "pvfs2-vault": 1, "id": hex(&key().id()), "generation": 1, "kdf": "argon2id",
        "memory_kib": 65_536, "passes": 3, "lanes": 1,
        "salt": "000102030405060708090a0b0c0d0e0f",
        "sealed": "000102030405060708090a0b0c0d0e0f1011121314151617b618a340e248743dca19b5693c449c6f3bdd7cd8fcf78d60a0aa76a649c5debb86a2f59d5afa4b853845987fb01ccf86",
        "recovery": "000102030405060708090a0b0c0d0e0f1011121314151617257b64991c82d8560d851e3decea4826c0307d348143709637b93e54e27270d29248c0d5d5ec7a048c058844403c5da7",
    });
    let file = KeyFile::parse(text.to_string().as_bytes()).unwrap();
    assert_eq!(file.open(By::Passphrase, "correct horse battery").unwrap(), key());
    assert_eq!(file.open(By::Recovery, &"a5a5-".repeat(16)).unwrap(), key());
}
