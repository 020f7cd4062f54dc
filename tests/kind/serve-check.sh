#!/usr/bin/env bash
# Ask the served adapter for an answer, from outside the cluster, and see that the adapter and no other model gave it.
# shellcheck source=tests/kind/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
usage "serve-check.sh [MODEL]: wait until the server has MODEL (default tiny@candidate), then ask it for a completion" "$@"
[ $# -le 1 ] || wrong "serve-check.sh takes at most one model, not '$*'"
case ${1:-} in -*) wrong "serve-check.sh takes a model, not '$1'" ;; esac
need kubectl python3
reach

model=${1:-tiny@candidate}
wait_until 900 "the server" rolled_out "deployment/$FULLNAME-serving"
forward "$FULLNAME-serving" 80
answer=
scratch answer
ask() { python3 "$CHART/files/check_completion.py" "http://127.0.0.1:$FORWARDED" "$model" >"$answer" 2>&1; }
# A version appears after the next look at the aliases, its download and its load.
wait_until 180 "an answer from $model" ask
cat "$answer"
grep -q ": ${model%%@*}@[0-9][0-9]* answered" "$answer" || fail "another model answered for $model"
