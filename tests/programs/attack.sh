#!/usr/bin/env bash
# attack.sh PVFS2 [PLACE]: lets strangers try the sync service: schemathesis (every operation of its OpenAPI
# document with data that fits and data that does not), wapiti (its pages, signed in), testssl.sh (its TLS).
# Reports go to PLACE (default: a scratch folder that stays if something was found). What they may find is
# told in docs/SECURITY.md.
#
#     pip install schemathesis wapiti3; apt-get install testssl.sh
#
# A program that is missing is said to be skipped. TOOLS names some only; ROOT is a folder for the service's
# root (default: below PLACE).
set -uo pipefail
BIN=$(realpath "${1:?the pvfs2 program}") PLACE=$(realpath "${2:-$(mktemp -d "${TMPDIR:-/tmp}/pvfs2-attack.XXXXXX")}")
PORT=${PORT:-18450} ROOT=${ROOT:-$PLACE/store} bad=0 server=
mkdir -p "$ROOT" && cd "$PLACE" || exit 1 # schemathesis leaves a folder where it runs
trap '[ -z "$server" ] || kill "$server"' EXIT
"$BIN" sync serve --root "$ROOT" --init --listen "127.0.0.1:$PORT" --signup >"$PLACE/log" 2>&1 &
server=$!
for _ in $(seq 200); do
    grep -q "^administrator:" "$PLACE/log" && break
    kill -0 "$server" 2>/dev/null || { cat "$PLACE/log"; exit 1; }
    sleep 0.1
done
URL=https://127.0.0.1:$PORT
PASSWORD=$(sed -n 's/^administrator: admin, password \([^ ]*\).*/\1/p' "$PLACE/log")
CERT=$ROOT/.sync/cert.pem
export REQUESTS_CA_BUNDLE=$CERT
have() {
    [[ " ${TOOLS:-schemathesis wapiti testssl} " = *" $1 "* ]] || return 1
    command -v "$1" >/dev/null || { echo "attack: $1 is not here: skipped"; return 1; }
}
verdict() { # verdict NAME CODE LOG
    if [ "$2" = 0 ]; then echo "attack: $1: nothing found"; else
        bad=$((bad + 1))
        echo "attack: $1: see $3"
    fi
}
api() { # api METHOD PATH BODY
    curl -sS --cacert "$CERT" -X "$1" -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' -d "$3" \
        "$URL/api/v1$2"
}

if have schemathesis; then
    TOKEN=
    TOKEN=$(api POST /login "{\"user\": \"admin\", \"password\": \"$PASSWORD\", \"device\": \"attack\"}" |
        sed -n 's/.*"token":"\([^"]*\)".*/\1/p')
    # Something that the numbers 1 to 4 name: folders, a user. One of those stays the only other one.
    for name in a b c; do api POST /op "{\"op\": \"mkdir\", \"parent\": 1, \"name\": \"$name\"}" >/dev/null; done
    # Left out of both: what ends the session that asks, and what opens ports of this machine. The first leaves
    # out also what can change the account that asks, or hold its store (503); the second asks that alone, and
    # there only a 500 counts, which the server's log tells.
    try() { # try NAME ARGUMENT...
        local name=$1
        shift
        schemathesis run "$URL/api/v1/openapi.json" --url "$URL/api/v1" --tls-verify "$CERT" \
            -H "Authorization: Bearer $TOKEN" --checks all --max-examples "${EXAMPLES:-50}" --seed "${SEED:-1}" \
            --continue-on-failure --no-color "$@" >"$PLACE/$name" 2>&1
        verdict "$name" $? "$PLACE/$name"
    }
    try schemathesis --exclude-checks positive_data_acceptance --exclude-path-regex \
        '^/(logout|login|devices/.id.|admin/ports|admin/users/.*|admin/backups/.*)$'
    api GET /me '' | grep -q '"admin":true' || { echo "attack: the session did not last: what was asked after that says nothing"; bad=$((bad + 1)); }
    try schemathesis-management --exclude-checks positive_data_acceptance,not_a_server_error --include-path-regex \
        '^/admin/(users|backups)/.*$'
fi
if have wapiti; then
    wapiti -u "$URL/files/1" --scope folder -m "${WAPITI:-common,csp,http_headers,cookieflags}" \
        --form-cred "admin%$PASSWORD" --form-url "$URL/login" --verify-ssl 0 --flush-session \
        --max-scan-time 240 --max-links-per-page 20 -f json -o "$PLACE/wapiti.json" >"$PLACE/wapiti" 2>&1
    python3 -c 'import json, sys
# HSTS would bind every port of the name: it is sent only where it is the only port of the name.
found = [(k, f["info"]) for k, v in json.load(open(sys.argv[1]))["vulnerabilities"].items() for f in v
         if "Strict-Transport-Security" not in f["info"]]
for f in found: print("wapiti:", *f)
sys.exit(bool(found))' "$PLACE/wapiti.json"
    verdict wapiti $? "$PLACE/wapiti.json"
fi
if have testssl; then
    testssl --quiet --color 0 --warnings off --severity MEDIUM --jsonfile "$PLACE/testssl.json" \
        "127.0.0.1:$PORT" >"$PLACE/testssl" 2>&1
    python3 -c 'import json, sys
# A certificate that the server signed itself is no finding here.
own = ("cert_trust", "cert_validityPeriod", "cert_chain_of_trust", "cert_revocation", "cert_expirationStatus", "cert_crlDistributionPoints")
found = [f for f in json.load(open(sys.argv[1]))
         if f["severity"] in ("MEDIUM", "HIGH", "CRITICAL") and not f["id"].startswith(own)]
for f in found: print("testssl:", f["severity"], f["id"], f["finding"])
sys.exit(bool(found))' "$PLACE/testssl.json"
    verdict testssl $? "$PLACE/testssl.json"
fi
kill -0 "$server" || { echo "attack: the server ended"; bad=$((bad + 1)); }
grep -E "panicked|request failed" "$PLACE/log" && bad=$((bad + 1))
echo "attack: $bad with findings; reports in $PLACE"
[ $bad = 0 ]
