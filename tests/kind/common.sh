# shellcheck shell=bash
# What the scripts of this folder share. Sourced, never run.
#
# Exit codes: 1 something failed, 2 wrong arguments, 3 a tool is missing, 4 a wait ran out of time.

set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../.." && pwd)
# shellcheck disable=SC2034  # used by the scripts that source this file
CHART="$ROOT/helm/lorapar"
# shellcheck source=tests/kind/versions.env
. "$HERE/versions.env"

# Kubeflow standalone runs its pods in its own namespace, so the chart goes there too.
NAMESPACE=${NAMESPACE:-kubeflow}
RELEASE=${RELEASE:-lorapar}
# What the chart's resources are called after; as in helm/lorapar/templates/_helpers.tpl.
# shellcheck disable=SC2034  # used by the scripts that source this file
case $RELEASE in *lorapar*) FULLNAME=$RELEASE ;; *) FULLNAME=$RELEASE-lorapar ;; esac
CLUSTER=${CLUSTER:-lorapar}
# Multiplies every limit: a slow machine or a cluster that pulls images again may need 3.
PATIENCE=${PATIENCE:-1}

say() { printf '%s %s\n' "$(date +%H:%M:%S)" "$*" >&2; }

fail() { say "FAILED: $*"; exit 1; }

# usage TEXT ARGS...: print TEXT and end where the arguments ask for help; the script goes on otherwise.
usage() {
  local text=$1 argument
  shift
  for argument in "$@"; do
    case $argument in -h | --help) printf '%s\n' "$text"; exit 0 ;; esac
  done
}

# wrong TEXT: the arguments are wrong.
wrong() { say "$1; --help says what there is"; exit 2; }

# handed_on COMMAND...: options that are handed on to a command, which knows them; asked for help it reads them and does
# nothing. Ends where it does not know one, before anything is started.
handed_on() {
  local said
  said=$("$@" --help 2>&1 >/dev/null) || wrong "$(printf '%s' "$said" | tail -n 1)"
}

# need TOOL...: every one of them, or end with all names that are missing.
need() {
  local tool missing=()
  for tool in "$@"; do command -v "$tool" >/dev/null || missing+=("$tool"); done
  if [ ${#missing[@]} -gt 0 ]; then say "missing: ${missing[*]}"; exit 3; fi
}

k() { kubectl --request-timeout=30s "$@"; }

# reach: a cluster answers, whichever KUBECONFIG names.
reach() {
  k version >/dev/null 2>&1 || fail "no cluster answers; kind-up.sh makes one, or set KUBECONFIG to one that is there"
}

# wait_until SECONDS WHAT COMMAND...: until the command succeeds; when the limit runs out, what is unhealthy, and exit 4.
wait_until() {
  local limit=$(($1 * PATIENCE)) what=$2 began=$SECONDS
  shift 2
  say "waiting for $what (at most ${limit} s)"
  until "$@" >/dev/null 2>&1; do
    if [ $((SECONDS - began)) -ge "$limit" ]; then
      say "TIMED OUT after ${limit} s: $what"
      unhealthy
      exit 4
    fi
    sleep "${POLL_SECONDS:-3}"
  done
  say "$what: there after $((SECONDS - began)) s"
}

# unhealthy: pods of the namespace that are not well, why, and the last lines of their logs.
unhealthy() {
  local pod
  say "pods in $NAMESPACE:"
  k --namespace "$NAMESPACE" get pods --output wide >&2 || true
  say "warnings in $NAMESPACE, the latest last:"
  k --namespace "$NAMESPACE" get events --field-selector type=Warning --sort-by .lastTimestamp 2>&1 | tail -n 20 >&2 || true
  while read -r pod; do
    [ -n "$pod" ] || continue
    say "$pod:"
    k --namespace "$NAMESPACE" get pod "$pod" --output \
      jsonpath='{range .status.containerStatuses[*]}{.name}{": "}{.state}{"\n"}{end}' >&2 || true
    k --namespace "$NAMESPACE" logs "$pod" --all-containers --tail 20 >&2 || true
  done < <(ailing_pods)
}

# ailing_pods: names of pods with a container that is not ready, but for those that ended well.
ailing_pods() {
  k --namespace "$NAMESPACE" get pods --no-headers 2>/dev/null |
    awk '{ split($2, ready, "/"); if ($3 != "Completed" && $3 != "Succeeded" && ready[1] != ready[2]) print $1 }'
}

# rolled_out KIND/NAME: all its replicas are up to date and ready.
rolled_out() { k --namespace "$NAMESPACE" rollout status "$1" --timeout=1s; }

# job_done NAME-PREFIX: a Job whose name begins like that has completed.
job_done() {
  k --namespace "$NAMESPACE" get jobs --output \
    jsonpath='{range .items[?(@.status.succeeded>0)]}{.metadata.name}{"\n"}{end}' | grep -q "^$1"
}

# scratch NAME: sets the variable NAME to a new temporary file that is gone when the script ends.
LEFT=()
scratch() {
  local file
  file=$(mktemp)
  LEFT+=("$file")
  printf -v "$1" %s "$file"
}

# clean_up: end what was started and remove what was made; runs however the script ends.
FORWARDER=
clean_up() {
  [ -z "$FORWARDER" ] || kill "$FORWARDER" 2>/dev/null || true
  [ ${#LEFT[@]} -eq 0 ] || rm -rf "${LEFT[@]}"
}
trap clean_up EXIT

# forward SERVICE PORT: sets FORWARDED to a port of this machine that leads to a Service until the script ends.
forward() {
  local log
  scratch log
  kubectl --namespace "$NAMESPACE" port-forward "service/$1" ":$2" >"$log" 2>&1 &
  FORWARDER=$!
  wait_until 60 "a port to $1" grep -q "Forwarding from 127.0.0.1" "$log"
  # shellcheck disable=SC2034  # for the script that sources this file
  FORWARDED=$(sed -n 's/^Forwarding from 127\.0\.0\.1:\([0-9]*\).*/\1/p' "$log" | head -n 1)
}
