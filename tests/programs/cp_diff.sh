#!/usr/bin/env bash
# cp_diff.sh DIR: copies a source tree of 5,000 files with `cp -r` and compares it with `diff -r`;
# then copies it within the file system and compares again.
. "$(dirname "$0")/common.sh"
need cp diff
source_tree
cp -r "$TREE" "$WORK/copy"
diff -r "$TREE" "$WORK/copy" || fail "the copy differs"
n=$(find "$WORK/copy" -type f | wc -l)
[ "$n" = "$(find "$TREE" -type f | wc -l)" ] || fail "$n files in the copy"
first=$(ls "$WORK/copy/a" | head -1)
cp -a "$WORK/copy/a/$first" "$WORK/again"
diff -r "$TREE/a/$first" "$WORK/again" || fail "the copy within the file system differs"
rm -rf "$WORK/copy"
[ ! -e "$WORK/copy" ] || fail "rm -rf left something"
say "$n files copied, compared and removed"
