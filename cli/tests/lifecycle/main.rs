//! The program as its users meet it: quickstart and mounts as processes, the tools against a real
//! cluster. Cases that mount need root and /dev/fuse and are reported as ignored without.
#![allow(clippy::unwrap_used, clippy::expect_used)]
mod fsck;
mod mounts;
mod tools;

use pvfs2_tests::cases;

fn main() -> std::process::ExitCode {
    // The clusters of these cases shall run the program that cargo has just built.
    if std::env::var_os("PVFS2_BIN").is_none() {
        let me = std::env::current_exe().unwrap();
        let mut again = std::process::Command::new(me);
        again.args(std::env::args_os().skip(1)).env("PVFS2_BIN", env!("CARGO_BIN_EXE_pvfs2"));
        let status = again.status().unwrap();
        return if status.success() { 0.into() } else { 1.into() };
    }
    pvfs2_tests::runner::run(cases![
        Nothing:
            tools::a_tree_goes_in_and_comes_back,
            tools::every_tool_speaks_json,
            fsck::fsck_finds_what_is_wrong_on_disk,
            tools::cp_refuses_what_it_cannot_do,
            tools::genconfig_to_a_server_with_both_roles_and_a_key,
            tools::a_server_without_storage_says_mkfs;
        Mount:
            mounts::a_killed_server_comes_back_by_hand,
            mounts::ctrl_c_ends_everything,
            mounts::a_full_mount_point_is_refused,
            mounts::mount_helpers_mount_remount_and_unmount,
    ])
}

/// The program under test.
pub fn pvfs2(args: &[&str]) -> std::process::Command {
    let mut c = std::process::Command::new(env!("CARGO_BIN_EXE_pvfs2"));
    c.args(args).env_remove("PVFS2_FS").stdin(std::process::Stdio::null());
    c
}

/// Runs to a good end; what it printed.
#[track_caller]
pub fn ok(args: &[&str]) -> String {
    let out = pvfs2(args).output().unwrap();
    let (text, err) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "pvfs2 {args:?}: {} {text}{err}", out.status);
    text.into_owned()
}

/// Runs to a refusal: one line that contains all of `parts`.
#[track_caller]
pub fn refused(args: &[&str], parts: &[&str]) {
    let out = pvfs2(args).output().unwrap();
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1), "pvfs2 {args:?}: {err}");
    assert_eq!(err.trim_end().lines().count(), 1, "one sentence: {err}");
    for part in parts {
        assert!(err.contains(part), "pvfs2 {args:?} says '{err}', wanted '{part}'");
    }
}
