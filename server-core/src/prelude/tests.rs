//! Access checks against tables of what Linux does.
use super::*;
use pvfs2_proto::TimeSpec;
use pvfs2_proto::attr::mode::{S_IFDIR, S_IFREG};

fn user(uid: u32, gid: u32, groups: &[u32]) -> Cred {
    Cred { uid, gid, groups: groups.to_vec(), groups_known: true }
}
fn unsure(uid: u32, gid: u32) -> Cred {
    Cred { groups_known: false, ..user(uid, gid, &[]) }
}
fn file(mode: u32) -> Attr {
    Attr { mode: S_IFREG | mode, uid: 10, gid: 20, nlink: 1, ..Default::default() }
}
fn dir(mode: u32) -> Attr {
    Attr { mode: S_IFDIR | mode, uid: 10, gid: 20, nlink: 2, ..Default::default() }
}
fn code<T>(r: Result<T>) -> Option<ErrorCode> {
    r.err().map(|e| e.code)
}

#[test]
fn classes_do_not_add_up() {
    let f = file(0o407);
    assert!(access(&user(10, 1, &[]), &f, READ).is_ok());
    assert!(access(&user(10, 1, &[]), &f, WRITE).is_err(), "the owner is no other");
    assert!(access(&user(11, 20, &[]), &f, READ).is_err(), "the group is no other");
    assert!(access(&user(11, 1, &[20]), &f, READ).is_err());
    assert!(access(&user(11, 1, &[]), &f, READ | WRITE | EXEC).is_ok());
    assert!(access(&Cred::root(), &file(0), READ | WRITE).is_ok());
    assert!(access(&Cred::root(), &file(0o644), EXEC).is_err());
    assert!(access(&Cred::root(), &dir(0), EXEC).is_ok());
}

#[test]
fn unknown_groups_are_refused_where_they_could_tell() {
    assert_eq!(code(access(&unsure(11, 1), &file(0o604), READ)), Some(ErrorCode::Access));
    assert_eq!(code(access(&unsure(11, 1), &file(0o640), READ)), Some(ErrorCode::Access));
    assert!(access(&unsure(11, 1), &file(0o644), READ).is_ok());
    assert!(access(&unsure(10, 1), &file(0o600), READ).is_ok(), "the owner needs no group");
    assert!(access(&unsure(11, 20), &file(0o640), READ).is_ok(), "its own group is known");
    let chgrp = SetAttr { gid: Some(30), ..Default::default() };
    assert_eq!(code(may_setattr(&unsure(10, 1), &file(0o644), &chgrp)), Some(ErrorCode::Access));
}

#[test]
fn sticky_directories() {
    let d = dir(0o1777);
    assert!(may_delete(&user(5, 5, &[]), &d, 5).is_ok());
    assert!(may_delete(&user(10, 5, &[]), &d, 5).is_ok(), "the directory's owner");
    assert!(may_delete(&Cred::root(), &d, 5).is_ok());
    assert_eq!(code(may_delete(&user(6, 5, &[]), &d, 5)), Some(ErrorCode::NotPermitted));
    assert_eq!(code(may_delete(&user(6, 5, &[]), &dir(0o755), 6)), Some(ErrorCode::Access));
    assert_eq!(code(may_delete(&user(6, 5, &[]), &file(0o777), 6)), Some(ErrorCode::NotDirectory));
}

#[test]
fn a_dying_directory_takes_no_names() {
    let mut d = dir(0o777);
    d.set(AttrFlags::DIR_DYING, true);
    assert_eq!(code(may_create(&Cred::root(), &d)), Some(ErrorCode::NotFound));
}

#[test]
fn sgid_directories_hand_down_their_group() {
    let d = dir(0o2775);
    assert_eq!(inherit(&user(5, 6, &[]), &d, S_IFDIR | 0o755).unwrap(), (S_IFDIR | 0o2755, 20));
    assert_eq!(inherit(&user(5, 6, &[]), &d, S_IFREG | 0o644).unwrap(), (S_IFREG | 0o644, 20));
    assert_eq!(inherit(&user(5, 6, &[]), &d, S_IFREG | 0o2755).unwrap(), (S_IFREG | 0o755, 20));
    assert_eq!(inherit(&user(5, 6, &[20]), &d, S_IFREG | 0o2755).unwrap().0, S_IFREG | 0o2755);
    assert_eq!(inherit(&user(5, 6, &[]), &dir(0o775), S_IFREG | 0o644).unwrap().1, 6);
}

