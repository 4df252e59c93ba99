//! ACLs against tables of what Linux does.
use super::*;
use crate::prelude::{READ, WRITE, access};
use pvfs2_proto::attr::mode::S_IFREG;

/// `u::6 u7:4 g::4 g8:6 m::4 o::0` and the like: tag, id (or nothing), permissions.
fn value(text: &str) -> Vec<u8> {
    let mut out = VERSION.to_le_bytes().to_vec();
    for e in text.split_whitespace() {
        let (who, perm) = e.rsplit_once(':').unwrap();
        let (tag, id) = who.split_at(1);
        let named = id.parse::<u32>().ok();
        let tag: u16 = match (tag, named.is_some()) {
            ("u", false) => 0x01,
            ("u", true) => 0x02,
            ("g", false) => 0x04,
            ("g", true) => 0x08,
            ("m", _) => 0x10,
            _ => 0x20,
        };
        out.extend(tag.to_le_bytes());
        out.extend(perm.parse::<u16>().unwrap().to_le_bytes());
        out.extend(named.unwrap_or(NO_ID).to_le_bytes());
    }
    out
}
fn acl(text: &str) -> Acl {
    Acl::parse(&value(text)).unwrap().unwrap()
}
fn object(text: &str) -> Attr {
    let mut attr = Attr { mode: S_IFREG, uid: 10, gid: 20, ..Default::default() };
    acl(text).set(&mut attr);
    attr
}
fn user(uid: u32, gid: u32, groups: &[u32]) -> Cred {
    Cred { uid, gid, groups: groups.to_vec(), groups_known: true }
}

#[test]
fn what_parses_is_the_same_again() {
    for text in ["u:6 g:4 o:0", "u:7 g:5 m:5 o:5", "u:6 u7:4 u3:2 g:4 g8:6 m:4 o:0"] {
        assert_eq!(acl(text).serialise(), value(text));
    }
    assert_eq!(Acl::parse(&value("")).unwrap(), None);
    // Ids that mean nothing are not kept.
    let mut odd = value("u:6 g:4 o:0");
    odd[8] = 1;
    assert_eq!(Acl::parse(&odd).unwrap().unwrap().serialise(), value("u:6 g:4 o:0"));
}

#[test]
fn nonsense_is_refused() {
    let code = |v: &[u8]| Acl::parse(v).unwrap_err().code;
    for text in [
        "u:6 g:4",
        "g:4 o:0",
        "u:6 o:0",
        "u:6 u:6 g:4 o:0",
        "u:8 g:4 o:0",
        "g:4 u:6 o:0",
        "u:6 u7:4 g:4 o:0",
        "u:6 g:4 g7:4 o:0",
        "u:6 g:4 m:4 m:4 o:0",
        "u:6 u4294967295:4 g:4 m:4 o:0",
    ] {
        assert_eq!(code(&value(text)), ErrorCode::Invalid, "{text}");
    }
    let good = value("u:6 g:4 o:0");
    assert_eq!(code(&good[..good.len() - 1]), ErrorCode::Invalid);
    assert_eq!(code(&good[..3]), ErrorCode::Invalid);
    assert_eq!(code(&[&[1], &good[1..]].concat()), ErrorCode::Invalid);
    let mut tag = good.clone();
    tag[4] = 3;
    assert_eq!(code(&tag), ErrorCode::Invalid);
    assert_eq!(code(&[0; ACL_BYTES_MAX + 1]), ErrorCode::TooBig);
}

#[test]
fn the_mode_and_the_acl_say_the_same() {
    let plain = object("u:6 g:4 o:2");
    assert_eq!((plain.mode, plain.acl.len()), (S_IFREG | 0o642, 0));
    let mut attr = object("u:6 u7:7 g:5 m:4 o:0");
    assert_eq!(attr.mode, S_IFREG | 0o640);
    attr.mode = S_IFREG | 0o4731;
    follow_mode(&mut attr).unwrap();
    assert_eq!(attr.acl, value("u:7 u7:7 g:5 m:3 o:1"));
    // Without a mask the group's own entry is the group class; with one it stays.
    let mut masked = object("u:6 g:5 m:4 o:0");
    masked.mode = S_IFREG | 0o777;
    follow_mode(&mut masked).unwrap();
    assert_eq!(masked.acl, value("u:7 g:5 m:7 o:7"));
    attr.acl = Bytes::from_static(b"nonsense");
    assert_eq!(follow_mode(&mut attr).unwrap_err().code, ErrorCode::Damaged);
}

