#!/usr/bin/env bash
# fio_verify.sh DIR: fio writes with 4 jobs and verifies every block's CRC-32C, through the page cache,
# with O_DIRECT, through mmap, and with all jobs in one shared file.
. "$(dirname "$0")/common.sh"
need fio
SIZE=${FIO_SIZE:-24m}
# Each run: a name, then what differs from the common part.
run() {
    local name=$1
    shift
    fio --name="$name" --directory="$WORK" --rw=randwrite --bsrange=512-128k --bs_unaligned=0 \
        --size="$SIZE" --numjobs=4 --verify=crc32c --verify_fatal=1 --do_verify=1 --randrepeat=1 \
        --fallocate=none --end_fsync=1 --group_reporting --output="$LOCAL/$name.log" \
        --aux-path="$LOCAL" "$@" || { tail -30 "$LOCAL/$name.log"; fail "$name"; }
    grep -qiE 'verify: bad|err= *[1-9]' "$LOCAL/$name.log" && { tail -30 "$LOCAL/$name.log"; fail "$name"; }
    rm -f "$WORK/$name".*
    say "$name: verified"
}
run cached --ioengine=psync
run direct --ioengine=psync --direct=1 --bsrange=4k-256k
run mapped --ioengine=mmap --bsrange=4k-64k
# One file, four jobs, each in its own quarter.
run shared --ioengine=psync --filename="$WORK/shared.0" --offset_increment="$SIZE"