#[test]
fn who_may_chmod_and_chown() {
    let f = file(0o6755);
    let set = |uid, gid, mode| SetAttr { uid, gid, mode, ..Default::default() };
    let owner = user(10, 20, &[30]);
    let other = user(11, 20, &[30]);
    for (cred, change, want) in [
        (&owner, set(None, None, Some(0o600)), None),
        (&other, set(None, None, Some(0o600)), Some(ErrorCode::NotPermitted)),
        (&owner, set(Some(11), None, None), Some(ErrorCode::NotPermitted)),
        (&owner, set(Some(10), None, None), None),
        (&owner, set(None, Some(30), None), None),
        (&owner, set(None, Some(40), None), Some(ErrorCode::NotPermitted)),
        (&other, set(None, Some(30), None), Some(ErrorCode::NotPermitted)),
        (&Cred::root(), set(Some(1), Some(2), Some(0)), None),
    ] {
        assert_eq!(code(may_setattr(cred, &f, &change)), want, "{change:?}");
    }
}

#[test]
fn suid_and_sgid_after_a_change() {
    let owner = user(10, 20, &[]);
    let chown = SetAttr { gid: Some(20), ..Default::default() };
    assert_eq!(mode_after(&owner, &file(0o6755), &chown), S_IFREG | 0o755);
    assert_eq!(mode_after(&Cred::root(), &file(0o6755), &chown), S_IFREG | 0o755, "root too");
    assert_eq!(mode_after(&owner, &file(0o2644), &chown), S_IFREG | 0o2644, "not executable");
    assert_eq!(mode_after(&owner, &dir(0o2755), &chown), S_IFDIR | 0o2755);
    let kill = SetAttr { kill_suidgid: true, ..Default::default() };
    assert_eq!(mode_after(&owner, &file(0o6755), &kill), S_IFREG | 0o755);
    let cut = SetAttr { size: Some(5), ..Default::default() };
    assert_eq!(mode_after(&owner, &file(0o6755), &cut), S_IFREG | 0o755, "without being told");
    assert_eq!(mode_after(&Cred::root(), &file(0o6755), &cut), S_IFREG | 0o6755, "root may");
    let chmod = SetAttr { mode: Some(0o2755), ..Default::default() };
    assert_eq!(mode_after(&owner, &file(0o644), &chmod), S_IFREG | 0o2755);
    let stranger = user(10, 1, &[]);
    assert_eq!(mode_after(&stranger, &file(0o644), &chmod), S_IFREG | 0o755, "not in the group");
    assert_eq!(mode_after(&stranger, &dir(0o755), &chmod), S_IFDIR | 0o755);
    assert_eq!(mode_after(&Cred::root(), &file(0o644), &chmod), S_IFREG | 0o2755);
}

#[test]
fn who_may_set_times() {
    let at = |now| Some(TimeSpec { now, ns: 1 });
    let explicit = SetAttr { mtime: at(false), ..Default::default() };
    let now = SetAttr { atime: at(true), mtime: at(true), ..Default::default() };
    let other = user(11, 1, &[]);
    let denied = may_setattr(&other, &file(0o666), &explicit);
    assert_eq!(code(denied), Some(ErrorCode::NotPermitted));
    assert!(may_setattr(&other, &file(0o666), &now).is_ok());
    // One time now and the other left alone is the owner's, as in Linux.
    let one = SetAttr { mtime: at(true), ..Default::default() };
    assert_eq!(code(may_setattr(&other, &file(0o666), &one)), Some(ErrorCode::NotPermitted));
    assert!(may_setattr(&user(10, 1, &[]), &file(0), &one).is_ok());
    // A kernel that keeps the times has checked.
    let kept = SetAttr { ctime: at(false), ..explicit.clone() };
    assert!(may_setattr(&other, &file(0o644), &kept).is_ok());
    assert_eq!(code(may_setattr(&other, &file(0o644), &now)), Some(ErrorCode::Access));
    assert!(may_setattr(&user(10, 1, &[]), &file(0), &explicit).is_ok());
}

#[test]
fn who_may_truncate() {
    let cut = SetAttr { size: Some(0), ..Default::default() };
    let owner = user(10, 20, &[]);
    assert_eq!(code(may_setattr(&owner, &file(0o444), &cut)), Some(ErrorCode::Access));
    let by_fd = SetAttr { by_open_file: true, ..cut.clone() };
    assert!(may_setattr(&owner, &file(0o444), &by_fd).is_ok());
    assert_eq!(code(may_setattr(&owner, &dir(0o777), &cut)), Some(ErrorCode::IsDirectory));
}
