#!/usr/bin/env bash
# fsx.sh DIR: the file system exerciser (cargo install fsx@0.3.2), FSX_OPS operations (20,000) with each
# of FSX_SEEDS (three, at once) in four configurations: default; all operations; no mmap; large file.
. "$(dirname "$0")/common.sh"
need fsx
OPS=${FSX_OPS:-20000}
SEEDS=${FSX_SEEDS:-1 20261122 987654321}
cat >"$LOCAL/default.toml" <<'X'
X
cat >"$LOCAL/all.toml" <<'X'
[weights]
close_open = 2
invalidate = 1
mapread = 10
mapwrite = 10
read = 10
write = 10
truncate = 5
fsync = 1
fdatasync = 1
posix_fallocate = 3
punch_hole = 3
sendfile = 5
posix_fadvise = 2
copy_file_range = 5
X
cat >"$LOCAL/nommap.toml" <<'X'
[weights]
close_open = 2
mapread = 0
mapwrite = 0
read = 10
write = 10
truncate = 5
fsync = 1
posix_fallocate = 2
punch_hole = 2
copy_file_range = 2
X
cat >"$LOCAL/large.toml" <<'X'
flen = 16777216
[opsize]
max = 1048576
[weights]
close_open = 1
mapread = 5
mapwrite = 5
read = 10
write = 10
truncate = 2
punch_hole = 2
posix_fallocate = 1
sendfile = 2
X
one() { # one CONFIG SEED: says how it went
    local config=$1 seed=$2 log=$LOCAL/log.$1.$2 keep
    if fsx -f "$LOCAL/$config.toml" -N "$OPS" -S "$seed" -P "$LOCAL" "$WORK/$config.$seed" >"$log" 2>&1; then
        say "$config, seed $seed: $OPS operations, no difference"
        rm -f "$WORK/$config.$seed"*
    else
        tail -40 "$log"
        keep=$SHARED/fsx-failed.$config.$seed
        rm -rf "$keep" && mkdir -p "$keep" && cp "$log" "$LOCAL/$config.toml" "$keep/"
        say "$config, seed $seed: FAILED (log kept in $keep)"
        return 1
    fi
}
bad=0
for config in ${FSX_CONFIGS:-default all nommap large}; do
    running=()
    for seed in $SEEDS; do
        one "$config" "$seed" &
        running+=($!)
    done
    for pid in "${running[@]}"; do wait "$pid" || bad=$((bad + 1)); done
done
[ $bad = 0 ] || fail "$bad runs found a difference"
