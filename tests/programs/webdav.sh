#!/usr/bin/env bash
# webdav.sh DIR: the sync service's WebDAV door on this file system, judged by litmus (all five suites),
# rclone (copy, check with and without --download, times, bisync), and davfs2 where it can be mounted.
. "$(dirname "$0")/common.sh"
need litmus rclone openssl
BIN=${PVFS2_BIN:-$HERE/../../target/release/pvfs2}
[ -x "$BIN" ] || skip "no pvfs2 program: set PVFS2_BIN"
server='' mounted=''
cleanup() {
    [ -z "$mounted" ] || umount "$mounted" 2>/dev/null || umount -l "$mounted"
    [ -z "$server" ] || { kill "$server" && wait "$server"; } 2>/dev/null
}

mkdir "$WORK/user"
"$BIN" sync serve --root "$WORK/user" --init --listen 127.0.0.1:0 >"$LOCAL/log" 2>&1 &
server=$!
for _ in $(seq 200); do
    grep -q "^administrator:" "$LOCAL/log" && break
    kill -0 "$server" 2>/dev/null || { cat "$LOCAL/log"; fail "the service did not start"; }
    sleep 0.1
done
BASE=$(sed -n 's/^listening on //p' "$LOCAL/log")
PASSWORD=$(sed -n 's/^administrator: admin, password \([^ ]*\).*/\1/p' "$LOCAL/log")
[ -n "$BASE" ] && [ -n "$PASSWORD" ] || { cat "$LOCAL/log"; fail "no address or password"; }
URL=$BASE/dav/admin/
CERT=$WORK/user/.sync/cert.pem

# litmus: every suite at 100 %. It keeps its log in the folder that it runs in.
(cd "$LOCAL" && SSL_CERT_FILE=$CERT timeout 300 litmus -k "$URL" admin "$PASSWORD") >"$LOCAL/litmus" 2>&1 || true
grep "^<- summary" "$LOCAL/litmus" || true
[ "$(grep -c '^<- summary.*100\.0%' "$LOCAL/litmus")" = 5 ] ||
    { grep -E "FAIL|WARNING" "$LOCAL/litmus" || tail -20 "$LOCAL/litmus"; fail "litmus: not every suite at 100 %"; }
say "litmus: five suites at 100 %"

# rclone, as ownCloud: times and SHA-1 sums travel along.
export RCLONE_CONFIG=$LOCAL/rclone.conf XDG_CACHE_HOME=$LOCAL/cache
cat >"$RCLONE_CONFIG" <<X
[d]
type = webdav
url = $URL
vendor = owncloud
user = admin
pass = $(rclone obscure "$PASSWORD")
X
run() { rclone --ca-cert "$CERT" --retries 1 --low-level-retries 1 "$@" >"$LOCAL/out" 2>&1 || { cat "$LOCAL/out"; fail "rclone $*"; }; }
SRC=$LOCAL/src
mkdir -p "$SRC/deep/er" "$SRC/many" "$SRC/ünï cödé & #%?"
for n in $(seq 200); do echo "file $n" >"$SRC/many/f$n"; done
head -c 20000000 /dev/urandom >"$SRC/deep/er/big"
: >"$SRC/empty"
echo text >"$SRC/ünï cödé & #%?/a+b=c;d.txt"
touch -d '2001-02-03 04:05:06 UTC' "$SRC/many/f7"
run copy "$SRC" d:tree --transfers 8
run check --download "$SRC" d:tree
run check "$SRC" d:tree
grep -q "hashes could not be checked" "$LOCAL/out" && { cat "$LOCAL/out"; fail "rclone saw no sums"; }
[ "$(stat -c %Y "$WORK/user/admin/tree/many/f7")" = 981173106 ] || fail "the time of change was lost"
run copy "$SRC" d:tree -v
grep -qE "Copied|Updated" "$LOCAL/out" && { cat "$LOCAL/out"; fail "a second copy copied again"; }
run moveto d:tree/many d:tree/moved
run copy d:tree "$LOCAL/back"
diff -r "$SRC/many" "$LOCAL/back/moved" || fail "what came back differs"
cmp "$SRC/deep/er/big" "$LOCAL/back/deep/er/big" || fail "the big file differs"
say "rclone: copy, check, check --download, moveto"

mkdir -p "$LOCAL/bi"
for n in one stays1 stays2; do echo $n >"$LOCAL/bi/$n"; done
run mkdir d:bi
run bisync "$LOCAL/bi" d:bi --resync
echo two >"$LOCAL/bi/two"
echo three | rclone --ca-cert "$CERT" rcat d:bi/three || fail "rclone rcat"
sleep 1.1 # bisync tells a change by the second
echo "one, changed" >"$LOCAL/bi/one"
run bisync "$LOCAL/bi" d:bi
rm "$LOCAL/bi/two"
run bisync "$LOCAL/bi" d:bi
diff -r "$LOCAL/bi" "$WORK/user/admin/bi" || fail "bisync left a difference"
[ "$(ls "$LOCAL/bi")" = "$(printf "one\nstays1\nstays2\nthree")" ] || fail "bisync: $(ls "$LOCAL/bi")"
say "rclone: bisync"

# davfs2: a mount, if this machine can.
if command -v mount.davfs >/dev/null 2>&1 && [ "$(id -u)" = 0 ] && [ -r /dev/fuse ]; then
    chmod 711 "$LOCAL" # mount.davfs reads the certificate as a user of its own
    mkdir "$LOCAL/mnt"
    cp "$CERT" "$LOCAL/ca.pem"
    echo "$URL admin $PASSWORD" >"$LOCAL/secrets"
    chmod 600 "$LOCAL/secrets"
    cat >"$LOCAL/davfs2.conf" <<X
secrets $LOCAL/secrets
trust_server_cert $LOCAL/ca.pem
delay_upload 0
X
    if mount -t davfs -o "conf=$LOCAL/davfs2.conf" "$URL" "$LOCAL/mnt" </dev/null >"$LOCAL/out" 2>&1; then
        mounted=$LOCAL/mnt
        cp -r "$SRC/deep" "$LOCAL/mnt/deep"
        mkdir "$LOCAL/mnt/dir"
        echo hello >"$LOCAL/mnt/dir/a"
        mv "$LOCAL/mnt/dir/a" "$LOCAL/mnt/dir/b"
        echo more >>"$LOCAL/mnt/dir/b"
        cat "$LOCAL/mnt/tree/moved/f9" >"$LOCAL/out"
        cmp "$LOCAL/out" "$SRC/many/f9" || fail "davfs2 read something else"
        timeout 120 umount "$LOCAL/mnt" || fail "davfs2: umount"
        mounted=
        cmp "$SRC/deep/er/big" "$WORK/user/admin/deep/er/big" || fail "davfs2: the big file differs"
        [ "$(cat "$WORK/user/admin/dir/b")" = "$(printf 'hello\nmore')" ] || fail "davfs2: dir/b"
        say "davfs2: mount, copy, rename, append"
    else
        cat "$LOCAL/out"
        fail "davfs2 does not mount"
    fi
else
    say "davfs2: not tried (needs mount.davfs, root and /dev/fuse)"
fi
