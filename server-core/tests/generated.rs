//! Holds `src/management/pb.rs` to `proto/management.proto`, and writes it anew on demand:
//! `PVFS2_BLESS=1 cargo test -p pvfs2-server-core --test generated`. Users of the crate need neither
//! protoc nor a build script; protox and tonic-prost-build are needed by this test alone.
use std::path::Path;

const HEAD: &str = "//! Messages, client and server of the management service: generated from
//! `proto/management.proto` by `tests/generated.rs`. Do not edit.
";

#[test]
fn generated_code_belongs_to_the_proto() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fds = protox::compile(["management.proto"], [root.join("proto")]).unwrap();
    let out = tempfile::tempdir().unwrap();
    tonic_prost_build::configure().out_dir(out.path()).compile_fds(fds).unwrap();
    let fresh = std::fs::read_to_string(out.path().join("pvfs2.management.v1.rs")).unwrap();
    let fresh = format!("{HEAD}{fresh}");
    let kept = root.join("src/management/pb.rs");
    if std::env::var_os("PVFS2_BLESS").is_some() {
        std::fs::write(&kept, &fresh).unwrap();
    }
    let same = std::fs::read_to_string(&kept).is_ok_and(|text| text == fresh);
    assert!(same, "proto/management.proto has changed: run this test with PVFS2_BLESS=1");
}
