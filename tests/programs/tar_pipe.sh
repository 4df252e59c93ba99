#!/usr/bin/env bash
# tar_pipe.sh DIR: `tar c | tar x` of the 5,000-file tree onto the file system, `tar --compare` against
# what was packed (bytes, modes, owners, times), and `tar c | tar x` back out of it.
. "$(dirname "$0")/common.sh"
need tar diff
source_tree
tar -C "$TREE" -cf "$LOCAL/tree.tar" .
mkdir "$WORK/in"
tar -C "$TREE" -cf - . | tar -C "$WORK/in" -xpf -
tar -C "$WORK/in" --compare -f "$LOCAL/tree.tar" || fail "tar --compare found differences"
mkdir "$LOCAL/out"
tar -C "$WORK/in" -cf - . | tar -C "$LOCAL/out" -xpf -
diff -r "$TREE" "$LOCAL/out" || fail "what came back differs"
say "$(tar tf "$LOCAL/tree.tar" | wc -l) entries there and back"
