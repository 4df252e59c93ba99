#!/usr/bin/env bash
# rsync_twice.sh DIR: `rsync -aHAX` of the tree with hard links, symlinks, extended attributes and ACLs;
# the second run moves nothing, and attributes are those of the source.
. "$(dirname "$0")/common.sh"
need rsync setfacl getfacl setfattr getfattr
source_tree
src=$LOCAL/src
mkdir "$src"
cp -a "$TREE/a/." "$src/"
for d in "$src"/*/*; do
    f=$(find "$d" -maxdepth 1 -type f | LC_ALL=C sort | head -1)
    [ -n "$f" ] || continue
    ln "$f" "$d/hard.link"
    ln -s "$(basename "$f")" "$d/soft.link"
    setfattr -n user.origin -v "$(basename "$d")" "$f" || skip "$SHARED takes no user xattrs"
    setfacl -m u:daemon:r-- "$f" || skip "$SHARED takes no ACLs"
done
chmod 2775 "$src"
touch -d '2001-02-03 04:05:06.789012345' "$src"/*/*/Cargo.toml
rsync -aHAX "$src/" "$WORK/dst/"
again=$(rsync -aHAX --itemize-changes --stats "$src/" "$WORK/dst/")
moved=$(echo "$again" | sed -n 's/^Number of regular files transferred: //p')
[ "$moved" = 0 ] || fail "the second run moved $moved files"
changed=$(echo "$again" | grep -cE '^([<>ch.*][fdLDS])[^ ]* ' || true)
[ "$changed" = 0 ] || { echo "$again" | head -20; fail "the second run changed $changed entries"; }
sums=$(rsync -aHAXn --checksum --delete --itemize-changes "$src/" "$WORK/dst/" | head -5)
[ -z "$sums" ] || { echo "$sums"; fail "contents differ"; }
one=$(cd "$src" && find . -name hard.link | LC_ALL=C sort | head -1)
[ "$(stat -c %h "$WORK/dst/$one")" = 2 ] || fail "a hard link became a copy: $one"
# By sorted names: `getfacl -R` goes in each directory's own order.
(cd "$src" && find . ! -type l | LC_ALL=C sort | getfacl - 2>/dev/null) >"$LOCAL/acl.src"
(cd "$WORK/dst" && find . ! -type l | LC_ALL=C sort | getfacl - 2>/dev/null) >"$LOCAL/acl.dst"
grep -q '^user:daemon:r--' "$LOCAL/acl.dst" || fail "no ACL arrived"
cmp "$LOCAL/acl.src" "$LOCAL/acl.dst" || fail "ACLs differ"
(cd "$src" && find . -type f | LC_ALL=C sort | xargs -d '\n' getfattr -n user.origin --absolute-names 2>/dev/null || true) >"$LOCAL/x.src"
(cd "$WORK/dst" && find . -type f | LC_ALL=C sort | xargs -d '\n' getfattr -n user.origin --absolute-names 2>/dev/null || true) >"$LOCAL/x.dst"
[ -s "$LOCAL/x.src" ] && cmp "$LOCAL/x.src" "$LOCAL/x.dst" || fail "extended attributes differ"
say "the second run moved nothing"
