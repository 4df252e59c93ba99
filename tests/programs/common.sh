# Sourced by every script of this folder: argument, scratch folder, verdicts.
#
# A script is run as `NAME.sh DIR` and does its work in a folder of its own below DIR, which it
# removes. It ends with 0 (passed), 77 (skipped; the reason is printed) or anything else (failed).
set -euo pipefail

NAME=$(basename "$0" .sh)
if [ $# -lt 1 ] || [ ! -d "$1" ]; then
    echo "usage: $0 DIR   (a directory on the file system to try)" >&2
    exit 2
fi
DIR=$(cd "$1" && pwd)
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# What is made once and used by several scripts (the source tree), outside the file system tried.
SHARED=${PVFS2_PROGRAMS_STATE:-${TMPDIR:-/tmp}/pvfs2-programs.$(id -u)}
mkdir -p "$SHARED"
WORK=$(mktemp -d "$DIR/$NAME.XXXXXX")      # on the file system tried
LOCAL=$(mktemp -d "$SHARED/$NAME.XXXXXX")  # beside it

# What a script has to end before its folders go; a script that needs it defines it again.
cleanup() { :; }
finish() {
    local rc=$? # before anything else: the verdict
    cleanup || true
    rm -rf "$WORK" "$LOCAL" || true
    exit $rc
}
trap finish EXIT

fail() {
    echo "$NAME: FAILED: $*" >&2
    exit 1
}
skip() {
    echo "$NAME: skipped: $*"
    exit 77
}
need() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null 2>&1 || skip "'$tool' is not installed"
    done
}
say() { echo "$NAME: $*"; }

# A real source tree of at least 5,000 files, unpacked below $SHARED/tree: the sources of the crates
# that this workspace was built from. Fewer than 5,000 there: the same tree twice.
source_tree() {
    TREE=$SHARED/tree
    [ -f "$SHARED/tree.done" ] && return 0
    local registry=${CARGO_HOME:-$HOME/.cargo}/registry/src list=$SHARED/tree.list
    [ -d "$registry" ] || skip "no crate sources below $registry: run 'cargo fetch' first"
    rm -rf "$TREE" && mkdir -p "$TREE/a"
    (cd "$registry" && find . -type f -size -256k | LC_ALL=C sort) | head -6000 >"$list" || true
    tar -C "$registry" -cf - -T "$list" | tar -C "$TREE/a" -xf -
    [ "$(wc -l <"$list")" -ge 5000 ] || cp -r "$TREE/a" "$TREE/b"
    local n
    n=$(find "$TREE" -type f | wc -l)
    [ "$n" -ge 5000 ] || skip "only $n source files to copy, 5,000 are wanted"
    touch "$SHARED/tree.done"
}
