#!/usr/bin/env bash
# fuzz/run.sh [SECONDS]: runs every fuzz target for SECONDS (default 60) and closes with
# 'N passed, N failed, N skipped'. Installs cargo-fuzz if it is missing.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --version 0.13.2 --locked || exit 1
# libFuzzer's flags are for nightly compilers; this lets the installed one take them.
export RUSTC_BOOTSTRAP=1
passed=0 failed=0
for target in frame messages journal cluster_file; do
    mkdir -p fuzz/corpus/$target
    # A valid cluster file to begin from: random text hardly ever is one.
    if [ $target = cluster_file ] && [ -x target/release/pvfs2 ]; then
        target/release/pvfs2 genconfig --meta localhost:3334 --io localhost:3335 >fuzz/corpus/$target/good 2>/dev/null || true
    fi
    if cargo fuzz run $target -- -max_total_time="${1:-60}" -max_len=65536 -rss_limit_mb=2048 -timeout=10 -verbosity=0; then
        passed=$((passed + 1))
        echo "fuzz $target: no finding in ${1:-60} s"
    else
        failed=$((failed + 1))
        echo "fuzz $target: FAILED (input kept below fuzz/artifacts/$target)"
    fi
done
echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