#[test]
fn what_a_directory_hands_down() {
    let child = |default: &str, mode: u32| {
        let mut attr = Attr { mode: S_IFREG | mode, ..Default::default() };
        acl(default).hand_down(&mut attr);
        attr
    };
    let attr = child("u:7 u7:7 g:5 m:7 o:5", 0o4664);
    assert_eq!(attr.mode, S_IFREG | 0o4664);
    assert_eq!(attr.acl, value("u:6 u7:7 g:5 m:6 o:4"));
    let attr = child("u:7 g:0 o:0", 0o666);
    assert_eq!((attr.mode, attr.acl.len()), (S_IFREG | 0o600, 0), "the mode says it all");
    assert_eq!(child("u:5 g:5 m:5 o:5", 0o777).acl, value("u:5 g:5 m:5 o:5"));
}

#[test]
fn who_gets_what() {
    let o = object("u:6 u7:6 u9:0 g:4 g8:6 g30:1 m:6 o:2");
    let ok = |cred: &Cred, want| access(cred, &o, want).is_ok();
    assert!(ok(&user(10, 1, &[]), READ | WRITE), "the owner");
    assert!(ok(&user(7, 1, &[]), READ | WRITE), "a named user");
    assert!(!ok(&user(9, 20, &[8]), READ), "a named user's groups do not help");
    assert!(ok(&user(5, 20, &[]), READ) && !ok(&user(5, 20, &[]), WRITE), "the group");
    assert!(ok(&user(5, 1, &[20, 8]), READ | WRITE), "one entry grants it all");
    assert!(!ok(&user(5, 30, &[]), WRITE), "in a group: others do not count");
    assert!(ok(&user(5, 1, &[]), WRITE) && !ok(&user(5, 1, &[]), READ), "the others");
    assert!(ok(&Cred::root(), READ | WRITE));
    let masked = object("u:6 u7:6 g:6 m:4 o:6");
    assert!(access(&user(7, 1, &[]), &masked, READ).is_ok());
    assert!(access(&user(7, 1, &[]), &masked, WRITE).is_err(), "the mask");
    assert!(access(&user(5, 20, &[]), &masked, WRITE).is_err(), "the mask");
    assert!(access(&user(5, 1, &[]), &masked, WRITE).is_ok(), "no mask for others");
    // As Linux: without anything for the group class, the mode alone counts.
    let closed = object("u:6 u7:6 g:6 m:0 o:4");
    assert!(access(&user(7, 1, &[]), &closed, READ).is_ok());
    assert!(access(&user(5, 20, &[]), &closed, READ).is_err());
}

#[test]
fn unknown_groups_never_decide() {
    let unsure = |uid, gid| Cred { groups_known: false, ..user(uid, gid, &[]) };
    let o = object("u:6 u7:6 g:4 g8:6 m:6 o:4");
    let ok = |cred: &Cred, want| access(cred, &o, want).is_ok();
    assert!(ok(&unsure(7, 1), WRITE), "a named user needs no group");
    assert!(ok(&unsure(5, 8), WRITE), "its own group is known");
    assert!(ok(&unsure(5, 1), READ), "every class grants it");
    assert!(!ok(&unsure(5, 1), WRITE), "it may be in group 8");
    assert!(!ok(&unsure(5, 20), WRITE), "it may be in group 8 too");
    let o = object("u:6 g:4 g8:0 m:6 o:4");
    assert!(access(&unsure(5, 1), &o, READ).is_err(), "it may be in group 8 and in no other");
    assert!(access(&user(5, 1, &[]), &o, READ).is_ok());
}
