//! Tests of `FORMAT`, the lock and the marker: golden text, and every refusal with its remedy.
use super::*;

fn info() -> FormatInfo {
    FormatInfo {
        fs_id: 0x1122_3344_5566_7788,
        server_alias: "io-0".into(),
        server_id: 3,
        keyval: KeyvalMethod::Sled,
    }
}

#[test]
fn golden_text() {
    let text = info().encode();
    let body = "pvfs2-trove\nversion 1\nfs_id 1122334455667788\nserver_id 3\nserver_alias io-0\n";
    assert_eq!(text, format!("{body}crc32 {:08x}\n", crc32fast::hash(body.as_bytes())));
    assert_eq!(FormatInfo::decode(&text, Path::new("d")).unwrap(), info());
}

#[test]
fn golden_text_of_another_keyval() {
    let info = FormatInfo { keyval: KeyvalMethod::Fjall, ..info() };
    let body = "pvfs2-trove\nversion 2\nfs_id 1122334455667788\nserver_id 3\nserver_alias io-0\n\
                keyval fjall\n";
    let text = info.encode();
    assert_eq!(text, format!("{body}crc32 {:08x}\n", crc32fast::hash(body.as_bytes())));
    assert_eq!(FormatInfo::decode(&text, Path::new("d")).unwrap(), info);
    let body = body.replace("fjall", "bdb");
    let text = format!("{body}crc32 {:08x}\n", crc32fast::hash(body.as_bytes()));
    let e = FormatInfo::decode(&text, Path::new("d")).unwrap_err().to_string();
    assert!(e.contains("'bdb'") && e.contains("sled, fjall"), "{e}");
}

#[test]
fn every_flipped_bit_is_refused() {
    let text = info().encode().into_bytes();
    // The last byte is the final newline, which nothing depends on.
    for i in 0..text.len() - 1 {
        for bit in 0..7 {
            let mut t = text.clone();
            t[i] ^= 1 << bit;
            if let Ok(found) = FormatInfo::decode(&String::from_utf8_lossy(&t), Path::new("d")) {
                // Only the case of a hex digit of the CRC itself may change unseen.
                assert_eq!(found, info(), "byte {i} bit {bit}");
                assert!(i >= text.len() - 9, "byte {i} bit {bit}");
            }
        }
    }
}

#[test]
fn refusals_name_the_remedy() {
    let t = tempfile::tempdir().unwrap();
    let dir = t.path().join("space");
    assert!(check(&dir, &info()).unwrap_err().to_string().contains("mkfs"));
    format(&dir, &info()).unwrap();
    check(&dir, &info()).unwrap();
    assert!(format(&dir, &info()).unwrap_err().to_string().contains("already"));
    let other_fs = FormatInfo { fs_id: 9, ..info() };
    assert!(check(&dir, &other_fs).unwrap_err().to_string().contains("cluster file"));
    let other_server = FormatInfo { server_alias: "io-1".into(), ..info() };
    assert!(check(&dir, &other_server).unwrap_err().to_string().contains("'io-0'"));
    let other_keyval = FormatInfo { keyval: KeyvalMethod::Fjall, ..info() };
    let e = check(&dir, &other_keyval).unwrap_err().to_string();
    assert!(e.contains("`keyval = \"sled\"` for server 'io-0'"), "{e}");
    let text = std::fs::read_to_string(dir.join("FORMAT")).unwrap();
    std::fs::write(dir.join("FORMAT"), text.replace("version 1", "version 7")).unwrap();
    let e = check(&dir, &info()).unwrap_err().to_string();
    assert!(e.contains("version 7") && e.contains("release"), "{e}");
    let full = t.path().join("full");
    std::fs::create_dir(&full).unwrap();
    std::fs::write(full.join("precious"), "x").unwrap();
    assert!(format(&full, &info()).unwrap_err().to_string().contains("'precious'"));
}

#[test]
fn the_lock_is_held_once_and_comes_back() {
    let t = tempfile::tempdir().unwrap();
    let lock = SpaceLock::take(t.path()).unwrap();
    let e = SpaceLock::take(t.path()).unwrap_err().to_string();
    assert!(e.contains(&std::process::id().to_string()), "{e}");
    drop(lock);
    SpaceLock::take(t.path()).unwrap();
}

#[test]
fn the_marker_is_taken_once() {
    let t = tempfile::tempdir().unwrap();
    assert!(!take_clean_marker(t.path()).unwrap());
    leave_clean_marker(t.path()).unwrap();
    assert!(take_clean_marker(t.path()).unwrap());
    assert!(!take_clean_marker(t.path()).unwrap());
}
