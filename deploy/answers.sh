#!/bin/sh
# Has `criproxy run` answer in front of the embedded runtime, with the criproxy of PATH: the last check of each package.
set -eu

directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
fail() { echo "FAIL: $*" >&2; cat "$directory/log" >&2; exit 1; }
await() { for _ in $(seq 300); do "$@" >/dev/null 2>&1 && return 0; sleep 0.2; done; fail "$*"; }

criproxy --version
criproxy runtime --listen "$directory/cri.sock" >/dev/null 2>"$directory/log" &
runtime=$!
await test -S "$directory/cri.sock"
criproxy run --listen "$directory/proxy.sock" --runtime-endpoint "$directory/cri.sock" --metrics-address 127.0.0.1:0 \
    2>"$directory/log" &
proxy=$!
await test -S "$directory/proxy.sock"
criproxy version --runtime-endpoint "$directory/proxy.sock" | grep -q "RuntimeName:  criproxy-embedded" ||
    fail "criproxy run does not answer"
kill $proxy $runtime
wait
echo "criproxy run answers"
