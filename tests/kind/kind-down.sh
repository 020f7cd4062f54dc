#!/usr/bin/env bash
# Remove the kind cluster.
# shellcheck source=tests/kind/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
usage "kind-down.sh: remove the kind cluster \$CLUSTER (default lorapar) and all that is in it" "$@"
[ $# = 0 ] || wrong "kind-down.sh takes no arguments, not '$*'"
need kind
kind delete cluster --name "$CLUSTER"
