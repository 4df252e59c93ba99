#!/usr/bin/env bash
# git_clone.sh DIR: clone onto the file system, fsck, commit there, gc, fsck again, clone from it.
. "$(dirname "$0")/common.sh"
need git
source_tree
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
export GIT_AUTHOR_NAME=t GIT_AUTHOR_EMAIL=t@localhost GIT_COMMITTER_NAME=t GIT_COMMITTER_EMAIL=t@localhost
origin=$LOCAL/origin
git init -q -b main "$origin"
cp -r "$TREE/a/." "$origin/"
find "$origin" -mindepth 2 \( -name .git -o -name .gitignore \) -prune -exec rm -rf {} +
git -C "$origin" add -A -f
git -C "$origin" commit -q -m one
git clone -q --no-local "file://$origin" "$WORK/clone"
git -C "$WORK/clone" fsck --full --strict --no-dangling || fail "fsck after clone"
[ -z "$(git -C "$WORK/clone" status --porcelain)" ] || fail "the fresh clone is not clean"
for i in 1 2 3; do
    echo "line $i" >>"$WORK/clone/notes.txt"
    git -C "$WORK/clone" add notes.txt
    git -C "$WORK/clone" commit -q -m "note $i"
done
git -C "$WORK/clone" gc -q --prune=now --aggressive || fail "gc"
git -C "$WORK/clone" fsck --full --no-dangling || fail "fsck after gc"
[ -z "$(git -C "$WORK/clone" status --porcelain)" ] || fail "not clean after gc"
git clone -q "$WORK/clone" "$LOCAL/back"
[ "$(git -C "$LOCAL/back" rev-parse HEAD)" = "$(git -C "$WORK/clone" rev-parse HEAD)" ] || fail "heads differ"
say "$(git -C "$WORK/clone" ls-files | wc -l) files cloned, checked, collected"
