#!/usr/bin/env bash
# dd_direct.sh DIR: dd with O_DIRECT in and out, in large and small pieces, over parts of a file, and
# mixed with cached reads: the bytes are the same each way.
. "$(dirname "$0")/common.sh"
need dd cmp
dd if=/dev/urandom of="$LOCAL/in" bs=1M count=32 status=none
same() { cmp "$LOCAL/in" "$WORK/f" || fail "$1"; }
dd if="$LOCAL/in" of="$WORK/f" bs=1M oflag=direct status=none
same "written directly, read through the cache"
dd if="$WORK/f" of="$LOCAL/out" bs=1M iflag=direct status=none
cmp "$LOCAL/in" "$LOCAL/out" || fail "read directly"
dd if="$WORK/f" of="$LOCAL/out" bs=4k count=2000 iflag=direct status=none
cmp -n $((4096 * 2000)) "$LOCAL/in" "$LOCAL/out" || fail "read directly by 4 KiB"
# Overwrite the middle through both files, directly here.
dd if=/dev/urandom of="$LOCAL/mid" bs=64k count=7 status=none
dd if="$LOCAL/mid" of="$LOCAL/in" bs=4k seek=333 conv=notrunc status=none
dd if="$LOCAL/mid" of="$WORK/f" bs=4k seek=333 conv=notrunc oflag=direct status=none
same "overwritten directly in the middle"
# A hole of 100 MiB, then data.
dd if="$LOCAL/mid" of="$LOCAL/in" bs=1M seek=132 conv=notrunc status=none
dd if="$LOCAL/mid" of="$WORK/f" bs=1M seek=132 conv=notrunc oflag=direct iflag=fullblock status=none
same "after a hole"
# Direct to direct inside the file system.
dd if="$WORK/f" of="$WORK/g" bs=1M iflag=direct oflag=direct conv=fsync status=none 2>/dev/null ||
    dd if="$WORK/f" of="$WORK/g" bs=1M iflag=direct conv=fsync status=none
cmp "$LOCAL/in" "$WORK/g" || fail "copied directly"
say "the same bytes each way"
