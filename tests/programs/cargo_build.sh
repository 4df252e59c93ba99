#!/usr/bin/env bash
# cargo_build.sh DIR: builds and tests a small crate (library, build script, program) whose sources and
# target folder lie on the file system; a second build finds nothing to do.
. "$(dirname "$0")/common.sh"
need cargo cc
crate=$WORK/small
mkdir -p "$crate/src"
cat >"$crate/Cargo.toml" <<'X'
[package]
name = "small"
version = "0.1.0"
edition = "2021"
build = "build.rs"
[workspace]
X
cat >"$crate/build.rs" <<'X'
fn main() {
    let out = std::env::var("OUT_DIR").unwrap();
    let table: Vec<String> = (0..500).map(|i: u64| format!("{}", i * i)).collect();
    std::fs::write(format!("{out}/table.rs"), format!("pub const T: [u64; 500] = [{}];", table.join(","))).unwrap();
    println!("cargo:rerun-if-changed=build.rs");
}
X
for i in $(seq 40); do
    echo "pub mod m$i;" >>"$crate/src/lib.rs"
    echo "pub fn f(x: u64) -> u64 { x.rotate_left($i) ^ crate::T[$i] } #[test] fn t() { assert_eq!(f(0), $i * $i); }" >"$crate/src/m$i.rs"
done
echo 'include!(concat!(env!("OUT_DIR"), "/table.rs"));' >>"$crate/src/lib.rs"
echo 'fn main() { println!("{}", small::m7::f(0)); }' >"$crate/src/main.rs"
export CARGO_TARGET_DIR=$crate/target
unset RUSTFLAGS || true
cd "$crate"
cargo build --offline -q || fail "build"
[ "$("$crate/target/debug/small")" = 49 ] || fail "the built program prints something else"
again=$(cargo build --offline -v 2>&1)
[[ $again == *'Fresh small'* ]] || { echo "$again"; fail "the second build was not fresh"; }
touch src/m7.rs
again=$(cargo build --offline -v 2>&1)
[[ $again == *'Dirty small'* ]] || { echo "$again"; fail "a touched source was not seen"; }
cargo test --offline -q >"$LOCAL/test.log" 2>&1 || { cat "$LOCAL/test.log"; fail "cargo test"; }
say "built, fresh, rebuilt after touch, tested"
